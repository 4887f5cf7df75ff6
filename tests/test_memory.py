"""The queue against a deque, across wrap-around, ranks and checkpoints."""

from collections import deque
from io import BytesIO

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from ranks import run_ranks

from kindred import distributed
from kindred.losses import info_nce
from kindred.memory import FeatureQueue


def batches(sizes, dim=3):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(size, dim, generator=generator) * 10 for size in sizes]


def as_set(rows):
    return {tuple(row.tolist()) for row in rows}


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 9), st.lists(st.integers(0, 20), max_size=8))
def test_behaves_like_a_deque(size, sizes):
    queue, model = FeatureQueue(size, 3), deque(maxlen=size)
    for batch in batches(sizes):
        queue.enqueue(batch)
        model.extend(map(tuple, F.normalize(batch, dim=1).tolist()))
        assert len(queue) == len(model)
        assert as_set(queue.rows()) == set(model)


def test_starts_empty_and_holds_unit_vectors_of_its_own_precision():
    queue = FeatureQueue(5, 3)
    assert queue.rows().shape == (0, 3)
    queue.enqueue(batches([4])[0].bfloat16().requires_grad_())
    assert queue.rows().dtype == torch.float32
    assert not queue.rows().requires_grad
    torch.testing.assert_close(queue.rows().norm(dim=1), torch.ones(4))
    assert queue.double().rows().dtype == torch.float64
    with pytest.raises(ValueError, match="size=0"):
        FeatureQueue(0, 3)


def test_lookups_are_views_and_a_too_early_enqueue_is_an_error():
    queue = FeatureQueue(4, 3)
    queue.enqueue(batches([4])[0])
    rows = queue.rows()
    assert rows.data_ptr() == queue.features.data_ptr()
    query = torch.ones(1, 3, requires_grad=True)
    loss = (query @ rows.T).sum()
    queue.enqueue(batches([1])[0])
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_works_with_info_nce_from_the_first_step():
    queue, query = FeatureQueue(4, 3), torch.ones(2, 3, requires_grad=True)
    assert info_nce(query, query.detach(), queue.rows(), 0.1) == 0
    for batch in batches([3, 3]):
        queue.enqueue(batch)
        assert info_nce(query, query.detach(), queue.rows(), 0.1) > 0


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_goes_on_from_a_checkpoint_bit_for_bit(steps):
    sizes = [3, 4, 2, 5, 3, 4]
    kept = torch.nn.ModuleDict({"queue": FeatureQueue(7, 3)})  # inside another module, as a method holds it
    for batch in batches(sizes)[:steps]:
        kept["queue"].enqueue(batch)
    file = BytesIO()
    torch.save(kept.state_dict(), file)
    file.seek(0)
    loaded = torch.nn.ModuleDict({"queue": FeatureQueue(7, 3)})
    loaded.load_state_dict(torch.load(file, weights_only=True))
    assert len(loaded["queue"]) == len(kept["queue"])
    for batch in batches(sizes)[steps:]:
        kept["queue"].enqueue(batch)
        loaded["queue"].enqueue(batch)
    assert torch.equal(kept["queue"].features, loaded["queue"].features)


def enqueue_shares(sizes):
    queue, rank, world_size = FeatureQueue(10, 3), distributed.rank(), distributed.world_size()
    for batch in batches(sizes):
        queue.enqueue(batch.chunk(world_size)[rank])
    return queue.state_dict()


@pytest.mark.parametrize("world_size", [2, 3])
def test_is_the_same_on_every_rank_and_on_one(world_size):
    sizes = [6, 12, 6, 6]
    expected = enqueue_shares(sizes)
    for state in run_ranks(enqueue_shares, world_size, sizes):
        assert state.keys() == expected.keys()
        assert all(torch.equal(state[key], expected[key]) for key in expected)
