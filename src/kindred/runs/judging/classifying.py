"""How often the classifier of a fine-tuned or distilled run is right about images that nothing has been chosen on."""

from copy import deepcopy
from typing import TYPE_CHECKING

from kindred.runs.reading.weights import read_training
from kindred.runs.run import Run

if TYPE_CHECKING:
    import torch

    from kindred.data.datamodule import DataModule
    from kindred.data.loading import Subset


def classifier_accuracies(
    run: Run, datamodule: "DataModule", images: "Subset", on: str, device: "torch.device"
) -> dict[str, float]:
    """Accuracies of the run's own classifier on `images`; nothing of a run that has none.

    `<on>/classifier_top1` and `_top5` are of the last epoch, `<on>/classifier_best_top1` and `_top5` of the epoch with the
    best accuracy on val (best.ckpt), which `classifier_best_step` names.

    Args:
        run: with its checkpoints.
        datamodule: after setup(), of the run's own data.
        images: that judge.
        on: the split that they are of, for the names.
        device: to compute on.
    """
    from kindred.evaluation.accuracy import top_k_accuracies
    from kindred.models.finetuned import FineTuned
    from kindred.runs.judging.features import encode

    if not isinstance(run.module, FineTuned):
        return {}
    classifiers, found = {"classifier": deepcopy(run.module)}, {}
    if (best := run.path / "checkpoints" / "best.ckpt").exists():
        checkpoint = read_training(best)
        classifiers["classifier_best"] = deepcopy(run.module)
        classifiers["classifier_best"].load_state_dict(checkpoint["state_dict"])
        found["classifier_best_step"] = int(checkpoint["global_step"])
    logits = {name: each.to(device).classify for name, each in classifiers.items()}
    for name, scored in encode(datamodule, images, on, logits, device).items():
        found |= top_k_accuracies(f"{on}/{name}", scored.features, scored.labels)
    return found
