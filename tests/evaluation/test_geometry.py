"""Geometry of embeddings against explicit loops, and on several ranks."""

import pytest
import torch
import torch.nn.functional as F
from ranks import run_ranks

from kindred import distributed
from kindred.evaluation.geometry import pair_similarity

EMBEDDINGS = torch.randn(3, 6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 0.3


def loop(embeddings):
    views, batch = embeddings.shape[:2]
    pairs = {True: [], False: []}
    for i in range(batch):
        for j in range(batch):
            for u in range(views):
                for v in range(views):
                    if (u, i) != (v, j):
                        pairs[i == j].append(F.cosine_similarity(embeddings[u, i], embeddings[v, j], dim=0))
    return [torch.stack(pairs[key]).mean() for key in (True, False)]


@pytest.mark.parametrize("views", [2, 3])
def test_pair_similarity_against_loops(views):
    embeddings = EMBEDDINGS[:views].clone().requires_grad_()
    actual = pair_similarity(embeddings)
    torch.testing.assert_close(list(actual), loop(embeddings.detach()))
    assert not any(value.requires_grad for value in actual)
    torch.testing.assert_close(
        [value.double() for value in pair_similarity(EMBEDDINGS.float())], loop(EMBEDDINGS), rtol=0, atol=1e-6
    )


def test_pairs_that_do_not_exist():
    positive, negative = pair_similarity(EMBEDDINGS[:1])
    assert positive.isnan()
    torch.testing.assert_close(negative, pair_similarity(EMBEDDINGS[:1].repeat(2, 1, 1))[1])
    positive, negative = pair_similarity(EMBEDDINGS[:, :1])
    assert positive.isfinite()
    assert negative.isnan()


def test_half_precision_and_collapse():
    ones = torch.ones(2, 300, 64, dtype=torch.bfloat16)
    torch.testing.assert_close(list(pair_similarity(ones)), [torch.ones(()), torch.ones(())])


def share():
    batch = 6 // distributed.world_size()
    return pair_similarity(EMBEDDINGS[:, distributed.rank() * batch :][:, :batch])


def test_several_ranks():
    expected = list(pair_similarity(EMBEDDINGS))
    for world_size in (2, 3):
        for actual in run_ranks(share, world_size):
            torch.testing.assert_close(list(actual), expected, rtol=1e-12, atol=1e-12)
