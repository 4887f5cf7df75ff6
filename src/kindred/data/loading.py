"""Which examples a rank reads, in which order, and how many of them it has read."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from kindred.data.order import permutation
from kindred.data.source import Examples
from kindred.data.views import Views


class Batch(NamedTuple):
    """What loaders yield. `index` is the position in the source's split (in train: before val is cut from it)."""

    raw: Tensor  # [B, ...], as the source has it
    labels: Tensor  # int64 [B], -1: unlabelled
    index: Tensor  # int64 [B]


class ViewBatch(NamedTuple):
    """What methods see. Training: V augmented views; evaluation: one, unaugmented."""

    views: tuple[Tensor, ...]  # V times [B, ...]
    labels: Tensor  # int64 [B], -1: unlabelled
    index: Tensor  # int64 [B]


class Subset:
    """Some examples of a source, chosen by `positions` (int64 [N]) and read a batch at a time; nothing is copied.

    Items are positions in the subset, not in the source. `known` are labels of all the source's examples that go before its
    own: some of them hidden, as -1.
    """

    def __init__(self, examples: Examples, positions: np.ndarray, views: Views, known: np.ndarray | None = None):
        self.examples, self.positions, self.views = examples, positions, views
        self.known = examples.labels if known is None else known

    @property
    def labels(self) -> np.ndarray:
        """int64 [N], -1: unlabelled"""
        return self.known[self.positions]

    def __len__(self) -> int:
        return len(self.positions)

    def part(self, items: np.ndarray) -> "Subset":
        """Some of them."""
        return Subset(self.examples, self.positions[items], self.views, self.known)

    def __getitems__(self, items: Any) -> Batch:
        """As evaluation sees them; `items`: list of ints or integer array [B]."""
        positions = self.positions[items]
        return self._batch(self.examples.read(positions), positions)

    def train_items(self, items: Any, epoch: int) -> Batch:
        """As training reads them in an epoch."""
        positions = self.positions[items]
        return self._batch(self.examples.read_train(positions, epoch, self.views), positions)

    def _batch(self, raw: np.ndarray, positions: np.ndarray) -> Batch:
        return Batch(*map(torch.from_numpy, (raw, self.known[positions], positions)))


class EpochItems(NamedTuple):
    """One rank's share of a train batch. It carries its epoch, since workers outlive epochs and draw crops from it."""

    items: np.ndarray
    epoch: int


class GlobalBatches:
    """Batches of an epoch, of which each rank reads a contiguous slice.

    Batch b of epoch e is permutation(size, seed, e)[b*B : (b+1)*B] whatever the number of ranks; an incomplete last
    batch is dropped. Order is a function of (seed, epoch), so there is no state but where to start.
    """

    def __init__(self, size: int, batch_size: int, seed: int, rank: int = 0, world_size: int = 1):
        self.size, self.batch_size, self.seed = size, batch_size, seed
        self.rank, self.world_size = rank, world_size
        self.epoch = 0
        self.start = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.size // self.batch_size

    def __iter__(self) -> Iterator[EpochItems]:
        order = permutation(self.size, self.seed, self.epoch)
        share = self.batch_size // self.world_size
        for batch in range(self.start, len(self)):
            first = batch * self.batch_size + self.rank * share
            yield EpochItems(order[first : first + share], self.epoch)


class DealtBatches:
    """Evaluation: the examples dealt to the ranks like cards, none twice. The j-th of rank r is example r + j * W."""

    def __init__(self, size: int, batch_size: int, rank: int = 0, world_size: int = 1):
        self.items = np.arange(rank, size, world_size)
        self.batch_size = batch_size

    def __len__(self) -> int:
        return -(-len(self.items) // self.batch_size)

    def __iter__(self) -> Iterator[np.ndarray]:
        for first in range(0, len(self.items), self.batch_size):
            yield self.items[first : first + self.batch_size]


class Loader:
    """A torch DataLoader, wrapped so that Lightning does not put a DistributedSampler, which pads, in its place."""

    def __init__(self, dataset: Any, batches: Any, **options: Any):
        # A generator of its own: each pass draws a seed for the workers, and the global stream is the training's.
        generator = torch.Generator()
        self._loader = DataLoader(dataset, batch_sampler=batches, collate_fn=_as_it_is, generator=generator, **options)

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[Batch]:
        return iter(self._loader)


class TrainLoader(Loader):
    """A loader that can go on in the middle of an epoch; Lightning saves and restores its state.

    The state counts the batches handed out, not those that workers have prefetched.
    """

    def __init__(self, dataset: Subset, batches: GlobalBatches, **options: Any):
        super().__init__(_TrainItems(dataset), batches, **options)
        self.sampler = batches  # Lightning looks for `.sampler.set_epoch`
        self._epoch, self._handed_out = 0, 0
        self._resumes = False

    def set_epoch(self, epoch: int) -> None:
        """For loops without Lightning: choose the epoch before iterating."""
        self.sampler.set_epoch(epoch)

    def state_dict(self) -> dict[str, int]:
        return {"epoch": self._epoch, "batch": self._handed_out}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self._epoch, self._handed_out = state["epoch"], state["batch"]
        self._resumes = True

    def __iter__(self) -> Iterator[Batch]:
        # A generator, so that its body runs at the first batch: Lightning calls iter() before it sets the epoch.
        goes_on = self._resumes and self._epoch == self.sampler.epoch
        self._resumes = False
        self._epoch, self._handed_out = self.sampler.epoch, self._handed_out if goes_on else 0
        self.sampler.start = self._handed_out
        for batch in self._loader:
            self._handed_out += 1
            yield batch


class _TrainItems:
    """Reads what GlobalBatches asks for."""

    def __init__(self, dataset: Subset):
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitems__(self, request: EpochItems) -> Batch:
        return self.dataset.train_items(*request)


def _as_it_is(batch: Any) -> Any:
    return batch
