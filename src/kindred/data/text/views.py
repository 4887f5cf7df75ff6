"""Views of texts: the same tokens again, spans of them, or words left out and masked."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Annotated

import numpy as np
import torch
from annotated_types import Gt, Le
from torch import Tensor

from kindred.data.counter import uniforms, words
from kindred.data.text.inputs import MASK, PADDING, tokens_of, with_draws
from kindred.data.text.tokenizer import Special, special
from kindred.data.views import Views
from kindred.errors import ConfigError
from kindred.values import Share

if TYPE_CHECKING:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from tokenizers import Tokenizer

TERMS = 4096
Part = Annotated[float, Gt(0), Le(1)]


@dataclass(frozen=True)
class TextView:
    """How one view of a text is made.

    Args:
        span: a span of the text, of a share of its tokens between these two, begins anywhere (Izacard et al. 2022).
        delete: share of the words that are left out; if that is all of them, none is.
        mask: share of the words whose tokens are masked.
    """

    span: tuple[Part, Part] = (1.0, 1.0)
    delete: Share = 0.0
    mask: Share = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.span[0] <= self.span[1] <= 1:
            raise ConfigError(
                f"span is {list(self.span)}: give two shares of a text, from above 0 to 1, the smaller first"
            )


class TextViews(Views):
    """V views of texts [B, 2, L] (`kindred.data.text.source`), each drawn as a function of (seed, epoch, index, view).

    Whatever else a view does, it sends along what the encoder's dropout is drawn from: SimCSE's views do nothing else.

    Args:
        views: settings of each.
        seed: of all draws.
    """

    base_line, input_name = "tfidf", "tokens"
    base_line_axes = 512  # words are rare: a text's few lie on many axes
    preparation = """import torch
from tokenizers import Tokenizer

tokenizer = Tokenizer.from_file("tokenizer.json")
tokens = torch.tensor([found.ids for found in tokenizer.encode_batch(texts)])"""

    def __init__(self, views: Sequence[TextView], seed: int = 0) -> None:
        self.views, self.seed = list(views), seed
        self.special = Special(PADDING, MASK)
        self.tokenizer: Tokenizer | None = None

    def expect(self, tokenizer: "Tokenizer", train: Callable[[], Tensor]) -> None:
        """What the DataModule knows of the texts that will come.

        Args:
            tokenizer: whose tokens they are.
            train: gives the inputs [N, L] of the train split, which TF-IDF is fitted to when it is asked for.
        """
        self.special, self.tokenizer, self._train = special(tokenizer), tokenizer, train

    def __len__(self) -> int:
        return len(self.views)

    def augment(self, raw: Tensor, index: Tensor, epoch: int) -> tuple[Tensor, ...]:
        """V inputs int64 [B, at most L]; only the places that the longest span of a view could need are kept."""
        return tuple(self._view(raw, index, epoch, number, view) for number, view in enumerate(self.views))

    def _view(self, raw: Tensor, index: Tensor, epoch: int, number: int, view: TextView) -> Tensor:
        tokens, word = raw[:, 0].long(), raw[:, 1].long()
        length = tokens.shape[1]
        there = tokens != self.special.padding
        draws = uniforms(self.seed, epoch, number, index, 2 + 2 * length)
        if view.span != (1.0, 1.0):
            count = there.sum(dim=1)
            share = view.span[0] + (view.span[1] - view.span[0]) * draws[:, 0]
            size = (count * share).ceil().long().clamp(min=1)
            start = (draws[:, 1] * (count - size + 1).clamp(min=1)).long()
            place = start[:, None] + torch.arange(-(-length * view.span[1] // 1), device=raw.device).long()
            inside = place < (start + size)[:, None]
            place = place.clamp(max=length - 1)
            tokens, word = tokens.gather(1, place), word.gather(1, place)
            there = inside & there.gather(1, place)
        by_word = word.clamp(min=0)  # what is no part of a word is never changed
        if view.mask:
            masked = (draws[:, 2 : 2 + length].gather(1, by_word) < view.mask) & (word >= 0)
            tokens = torch.where(masked, self.special.mask, tokens)
        if view.delete:
            deleted = (draws[:, 2 + length :].gather(1, by_word) < view.delete) & (word >= 0)
            left = there & ~deleted
            there = torch.where(left.any(dim=1, keepdim=True), left, there)
        tokens = torch.where(there, tokens, self.special.padding)
        if view.delete:  # close the gaps
            tokens = tokens.gather(1, (~there).to(torch.uint8).argsort(dim=1, stable=True))
        # Draws of their own: as many whatever else the view does.
        return with_draws(tokens, words(self.seed, epoch, len(self) + number, index, tokens.shape[1]))

    def plain(self, raw: Tensor) -> Tensor:
        """The tokens int64 [B, L], without draws."""
        return raw[:, 0].long()

    def as_features(self, inputs: Tensor) -> Tensor:
        """TF-IDF of the words [B, F] (Salton & Buckley 1988): at most TERMS that two train texts have, log counts."""
        found = self._vectorizer.transform(self.texts(inputs)).toarray()
        return torch.from_numpy(found).to(inputs.device)

    @cached_property
    def _vectorizer(self) -> "TfidfVectorizer":
        from sklearn.feature_extraction.text import TfidfVectorizer

        vectorizer = TfidfVectorizer(max_features=TERMS, min_df=2, sublinear_tf=True, dtype=np.float32)
        return vectorizer.fit(self.texts(self._train()))

    def texts(self, inputs: Tensor) -> list[str]:
        assert self.tokenizer is not None  # expect() comes before
        return self.tokenizer.decode_batch(tokens_of(inputs).tolist())
