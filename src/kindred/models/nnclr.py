"""NNCLR: an image and the nearest neighbour of its other view, found in a support set, are kin.

Dwibedi, Aytar, Tompson, Sermanet, Zisserman: With a Little Help from My Friends, ICCV 2021.
"""

from functools import partial
from typing import Any

import torch
from lightly.models.modules.heads import NNCLRPredictionHead, NNCLRProjectionHead
from torch import Tensor, nn
from torch.optim import Optimizer

from kindred.data.loading import ViewBatch
from kindred.distributed import sum_over_ranks, world_size
from kindred.errors import ConfigError
from kindred.losses import BY_NEIGHBOUR, choose, image_contrast
from kindred.memory import FeatureQueue
from kindred.models.contrastive import ContrastiveModule, large_views
from kindred.models.parts.momentum import follow, momentum_copy
from kindred.models.parts.neighbours import Nearest, Oracle, Soft, TopK
from kindred.temperature import Temperature
from kindred.values import Count, NotNegative, Positive, Share


class NNCLR(ContrastiveModule):
    """The neighbours of each view's embeddings against the predictions of the other views (eq. 3 and 4, made symmetric).

    Neighbours are sought of large views only; small ones (multi-crop) are predictions of their images' neighbours.

    Args:
        encoder, optimizer, temperature, warmup_epochs, loss, loss_options, chunks: see ContrastiveModule. The paper's tau
            is 0.1 (section 4.1).
        hidden_dim, projection_dim: the projector's widths; three linear layers with BN (section 3.2).
        predictor_dim: the hidden width of the predictor.
        queue_size: embeddings of past first views among which neighbours are sought.
        neighbours: who they are (`kindred.models.parts.neighbours`); None: the nearest.
        momentum: m of a slowly moving copy of encoder and projector, which gives the support set and what its neighbours
            are sought of, as MoCo's gives keys; None: there is none.
    """

    def __init__(
        self,
        encoder: nn.Module,
        optimizer: partial[Optimizer],
        temperature: Positive | Temperature = 0.1,
        warmup_epochs: NotNegative = 10,
        hidden_dim: Count = 2048,
        projection_dim: Count = 256,
        predictor_dim: Count = 4096,
        queue_size: Count = 98_304,
        neighbours: Nearest | TopK | Soft | Oracle | None = None,
        momentum: Share | None = None,
        loss: str = "contrastive",
        loss_options: dict | None = None,
        chunks: Count = 1,
    ) -> None:
        super().__init__(
            encoder, optimizer, temperature, warmup_epochs, choose(BY_NEIGHBOUR, loss, loss_options), chunks
        )
        self.projector = NNCLRProjectionHead(self.num_features, hidden_dim, projection_dim)
        self.predictor = NNCLRPredictionHead(projection_dim, predictor_dim, projection_dim)
        self.support = FeatureQueue(queue_size, projection_dim)
        # The same on every rank without being sent.
        self._ddp_params_and_buffers_to_ignore = ["support.features", "support.labels"]
        self.choose_neighbours = neighbours or Nearest()
        self.momentum = momentum
        self.key_encoder = None if momentum is None else momentum_copy(encoder, self.projector)

    def setup(self, stage: str) -> None:
        if self.choose_neighbours.uses_labels and not self.trainer.datamodule.train_is_labelled:
            raise ConfigError(
                f"model.neighbours: {type(self.choose_neighbours).__name__} goes by labels, and the train examples of "
                f"{self.trainer.datamodule.source.name} have none: leave it out, or give labelled data"
            )

    def contrast(self, batch: ViewBatch) -> tuple[Tensor, dict[str, Tensor | float]]:
        embeddings = self.embed(self.projector, self.encode(batch.views))  # z [V, B, D]
        predictions = self.through(self.predictor, embeddings)  # p [V, B, D]
        large = large_views(batch.views)
        sought = [embeddings[view] if self.key_encoder is None else self.keys(batch.views[view]) for view in large]
        found, classes = self.neighbours(torch.cat(sought), batch.labels.repeat(len(large)))
        terms = [
            image_contrast(neighbours, prediction, self.temperature, self.loss)
            for several in found
            for view, neighbours in zip(large, several.chunk(len(large)), strict=True)
            for other, prediction in enumerate(predictions)
            if other != view
        ]
        self.entering = (sought[0].detach(), batch.labels)
        self._step["candidates"] = world_size() * len(batch.labels)
        fill = len(self.support) / len(self.support.features)
        match = matching_share(classes[:, : len(batch.labels)], batch.labels)
        return sum(terms[1:], terms[0]) / len(terms), {"nn_match": match, "support_fill": fill}

    @torch.no_grad()
    def neighbours(self, embeddings: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """K neighbours each of embeddings [B, D] with labels [B], as vectors [K, B, D] with their labels [K, B].

        Before the support set has rows an anchor is its own neighbour, whose label is not known (-1).
        """
        if len(self.support) == 0:
            return embeddings.detach()[None], torch.full_like(labels, -1)[None]
        return self.choose_neighbours(self.support, embeddings, labels)

    @torch.no_grad()
    def keys(self, view: Tensor) -> Tensor:
        """A view [B, ...] -> embeddings [B, D] of the momentum encoder."""
        assert self.key_encoder is not None
        return self.through(self.key_encoder, view[None])[0]

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        if self.key_encoder is not None and batch_idx % self.trainer.accumulate_grad_batches == 0:
            assert self.momentum is not None
            follow(self.key_encoder, self.momentum, self.encoder, self.projector)

    def on_after_backward(self) -> None:
        # Only now: an image enqueued before the loss would be its own nearest neighbour.
        self.support.enqueue(*self.entering)


def matching_share(found: Tensor, labels: Tensor) -> Tensor:
    """The share of labelled anchors' [B] neighbours [..., B], on all ranks, with their label; NaN where none is labelled."""
    labelled = (labels >= 0).expand_as(found)
    hits = labelled & (found == labels)
    matching, anchors = sum_over_ranks(torch.stack([hits.sum(), labelled.sum()]))
    return matching / anchors
