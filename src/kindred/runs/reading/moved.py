"""What a config.yaml may say that was right when its run was written: places of classes, arguments they no longer take."""

from typing import Any

MOVED = {
    "kindred.callbacks.checkpoints.Checkpoints": "kindred.training.checkpoints.Checkpoints",
    **{
        f"kindred.callbacks.{name}": f"kindred.callbacks.judges.{name}"
        for name in (
            "classifier.ClassifierCallback",
            "feature_store.FeatureStore",
            "figures.Figures",
            "geometry.GeometryCallback",
            "knn.KNNCallback",
            "label_free.LabelFreeCallback",
            "linear_probe.LinearProbeCallback",
        )
    },
    "kindred.callbacks.step_seed.StepSeed": "kindred.training.step_seed.StepSeed",
    "kindred.data.datamodule.MultiViewDataModule": "kindred.data.images.datamodule.ImageDataModule",
    "kindred.data.imagefolder.ImageFolder": "kindred.data.images.folder.ImageFolder",
    "kindred.data.sources.Digits": "kindred.data.images.embedded.Digits",
    "kindred.data.sources.Photos": "kindred.data.images.embedded.Photos",
    **{
        f"kindred.data.torchvision_sources.{name}": f"kindred.data.images.torchvision_sources.{name}"
        for name in ("CIFAR10", "CIFAR100", "FashionMNIST", "MNIST", "STL10", "SVHN")
    },
    "kindred.data.views.MultiView": "kindred.data.images.views.MultiView",
    "kindred.data.views.View": "kindred.data.images.views.View",
    "kindred.lars.LARS": "kindred.optimisers.lars.LARS",
    "kindred.models.encoders.ConvNet": "kindred.encoders.convnet.ConvNet",
    "kindred.models.encoders.resnet": "kindred.encoders.resnet.resnet",
    **{
        f"kindred.models.neighbours.{name}": f"kindred.models.parts.neighbours.{name}"
        for name in ("Nearest", "Oracle", "Soft", "TopK")
    },
    "kindred.trainer.Trainer": "kindred.training.trainer.Trainer",
    "kindred.wandb_logger.WandbLogger": "kindred.tracking.wandb_logger.WandbLogger",
}

# The probe that learned online had them; its successor is fitted to convergence.
GONE = {"kindred.callbacks.judges.linear_probe.LinearProbeCallback": {"lr", "bank_epochs", "bank_batch"}}


def present_form(node: Any) -> Any:
    """Plain settings, copied, with each `_target_` by its present name and without what it no longer takes."""
    if isinstance(node, list):
        return [present_form(value) for value in node]
    if not isinstance(node, dict):
        return node
    form = {key: present_form(value) for key, value in node.items()}
    if isinstance(target := form.get("_target_"), str):
        form["_target_"] = MOVED.get(target, target)
        form = {key: value for key, value in form.items() if key not in GONE.get(form["_target_"], ())}
    return form
