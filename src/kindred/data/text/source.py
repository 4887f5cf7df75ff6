"""What all sources of texts share: tokens in a cache, and the tokenizer that they are of."""

import hashlib
import json
from abc import ABC, abstractmethod
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from kindred.data.cache import build_once, open_array
from kindred.data.source import ArrayExamples
from kindred.data.text.tokenizer import encode, read_tokenizer, train_tokenizer
from kindred.errors import ConfigError
from kindred.values import Count

if TYPE_CHECKING:
    from tokenizers import Tokenizer

TOKENIZER, CLASSES = "tokenizer.json", "classes.json"
VERSION = 1  # of how texts become tokens: raise it when anything in tokenizer.py changes


class Texts(NamedTuple):
    """One split."""

    texts: list[str]
    labels: np.ndarray  # int64 [N], -1: unlabelled


class TextSource(ABC):
    """Texts as token numbers and word numbers, int32 [N, 2, L], in <cache>/tokens-<key>, with their tokenizer.json.

    The tokenizer is byte-pair encoding trained on the train split, or the one that is given.

    Args:
        cache: folder of the cache.
        vocab_size: of the tokenizer that is trained; one that is given must have no more.
        length: L, tokens of a text that are kept.
        tokenizer: path of a saved tokenizer.json; None: one is trained.
    """

    name: str
    class_names: list[str]
    skipped = 0

    def __init__(self, cache: Path, vocab_size: Count, length: Count, tokenizer: str | None) -> None:
        self.cache, self.vocab_size, self.length, self.given = cache, vocab_size, length, tokenizer

    @abstractmethod
    def texts(self) -> dict[str, Texts]:
        """The splits that there are, "train" among them. Called where the cache has no tokens of them."""

    @abstractmethod
    def fingerprint(self) -> str:
        """What the texts depend on: another one, other tokens."""

    def adopt(self, path: Path) -> None:
        """Read texts with the tokenizer at `path`, whatever its size; what is cached stays in use if that made it."""
        kept = self.folder / TOKENIZER
        if kept.is_file() and kept.read_text(encoding="utf-8") == path.read_text(encoding="utf-8"):
            return
        self.given = str(path)
        self.vocab_size = max(self.vocab_size, read_tokenizer(self.given, self.length).get_vocab_size())
        del self.folder

    @cached_property
    def folder(self) -> Path:
        """Where the tokens are."""
        given = None if self.given is None else hashlib.sha256(self._read_given().to_str().encode()).hexdigest()
        key = json.dumps([VERSION, self.fingerprint(), self.vocab_size if given is None else given, self.length])
        return self.cache / f"tokens-{hashlib.sha256(key.encode()).hexdigest()[:20]}"

    def prepare(self) -> None:
        build_once(self.folder, self._build, key="data.source.root")

    def load(self, split: str) -> ArrayExamples | None:
        self.class_names = json.loads((self.folder / CLASSES).read_text(encoding="utf-8"))
        path = self.folder / f"{split}.npy"
        if not path.exists():
            return None
        return ArrayExamples(open_array(path), np.load(self.folder / f"{split}-labels.npy"))

    @cached_property
    def tokenizer(self) -> "Tokenizer":
        """The one that the tokens are of. After prepare()."""
        return read_tokenizer(str(self.folder / TOKENIZER), self.length)

    def _read_given(self) -> "Tokenizer":
        tokenizer = read_tokenizer(str(self.given), self.length)
        if (size := tokenizer.get_vocab_size()) > self.vocab_size:
            raise ConfigError(
                f"data.source.vocab_size is {self.vocab_size}, but {self.given} has {size} tokens: set it to that"
            )
        return tokenizer

    def _build(self, folder: Path) -> None:
        splits = self.texts()
        (folder / CLASSES).write_text(json.dumps(self.class_names), encoding="utf-8")
        tokenizer = (
            train_tokenizer(splits["train"].texts, self.vocab_size, self.length)
            if self.given is None
            else self._read_given()
        )
        tokenizer.save(str(folder / TOKENIZER))
        for split, (texts, labels) in splits.items():
            np.save(folder / f"{split}.npy", encode(tokenizer, texts))
            np.save(folder / f"{split}-labels.npy", labels)
