"""A finished run judged: how good is its frozen encoder on images that nothing has been chosen on?

kNN and a linear classifier see the features of the unaugmented train images; their settings are chosen on val images;
test images are scored once. Raw pixels and the untrained encoder go through the same.
"""

import json
import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kindred.config import ConfigError, check, compose
from kindred.files import write_atomically
from kindred.runs.fingerprint import changes, record, short
from kindred.runs.judging.classifying import classifier_accuracies
from kindred.runs.judging.origin import origin
from kindred.runs.run import Run, build_datamodule, build_module
from kindred.runs.starting_weights import load_encoder_weights
from kindred.tracking.sparing import sparing

if TYPE_CHECKING:
    from torch import Tensor, nn

    from kindred.data.datamodule import DataModule
    from kindred.runs.judging.features import Encoded

MAP_IMAGES = 2000  # in map.png, at most


def evaluate(
    run: Run,
    data: str | None = None,
    labels: float = 1.0,
    seed: int = 0,
    overrides: Sequence[str] = (),
    wandb: bool = False,
    brief: bool = False,
) -> dict[str, Any]:
    """Score the encoder of `run`, and return the content of evaluation.json.

    Accuracies on the test images are under `test/<probe>_top1` and `_top5` (`probe`: knn, linear; the encoder of the
    run), `untrained/...` (the encoder before its first step) and `pixels/...` (the images; of others what
    `Views.base_line` says); beside each stand the settings that were chosen on val (`.../knn_k`, `.../knn_temperature`,
    `.../linear_penalty`) and the accuracy there (`..._val_top1`).
    Of a run with a classifier of its own also that one's (`kindred.runs.judging.classifying`); `labels` is the share that
    it saw. `step` and `checkpoint` say which weights were judged (`kindred.runs.judging.origin`), `data_fingerprint` on
    which data, and `data_changed`, if they are not those of the training, how they differ. Without a test split the val
    images judge: `judged_on` is "val", the accuracies are under `val/...`, and settings are chosen on a tenth of the
    train images.

    Args:
        run: with its last checkpoint.
        data: a data set of configs/data/; by default the run's own. Its images are resized to its own `data.image_size`
            and normalised by its own mean and deviation.
        labels: share of the train images that bank and linear classifier see; below 1, val images choose but are not
            trained on.
        seed: of the choice of that share.
        overrides: Hydra overrides of that other data set.
        wandb: add the result to the W&B run that the run's wandb.json names, with the key of whoever evaluates.
        brief: the encoder of the run alone, in a fraction of the time: no base lines, no pictures.

    Raises:
        ConfigError, ValueError: settings that cannot work, a class that is not trusted.
        FileNotFoundError: the run has no checkpoint yet.
    """
    import torch

    from kindred.callbacks.judges.feature_store import INPUT_BANK
    from kindred.evaluation.accuracy import confusion_matrix, top_k_accuracies
    from kindred.evaluation.judge import judge
    from kindred.runs.judging.features import cut, encode, judged_on

    started = time.perf_counter()
    if not 0 < labels <= 1:
        raise ConfigError(f"--labels is {labels}: give a share of the train labels above 0 and at most 1")
    if seed < 0:
        raise ConfigError(f"--seed is {seed}: give 0 or more")
    if overrides and data is None:
        raise ConfigError(
            f"{overrides[0]}: the run's own data set stays as it is; overrides are for another one (--data)"
        )
    if wandb:
        from kindred.tracking.wandb_logger import add_to_run, check_mode

        check_mode()
        if not (run.path / "wandb.json").exists():
            raise ConfigError(f"--wandb: {run.path} has no wandb.json, so there is no W&B run to add to")
    datamodule = run.datamodule() if data is None else other_datamodule(run, data, overrides)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    datamodule.setup()
    on = judged_on(datamodule)
    seen = labels * datamodule.labels_share
    changed = changes(run.path, datamodule) if data is None else None
    frozen = {"untrained": None if brief else untrained_encoder(run), on: deepcopy(run.encoder)}
    encoders: dict[str, Callable[[Tensor], Any]] = {
        name: encoder.to(device) for name, encoder in frozen.items() if encoder is not None
    }
    splits = cut(datamodule, labels, seed)
    raw = splits["test"].part(np.arange(1)).__getitems__([0]).raw
    small = len(splits["train"]) <= INPUT_BANK and not brief
    if small and datamodule.views.as_features(datamodule.views.plain(raw)) is not None:
        encoders = {datamodule.views.base_line: datamodule.views.as_features, **encoders}
    encoded = {name: encode(datamodule, images, name, encoders, device) for name, images in splits.items()}
    names = dict(zip(splits, ("train", "val", "test") if on == "test" else ("train", "held_out", "val"), strict=True))

    result = {
        **origin(run),
        "data": data or run.config.choices.data,
        "labels": seen,
        "seed": seed,
        "data_fingerprint": short(record(datamodule)),
        **({} if changed is None else {"data_changed": changed}),
        "judged_on": on,
        "chosen_on": "val" if (on, datamodule.monitor) == ("test", "val") else "a tenth of the train examples",
        "classes": datamodule.num_classes,
        **{f"{names[split]}_examples": len(part) for split, part in splits.items()},
    }
    test_labels = encoded["test"][on].labels
    if data is None:
        result |= classifier_accuracies(run, datamodule, splits["test"], on, device)
    predicted = {}
    for name in encoders:
        train, val, test = (encoded[split][name] for split in ("train", "val", "test"))
        scores, found = judge(train, val, test.features, datamodule.num_classes, refit=seen == 1)
        for probe, each in scores.items():
            predicted[name, probe] = each.argmax(dim=1)
            found |= top_k_accuracies(probe, each, test_labels)
        result |= {f"{name}/{key}": value for key, value in found.items()}

    matrices = {
        probe: confusion_matrix(predicted[on, probe], test_labels, datamodule.num_classes).cpu().numpy()
        for probe in ("knn", "linear")
    }
    result["per_class"] = {
        class_name: {probe: float(matrix[c, c] / matrix[c].sum()) for probe, matrix in matrices.items()}
        for c, class_name in enumerate(datamodule.class_names)
        if matrices["knn"][c].sum()
    }
    suffix = _suffix(data, labels, seed)
    figures: dict[str, Path] = {}
    if not brief:
        figures = _draw(run.path / "figures", suffix, matrices["linear"], encoded["test"][on], datamodule.class_names)
    result["seconds"] = time.perf_counter() - started
    write_atomically(run.path / f"evaluation{suffix}.json", json.dumps(result, indent=2) + "\n")
    if wandb:
        prefix = f"evaluation{suffix}"
        metrics = {f"{prefix}/{key}": value for key, value in result.items() if isinstance(value, int | float)}
        add_to_run(run.path, metrics, {f"{prefix}/{name}": path for name, path in figures.items()})
    return result


def other_datamodule(run: Run, data: str, overrides: Sequence[str] = ()) -> "DataModule":
    """The DataModule of configs/data/<data>.yaml, whose images the encoder of `run` must be able to read."""
    few = [] if any(word.startswith("data.batch_size=") for word in overrides) else ["data.batch_size=1"]
    config = compose([f"data={data}", *few, *overrides])  # nothing is trained, so no batch must fit
    check(config)
    expected, given = run.config.data.get("channels"), config.data.get("channels")
    if given != expected:
        raise ConfigError(
            f"--data {data}: its images have {given} channel(s) (data.channels), the encoder of {run.path} reads {expected}"
        )
    if not any(word.startswith(("data.source.root=", "data.source.path=")) for word in overrides):  # that is from here
        run.find_data(config)
    datamodule = build_datamodule(config)
    datamodule.adopt(run.path)
    return datamodule


def untrained_encoder(run: Run) -> "nn.Module | None":
    """The very encoder that `run` started from, in eval mode; None if its weights came from a file that is gone.

    Everything is built in the order of `kindred.runs.train.train`, since the seed's random stream runs through all of it.
    """
    import lightning
    from lightning.pytorch.utilities.seed import isolate_rng

    config = run.config
    with isolate_rng():
        _ = run.module, run.datamodule()  # which refuse classes that are not trusted
        lightning.seed_everything(config.seed, verbose=False)
        build_datamodule(config)
        try:
            encoder = build_module(config).encoder
        except ConfigError:
            if not config.encoder.get("pretrained"):
                raise
            return None
    if config.init_from is not None:
        if not Path(config.init_from).exists():
            return None
        load_encoder_weights(encoder, Path(config.init_from))
    return encoder.eval()


def _suffix(data: str | None, labels: float, seed: int) -> str:
    """Of file names: what sets this evaluation apart from that of the whole of the run's own data set."""
    parts = [data or "", f"labels{labels:g}" if labels < 1 else "", f"seed{seed}" if seed and labels < 1 else ""]
    return "".join(f"-{part}" for part in parts if part)


def _draw(
    folder: Path, suffix: str, confusion: np.ndarray, test: "Encoded", class_names: Sequence[str]
) -> dict[str, Path]:
    """confusion.png and map.png; the paths of those that could be drawn by name."""
    from kindred.tracking.figures import draw_confusion, draw_map

    paths = {name: folder / f"{name}{suffix}.png" for name in ("confusion", "map")}
    for path in paths.values():
        path.unlink(missing_ok=True)  # of an earlier evaluation
    with sparing(paths["confusion"]):
        draw_confusion(paths["confusion"], confusion, class_names)
    with sparing(paths["map"]):
        rows = np.unique(np.linspace(0, len(test.labels) - 1, MAP_IMAGES).astype(int))
        points = flatten(test.features[rows].cpu().numpy())
        draw_map(paths["map"], points, test.labels[rows].cpu().numpy(), class_names)
    return {name: path for name, path in paths.items() if path.exists()}


def flatten(features: np.ndarray) -> np.ndarray:
    """Features [N, F] on a plane, [N, 2]: t-SNE (van der Maaten & Hinton 2008) of their directions, as kNN sees them.

    Starts from the two principal components, so that the same features always give the same map.
    """
    from sklearn.manifold import TSNE

    directions = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    perplexity = min(30.0, (len(features) - 1) / 3)
    return TSNE(perplexity=perplexity, init="pca", random_state=0).fit_transform(directions)
