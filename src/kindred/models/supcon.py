"""SupCon: all views of all images of one class are kin.

Khosla, Teterwak, Wang, Sarna, Tian, Isola, Maschinot, Liu, Krishnan: Supervised Contrastive Learning, NeurIPS 2020.
"""

from functools import partial

import numpy as np
from lightly.models.modules.heads import MoCoProjectionHead
from torch import Tensor, nn
from torch.optim import Optimizer

from kindred.data.loading import ViewBatch
from kindred.errors import ConfigError
from kindred.losses import BY_GROUP, choose, contrast_classes
from kindred.models.contrastive import ContrastiveModule, large_views
from kindred.temperature import Temperature
from kindred.values import Count, NotNegative, Positive


class SupCon(ContrastiveModule):
    """L_out (eq. 2) between projections of V >= 2 views; needs labels. An unlabelled image is kin to its own views only.

    The projector gets r as it comes. The paper normalises r before it (section 3.1); the authors' code in torch
    (HobbitLong/SupContrast, networks/resnet_big.py) does not.

    Args:
        encoder, optimizer, temperature, warmup_epochs, loss, loss_options, chunks: see ContrastiveModule. The paper's tau
            is 0.1 (section 4.4).
        hidden_dim, projection_dim: the projector's widths; linear, ReLU, linear (section 3.1).
    """

    def __init__(
        self,
        encoder: nn.Module,
        optimizer: partial[Optimizer],
        temperature: Positive | Temperature = 0.1,
        warmup_epochs: NotNegative = 10,
        hidden_dim: Count = 2048,
        projection_dim: Count = 128,
        loss: str = "contrastive",
        loss_options: dict | None = None,
        chunks: Count = 1,
    ) -> None:
        super().__init__(encoder, optimizer, temperature, warmup_epochs, choose(BY_GROUP, loss, loss_options), chunks)
        self.projector = MoCoProjectionHead(self.num_features, hidden_dim, projection_dim)

    def setup(self, stage: str) -> None:
        datamodule = self.trainer.datamodule
        if not datamodule.train_is_labelled:
            raise ConfigError(
                f"model=supcon contrasts classes, but the train images of {datamodule.source.name} have no labels: "
                "choose another model (simclr, mocov2, nnclr) or labelled data"
            )
        labels = datamodule.train.labels
        if len(classes := np.unique(labels[labels >= 0])) < 2:
            raise ConfigError(
                f"model=supcon contrasts classes, but all train images of {datamodule.source.name} are of one, "
                f"{datamodule.class_names[classes[0]]!r}: choose another model (simclr, mocov2, nnclr) or data of 2 or more"
            )

    def contrast(self, batch: ViewBatch) -> tuple[Tensor, dict[str, Tensor | float]]:
        features = self.encode(batch.views)  # r = Enc(x) [V, B, F]
        embeddings = self.embed(self.projector, features)  # z = Proj(r) [V, B, D]
        self._step["groups"] = batch.labels
        return contrast_classes(embeddings, batch.labels, self.temperature, self.loss, large_views(batch.views)), {}
