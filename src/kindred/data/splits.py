"""Splits that keep together what belongs together: a module's texts, a person's recordings.

Imports no torch.
"""

import numpy as np

from kindred.data.order import permutation

SPLITS = ("train", "val", "test")
HELD_OUT = 0.15  # of what is dealt, for val and for test each


def deal_groups(counts: np.ndarray, *key: int) -> np.ndarray:
    """The split of each group, int64 [G], 0 for train, 1 for val, 2 for test.

    Whole groups are dealt in an order of their own, the large ones first, since what is small evens the shares out: each to
    the split that lacks most of its 70%, 15%, 15%.

    Args:
        counts: int64 [G], examples of each group.
        key: of the order.
    """
    order = permutation(len(counts), *key)
    order = order[np.argsort(-counts[order], kind="stable")]
    share = np.array([1 - 2 * HELD_OUT, HELD_OUT, HELD_OUT]) * counts.sum()
    split = np.zeros(len(counts), dtype=np.int64)
    for number in order:
        split[number] = np.argmax(share)
        share[split[number]] -= counts[number]
    return split
