"""The base lines of a run: what its examples give without an encoder, by the name that their views have for it."""

from collections.abc import Iterable

WRITTEN = {"pixels": "raw pixels", "tfidf": "TF-IDF"}  # others by their own name
ENCODED = ("train", "val", "test", "untrained", "evaluation")


def base_lines(metrics: Iterable[str]) -> list[str]:
    """The base lines among the names of `metrics`, such as "pixels" where there is `pixels/knn_top1`."""
    parts = (name.partition("/") for name in metrics)
    found = [line for line, _, probe in parts if probe in ("knn_top1", "linear_top1") and line not in ENCODED]
    return list(dict.fromkeys(found))


def written(line: str) -> str:
    """A base line as tables have it."""
    return WRITTEN.get(line, line)
