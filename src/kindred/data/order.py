"""Orders that depend on nothing but their arguments: no library's random stream, no process, no state.

The integer hash is splitmix64 (Steele, Lea, Flood 2014), so an order is the same on any machine and with any version.
"""

import numpy as np

from kindred.errors import ConfigError


def permutation(size: int, *key: int) -> np.ndarray:
    """A permutation of range(size), int64 [size], that is a pure function of `key`."""
    state = np.zeros(1, dtype=np.uint64)
    for part in key:
        state = _splitmix64(state ^ np.uint64(part % 2**64))
    # Distinct counters give distinct hashes (splitmix64 is a bijection), so the order has no ties.
    return np.argsort(_splitmix64(state + np.arange(size, dtype=np.uint64)))


def stratified_order(labels: np.ndarray, sizes: list[int], seed: int = 0) -> list[np.ndarray]:
    """Cut len(labels) images into len(sizes) parts of exactly these sizes, and the rest, each stratified.

    Args:
        labels: int64 [N].
        sizes: images in each part but the last; their sum is at most N.
        seed: key of the permutation within each class.

    Returns:
        len(sizes) + 1 sorted arrays of positions, disjoint and together range(N). In each part a class has its share
        (part's size x class's size / N) rounded down or up, as long as it still has images.
    """
    _, inverse, counts = np.unique(labels, return_inverse=True, return_counts=True)
    shuffled = permutation(len(labels), seed)
    by_class = shuffled[np.argsort(inverse[shuffled], kind="stable")]
    members = np.split(by_class, np.cumsum(counts)[:-1])
    taken = np.zeros_like(counts)
    parts = []
    for size in sizes:
        share = np.minimum(_shares(counts, size), counts - taken)
        # Rounding up twice may ask a small class for more than it has: the next largest classes give instead.
        while (missing := size - share.sum()) > 0:
            left = counts - taken - share
            share[np.argsort(-left, kind="stable")[: min(missing, np.count_nonzero(left))]] += 1
        chosen = [m[t : t + s] for m, t, s in zip(members, taken, share, strict=True)]
        parts.append(np.sort(np.concatenate(chosen)))
        taken += share
    rest = [m[t:] for m, t in zip(members, taken, strict=True)]
    return [*parts, np.sort(np.concatenate(rest))]


def share_of_each_class(labels: np.ndarray, share: float, seed: int, key: str = "labels") -> np.ndarray:
    """Sorted positions of `share` of the examples of each class, rounded, at least one; a function of labels, share, seed.

    Raises:
        ConfigError: it is less than an example for each class; the line names `key`.
    """
    if share * len(labels) < (classes := len(np.unique(labels))):
        raise ConfigError(
            f"{key} is {share:g}: that is {share * len(labels):.2g} of {len(labels)} train labels, and {classes} "
            f"classes need one each; give {np.ceil(1e4 * classes / len(labels)) / 1e4:g} or more"
        )
    shuffled = permutation(len(labels), seed)
    members = [shuffled[labels[shuffled] == label] for label in np.unique(labels)]
    return np.sort(np.concatenate([own[: max(1, round(share * len(own)))] for own in members]))


def _shares(counts: np.ndarray, size: int) -> np.ndarray:
    """`size` split in proportion to `counts`: rounded down, the remaining ones to the largest remainders."""
    whole, remainder = np.divmod(counts * size, counts.sum())
    whole[np.argsort(-remainder, kind="stable")[: size - whole.sum()]] += 1
    return whole


def _splitmix64(x: np.ndarray) -> np.ndarray:
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
