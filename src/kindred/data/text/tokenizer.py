"""Texts to token numbers: byte-pair encoding by the package `tokenizers`, trained on the train split or read from a file."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from kindred.data.text.inputs import MASK, PADDING, SPECIAL, TOKEN_BITS, UNKNOWN
from kindred.errors import ConfigError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

NEEDED = "data.source: texts need the package tokenizers: make setup, or pip install kindred[text]"


def train_tokenizer(texts: Sequence[str], vocab_size: int, length: int) -> "Tokenizer":
    """Byte-pair encoding (Sennrich et al. 2016) of lower-case words and marks, learnt from `texts`.

    Args:
        texts: of the train split.
        vocab_size: tokens at most; fewer where there are too few words.
        length: what `Tokenizer.encode` cuts texts to, and fills them up to.
    """
    try:
        from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    except ImportError as error:
        raise ConfigError(NEEDED) from error

    tokenizer = Tokenizer(models.BPE(unk_token=SPECIAL[UNKNOWN]))
    one_blank = normalizers.Replace(Regex(r"\s+"), " ")
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Lowercase(), one_blank, normalizers.Strip()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Metaspace(), pre_tokenizers.Punctuation()])
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, min_frequency=2, special_tokens=list(SPECIAL), show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return framed(tokenizer, length, PADDING)


def read_tokenizer(path: str, length: int) -> "Tokenizer":
    """A saved tokenizer.json, set to give `length` tokens.

    Raises:
        ConfigError: there is no such file, or it is none.
    """
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise ConfigError(NEEDED) from error
    if not Path(path).is_file():
        raise ConfigError(
            f"data.source.tokenizer: there is no file {path}; give a tokenizer.json, or null to train one"
        )
    try:
        tokenizer = Tokenizer.from_file(path)
    except Exception as error:  # of no class of its own
        raise ConfigError(f"data.source.tokenizer: {path} is no tokenizer.json: {error}") from error
    return framed(tokenizer, length, special(tokenizer).padding)


def framed(tokenizer: "Tokenizer", length: int, padding: int) -> "Tokenizer":
    """`tokenizer`, now giving exactly `length` tokens of each text."""
    tokenizer.enable_truncation(length)
    tokenizer.enable_padding(length=length, pad_id=padding, pad_token=tokenizer.id_to_token(padding))
    return tokenizer


class Special(NamedTuple):
    """Numbers of the tokens that mean something to the views."""

    padding: int
    mask: int


def special(tokenizer: "Tokenizer") -> Special:
    """Those of a vocabulary that is trained here, or of others by their usual names.

    Raises:
        ConfigError: it has none.
    """
    found = []
    for what, number, names in (("padding", PADDING, ("[PAD]", "<pad>")), ("mask", MASK, ("[MASK]", "<mask>"))):
        given = [tokenizer.token_to_id(name) for name in (SPECIAL[number], *names)]
        if not (known := [token for token in given if token is not None]):
            raise ConfigError(f"data.source.tokenizer: has no {what} token, by the name {' or '.join(names)}")
        found.append(known[0])
    return Special(*found)


def encode(tokenizer: "Tokenizer", texts: Sequence[str]) -> np.ndarray:
    """int32 [N, 2, L]: the tokens of each text, and the number of the word that each is part of, -1 for none."""
    length = len(tokenizer.encode("").ids)
    tokens = np.empty((len(texts), 2, length), dtype=np.int32)
    for start in range(0, len(texts), 1024):
        for row, found in enumerate(tokenizer.encode_batch(list(texts[start : start + 1024])), start):
            tokens[row, 0] = found.ids
            tokens[row, 1] = [-1 if word is None else word for word in found.word_ids]
    if tokens[:, 0].max(initial=0) >> TOKEN_BITS:
        raise ConfigError(f"data.source.tokenizer: has token numbers of {TOKEN_BITS} bits and more")
    return tokens
