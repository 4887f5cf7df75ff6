"""Uniform random numbers as a pure function of (seed, epoch, view, index, draw number).

Counter-based (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"): nothing is stored, so nothing has to
be saved, restored or dealt to ranks. The hash is splitmix64 (Steele, Lea and Flood 2014, "Fast splittable pseudorandom
number generators"): integer arithmetic only, hence the same bits on every device and in every batch.
"""

from __future__ import annotations

import torch
from torch import Tensor

GOLDEN = 0x9E3779B97F4A7C15
MULTIPLIERS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
SHIFTS = (30, 27, 31)
MASK = (1 << 64) - 1


def _signed(word: int) -> int:
    """The int64 that has the bits of the unsigned 64-bit `word`: torch multiplies and adds int64 modulo 2**64."""
    return word - (1 << 64) if word >> 63 else word


def _mix_word(word: int) -> int:
    """splitmix64's finaliser, a bijection of 64-bit words, on one Python integer."""
    word ^= word >> SHIFTS[0]
    word = word * MULTIPLIERS[0] & MASK
    word ^= word >> SHIFTS[1]
    word = word * MULTIPLIERS[1] & MASK
    return word ^ word >> SHIFTS[2]


def _mix(words: Tensor) -> Tensor:
    """The same finaliser on an int64 tensor."""
    for shift, multiplier in zip(SHIFTS, (*MULTIPLIERS, None), strict=True):
        # int64's >> keeps the sign; the mask makes it the unsigned shift that the hash is defined with
        words = words ^ ((words >> shift) & ((1 << (64 - shift)) - 1))
        if multiplier is not None:
            words = words * _signed(multiplier)
    return words


def words(seed: int, epoch: int, view: int, index: Tensor, draws: int) -> Tensor:
    """Random 64-bit words, int64 [B, draws], for the examples at `index` (int64 [B]).

    Row b, column d depends on (seed, epoch, view, index[b], d) alone. The three integers are taken modulo 2**64.
    """
    key = 0
    for word in (seed, epoch, view):
        key = _mix_word((key + word + GOLDEN) & MASK)
    rows = _mix(index.to(torch.int64) + _signed((key + GOLDEN) & MASK))
    columns = torch.arange(1, draws + 1, device=index.device) * _signed(GOLDEN)
    return _mix(rows[:, None] + columns)


def uniforms(seed: int, epoch: int, view: int, index: Tensor, draws: int) -> Tensor:
    """Uniform numbers in [0, 1), float32 [B, draws]: the first 24 bits of `words`.

    Every value is a multiple of 2**-24, hence exact in float32; float64 does not exist on Apple's GPUs.
    """
    return ((words(seed, epoch, view, index, draws) >> 40) & 0xFFFFFF).to(torch.float32) * 2.0**-24
