"""What an encoder of texts eats: token numbers, and in training what its dropout is drawn from, in one int64 [B, L].

Dropout is the only difference between two views of one text in SimCSE (Gao et al. 2021), so its masks are draws like a
crop: functions of (seed, epoch, index, view), which only the views know. They send the encoder 39 random bits a token
above its number; without them, as in evaluation, an input is plain token numbers.
"""

import torch
from torch import Tensor

TOKEN_BITS = 24
PADDING, UNKNOWN, MASK = 0, 1, 2  # the first tokens of a vocabulary that is trained here
SPECIAL = ("[PAD]", "[UNK]", "[MASK]")


def with_draws(tokens: Tensor, words: Tensor) -> Tensor:
    """Tokens int64 [B, L] with random `words` (int64 [B, L], `kindred.data.counter.words`) above them."""
    return tokens | ((words & ((1 << 39) - 1)) << TOKEN_BITS)


def tokens_of(inputs: Tensor) -> Tensor:
    """The token numbers of inputs [B, L], int64."""
    return inputs.to(torch.int64) & ((1 << TOKEN_BITS) - 1)
