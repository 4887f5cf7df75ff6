"""CPC: what a sequence has been so far and what comes k steps later are kin; other windows are the negatives.

Van den Oord, Li, Vinyals: Representation Learning with Contrastive Predictive Coding, 2018 (arXiv:1807.03748).
"""

from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from kindred.data.datamodule import DataModule
from kindred.data.loading import ViewBatch
from kindred.distributed import gather, rank
from kindred.encoders.windows import WindowEncoder, latents_of
from kindred.errors import ConfigError
from kindred.evaluation.information import info_nce_bound
from kindred.losses.windows import Negatives, candidate_count, first_of, share_first, window_scores
from kindred.models.contrastive import ContrastiveModule
from kindred.models.parts.chunks import in_parts
from kindred.models.parts.contexts import CONTEXTS
from kindred.sphere import raise_precision
from kindred.temperature import Temperature
from kindred.values import Count, NotNegative, Positive


class CPC(ContrastiveModule):
    """Each window's latent is told from others by what the windows before it let expect (section 2.3, figure 1).

    One view is enough. Each of several, of one size, is a sequence by itself, contrasted with those of the same number.

    Args:
        encoder: one that encodes windows too (`kindred.encoders.windows.WindowEncoder`).
        optimizer, temperature, warmup_epochs, chunks: see ContrastiveModule. The paper has no temperature, which is 1.
        steps_ahead: K; there is a bilinear score with a W_k of its own for each k = 1 .. K (eq. 3).
        negatives: "batch": all windows of the other examples, on all ranks; "sequence": the other windows of the same
            example; "mixed": both. The bound log N - L_k (section 2.3) is one of the information between context and
            window if the negatives are independent of both, as those of "batch" are; of the others it is merely a number.
        context: what sums up the windows so far: "gru", or "conv", which sees neighbouring columns too.
        hidden_dim: the context's width.

    Raises:
        ConfigError: an encoder that gives no windows.
    """

    min_views = 1

    def __init__(
        self,
        encoder: nn.Module,
        optimizer: partial[Optimizer],
        temperature: Positive | Temperature = 1.0,
        warmup_epochs: NotNegative = 0,
        steps_ahead: Count = 5,
        negatives: Negatives = "batch",
        context: Literal["gru", "conv"] = "gru",
        hidden_dim: Count = 256,
        chunks: Count = 1,
    ) -> None:
        super().__init__(encoder, optimizer, temperature, warmup_epochs, partial(first_of), chunks)
        if not isinstance(encoder, WindowEncoder):
            raise ConfigError(
                f"encoder: {type(encoder).__name__} gives no windows (it has no encode_windows), which CPC predicts: give "
                "an encoder of sequences; of images ENCODER=patches is one"
            )
        self.context = CONTEXTS[context](self.num_features, hidden_dim)
        self.bilinear = nn.Linear(hidden_dim, steps_ahead * self.num_features, bias=False)  # W_1 .. W_K
        self.steps_ahead, self.negatives = steps_ahead, negatives

    def check(self, datamodule: DataModule, ranks: int) -> None:
        super().check(datamodule, ranks)
        if (inputs := datamodule.views.example_inputs(2)) is not None:  # else the first step tells
            training = self.encoder.training
            with torch.no_grad():
                self._check_steps(latents_of(self.encoder.eval(), inputs))
            self.encoder.train(training)

    def _check_steps(self, latents: Tensor) -> None:
        """Refuse latents [..., T, C, F] of so few steps that none is left to predict."""
        if (steps := latents.shape[-3]) <= self.steps_ahead:
            right = f"at most {steps - 1}" if steps > 1 else "inputs of more windows"
            raise ConfigError(
                f"model.steps_ahead is {self.steps_ahead}, but an input has {steps} steps of windows: give {right}"
            )

    def contrast(self, batch: ViewBatch) -> tuple[Tensor, dict[str, Tensor | float]]:
        latents = self.encode_sequences(batch.views)  # z [V, B, T, C, F]
        with torch.autocast(latents.device.type, enabled=False):  # a GRU takes no mixture of precisions everywhere
            contexts = self.through(self.context, latents)  # c [V, B, T, C, H]
            predictions = self.through(self.bilinear, contexts).unflatten(-1, (self.steps_ahead, -1))  # W_k c
        candidates = [gather(of_view) for of_view in latents]
        first, windows = rank() * latents.shape[1], latents.shape[2] * latents.shape[3]
        count = candidate_count(len(candidates[0]), windows, self.negatives)
        losses, logs = [], {}
        for k in range(1, self.steps_ahead + 1):
            scores = [
                window_scores(of_view[:, :-k, :, k - 1], own, everyone, first, self.temperature, self.negatives)
                for of_view, own, everyone in zip(predictions, latents, candidates, strict=True)
            ]
            losses.append(torch.stack([self.loss(of_view) for of_view in scores]).mean())
            logs[f"step{k}_accuracy"] = torch.stack([share_first(of_view) for of_view in scores]).mean()
            logs[f"step{k}_bound"] = info_nce_bound(losses[-1].detach(), count)
        self._step["candidates"] = count
        return torch.stack(losses).mean(), logs

    def encode_sequences(self, views: tuple[Tensor, ...]) -> Tensor:
        """V views [B, ...] of one size -> latents [V, B, T, C, F], all in one pass."""
        if len(sizes := {view.shape[1:] for view in views}) > 1:
            raise ConfigError(f"views.views have shapes {sorted(map(list, sizes))}: CPC needs views of one size")
        latents = raise_precision(in_parts(self._windows, self.encoder, views, self.chunks))
        self._check_steps(latents)
        self._step["features"] = self._step["projections"] = latents.detach().mean(dim=(2, 3))
        return latents

    def _windows(self, *views: Tensor) -> Tensor:
        return latents_of(self.encoder, torch.cat(views)).unflatten(0, (len(views), -1))
