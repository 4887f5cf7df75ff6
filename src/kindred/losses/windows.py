"""InfoNCE of predicted windows of a sequence: which of many windows is the one that was predicted?"""

from typing import Literal

import torch
from torch import Tensor

from kindred.losses.partition import check_temperature
from kindred.sphere import raise_precision

Negatives = Literal["batch", "sequence", "mixed"]


def window_scores(
    predictions: Tensor,
    windows: Tensor,
    candidates: Tensor,
    first: int,
    temperature: float | Tensor,
    negatives: Negatives = "batch",
) -> Tensor:
    """How well each prediction fits the window that it is of, and its negatives (van den Oord et al. 2018, eq. 3).

    The logarithm of the paper's f_k(x, c) = exp(z . W_k c), over tau, of vectors as they come: they are not normalised. A
    prediction made at step t is right about the latent z at t + k in its own column.

    Args:
        predictions: W_k c [B, T - k, C, D], of B sequences with C columns, those made at the steps 0 .. T - k - 1.
        windows: z [B, T, C, D], the latents of these sequences.
        candidates: [N, T, C, D], the latents of all sequences of the batch, on all ranks, `windows` among them.
        first: the place of `windows` among the candidates.
        temperature: tau > 0; the paper has none, which is 1.
        negatives: "batch": all windows of the other sequences; "sequence": the other windows of the same one; "mixed": both.

    Returns:
        [B, (T - k) C, M], the right window's first; -inf where a prediction does not have that negative.
    """
    check_temperature(temperature)
    with torch.autocast(predictions.device.type, enabled=False):
        predictions, windows, candidates = (raise_precision(x) for x in (predictions, windows, candidates))
        predictions = predictions / temperature
        sequences, steps, columns = windows.shape[:3]
        ahead = steps - predictions.shape[1]
        right = (predictions * windows[:, ahead:]).sum(dim=-1).flatten(1)
        queries, scores = predictions.flatten(1, 2), [right[..., None]]
        if negatives != "batch":
            places = torch.arange(steps * columns, device=right.device)
            itself = places == places[ahead * columns :, None]
            own = queries @ windows.flatten(1, 2).transpose(1, 2)
            scores.append(own.masked_fill(itself, -torch.inf))
        if negatives != "sequence":
            places = torch.arange(len(candidates), device=right.device)
            same = places == places[first : first + sequences, None]
            others = (queries @ candidates.flatten(0, 2).T).unflatten(2, (len(candidates), -1))
            scores.append(others.masked_fill(same[:, None, :, None], -torch.inf).flatten(2))
        return torch.cat(scores, dim=2)


def first_of(scores: Tensor) -> Tensor:
    """InfoNCE, the mean over [..., M] scores of -log softmax of the first (van den Oord et al. 2018, eq. 4)."""
    # The difference first: of large scores the sum of exponentials would be lost to rounding.
    return (scores - scores[..., :1]).logsumexp(dim=-1).mean()


@torch.no_grad()
def share_first(scores: Tensor) -> Tensor:
    """How often the first of [..., M] scores is higher than all others."""
    return (scores[..., 0] > scores[..., 1:].amax(dim=-1)).to(scores.dtype).mean()


def candidate_count(sequences: int, windows: int, negatives: Negatives) -> int:
    """Terms of the denominator for one prediction: the right window and its negatives.

    Args:
        sequences: N, on all ranks.
        windows: T C of each.
        negatives: see `window_scores`.
    """
    return {"batch": (sequences - 1) * windows + 1, "sequence": windows, "mixed": sequences * windows}[negatives]
