"""SimCLR: two views of one image are kin, every other view in the batch is a negative.

Chen, Kornblith, Norouzi, Hinton: A Simple Framework for Contrastive Learning of Visual Representations, ICML 2020.
"""

from functools import partial
from typing import Annotated

from annotated_types import Ge
from lightly.models.modules.heads import SimCLRProjectionHead
from torch import Tensor, nn
from torch.optim import Optimizer

from kindred.data.loading import ViewBatch
from kindred.losses import BY_GROUP, choose, contrast_images
from kindred.models.contrastive import ContrastiveModule, large_views
from kindred.temperature import Temperature
from kindred.values import Count, NotNegative, Positive


class SimCLR(ContrastiveModule):
    """NT-Xent between projections of V >= 2 views (algorithm 1).

    Args:
        encoder, optimizer, temperature, warmup_epochs, loss, loss_options, chunks: see ContrastiveModule. The paper's tau
            is 0.1 on ImageNet (appendix B.6) and 0.5 on CIFAR-10 (appendix B.9).
        hidden_dim, projection_dim: the projector's widths; linear, BN, ReLU, linear, BN (section 4.2: what contrast
            removes is lost in the projection and kept in the features before it). The last BN has a bias, as in lightly;
            the authors' code has none there.
        head_layers: linear layers of the projector; 3 in SimCLR v2 (Chen et al. 2020, arXiv:2006.10029, section 2).
    """

    def __init__(
        self,
        encoder: nn.Module,
        optimizer: partial[Optimizer],
        temperature: Positive | Temperature = 0.1,
        warmup_epochs: NotNegative = 10,
        hidden_dim: Count = 2048,
        projection_dim: Count = 128,
        head_layers: Annotated[int, Ge(2)] = 2,
        loss: str = "contrastive",
        loss_options: dict | None = None,
        chunks: Count = 1,
    ) -> None:
        super().__init__(encoder, optimizer, temperature, warmup_epochs, choose(BY_GROUP, loss, loss_options), chunks)
        self.projector = SimCLRProjectionHead(self.num_features, hidden_dim, projection_dim, head_layers)

    def contrast(self, batch: ViewBatch) -> tuple[Tensor, dict[str, Tensor | float]]:
        features = self.encode(batch.views)  # h = f(x) [V, B, F]
        embeddings = self.embed(self.projector, features)  # z = g(h) [V, B, D]
        return contrast_images(embeddings, self.temperature, self.loss, large_views(batch.views)), {}
