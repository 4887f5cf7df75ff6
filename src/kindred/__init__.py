"""Kindred: contrastive representation learning, exact on any number of devices."""

from kindred.runs.run import Run, load_run

__all__ = ["Run", "load_run"]
