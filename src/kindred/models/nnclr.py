"""NNCLR: an image and the nearest neighbour of its other view, found in a support set, are kin.

Dwibedi, Aytar, Tompson, Sermanet, Zisserman: With a Little Help from My Friends, ICCV 2021.
"""

from functools import partial

import torch
from lightly.models.modules.heads import NNCLRPredictionHead, NNCLRProjectionHead
from torch import Tensor, nn
from torch.optim import Optimizer

from kindred.data.loading import ViewBatch
from kindred.distributed import sum_over_ranks, world_size
from kindred.losses import BY_NEIGHBOUR, choose, image_contrast
from kindred.memory import FeatureQueue
from kindred.models.contrastive import ContrastiveModule
from kindred.temperature import Temperature
from kindred.values import Count, NotNegative, Positive


class NNCLR(ContrastiveModule):
    """The neighbours of each view's embeddings against the predictions of the other view (eq. 3 and 4, made symmetric).

    Args:
        encoder, optimizer, temperature, warmup_epochs, loss, loss_options, chunks: see ContrastiveModule. The paper's tau
            is 0.1 (section 4.1).
        hidden_dim, projection_dim: the projector's widths; three linear layers with BN (section 3.2).
        predictor_dim: the hidden width of the predictor.
        queue_size: embeddings of past first views among which neighbours are sought.
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

    def contrast(self, batch: ViewBatch) -> tuple[Tensor, dict[str, Tensor | float]]:
        embeddings = self.embed(self.projector, self.encode(batch.views[:2]))  # z [2, B, D]
        predicted_first, predicted_second = self.through(self.predictor, embeddings)  # p1, p2
        neighbours, classes = self.neighbours(embeddings.flatten(0, 1))
        neighbours_first, neighbours_second = neighbours.chunk(2)
        loss = (
            image_contrast(neighbours_first, predicted_second, self.temperature, self.loss)
            + image_contrast(neighbours_second, predicted_first, self.temperature, self.loss)
        ) / 2
        self.entering = (embeddings[0].detach(), batch.labels)
        self._step["candidates"] = world_size() * len(batch.labels)
        fill = len(self.support) / len(self.support.features)
        return loss, {"nn_match": matching_share(classes[: len(batch.labels)], batch.labels), "support_fill": fill}

    @torch.no_grad()
    def neighbours(self, embeddings: Tensor) -> tuple[Tensor, Tensor]:
        """The support vectors [B, D] nearest to embeddings [B, D], and their labels [B].

        Before the support set has rows an anchor is its own neighbour, whose label is not known (-1).
        """
        if len(self.support) == 0:
            return embeddings.detach(), torch.full((len(embeddings),), -1, device=embeddings.device)
        nearest = self.support.nearest(embeddings)
        return self.support.features[nearest], self.support.labels[nearest]

    def on_after_backward(self) -> None:
        # Only now: an image enqueued before the loss would be its own nearest neighbour.
        self.support.enqueue(*self.entering)


def matching_share(found: Tensor, labels: Tensor) -> Tensor:
    """The share of the labelled anchors, on all ranks, whose neighbour has their label; NaN where none is labelled."""
    labelled = labels >= 0
    hits = labelled & (found == labels)
    matching, anchors = sum_over_ranks(torch.stack([hits.sum(), labelled.sum()]))
    return matching / anchors
