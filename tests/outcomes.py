"""What a run ended with, to be compared to the bit."""

import torch

from kindred.tracking.metrics_csv import read_metrics

TIMES = {"train/images_per_second"}


def outcome(directory):
    """Final weights and optimiser, every metric but times, best values and probe."""
    checkpoint = torch.load(directory / "checkpoints" / "last.ckpt", weights_only=True)
    best = torch.load(directory / "checkpoints" / "best.ckpt", weights_only=True)
    rows = [{k: v for k, v in row.items() if k not in TIMES} for row in read_metrics(directory / "metrics.csv")]
    callbacks = {name: state for name, state in checkpoint["callbacks"].items() if "TrainMetrics" not in name}
    return {
        "weights": checkpoint["state_dict"],
        "best weights": best["state_dict"],
        "optimizer": checkpoint["optimizer_states"],
        "schedules": checkpoint["lr_schedulers"],
        "step": checkpoint["global_step"],
        "callbacks": callbacks,
        "rows": rows,
    }


def assert_same(one, other, path=""):
    """Equal to the bit, through dicts and lists."""
    assert type(one) is type(other), path
    if isinstance(one, dict):
        assert one.keys() == other.keys(), path
        for key in one:
            assert_same(one[key], other[key], f"{path}/{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), path
        for position, (a, b) in enumerate(zip(one, other, strict=True)):
            assert_same(a, b, f"{path}/{position}")
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other), path
    else:
        assert one == other, path
