"""Where examples come from. A source knows its splits; it knows nothing of batches."""

from typing import Protocol

from kindred.data.images.arrays import ImageArray, ImageFiles


class Source(Protocol):
    """What the DataModule asks of a source. Constructors do no work: no import, no listing, no download."""

    name: str
    class_names: list[str]  # known after prepare() or load()
    mean: tuple[float, ...]  # per channel, of pixels in [0, 1]
    std: tuple[float, ...]
    skipped: int  # images left out because they cannot be decoded

    def prepare(self) -> None:
        """Download and build caches. Runs in one process per node."""

    def load(self, split: str) -> ImageArray | ImageFiles | None:
        """The images of "train", "val", "test" or "bank".

        None for "val": it is to be cut from train. None for "bank": the train images are the labelled ones. A missing
        test split is an error.
        """
