"""metrics.csv as a Lightning logger."""

from pathlib import Path
from typing import Any

from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only

from kindred.tracking.metrics_csv import MetricsFile


class MetricsCSV(Logger):
    """Every metric of the run in `<directory>/metrics.csv`, on disk as soon as it is logged.

    Args:
        directory: the run directory.
        resume_step: the optimiser steps of the checkpoint from which the run goes on; later rows are dropped.
    """

    name = "csv"
    version = ""
    save_dir = ""

    def __init__(self, directory: str | Path, resume_step: int | None = None) -> None:
        super().__init__()
        self.save_dir = str(directory)  # where Lightning's profilers write
        self.path = Path(directory) / "metrics.csv"
        self.resume_step = resume_step
        self._file: MetricsFile | None = None

    @property
    def file(self) -> MetricsFile:
        """The file, opened by the first rank that logs."""
        if self._file is None:
            self._file = MetricsFile(self.path)
            if self.resume_step is not None:
                self._file.keep_until(self.resume_step)
        return self._file

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.file.log(metrics, step or 0)

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Nothing: config.yaml has them."""
