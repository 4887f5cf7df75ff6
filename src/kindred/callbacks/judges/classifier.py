"""How often the classifier that is trained is right about held-out images."""

from lightning import Callback

from kindred.callbacks.judges.feature_store import feature_store
from kindred.callbacks.record import record
from kindred.errors import ConfigError
from kindred.evaluation.accuracy import top_k_accuracies
from kindred.models.contrastive import ContrastiveModule
from kindred.models.finetuned import ClassifierHead
from kindred.training.trainer import Trainer


class ClassifierCallback(Callback):
    """Logs `val/classifier_top1` and `val/classifier_top5` of the unaugmented query images, after the first step.

    Nothing is encoded for it: the projections that the FeatureStore keeps are the logits.
    """

    def setup(self, trainer: Trainer, module: ContrastiveModule, stage: str) -> None:
        if not isinstance(module.projector, ClassifierHead):
            raise ConfigError(
                f"callbacks.classifier: {type(module).__name__} has no classifier: leave it out (~callbacks.classifier)"
            )

    def on_validation_epoch_end(self, trainer: Trainer, module: ContrastiveModule) -> None:
        if trainer.global_step and trainer.datamodule.is_judged:
            query = feature_store(trainer).projected.gathered()
            name = f"{trainer.datamodule.monitor}/classifier"
            record(trainer, top_k_accuracies(name, query.features, query.labels))
