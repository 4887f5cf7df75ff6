"""Memories of embeddings: first in, first out (MoCo's queue of keys, NNCLR's support set), or one of each train image."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from kindred import distributed
from kindred.data.counter import uniforms
from kindred.errors import ConfigError
from kindred.sphere import unit

CPU_TILE = 2048  # rows


class FeatureQueue(nn.Module):
    """The last `size` unit vectors that were enqueued on any rank (MoCo, He et al. 2020, arXiv:1911.05722, 3.2).

    It starts empty. The authors' is full of random vectors at first: 16 steps with them cost MoCo v2 three points of kNN
    accuracy after 60 epochs, from which it did not recover (benchmarks/not_reached.md).

    Every rank holds the same rows, because what is enqueued is gathered first. DDP need not send the queue around: put
    the names of its buffers into the module's `_ddp_params_and_buffers_to_ignore`.

    `written` counts all rows ever enqueued; how full the queue is and where the next row goes follow from it. It is a
    Python int and not a buffer because both must be known on the host, and reading a buffer would make every step wait
    for the device. It is saved with the `state_dict` all the same, as extra state.

    Labels may be kept beside the rows (-1 where none was given), for what observes the queue and does not train.

    Args:
        size: rows that the queue holds.
        dim: length of an embedding.

    Raises:
        ValueError: size < 1.
    """

    features: Tensor
    labels: Tensor

    def __init__(self, size: int, dim: int) -> None:
        super().__init__()
        if size < 1:
            raise ValueError(f"a queue must hold at least 1 row, got size={size}")
        self.register_buffer("features", torch.zeros(size, dim))
        self.register_buffer("labels", torch.full((size,), -1))
        self.written = 0

    def __len__(self) -> int:
        """Rows written so far, at most `size`."""
        return min(self.written, len(self.features))

    def rows(self) -> Tensor:
        """The written rows [len(self), dim] in order of storage, not of age: a view, valid until the next `enqueue`.

        A loss that uses it must run its backward first; autograd raises an error if it does not.
        """
        return self.features[: len(self)]

    @torch.no_grad()
    def nearest(self, embeddings: Tensor) -> Tensor:
        """Of each of the embeddings [B, dim], the position in `rows()` [B] int64 of the row most similar to it.

        The first of equals. The queue must not be empty.
        """
        tiles = self.similarities(embeddings)
        best, position = next(tiles)[1].max(dim=1)
        for start, tile in tiles:
            value, place = tile.max(dim=1)
            position = torch.where(value > best, place + start, position)
            best = torch.maximum(best, value)
        return position

    @torch.no_grad()
    def similarities(self, embeddings: Tensor) -> Iterator[tuple[int, Tensor]]:
        """Cosines [B, n] of embeddings [B, dim] with n of the `rows()`, from a position on, until all have been compared.

        On a CPU they come while they are in its caches. They are computed in the queue's precision: in bfloat16 many rows
        would tie, and the first would win.
        """
        rows = self.rows()
        step = CPU_TILE if rows.device.type == "cpu" else max(1, len(rows))
        queries = unit(embeddings.to(rows.dtype)).to(rows.dtype)
        for start in range(0, len(rows), step):
            with torch.autocast(rows.device.type, enabled=False):
                tile = queries @ rows[start : start + step].T
            yield start, tile

    @torch.no_grad()
    def enqueue(self, embeddings: Tensor, labels: Tensor | None = None) -> None:
        """Put the embeddings [B, dim] of all ranks, normalised, in the place of the oldest rows; labels [B] alike.

        Where more than `size` come at once the last ones stay.
        """
        self.written += distributed.world_size() * len(embeddings)
        self._write(self.features, unit(distributed.gather(embeddings.to(self.features.dtype))))
        if labels is not None:
            self._write(self.labels, distributed.gather(labels))

    def _write(self, ring: Tensor, rows: Tensor) -> None:
        """Write the newest `rows`, which `written` counts already, around the end of the ring."""
        size = len(ring)
        rows = rows[-size:]
        start = (self.written - len(rows)) % size
        before_wrap = min(len(rows), size - start)
        ring[start : start + before_wrap] = rows[:before_wrap]
        ring[: len(rows) - before_wrap] = rows[before_wrap:]

    def get_extra_state(self) -> Tensor:
        return torch.tensor(self.written)

    def set_extra_state(self, state: Tensor) -> None:
        self.written = int(state)

    def extra_repr(self) -> str:
        return f"size={len(self.features)}, dim={self.features.shape[1]}"


class MemoryBank(nn.Module):
    """A unit vector for each train image, which moves when the image is seen (InstDisc, Wu et al. 2018, section 3.1).

    Empty until `fill` says which images there are, or a checkpoint that is read back without the data. Every rank holds the
    same rows, because what moves them is gathered first; DDP need not send them around (see FeatureQueue).

    Args:
        dim: length of an embedding.
        momentum: what is left of a row when its image is seen.
    """

    features: Tensor
    positions: Tensor

    def __init__(self, dim: int, momentum: float) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("features", torch.zeros(0, dim))
        self.register_buffer("positions", torch.zeros(0, dtype=torch.int64))

    def __len__(self) -> int:
        return len(self.features)

    def fill(self, positions: Tensor, seed: int) -> None:
        """Random unit vectors for the images at `positions` of the source (int64 [N], ascending), a function of the seed.

        Each row is drawn as the authors' code does (lemniscate.pytorch, lib/NCEAverage.py), uniform between two bounds in
        every dimension, and then brought to the length 1, which theirs has about.
        """
        dim = self.features.shape[1]
        self.positions = positions.to(self.positions.device)
        self.features = unit((uniforms(seed, 0, -1, self.positions, dim) - 0.5).to(self.features.dtype))

    def places(self, index: Tensor) -> Tensor:
        """The rows [B] of the images at `index` (int64 [B]) of the source."""
        return torch.searchsorted(self.positions, index)

    def sample(self, count: int, seed: int, step: int) -> Tensor:
        """Rows [count] drawn with replacement, all alike, as a function of (seed, step)."""
        draws = uniforms(seed, step, -2, torch.arange(count, device=self.positions.device), 1)[:, 0]
        # They are multiples of 2**-24: as floats some would round up to len(self).
        return (draws * 2**24).long() * len(self) >> 24

    @torch.no_grad()
    def move(self, places: Tensor, embeddings: Tensor) -> None:
        """Move the rows at `places` [B], none twice, towards the embeddings [B, dim] of all ranks, on the sphere."""
        places, embeddings = distributed.gather(places), distributed.gather(embeddings.to(self.features.dtype))
        moved = self.momentum * self.features[places] + (1 - self.momentum) * unit(embeddings)
        self.features[places] = unit(moved).to(self.features.dtype)

    def _load_from_state_dict(
        self, state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
    ) -> None:
        saved = state_dict.get(f"{prefix}positions", self.positions)
        if len(self) == 0:
            self.positions = torch.empty_like(saved, device=self.positions.device)
            self.features = self.features.new_empty(len(saved), self.features.shape[1])
        elif not torch.equal(saved.to(self.positions.device), self.positions):
            raise ConfigError(
                f"the memory bank in the checkpoint is of {len(saved)} train images, and the data have {len(self)}"
                f"{' others' if len(saved) == len(self) else ''}: give the data that it was trained with, or start a new run"
            )
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )

    def extra_repr(self) -> str:
        return f"images={len(self)}, dim={self.features.shape[1]}, momentum={self.momentum}"
