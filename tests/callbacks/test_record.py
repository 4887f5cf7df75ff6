"""What callbacks record reaches loggers, other callbacks and the progress bar; random numbers are a function of the step."""

from types import SimpleNamespace

import lightning
import torch

from kindred.callbacks.progress import values
from kindred.callbacks.record import record
from kindred.tracking.csv_logger import MetricsCSV
from kindred.training.step_seed import StepSeed


def test_what_is_recorded_reaches_loggers_callbacks_and_the_bar(tmp_path):
    csv = MetricsCSV(tmp_path)
    trainer = lightning.Trainer(logger=csv, accelerator="cpu", enable_checkpointing=False)
    record(trainer, {"train/loss": torch.tensor(1.25), "train/lr": 0.5})
    record(trainer, {"val/knn_top1": 0.75})
    csv.save()
    assert {name: float(value) for name, value in trainer.callback_metrics.items()} == {
        "train/loss": 1.25,
        "train/lr": 0.5,
        "val/knn_top1": 0.75,
    }
    assert all(torch.is_tensor(value) for value in trainer.callback_metrics.values())  # EarlyStopping asks for tensors
    assert values(trainer) == ["loss 1.25", "kNN 0.750"]
    text = (tmp_path / "metrics.csv").read_text()
    assert "train/lr" in text
    assert "1.25" in text
    assert "0.75" in text


def test_every_step_and_rank_has_random_numbers_of_its_own():
    module = SimpleNamespace(device=torch.device("cpu"))

    def draw(epoch, batch, rank=0, seed=0):
        trainer = SimpleNamespace(current_epoch=epoch, global_rank=rank)
        StepSeed(seed).on_train_batch_start(trainer, module, None, batch)
        return torch.rand(4)

    first = draw(3, 7)
    torch.rand(100)
    assert torch.equal(draw(3, 7), first)
    torch.manual_seed((3 * 1_000_003 + 7) * 65_537)
    assert torch.equal(torch.rand(4), first)
    for other in (draw(3, 8), draw(4, 7), draw(3, 7, rank=1), draw(3, 7, seed=1)):
        assert not torch.equal(other, first)
