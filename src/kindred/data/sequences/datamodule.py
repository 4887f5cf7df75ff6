"""The DataModule of sequences."""

import json
from pathlib import Path
from typing import Annotated

from annotated_types import Ge, Gt, Le, Lt

from kindred.data.datamodule import DataModule
from kindred.data.sequences.source import SCALING, SequenceSource
from kindred.data.sequences.views import SequenceViews
from kindred.errors import ConfigError
from kindred.values import Count, Whole


class SequenceDataModule(DataModule):
    """Tells the views how the source's channels are scaled, and keeps that by the encoder that has learnt to read them.

    Args:
        source: whose `scaling` the views use.
        length: T, steps of an example.
        channels: C; like `length` declared, since the encoder's configuration refers to it.
        views, batch_size, val_size, train_size, eval_batch_size, num_workers, seed, labels, label_seed, unlabelled: see
            DataModule.
    """

    source: SequenceSource
    views: SequenceViews

    def __init__(
        self,
        source: SequenceSource,
        views: SequenceViews,
        batch_size: Count,
        length: Count,
        channels: Count,
        val_size: Annotated[int, Ge(0)] | Annotated[float, Ge(0), Lt(1)] | None = None,
        train_size: Count | None = None,
        eval_batch_size: Count = 512,
        num_workers: Annotated[int, Ge(0)] = 0,
        seed: int = 0,
        labels: Annotated[float, Gt(0), Le(1)] = 1.0,
        label_seed: Whole = 0,
        unlabelled: bool = True,
    ) -> None:
        settings = val_size, train_size, eval_batch_size, num_workers, seed, labels, label_seed, unlabelled
        super().__init__(source, views, batch_size, *settings)
        self.length, self.channels = length, channels

    def setup(self, stage: str | None = None) -> None:
        if not self.is_set_up:
            super().setup(stage)
            channels, length = self.bank.__getitems__([0]).raw.shape[1:]
            for key, given, found in (("channels", self.channels, channels), ("length", self.length, length)):
                if given != found:
                    raise ConfigError(f"data.{key} is {given}, but {self.source.name} has {found}: set it to that")
            if (known := len(self.source.scaling.mean)) != channels:
                raise ConfigError(
                    f"data.source.scaling: {self.source.given} is of {known} channels, but {self.source.name} has {channels}"
                )
            self.views.expect(self.source.scaling)

    def attachments(self) -> dict[str, str]:
        return {SCALING: json.dumps(self.source.scaling._asdict(), indent=2) + "\n"}

    def adopt(self, folder: Path) -> None:
        if (path := folder / SCALING).is_file():
            self.source.adopt(path)
