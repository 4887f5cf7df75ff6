"""What a linear classifier can read from the frozen features while they are being trained."""

import math
from typing import Any

from lightning import Callback
from lightning.pytorch.utilities import rank_zero_warn

from kindred.callbacks.judges.feature_store import Features, feature_store
from kindred.callbacks.record import record
from kindred.distributed import sum_over_ranks
from kindred.evaluation.accuracy import top_k_accuracies
from kindred.evaluation.linear import LinearProbe, probe_bank, spread_sample
from kindred.evaluation.logistic import Linear, leading_axes
from kindred.models.contrastive import ContrastiveModule
from kindred.training.trainer import Trainer


class LinearProbeCallback(Callback):
    """Logs `val/linear_top1` and `val/linear_top5`: a linear classifier, fitted to the bank's features at each evaluation.

    It is the one of `kindred evaluate`, fitted to convergence, its penalty chosen on a tenth of the bank. The untrained
    encoder is evaluated too, at step 0, and with it the inputs themselves, as `pixels/...` or by what name their views
    have for it, or their `Views.base_line_axes` principal axes of largest variance, if they are wider. Without labels of
    two classes nothing is logged.

    On W ranks the bank stays dealt, and the result is that of one. The last classifier is where the next fit begins; it is
    in the checkpoint, so that a resumed run begins there as well.
    """

    def __init__(self) -> None:
        self.last: LinearProbe | None = None

    def state_dict(self) -> dict[str, Any]:
        return {} if self.last is None else {**self.last.classifier._asdict(), "penalty": self.last.penalty}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if "penalty" in state:  # an earlier version's probe was another one
            self.last = LinearProbe(Linear(state["weight"], state["bias"]), state["penalty"], math.nan)

    def on_validation_epoch_end(self, trainer: Trainer, module: ContrastiveModule) -> None:
        if not trainer.datamodule.is_judged:
            return
        store, classes = feature_store(trainer), trainer.datamodule.num_classes
        bank, query = _precise(store.bank), _precise(store.query)
        if sum_over_ranks((~bank.features.isfinite()).sum()):
            rank_zero_warn("The bank's features are not finite: there is no linear probe of them.")
            return
        self.last = probe_bank(*bank, classes, self.last)
        record(trainer, _accuracies(f"{trainer.datamodule.monitor}/linear", self.last, query))
        if store.inputs:
            bank, query = (_precise(inputs) for inputs in store.inputs)
            axes = trainer.datamodule.views.base_line_axes
            if bank.features.shape[1] > axes:
                turn = leading_axes(spread_sample(bank.features, bank.positions, 2 * axes), axes)
                bank, query = (inputs._replace(features=turn(inputs.features)) for inputs in (bank, query))
            record(
                trainer, _accuracies(f"{trainer.datamodule.views.base_line}/linear", probe_bank(*bank, classes), query)
            )


def _accuracies(name: str, probe: LinearProbe, query: Features) -> dict[str, float]:
    """Scores are gathered, and not features, of which there are more."""
    scores = query._replace(features=probe(query.features)).gathered()
    return top_k_accuracies(name, scores.features, scores.labels)


def _precise(share: Features) -> Features:
    """Where there is float64: not on Apple's GPUs."""
    return Features(*(part.cpu() for part in share)) if share.features.device.type == "mps" else share
