"""Distillation: a student learns what a fine-tuned teacher says of images, labelled or not.

Chen, Kornblith, Swersky, Norouzi, Hinton: Big Self-Supervised Models are Strong Semi-Supervised Learners, NeurIPS 2020.
"""

from collections import OrderedDict
from collections.abc import Sequence
from functools import partial
from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor, nn
from torch.optim import Optimizer

from kindred.data.datamodule import DataModule
from kindred.data.loading import ViewBatch
from kindred.errors import ConfigError
from kindred.losses.classification import distill, right_share
from kindred.models.contrastive import ContrastiveModule
from kindred.models.finetuned import ClassifierHead, FineTuned, check_classes
from kindred.values import Count, NotNegative, Positive, Share


class Distilled(FineTuned):
    """Cross-entropy with the teacher's labels (eq. 2), and with the true ones where there are some (eq. 3).

    Both are means over their examples, at the same temperature. The teacher stays as it was: in eval mode, without
    gradients. It is part of the checkpoint, so that nothing else is needed to go on; what is judged and exported is the
    student's encoder.

    Args:
        encoder, optimizer, classes, widths, batch_norm, warmup_epochs, chunks: of the student, see FineTuned.
        teacher: the teacher's encoder.
        teacher_widths, teacher_batch_norm: of its classifier's head.
        teacher_from: the run that a new training takes the teacher's weights from.
        temperature: tau of both distributions.
        alpha: weight of the teacher's labels; the true ones have 1 - alpha.
    """

    def __init__(
        self,
        encoder: nn.Module,
        optimizer: partial[Optimizer],
        classes: Annotated[int, Ge(2)],
        teacher: nn.Module,
        teacher_from: str | None = None,
        teacher_widths: Sequence[Count] = (),
        teacher_batch_norm: bool = True,
        widths: Sequence[Count] = (),
        batch_norm: bool = True,
        temperature: Positive = 1.0,
        alpha: Share = 1.0,
        warmup_epochs: NotNegative = 0,
        chunks: Count = 1,
    ) -> None:
        super().__init__(encoder, optimizer, classes, widths, batch_norm, warmup_epochs, chunks, temperature)
        if not isinstance(features := getattr(teacher, "num_features", None), int):
            raise ConfigError(f"model.teacher: {type(teacher).__name__} lacks the attribute num_features")
        head = ClassifierHead(features, teacher_widths, teacher_batch_norm, classes)
        parts: OrderedDict[str, nn.Module] = OrderedDict(encoder=teacher, projector=head)
        self.teacher = nn.Sequential(parts).requires_grad_(False)
        # The same on every rank without being sent.
        self._ddp_params_and_buffers_to_ignore = [f"teacher.{name}" for name in self.teacher.state_dict()]
        self.alpha = alpha

    def train(self, mode: bool = True) -> "Distilled":
        super().train(mode)
        self.teacher.eval()
        return self

    def check(self, datamodule: DataModule, ranks: int) -> None:
        ContrastiveModule.check(self, datamodule, ranks)

    def setup(self, stage: str) -> None:
        datamodule = self.trainer.datamodule
        if datamodule.is_judged:
            check_classes(self.classes, datamodule)
        if self.alpha < 1 and not datamodule.train_is_labelled:
            raise ConfigError(
                f"model.alpha is {self.alpha:g}, and the train examples of {datamodule.source.name} have no labels: give 1"
            )

    def contrast(self, batch: ViewBatch) -> tuple[Tensor, dict[str, Tensor | float]]:
        logits = self.embed(self.projector, self.encode(batch.views))  # [V, B, C]
        with torch.no_grad():
            taught = torch.stack([self.teacher(view) for view in batch.views])
        loss = self.alpha * distill(logits, taught, self.temperature)
        if self.alpha < 1:
            loss = loss + (1 - self.alpha) * self.loss(logits, batch.labels, self.temperature)
        right, agreement = right_share(logits, batch.labels), right_share(logits, taught.argmax(dim=-1))
        return loss, {"top1": right, "agreement": agreement}
