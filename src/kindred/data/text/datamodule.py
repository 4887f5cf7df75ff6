"""The DataModule of texts."""

from typing import Annotated

from annotated_types import Ge, Lt

from kindred.data.datamodule import DataModule
from kindred.data.text.source import TextSource
from kindred.data.text.tokenizer import special
from kindred.data.text.views import TextViews
from kindred.values import Count


class TextDataModule(DataModule):
    """Tells the views which tokens mean something.

    Args:
        source: with a tokenizer.
        views, batch_size, val_size, train_size, eval_batch_size, num_workers, seed: see DataModule.
    """

    source: TextSource
    views: TextViews

    def setup(self, stage: str | None = None) -> None:
        if not self.is_set_up:
            super().setup(stage)
            self.views.special = special(self.source.tokenizer)
