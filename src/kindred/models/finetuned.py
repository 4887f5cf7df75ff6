"""Fine-tuning: an encoder and the first layers of its projector, with a classifier on them, trained by labels.

Chen, Kornblith, Swersky, Norouzi, Hinton: Big Self-Supervised Models are Strong Semi-Supervised Learners, NeurIPS 2020.
"""

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import Annotated

from annotated_types import Ge
from lightly.models.modules.heads import ProjectionHead
from torch import Tensor, nn
from torch.optim import Optimizer

from kindred.data.datamodule import DataModule
from kindred.data.loading import ViewBatch
from kindred.errors import ConfigError
from kindred.losses.classification import classify, right_share
from kindred.models.contrastive import ContrastiveModule
from kindred.values import Count, NotNegative, Positive


class ClassifierHead(nn.Sequential):
    """Features [B, F] -> logits [B, C]: layers that a projector has too, and a linear classifier that starts at zero.

    Args:
        num_features: F.
        widths: of the layers; each is linear, BN if `batch_norm`, ReLU, as lightly's projectors have them.
        batch_norm: whether they have one; linear layers without have a bias.
        classes: C.
    """

    def __init__(self, num_features: int, widths: Sequence[int], batch_norm: bool, classes: int) -> None:
        sizes = [num_features, *widths]
        blocks = [(i, o, nn.BatchNorm1d(o) if batch_norm else None, nn.ReLU()) for i, o in pairwise(sizes)]
        classifier = nn.Linear(sizes[-1], classes)
        nn.init.zeros_(classifier.weight)
        nn.init.zeros_(classifier.bias)
        super().__init__()
        self.kept = ProjectionHead(blocks)
        self.classifier = classifier


class FineTuned(ContrastiveModule):
    """Cross-entropy of the whole network on labelled examples (section 2): `kindred finetune` says of what and whose.

    Each of V >= 1 views is classified. With `init_from` the encoder and the kept layers start from that run's, without it
    from scratch. Projections are the logits.

    Args:
        encoder, optimizer, warmup_epochs, chunks: see ContrastiveModule.
        classes: C.
        widths: of the projector's layers that are kept; none: the classifier is on the features.
        batch_norm: whether these have batch norm.
        temperature: tau that logits are divided by in the loss.
    """

    min_views = 1

    def __init__(
        self,
        encoder: nn.Module,
        optimizer: partial[Optimizer],
        classes: Annotated[int, Ge(2)],
        widths: Sequence[Count] = (),
        batch_norm: bool = True,
        warmup_epochs: NotNegative = 0,
        chunks: Count = 1,
        temperature: Positive = 1.0,
    ) -> None:
        super().__init__(encoder, optimizer, temperature, warmup_epochs, partial(classify), chunks)
        self.projector = ClassifierHead(self.num_features, widths, batch_norm, classes)
        self.classes = classes

    def check(self, datamodule: DataModule, ranks: int) -> None:
        super().check(datamodule, ranks)
        if datamodule.unlabelled:
            raise ConfigError("data.unlabelled is true: the classifier is trained by labels alone, so give false")

    def setup(self, stage: str) -> None:
        check_classes(self.classes, self.trainer.datamodule)

    def classify(self, inputs: Tensor) -> Tensor:
        """Inputs [B, ...] -> logits [B, C]."""
        return self.projector(self(inputs))

    def contrast(self, batch: ViewBatch) -> tuple[Tensor, dict[str, Tensor | float]]:
        logits = self.embed(self.projector, self.encode(batch.views))  # [V, B, C]
        return self.loss(logits, batch.labels, self.temperature), {"top1": right_share(logits, batch.labels)}


def check_classes(classes: int, datamodule: DataModule) -> None:
    """Refuse data of another number of classes than the classifier has."""
    if classes != datamodule.num_classes:
        raise ConfigError(
            f"model.classes is {classes}, and {datamodule.source.name} has {datamodule.num_classes}: give that many"
        )
