"""Real text that needs no download: what the scientific Python libraries say of their functions and classes."""

import importlib.metadata
import importlib.util
import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from kindred.data.cache import build_once
from kindred.data.splits import SPLITS, deal_groups
from kindred.data.text.extraction import Docstring, read_docstrings
from kindred.data.text.source import Texts, TextSource
from kindred.data.text.topics import TOPICS
from kindred.errors import ConfigError
from kindred.values import Count

VERSION = 1  # raise it when anything changes that makes the texts
WORDS = 12  # of a text, at least
ALIKE = 0.5  # share of common word triples from which a text is a near-duplicate
DISTRIBUTIONS = {"sklearn": "scikit-learn", "skimage": "scikit-image"}


class Docstrings(TextSource):
    """More than 5,000 docstrings of public functions and classes in 24 topics (`topics.TOPICS`), parsed and not run.

    What is left of one is prose: no code, headings, references and other functions (`extraction.prose`), of WORDS words or
    more. The words that topics, libraries and sub-packages are called by are taken out of all texts. Of near-duplicates,
    texts that share half of their word triples (Jaccard), one is kept. Whole modules are dealt 70/15/15 to train, val and
    test within their topic, so that no text, and no text's neighbour in a file, is in two splits.

    The texts are those of the installed versions, which the cache is named by: what was measured with others was measured
    on another set.

    Args:
        root: of the cache.
        vocab_size, length, tokenizer: see TextSource.
    """

    name = "docstrings"
    class_names = list(TOPICS)

    def __init__(
        self,
        root: str = "data/docstrings",
        vocab_size: Count = 8192,
        length: Count = 128,
        tokenizer: str | None = None,
    ) -> None:
        super().__init__(Path(root), vocab_size, length, tokenizer)

    def fingerprint(self) -> str:
        packages = sorted({place.partition(".")[0] for places in TOPICS.values() for place in places})
        versions = [importlib.metadata.version(DISTRIBUTIONS.get(name, name)) for name in packages]
        return f"v{VERSION}-{'-'.join(map('{}{}'.format, packages, versions))}"

    def texts(self) -> dict[str, Texts]:
        folder = self.cache / self.fingerprint()
        build_once(folder, _extract, key="data.source.root")
        found = json.loads((folder / "texts.json").read_text(encoding="utf-8"))
        return {split: Texts(texts, np.array(labels)) for split, (texts, labels) in found.items()}


def _extract(folder: Path) -> None:
    splits = {"train": ([], []), "val": ([], []), "test": ([], [])}
    labels, found = collect()
    for split, positions in deal(labels, [docstring.module for docstring in found]).items():
        splits[split] = [found[position].prose for position in positions], labels[positions].tolist()
    (folder / "texts.json").write_text(json.dumps(splits), encoding="utf-8")


def collect() -> tuple[np.ndarray, list[Docstring]]:
    """Labels int64 [N] and the docstrings of all topics, cleaned, without near-duplicates."""
    hidden = class_words()
    labels, found = [], []
    for label, places in enumerate(TOPICS.values()):
        for place in places:
            for docstring in read_docstrings(_folder(place), place):
                text = hide(docstring.prose, hidden)
                if len(text.split()) >= WORDS:
                    labels.append(label)
                    found.append(docstring._replace(prose=text))
    kept = distinct([docstring.prose for docstring in found])
    return np.array(labels)[kept], [found[position] for position in kept]


def _folder(place: str) -> Path:
    """Folder of a dotted package, found without importing it."""
    top, *inner = place.split(".")
    spec = importlib.util.find_spec(top)
    folder = Path(spec.origin).parent.joinpath(*inner) if spec and spec.origin else None
    if folder is None or not folder.is_dir():
        raise ConfigError(f"data=docstrings: {place} is not among the installed libraries: make setup")
    return folder


def class_words() -> re.Pattern[str]:
    """The words that topics and their packages are called by, in singular and plural."""
    names = (
        word for topic, places in TOPICS.items() for name in (topic, *places) for word in re.split(r"[ ._]+", name)
    )
    stems = {word.removesuffix("s") for word in names if len(word) > 1}
    return re.compile(rf"\b({'|'.join(sorted(stems, key=len, reverse=True))})(s|es)?\b", re.IGNORECASE)


def hide(text: str, words: re.Pattern[str]) -> str:
    """`text` without `words`, of which names with dots and underscores may hold some."""
    return " ".join(words.sub(" ", re.sub(r"(?<=\w)\.(?=\w)|_", " ", text)).split())


def distinct(texts: Sequence[str]) -> np.ndarray:
    """Positions of the texts that are like none before them: of any pair that is alike the later one is left out."""
    from sklearn.feature_extraction.text import CountVectorizer

    counter = CountVectorizer(ngram_range=(3, 3), binary=True, token_pattern=r"\w+", dtype=np.float32)
    triples = counter.fit_transform(texts)
    size, common = np.asarray(triples.sum(axis=1)).ravel(), (triples @ triples.T).tocoo()
    row, column = common.row, common.col
    alike = common.data >= ALIKE * (size[row] + size[column] - common.data)
    return np.setdiff1d(np.arange(len(texts)), row[alike & (column < row)])


def deal(labels: np.ndarray, modules: Sequence[str]) -> dict[str, np.ndarray]:
    """Sorted positions of each split: modules whole, dealt within their topic.

    Args:
        labels: int64 [N].
        modules: N names; one has texts of one label.
    """
    names, module = np.unique(modules, return_inverse=True)
    counts = np.bincount(module)
    label_of = np.zeros(len(names), dtype=np.int64)
    label_of[module] = labels
    split_of = np.zeros(len(names), dtype=np.int64)
    for label in np.unique(labels):
        own = np.flatnonzero(label_of == label)
        split_of[own] = deal_groups(counts[own], int(label))
    return {split: np.flatnonzero(split_of[module] == number) for number, split in enumerate(SPLITS)}
