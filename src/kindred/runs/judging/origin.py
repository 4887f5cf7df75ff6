"""Which weights an evaluation, an exported file or a model card is of."""

import hashlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kindred.runs.run import Run


def origin(run: "Run") -> dict[str, Any]:
    """The weights that `run` has now: `step`, the optimiser steps behind them, and `checkpoint`, the SHA-256 of their names
    and bytes. A checkpoint that is written again, as by a resume that has nothing left to do, is the same one.
    """
    import torch

    digest = hashlib.sha256()
    for name, value in sorted(run.module.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)} ".encode())
        digest.update(value.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return {"step": run.step, "checkpoint": digest.hexdigest()}
