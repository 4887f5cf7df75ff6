"""The learning-rate schedule that the methods share."""

from math import cos, pi

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def warmup_cosine(optimizer: Optimizer, warmup_steps: int, total_steps: int) -> LambdaLR:
    """Linear warm-up to the optimiser's learning rate, then half a cosine towards 0 (Loshchilov & Hutter 2017).

    Step t (from 0) of w warm-up and T total steps runs at (t + 1) / w of the learning rate, then at
    (1 + cos(pi (t - w) / (T - w))) / 2: the first step already learns, and 0 is reached after the last step, not at it.

    Args:
        optimizer: its groups' learning rates are the peaks.
        warmup_steps: optimiser steps; a warm-up longer than the run is cut to the run.
        total_steps: optimiser steps of the whole run.

    Returns:
        A scheduler to be stepped once per optimiser step.

    Raises:
        ValueError: total_steps < 1 or warmup_steps < 0.
    """
    if total_steps < 1:
        raise ValueError(f"total_steps must be at least 1, got {total_steps}")
    if warmup_steps < 0:
        raise ValueError(f"warmup_steps must not be negative, got {warmup_steps}")
    warmup = min(warmup_steps, total_steps)

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        # Beyond the end (a scheduler is stepped once more after the last step) there is nothing left to decay.
        progress = (step - warmup) / (total_steps - warmup) if step < total_steps else 1.0
        return (1 + cos(pi * progress)) / 2

    return LambdaLR(optimizer, factor)
