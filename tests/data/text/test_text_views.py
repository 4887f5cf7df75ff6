"""Views of texts are what their settings say, and functions of (seed, epoch, index, view)."""

import pytest
import torch

from kindred.data.text.inputs import tokens_of
from kindred.data.text.tokenizer import Special
from kindred.data.text.views import TextView, TextViews
from kindred.errors import ConfigError

LENGTH = 30
SPECIAL = Special(padding=0, mask=2)


def texts(count, shortest=8):
    """Text b has tokens 100 b + 3, 100 b + 4, ... in words of three."""
    generator = torch.Generator().manual_seed(0)
    size = torch.randint(shortest, LENGTH + 1, (count, 1), generator=generator)
    place = torch.arange(LENGTH)
    tokens = torch.where(place < size, 100 * torch.arange(count)[:, None] + place + 3, 0)
    return torch.stack([tokens, torch.where(place < size, place // 3, -1)], dim=1).int()


def views(*settings, seed=0):
    found = TextViews([TextView(**own) for own in settings], seed)
    found.special = SPECIAL
    return found


ALL = ({}, {"span": (0.2, 0.6)}, {"delete": 0.4}, {"mask": 0.3}, {"span": (0.5, 0.9), "delete": 0.2, "mask": 0.2})


def test_no_batch_order_or_place_changes_a_view_but_epoch_seed_and_number_do():
    raw, index = texts(40), torch.arange(40) * 31
    whole = views(*ALL).augment(raw, index, 2)
    some = torch.tensor([7, 3, 22])
    for number, (view, part) in enumerate(zip(whole, views(*ALL).augment(raw[some], index[some], 2), strict=True)):
        assert torch.equal(view[some], part), number
    others = [views(*ALL).augment(raw, index, 3), views(*ALL, seed=1).augment(raw, index, 2)]
    for other in others:
        assert all(not torch.equal(one, another) for one, another in zip(whole, other, strict=True))
    first, second = views({"mask": 0.3}, {"mask": 0.3}).augment(raw, index, 0)
    assert not torch.equal(tokens_of(first), tokens_of(second))


def test_the_same_text_twice_differs_by_its_draws_only():
    raw = texts(10)
    first, second = views({}, {}).augment(raw, torch.arange(10), 0)
    assert torch.equal(tokens_of(first), raw[:, 0].long())
    assert torch.equal(tokens_of(first), tokens_of(second))
    assert (first != second).all()


def test_spans_are_pieces_of_their_texts_of_the_shares_that_were_asked_for():
    raw = texts(2000)
    (view,) = views({"span": (0.2, 0.6)}).augment(raw, torch.arange(2000), 0)
    tokens = tokens_of(view)
    assert tokens.shape[1] == 18  # 0.6 of 30
    size, whole = (tokens != 0).sum(1), (raw[:, 0] != 0).sum(1)
    for row, count, text in zip(tokens[:200], size[:200], raw[:200, 0], strict=True):
        start = int((text == row[0]).nonzero())
        assert torch.equal(row[:count], text[start : start + count].long())
        assert (row[count:] == 0).all()
    share = size / whole
    assert share.min() >= 0.2
    assert (size <= (0.6 * whole).ceil()).all()
    assert float(share.mean()) == pytest.approx(0.4 + 0.5 / float(whole.float().mean()), abs=0.02)  # rounded up
    start = (tokens[:, 0] - raw[:, 0, 0]) / (whole - size).clamp(min=1)
    assert float(start.float().mean()) == pytest.approx(0.5, abs=0.03)


def test_words_are_left_out_whole_and_close_up():
    raw = texts(2000)
    (view,) = views({"delete": 0.4}).augment(raw, torch.arange(2000), 0)
    tokens, whole = tokens_of(view), (raw[:, 0] != 0).sum(1)
    left = 0
    for row, text, word in zip(tokens[:300], raw[:300, 0], raw[:300, 1], strict=True):
        kept = torch.isin(text, row) & (text != 0)
        assert torch.equal(row[row != 0], text[kept].long())  # in their order
        assert (row[int(kept.sum()) :] == 0).all()
        for number in word.unique()[1:]:
            assert kept[word == number].unique().numel() == 1
        left += int(kept.sum())
    assert left / int(whole[:300].sum()) == pytest.approx(0.6, abs=0.03)


def test_words_are_masked_whole_at_their_rate():
    raw = texts(1000)
    (view,) = views({"mask": 0.3}).augment(raw, torch.arange(1000), 0)
    tokens, there = tokens_of(view), raw[:, 0] != 0
    masked = tokens == SPECIAL.mask
    assert torch.equal(tokens[~masked], raw[:, 0].long()[~masked])
    assert not masked[~there].any()
    first = masked[:, 0::3][there[:, 0::3]]
    assert float(first.double().mean()) == pytest.approx(0.3, abs=0.02)
    together = masked[:, 0:27:3] == masked[:, 1:27:3]
    assert together[there[:, 1:27:3]].all()


def test_a_text_is_never_emptied():
    raw = texts(50, shortest=1)
    (view,) = views({"span": (0.01, 0.02), "delete": 1.0}).augment(raw, torch.arange(50), 0)
    assert ((tokens_of(view) != 0).sum(1) == 1).all()


def test_shares_that_are_none_are_refused():
    with pytest.raises(ConfigError, match=r"span is \[0\.6, 0\.2\]"):
        TextView(span=(0.6, 0.2))
