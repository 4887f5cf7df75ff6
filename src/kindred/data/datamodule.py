"""The one DataModule that every method shares. It cuts, deals and orders; it never asks what an example is."""

from pathlib import Path
from typing import Annotated

import lightning
import numpy as np
import torch
from annotated_types import Ge, Gt, Le, Lt

from kindred.data.inventory import Files
from kindred.data.loading import Batch, DealtBatches, GlobalBatches, Loader, Subset, TrainLoader, ViewBatch
from kindred.data.order import share_of_each_class, stratified_order
from kindred.data.source import Examples, Source
from kindred.data.views import Views
from kindred.errors import ConfigError
from kindred.values import Count, Whole, value_text


class DataModule(lightning.LightningDataModule):
    """Cuts a source into train, bank and query examples and turns their batches into views on the device.

    Train examples are contrasted. Bank examples (the labelled train ones, unaugmented) and query examples (held out)
    judge the representation. Test examples are read by `test_dataset` only, or with `val_size=0`.

    After setup(): `train`, `bank`, `query` (datasets: len, `labels`, `__getitems__`), `class_names`, `num_classes`,
    `train_is_labelled` (in part at least), `is_judged` (bank and query have labels, of two classes or more: accuracies mean
    something) and `monitor`, the prefix of metrics on the query examples: "val", or "test" with `val_size=0`.

    Args:
        source: where the examples come from.
        views: how a raw batch becomes what the encoder eats.
        batch_size: the global batch: the examples contrasted in one loss, on all ranks together.
        val_size: examples (int) or share (float) of the bank split, where the source has one, else of train, held out
            of it as query examples by a stratified permutation that is the same in all runs. None: the source's own val
            split, else 0.1. 0: the query examples are the source's test split.
        train_size: train on a stratified subset of this many examples (always the same); the bank is those too.
        eval_batch_size: per rank.
        num_workers: loader processes per rank, useful for what is streamed from files.
        seed: of the sample order.
        labels: share of the train labels that anything may see, of each class, at least one: the other train examples are
            unlabelled, and bank examples are those with one. What `kindred evaluate --labels` takes is the same.
        label_seed: of that choice, which is the same in all runs with it.
        unlabelled: whether train has the examples without a label too. Else it is the bank's examples.

    Raises:
        ValueError: in setup(), naming the key, when the numbers do not fit the source or the number of ranks.
    """

    def __init__(
        self,
        source: Source,
        views: Views,
        batch_size: Count,
        val_size: Annotated[int, Ge(0)] | Annotated[float, Ge(0), Lt(1)] | None = None,
        train_size: Count | None = None,
        eval_batch_size: Count = 512,
        num_workers: Annotated[int, Ge(0)] = 0,
        seed: int = 0,
        labels: Annotated[float, Gt(0), Le(1)] = 1.0,
        label_seed: Whole = 0,
        unlabelled: bool = True,
    ):
        super().__init__()
        if val_size is not None and (val_size < 0 or (isinstance(val_size, float) and val_size >= 1)):
            raise ConfigError(f"data.val_size is {val_size}: give a number of examples, a share below 1.0, 0 or null")
        self.source, self.views = source, views
        self.batch_size, self.eval_batch_size, self.num_workers = batch_size, eval_batch_size, num_workers
        self.val_size, self.train_size, self.seed = val_size, train_size, seed
        self.labels_share, self.label_seed, self.unlabelled = labels, label_seed, unlabelled
        self.monitor = "test" if val_size == 0 else "val"
        self.is_set_up = False

    def prepare_data(self) -> None:
        if not self.is_set_up:
            self.check_batch_size(self._rank()[1])
            self.source.prepare()

    def setup(self, stage: str | None = None) -> None:
        if self.is_set_up:
            return
        self.check_batch_size(self._rank()[1])
        if self.trainer is None:  # nobody else calls it
            self.source.prepare()
        train, bank = self.source.load("train"), self.source.load("bank")
        assert train is not None  # Source.load
        self.class_names = list(self.source.class_names)
        self.num_classes = len(self.class_names)

        labelled = train if bank is None else bank
        self.query, kept = self._hold_out(labelled)
        positions = self._subset(train.labels, kept if bank is None else np.arange(len(train.labels)))
        answering = positions if bank is None else kept
        if (known := labelled.labels[answering] >= 0).any():
            answering = answering[known]
        self.bank = Subset(labelled, answering, self.views)
        self.train, self.train_examples = Subset(train, positions, self.views), train
        if self.labels_share < 1 or not self.unlabelled:
            self._choose_labels(hidden=bank is None)
        if self.batch_size > len(self.train):
            raise ConfigError(
                f"data.batch_size is {self.batch_size}, but there are only {len(self.train)} train examples: "
                "one batch must fit into an epoch"
            )
        self.train_is_labelled = bool((self.train.labels >= 0).any())
        self.is_judged = len(np.unique(self.bank.labels)) > 1 and bool((self.query.labels >= 0).any())
        self.is_set_up = True

    def _hold_out(self, labelled: Examples) -> tuple[Subset, np.ndarray]:
        """The query examples, and the positions of the labelled ones that are left."""
        everything = np.arange(len(labelled.labels))
        if self.val_size == 0:
            return self.test_dataset(), everything
        own = self.source.load("val")
        if own is None:
            held_out, kept = stratified_order(labelled.labels, [self._held_out(len(everything))])
            return Subset(labelled, held_out, self.views), kept
        if self.val_size is not None:
            raise ConfigError(
                f"data.val_size is {self.val_size}, but {self.source.name} has a val split of its own "
                f"({len(own.labels)} examples): leave data.val_size=null to use it, or 0 to monitor on test"
            )
        return Subset(own, np.arange(len(own.labels)), self.views), everything

    def _choose_labels(self, hidden: bool) -> None:
        """Leave the bank the share of labels that may be seen, and train no others (`hidden`: they are the bank's)."""
        if not (self.bank.labels >= 0).any():
            if self.unlabelled:
                return
            raise ConfigError(f"data.labels: the train examples of {self.source.name} have none: give labelled data")
        chosen = share_of_each_class(self.bank.labels, self.labels_share, self.label_seed, "data.labels")
        self.bank = self.bank.part(chosen)
        if not self.unlabelled:
            self.train = self.bank
        elif hidden:
            known = np.full_like(self.train.known, -1)
            known[self.bank.positions] = self.bank.labels
            self.train = Subset(self.train.examples, self.train.positions, self.views, known)

    def _held_out(self, labelled: int) -> int:
        size = 0.1 if self.val_size is None else self.val_size
        count = round(size * labelled) if isinstance(size, float) else size
        if not 0 < count < labelled:
            raise ConfigError(
                f"data.val_size is {value_text(self.val_size)}: that is {count} of the {labelled} examples of "
                f"{self.source.name}; some must be left on either side"
            )
        return count

    def expected_examples(self) -> int | None:
        """Train examples, before any is read: by the source's files, one for each; None: it knows none, or no labels."""
        files = self.inventory()
        if "train" not in files or not self.unlabelled:
            return None
        count = len(files["train"].names)
        if self.val_size != 0 and not {"val", "bank"} & files.keys():
            count -= self._held_out(count)
        return min(count, self.train_size or count)

    def _subset(self, labels: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """`train_size` of the positions."""
        if self.train_size is None:
            return positions
        if not 0 < self.train_size <= len(positions):
            raise ConfigError(
                f"data.train_size is {self.train_size}: {self.source.name} has {len(positions)} examples to "
                "train on, so give a number from 1 to that, or null for all"
            )
        return positions[stratified_order(labels[positions], [self.train_size], seed=1)[0]]

    def inventory(self) -> dict[str, Files]:
        """The files of each split that the source has; nothing of a source that knows no files."""
        ask = getattr(self.source, "inventory", lambda split: None)
        found = {split: ask(split) for split in ("train", "val", "test", "bank")}
        return {split: files for split, files in found.items() if files is not None}

    def labels(self) -> dict[str, np.ndarray]:
        """After setup(): the labels of the splits that it has loaded, before anything was cut from them."""
        loaded = [self.train_examples, self.bank.examples, self.query.examples]
        names = ("train", "bank", "test" if self.monitor == "test" else "val")
        new = [all(examples is not other for other in loaded[:place]) for place, examples in enumerate(loaded)]
        return {name: examples.labels for name, examples, own in zip(names, loaded, new, strict=True) if own}

    def test_dataset(self) -> Subset:
        """The source's official test examples. Training never reads them, unless `val_size` is 0."""
        test = self.source.load("test")
        assert test is not None  # Source.load
        return Subset(test, np.arange(len(test.labels)), self.views)

    def attachments(self) -> dict[str, str]:
        """Files that belong to an encoder, for without them nobody could make its inputs: name -> text. After setup()."""
        return {}

    def adopt(self, folder: Path) -> None:
        """Before setup(): read examples as the encoder of the run in `folder` does, which keeps its attachments there."""

    def train_dataloader(self) -> TrainLoader:
        rank, ranks = self._rank()
        batches = GlobalBatches(len(self.train), self.batch_size, self.seed, rank, ranks)
        return TrainLoader(self.train, batches, persistent_workers=self.num_workers > 0, **self._loader_options())

    def val_dataloader(self) -> list[Loader]:
        """[bank, query]. Rank r's j-th image of each is the example at position r + j * (number of ranks)."""
        return [self.eval_dataloader(self.bank, "bank"), self.eval_dataloader(self.query, "query")]

    def eval_dataloader(self, dataset: Subset, name: str) -> Loader:
        """Reads this rank's share of `dataset`, in order, each example once; `name` is for the error."""
        rank, ranks = self._rank()
        if len(dataset) < ranks:
            raise ConfigError(
                f"there are {len(dataset)} {name} examples for {ranks} devices: each needs one, so use fewer "
                "trainer.devices, or a larger data.val_size or data.train_size"
            )
        batches = DealtBatches(len(dataset), self.eval_batch_size, rank, ranks)
        return Loader(dataset, batches, **self._loader_options())

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> ViewBatch:
        if self.trainer is not None and self.trainer.training:
            views = self.views.augment(batch.raw, batch.index, self.trainer.current_epoch)
        else:
            views = (self.views.plain(batch.raw),)
        return ViewBatch(views, batch.labels, batch.index)

    def _rank(self) -> tuple[int, int]:
        """(rank, number of ranks)"""
        return (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)

    def _loader_options(self) -> dict:
        on_gpu = torch.cuda.is_available() if self.trainer is None else self.trainer.strategy.root_device.type == "cuda"
        return {"num_workers": self.num_workers, "pin_memory": on_gpu}

    def check_batch_size(self, ranks: int) -> None:
        """Raise a ValueError if the global batch cannot be dealt evenly to `ranks` ranks."""
        if self.batch_size < 1 or self.batch_size % ranks:
            below = self.batch_size // ranks * ranks
            sizes = " or ".join(str(size) for size in (below, below + ranks) if size > 0)
            raise ConfigError(
                f"data.batch_size is {self.batch_size}, the examples on all devices together: it cannot be dealt "
                f"evenly to {ranks} device(s); {sizes} can"
            )
