"""The DataModule of texts."""

from pathlib import Path

import numpy as np

from kindred.data.datamodule import DataModule
from kindred.data.text.source import TOKENIZER, TextSource
from kindred.data.text.views import TextViews


class TextDataModule(DataModule):
    """Tells the views what tokens mean, and keeps the tokenizer by the encoder that has learnt to read them.

    Args:
        source: with a tokenizer.
        views, batch_size, val_size, train_size, eval_batch_size, num_workers, seed, labels, label_seed, unlabelled: see
            DataModule.
    """

    source: TextSource
    views: TextViews

    def setup(self, stage: str | None = None) -> None:
        if not self.is_set_up:
            super().setup(stage)
            train = self.train
            self.views.expect(
                self.source.tokenizer, lambda: self.views.plain(train.__getitems__(np.arange(len(train))).raw)
            )

    def attachments(self) -> dict[str, str]:
        return {TOKENIZER: self.source.tokenizer.to_str(pretty=True)}

    def adopt(self, folder: Path) -> None:
        if (path := folder / TOKENIZER).is_file():
            self.source.adopt(path)
