"""Kindred: contrastive representation learning, exact on any number of devices."""

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kindred.runs.run import Run, load_run

__all__ = ["Run", "load_run"]

# How often OpenMP's threads look whether there is work before they sleep. Left alone they look so long that they take the
# cores from whoever has work (benchmarks/busy.py). GNU's library reads it once, when torch is imported; so here.
if not os.environ.keys() & {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"}:
    os.environ["GOMP_SPINCOUNT"] = "5000"


def __getattr__(name: str) -> Any:
    """`Run` and `load_run` when they are asked for: the command line's help and completion wait for nothing."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from kindred.runs import run

    return getattr(run, name)
