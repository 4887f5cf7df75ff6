"""Kindred: contrastive representation learning, exact on any number of devices."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kindred.runs.run import Run, load_run

__all__ = ["Run", "load_run"]


def __getattr__(name: str) -> Any:
    """`Run` and `load_run` when they are asked for: the command line's help and completion wait for nothing."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from kindred.runs import run

    return getattr(run, name)
