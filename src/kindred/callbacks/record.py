"""One way for every callback to log: at the number of optimiser steps taken, before the checkpoint of that step."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from kindred.training.trainer import Trainer


def record(trainer: Trainer, metrics: Mapping[str, float | Tensor]) -> None:
    """Send `metrics` to every logger, and to `trainer.callback_metrics`, which other callbacks read.

    `self.log` would reach the loggers only after the step's checkpoint was written, so that a run killed between the two
    would lose a row on resume; and it takes half a millisecond for each value. Reads tensors, so it waits for the device:
    call it when logging is due.
    """
    values = {name: float(value) for name, value in metrics.items()}
    for logger in trainer.loggers:
        logger.log_metrics(values | {"epoch": round(epochs_done(trainer), 4)}, step=trainer.global_step)
    trainer.callback_metrics.update({name: torch.tensor(value) for name, value in values.items()})


def epochs_done(trainer: Trainer) -> float:
    """Epochs of training behind the weights as they are now; 0 for the untrained encoder."""
    if trainer.global_step == 0:
        return 0.0
    return trainer.global_step / math.ceil(trainer.num_training_batches / trainer.accumulate_grad_batches)


def due(trainer: Trainer, batch_idx: int) -> bool:
    """Whether the train batch that has just ended made an optimiser step, and one that is to be logged."""
    stepped = (batch_idx + 1) % trainer.accumulate_grad_batches == 0 or trainer.is_last_batch
    return stepped and trainer.global_step % trainer.log_every_n_steps == 0
