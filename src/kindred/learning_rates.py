"""Learning rates that follow the batch size. Imports no torch: Hydra resolves configurations with them before that."""

from math import sqrt


def linear_lr(base: float, base_batch: int, batch: int, accumulation: int = 1) -> float:
    """`base` x images per optimiser step / `base_batch` (Goyal et al. 2017, arXiv:1706.02677, section 2.1).

    Args:
        base: learning rate at `base_batch` images.
        base_batch: images that `base` was found with.
        batch: images in one loss, all ranks together.
        accumulation: losses accumulated before a step.
    """
    return base * batch * accumulation / base_batch


def sqrt_lr(base: float, batch: int, accumulation: int = 1) -> float:
    """`base` x the square root of images per optimiser step; SimCLR's is 0.075 (arXiv:2002.05709, appendix B.1)."""
    return base * sqrt(batch * accumulation)
