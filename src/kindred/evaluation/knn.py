"""Weighted k-nearest-neighbour classification on frozen features (Wu et al. 2018, arXiv:1805.01978, section 3.4).

The neighbours of a query are the bank rows of largest cosine similarity, ties broken by bank position: a total order,
so that the answer does not depend on how the bank was cut into blocks or dealt to ranks. Each (similarity, position)
pair is one int64 key whose natural order is that total order; merging blocks or ranks is then `topk` of keys.

What remains is rounding: were the similarity of the same pair rounded differently in another block or on another rank,
near-equal neighbours could swap. So every matrix product has the same shape, the last block padded with zeros, and
long features are cut into parts: the library picks the same kernel, and a pair's products are added in the same order
wherever the pair stands and however many threads there are. (So libraries behave, tested; they do not promise it.)
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from kindred import distributed
from kindred.sphere import unit

# Shape of a matrix product. With fewer queries two threads gain little; of 2048 features at once, MKL adds up in another
# order on 1 thread than on 2.
_QUERY_BLOCK, _BANK_BLOCK, _FEATURE_BLOCK = 256, 2048, 512
_PANEL = 32 * _BANK_BLOCK  # bank rows per `topk`, which takes less time for one long row than for several short ones
_GROUP = 16  # similarities of which only the largest is looked at first
_LOW_BITS = 0xFFFFFFFF


@torch.no_grad()
def knn_search(bank: Tensor, queries: Tensor, k: int, positions: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The k most similar bank rows of each query. Memory beyond the arguments and the result is a few blocks.

    Args:
        bank: [N, F] features, not necessarily normalised; rows of length 1e-12 to 1e18, or zero, which is unlike everything.
        queries: [Q, F] features of any length.
        k: neighbours wanted; clipped to N.
        positions: [N] integers in [0, 2**32) that name the bank rows; by default 0 to N-1.

    Returns:
        Cosine similarities [Q, k] (float32), largest first, and positions [Q, k] (int64), in their order where
        similarities are equal.

    Raises:
        ValueError: k < 1, or an empty bank.
    """
    _check(k, len(bank), "")
    if positions is None:
        positions = torch.arange(len(bank), device=bank.device)
    return _decode(torch.cat(list(_search_blocks(bank, queries, k, positions))))


def knn_vote(similarities: Tensor, labels: Tensor, temperature: float, num_classes: int) -> Tensor:
    """Class scores of each query: the sum of exp(similarity / temperature) over its neighbours of that class.

    Scores are relative to the query's most similar voter (exp of 0), so that no temperature overflows.

    Args:
        similarities: [Q, k].
        labels: [Q, k] classes of the neighbours; a negative label does not vote.
        temperature: T > 0; 0.07 in the paper, 0.1 in lightly's tables.
        num_classes: C.

    Returns:
        [Q, C], float32 or more.

    Raises:
        ValueError: temperature <= 0.
    """
    if not temperature > 0:
        raise ValueError(f"temperature must be greater than 0, got {temperature}")
    similarities = similarities.to(torch.promote_types(similarities.dtype, torch.float32))
    similarities = similarities.masked_fill(labels < 0, -torch.inf)
    best = similarities.amax(dim=1, keepdim=True).clamp(min=torch.finfo(similarities.dtype).min)
    weights = ((similarities - best) / temperature).exp()
    scores = weights.new_zeros(len(weights), num_classes)
    # On a GPU neighbour by neighbour: one scatter of all k would add up in any order there, and no score be repeatable.
    step = weights.shape[1] if scores.device.type == "cpu" else 1
    for some_labels, some_weights in zip(labels.clamp(min=0).split(step, 1), weights.split(step, 1), strict=True):
        scores.scatter_add_(1, some_labels, some_weights)
    return scores


def knn_classify(
    bank: Tensor, bank_labels: Tensor, queries: Tensor, k: int, temperature: float, num_classes: int
) -> Tensor:
    """Class scores [Q, C] of queries [Q, F] by the k nearest labelled rows of bank [N, F], labels [N]; one process."""
    bank_labels, bank = _labelled(bank_labels, bank)
    _check(k, len(bank), "")
    blocks = _search_blocks(bank, queries, k, torch.arange(len(bank), device=bank.device))
    return _vote_in_blocks(blocks, lambda positions: bank_labels[positions], temperature, num_classes)


@torch.no_grad()
def knn_search_sharded(bank: Tensor, positions: Tensor, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """`knn_search` in a bank that is dealt to the ranks; every rank must call it, and each gets the whole answer.

    Args:
        bank: [n_r, F], this rank's rows; ranks may hold different numbers of rows, or none.
        positions: [n_r], the rows' positions in the whole bank.
        queries: [Q, F], the same on every rank (see `distributed.gather_uneven`).
        k: neighbours wanted; clipped to the rows of the whole bank.
    """
    return _decode(torch.cat(list(_search_sharded_blocks(bank, positions, queries, k))))


def knn_scores(
    bank: Tensor,
    bank_labels: Tensor,
    bank_positions: Tensor,
    queries: Tensor,
    k: int,
    temperature: float,
    num_classes: int,
) -> Tensor:
    """`knn_classify` with a bank that is dealt to the ranks; every rank must call it, and each gets all scores.

    Args:
        bank: [n_r, F], this rank's rows.
        bank_labels: [n_r]; unlabelled rows (-1) are not searched.
        bank_positions: [n_r], the rows' positions in the whole bank, each on one rank only.
        queries: [Q, F], the same on every rank (see `distributed.gather_uneven`).
        k: neighbours wanted; clipped to the labelled rows of the whole bank.
        temperature: T > 0.
        num_classes: C.

    Returns:
        [Q, C], identical on every rank and equal to those of one process with the whole bank.
    """
    bank_labels, bank, bank_positions = _labelled(bank_labels, bank, bank_positions)
    # Labels and positions of the whole bank are few bytes; the features stay where they are.
    ordered, order = distributed.gather_uneven(bank_positions).sort()
    labels = distributed.gather_uneven(bank_labels)[order]
    blocks = _search_sharded_blocks(bank, bank_positions, queries, k)
    return _vote_in_blocks(
        blocks, lambda positions: labels[torch.searchsorted(ordered, positions)], temperature, num_classes
    )


def _check(k, rows, where):
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    if rows == 0:
        raise ValueError(f"the bank has no rows to search{where}")


def _vote_in_blocks(blocks, labels_of, temperature, num_classes):
    """Scores [Q, C]; of the neighbours [Q, k] no more than a block is in memory."""
    found = (_decode(keys) for keys in blocks)
    votes = [
        knn_vote(similarities, labels_of(positions), temperature, num_classes) for similarities, positions in found
    ]
    return torch.cat(votes)


def _search_sharded_blocks(bank, positions, queries, k):
    """`_search_blocks` in a bank that is dealt to the ranks, merged a block of queries at a time."""
    rows = int(distributed.sum_over_ranks(torch.tensor(len(bank), device=queries.device)))
    _check(k, rows, " on any rank")
    k = min(k, rows)
    for keys in _search_blocks(bank, queries, k, positions):
        keys = F.pad(keys, (0, k - keys.shape[1]), value=torch.iinfo(torch.int64).min)  # a shard may have fewer than k
        yield distributed.gather(keys[None]).transpose(0, 1).flatten(1).topk(k).values


def _labelled(labels, *others):
    """All tensors without the rows whose label is negative; the very tensors, not copies, where there is none."""
    if bool((labels >= 0).all()):
        return labels, *others
    return labels[labels >= 0], *(other[labels >= 0] for other in others)


def _search_blocks(bank, queries, k, positions):
    """Yields keys [q, min(k, N)] of the nearest bank rows, best first, for a block of queries after the other."""
    scale = 1 / torch.linalg.vector_norm(bank, dim=1, dtype=_precise(bank)).clamp(min=1e-12)
    for block in queries.split(_query_block(queries)):
        block = unit(block)
        best = positions.new_empty(len(block), 0)
        for start in range(0, len(bank), _PANEL):
            rows = slice(start, start + _PANEL)
            keys = _top_keys(_similarities(block, bank[rows], scale[rows]), positions[rows], k)
            best = torch.cat([best, keys], dim=1)
            best = best.topk(min(k, best.shape[1])).values
        yield best


def _similarities(queries, rows, scale):
    """Cosine similarities [q, n] of a block of unit queries [q, F] and bank rows [n, F] of norm 1 / scale."""
    count, queries = len(queries), _padded(queries, _query_block(queries))
    products = queries.new_empty(len(queries), len(rows) + -len(rows) % _BANK_BLOCK)
    for start in range(0, len(rows), _BANK_BLOCK):
        block = _padded(rows[start : start + _BANK_BLOCK].to(queries.dtype), _BANK_BLOCK)
        place = products[:, start : start + _BANK_BLOCK]
        for part in range(0, queries.shape[1], _FEATURE_BLOCK):
            columns = slice(part, part + _FEATURE_BLOCK)
            place.addmm_(queries[:, columns], block[:, columns].T, beta=float(part > 0))
        # Scaled here, where the block is still in the cache: a unit copy of the bank would double its memory.
        place[:, : len(rows) - start].mul_(scale[start : start + _BANK_BLOCK])
    return products[:count, : len(rows)].float()


def _query_block(queries):
    """On a CPU a panel of similarities is to stay near its caches; a GPU wants few and large kernels."""
    return _QUERY_BLOCK if queries.device.type == "cpu" else 8 * _QUERY_BLOCK


def _precise(x):
    return torch.promote_types(x.dtype, torch.float32)


def _padded(x, size):
    return F.pad(x, (0, 0, 0, size - len(x))) if len(x) < size else x


def _top_keys(similarities, positions, k):
    """Keys of the k best of each row of [q, n], in any order."""
    if k >= similarities.shape[1]:
        return _encode(similarities, positions)
    values, columns = _top(similarities, k + 1)
    keys = _encode(values[:, :k], positions[columns[:, :k]])
    # topk takes any of equal values; that matters only if the first one left out equals the last one taken: by rounding
    # alone, for one query in ten thousand of a bank of 50,000. The others of its block need no keys of all rows.
    if len(tied := (values[:, k - 1] == values[:, k]).nonzero().flatten()):
        keys[tied] = _encode(similarities[tied], positions).topk(k).values
    return keys


def _top(x, k):
    """`x.topk(k)` of each row of [q, n], in less time: the k largest are in the k groups whose maxima are the largest."""
    size = x.shape[1] // _GROUP  # group i is columns i, i + size, i + 2 size, ...; what is left over belongs to none
    if size <= 2 * k:  # not many groups would be left out
        return x.topk(k)
    groups = x[:, : size * _GROUP].unflatten(1, (_GROUP, size)).amax(dim=1).topk(k, sorted=False).indices
    columns = (groups[:, None] + size * torch.arange(_GROUP, device=x.device)[:, None]).flatten(1)
    rest = torch.arange(size * _GROUP, x.shape[1], device=x.device).expand(len(x), -1)
    columns = torch.cat([columns, rest], dim=1)
    values, found = x.gather(1, columns).topk(k)
    return values, columns.gather(1, found)


def _encode(similarities, positions):
    """(similarity, position) as one int64: larger similarity first, then smaller position.

    Read as integers, floats are in order, except that negative ones run backwards until all but their sign is flipped.
    """
    bits = (similarities + 0.0).contiguous().view(torch.int32)  # + 0.0: -0.0 is 0.0
    ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    return (ordered.long() << 32) + (_LOW_BITS - positions)


def _decode(keys):
    ordered = (keys >> 32).int()
    bits = ordered ^ ((ordered >> 31) & 0x7FFFFFFF)
    return bits.view(torch.float32), _LOW_BITS - (keys & _LOW_BITS)
