"""A small transformer for texts, whose dropout is a function of its inputs."""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from kindred.data.counter import words
from kindred.data.text.inputs import PADDING, TOKEN_BITS, tokens_of
from kindred.errors import ConfigError
from kindred.values import Count, Share, Whole

START = 0.02  # deviation of embeddings before training, as BERT's: a few hundred steps move them; and of positions


class Transformer(nn.Module):
    """Token numbers [B, L] -> the mean of their last states [B, F] (Vaswani et al. 2017, with normalisation first).

    Positions are sines, so any L will do. In training a state's dropout mask is a hash of the draws that come with its
    token (`kindred.data.text.inputs`), of layer and feature: no random state, hence the same on any number of devices.
    Without draws every text gets the same masks. A text without tokens gives zeros.

    Args:
        vocab_size: token numbers are below it.
        width: F, of all states; a multiple of 4 and of `heads`.
        depth: layers.
        heads: of attention.
        dropout: share of the features of the embedding, and of what each sub-layer adds, that is zeroed in training.
        padding: token number of what is no token.
    """

    def __init__(
        self,
        vocab_size: Count,
        width: Count = 128,
        depth: Count = 1,
        heads: Count = 4,
        dropout: Share = 0.1,
        padding: Whole = PADDING,
    ) -> None:
        super().__init__()
        if width % 4 or width % heads:
            raise ConfigError(f"encoder.width is {width}: it must be a multiple of 4 and of encoder.heads={heads}")
        self.num_features, self.padding = width, padding
        self.embedding = nn.Embedding(vocab_size, width)
        nn.init.normal_(self.embedding.weight, std=START)
        self.embedding_norm = nn.LayerNorm(width)
        self.dropout = KeyedDropout(dropout, site=0)
        self.layers = nn.ModuleList(Layer(width, heads, dropout, site=1 + 2 * number) for number in range(depth))
        self.norm = nn.LayerNorm(width)

    def forward(self, inputs: Tensor) -> Tensor:
        tokens = tokens_of(inputs)
        there = tokens != self.padding  # [B, L]
        states = self.embedding(tokens)
        states = self.embedding_norm(states + START * 2**0.5 * sines(tokens.shape[1], self.num_features, states))
        states = self.dropout(states, inputs)
        # A row without any token would be softmax over nothing: it attends to its padding, and is zero in the mean.
        mask = (there | ~there.any(dim=1, keepdim=True))[:, None, None]
        for layer in self.layers:
            states = layer(states, mask, inputs)
        weights = there.to(states.dtype)[..., None]
        return (self.norm(states) * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)


class Layer(nn.Module):
    """Attention and a network of each state, each added to what it normalises."""

    def __init__(self, width: int, heads: int, dropout: float, site: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm, self.network_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.queries_keys_values, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.network = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.attention_dropout, self.network_dropout = KeyedDropout(dropout, site), KeyedDropout(dropout, site + 1)

    def forward(self, states: Tensor, mask: Tensor, inputs: Tensor) -> Tensor:
        """States [B, L, F] -> [B, L, F]; `mask` bool [B, 1, 1, L]: what may be attended to."""
        parts = self.queries_keys_values(self.attention_norm(states)).chunk(3, dim=-1)
        query, key, value = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        attended = scaled_dot_product_attention(query, key, value, attn_mask=mask)
        states = states + self.attention_dropout(self.out(attended.transpose(1, 2).flatten(2)), inputs)
        return states + self.network_dropout(self.network(self.network_norm(states)), inputs)


class KeyedDropout(nn.Module):
    """Dropout whose mask is a hash of the inputs: 16 bits a feature, so the rate is one of 65,536.

    Args:
        rate: share that is zeroed; the rest is divided by 1 - rate.
        site: another one, another mask.
    """

    def __init__(self, rate: float, site: int) -> None:
        super().__init__()
        self.rate, self.site = rate, site

    def forward(self, states: Tensor, inputs: Tensor) -> Tensor:
        """States [B, L, F] with F a multiple of 4; inputs int64 [B, L]."""
        dropped = round(self.rate * 65_536)
        if not self.training or not dropped:
            return states
        if dropped == 65_536:
            return torch.zeros_like(states)
        length = inputs.shape[1]
        keys = (inputs >> TOKEN_BITS) * length + torch.arange(length, device=inputs.device)
        drawn = words(self.site, 0, 0, keys.flatten(), states.shape[-1] // 4).view(torch.int16)
        kept = (drawn >= dropped - 32_768).view(states.shape)
        return states * kept * (65_536 / (65_536 - dropped))


def sines(length: int, width: int, like: Tensor) -> Tensor:
    """Positions [length, width] (Vaswani et al. 2017, section 3.5; sines first, cosines after), of the kind of `like`."""
    rates = torch.exp(torch.arange(width // 2, device=like.device) * (-math.log(10_000) / (width // 2)))
    angles = torch.arange(length, device=like.device)[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1).to(like.dtype)
