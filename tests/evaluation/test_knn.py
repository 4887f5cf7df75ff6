"""kNN against sorting in loops, against lightly, with exact ties, and with the bank dealt to several ranks."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from lightly.utils.benchmarking import knn_predict
from ranks import run_ranks

from kindred import distributed
from kindred.evaluation import knn
from kindred.evaluation.knn import knn_classify, knn_scores, knn_search, knn_search_sharded, knn_vote


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def labels_of(count, classes, seed=0):
    return torch.randint(classes, (count,), generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(knn, "_QUERY_BLOCK", 4)
    monkeypatch.setattr(knn, "_BANK_BLOCK", 8)
    monkeypatch.setattr(knn, "_FEATURE_BLOCK", 3)
    monkeypatch.setattr(knn, "_PANEL", 16)
    monkeypatch.setattr(knn, "_GROUP", 2)


def grid_points(count, seed):
    """Few different rows, among them multiples of each other: many similarities are equal, exactly."""
    generator = torch.Generator().manual_seed(seed)
    axes = torch.cat([torch.eye(3), -torch.eye(3)])[torch.randint(6, (count,), generator=generator)]
    return axes * 2.0 ** torch.randint(-3, 4, (count, 1), generator=generator)


def sorted_search(bank, queries, k):
    """Sorts all bank rows by (similarity descending, position ascending), in float64."""
    similarities = F.normalize(queries.double(), dim=1) @ F.normalize(bank.double(), dim=1).T
    return torch.tensor([sorted(range(len(bank)), key=lambda j, row=row: (-row[j], j))[:k] for row in similarities])


# Search


@pytest.mark.parametrize("k", [1, 5, 8, 30, 100])
def test_search_against_sorting(small_blocks, k):
    bank, queries = random(30, 7), random(11, 7, seed=1)
    similarities, positions = knn_search(bank, queries, k)
    assert positions.tolist() == sorted_search(bank, queries, k).tolist()  # k = 100 is clipped to 30
    cosines = F.cosine_similarity(queries[:, None], bank[positions], dim=2)
    torch.testing.assert_close(similarities, cosines)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(1, 45), st.integers(0, 10_000))
def test_ties_are_broken_by_position(rows, k, seed):
    bank, queries = grid_points(rows, seed), grid_points(5, seed + 1)
    expected = sorted_search(bank, queries, k).tolist()
    assert knn_search(bank, queries, k)[1].tolist() == expected
    with pytest.MonkeyPatch.context() as patch:
        for name, size in {"_QUERY_BLOCK": 4, "_BANK_BLOCK": 8, "_PANEL": 16, "_GROUP": 2}.items():
            patch.setattr(knn, name, size)
        assert knn_search(bank, queries, k)[1].tolist() == expected
        order = torch.randperm(rows)
        assert knn_search(bank[order], queries, k, positions=order)[1].tolist() == expected


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 200), st.integers(1, 30), st.integers(0, 10_000))
def test_the_largest_are_in_the_groups_with_the_largest_maxima(columns, k, seed):
    """Groups of 16, and columns that fill none; the values are few, so that many are equal."""
    k = min(k, columns)
    x = torch.randint(-20, 20, (3, columns), generator=torch.Generator().manual_seed(seed)).float()
    values, found = knn._top(x, k)
    assert torch.equal(values, x.topk(k).values)
    assert torch.equal(values, x.gather(1, found))
    assert all(len(set(row)) == k for row in found.tolist())


def test_a_collapsed_representation_is_one_large_tie():
    similarities, positions = knn_search(torch.ones(5000, 8), torch.ones(3, 8), 300)
    assert positions.tolist() == [list(range(300))] * 3
    assert similarities.unique().numel() == 1


@pytest.mark.parametrize("dim", [3, 128, 2048])
def test_where_a_pair_stands_does_not_decide_its_rounding(dim):
    bank, queries = random(5000, dim), random(300, dim, seed=1)
    similarities, positions = knn_search(bank, queries, 20)
    shuffled = torch.randperm(5000, generator=torch.Generator().manual_seed(2))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as on a rank
    try:
        for kept in (slice(0, 1), slice(17, 290)):
            again = knn_search(bank[shuffled], queries[kept], 20, positions=shuffled)
            assert torch.equal(again[0], similarities[kept])
            assert torch.equal(again[1], positions[kept])
    finally:
        torch.set_num_threads(threads)


def test_zero_and_negative_zero_tie():
    bank = torch.tensor([[-1e-60, 1.0], [0.0, 1.0], [1e-60, 1.0]], dtype=torch.float64)  # -0.0, 0.0, 0.0 in float32
    assert knn_search(bank, torch.tensor([[1.0, 0.0]], dtype=torch.float64), 3)[1].tolist() == [[0, 1, 2]]


def test_search_of_half_precision_no_queries_and_zero_rows():
    bank, queries = random(20, 4).half().requires_grad_(), random(3, 4, seed=1).half()
    similarities, positions = knn_search(bank, queries, 4)
    assert similarities.dtype == torch.float32
    assert positions.tolist() == sorted_search(bank, queries, 4).tolist()
    assert [x.shape for x in knn_search(bank, queries[:0], 4)] == [(0, 4), (0, 4)]
    similarities, _ = knn_search(torch.zeros(3, 4), random(1, 4), 2)
    assert similarities.tolist() == [[0, 0]]


def test_errors_name_the_value():
    with pytest.raises(ValueError, match=r"k must be at least 1, got 0"):
        knn_search(random(3, 2), random(1, 2), 0)
    with pytest.raises(ValueError, match="no rows"):
        knn_search(random(0, 2), random(1, 2), 1)
    with pytest.raises(ValueError, match=r"temperature.*0"):
        knn_vote(random(1, 2), torch.zeros(1, 2, dtype=torch.long), 0, 3)


# Vote


def test_vote_against_loops():
    similarities, labels = random(6, 9).clamp(-1, 1).double(), labels_of(54, 4).view(6, 9)
    labels[0, 0] = labels[2] = -1  # one neighbour without a vote, one query without voters
    expected = torch.zeros(6, 4, dtype=torch.float64)
    for row in range(6):
        voters = [(s, c) for s, c in zip(similarities[row], labels[row], strict=True) if c >= 0]
        for similarity, label in voters:
            expected[row, label] += torch.exp((similarity - max(s for s, _ in voters)) / 0.07)
    torch.testing.assert_close(knn_vote(similarities, labels, 0.07, 4), expected)


@pytest.mark.parametrize("temperature", [1e-3, 0.1, 1e3])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_vote_never_overflows(temperature, dtype):
    similarities = torch.tensor([[1.0, 0.5, -1.0], [-1.0, -1.0, -1.0]], dtype=dtype)
    scores = knn_vote(similarities, torch.tensor([[0, 1, 1], [2, 2, 1]]), temperature, 3)
    assert scores.isfinite().all()
    assert scores.argmax(dim=1).tolist() == [1 if temperature == 1e3 else 0, 2]


@pytest.mark.parametrize(("k", "temperature"), [(1, 0.1), (20, 0.1), (20, 0.5), (200, 0.07)])
def test_classify_against_lightly(k, temperature):
    bank, labels, queries = random(400, 16), labels_of(400, 7), random(50, 16, seed=1)
    theirs = knn_predict(F.normalize(queries, dim=1), F.normalize(bank, dim=1).T, labels, 7, knn_k=k, knn_t=temperature)
    scores = knn_classify(bank, labels, queries, k, temperature, 7)
    assert torch.equal(scores.argmax(dim=1), theirs[:, 0])
    if k == 200:  # no class is without votes: the whole ranking is defined
        assert torch.equal(scores.argsort(dim=1, descending=True), theirs)


def test_unlabelled_rows_are_not_searched():
    bank, labels, queries = random(40, 5), labels_of(40, 3), random(6, 5, seed=1)
    labels[::3] = -1
    expected = knn_classify(bank[labels >= 0], labels[labels >= 0], queries, 9, 0.1, 3)
    assert torch.equal(knn_classify(bank, labels, queries, 9, 0.1, 3), expected)


# Several ranks

QUERIES = {"random": random(13, 6, seed=1), "tied": grid_points(13, seed=1)}
BANKS = {"random": random(50, 6), "tied": grid_points(50, seed=0)}
LABELS = labels_of(50, 4) - (torch.arange(50) % 7 == 0).long() * 10


def search_shards(owners):
    """Everything that the callback asks for, with the rows of the bank dealt as `owners` says."""
    mine = (owners == distributed.rank()).nonzero()[:, 0].flip(0)
    results = {}
    for name, bank in BANKS.items():
        for k in (1, 10, 1000):
            results[name, k] = (
                *knn_search_sharded(bank[mine], mine, QUERIES[name], k),
                knn_scores(bank[mine], LABELS[mine], mine, QUERIES[name], k, 0.1, 4),
            )
    return results


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_a_sharded_bank_gives_the_same_to_the_bit(world_size):
    owners = labels_of(50, world_size, seed=3)
    if world_size == 2:
        owners[:] = (torch.arange(50) < 3).long()  # 47 and 3 rows: fewer than k
    if world_size == 3:
        owners[owners == 1] = 2  # none
    for result in run_ranks(search_shards, world_size, owners):
        for (name, k), (similarities, positions, scores) in result.items():
            expected = knn_search(BANKS[name], QUERIES[name], k)
            assert torch.equal(similarities, expected[0])
            assert torch.equal(positions, expected[1])
            assert torch.equal(scores, knn_classify(BANKS[name], LABELS, QUERIES[name], k, 0.1, 4))


def search_nothing(k, rows):
    return knn_search_sharded(torch.zeros(rows, 2), torch.arange(rows), torch.zeros(3, 2), k)


@pytest.mark.parametrize(("k", "rows", "message"), [(0, 5, "k must be at least 1"), (1, 0, "no rows")])
def test_sharded_errors(k, rows, message):
    with pytest.raises(ValueError, match=message):
        search_nothing(k, rows)
