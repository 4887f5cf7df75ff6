"""Classes that a config.yaml may name by where they were when the run was written."""

from typing import Any

MOVED = {
    "kindred.callbacks.checkpoints.Checkpoints": "kindred.training.checkpoints.Checkpoints",
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
    "kindred.trainer.Trainer": "kindred.training.trainer.Trainer",
    "kindred.wandb_logger.WandbLogger": "kindred.tracking.wandb_logger.WandbLogger",
}


def present_names(node: Any) -> Any:
    """Plain settings, copied, with each `_target_` by its present name."""
    if isinstance(node, list):
        return [present_names(value) for value in node]
    if not isinstance(node, dict):
        return node
    named = {key: present_names(value) for key, value in node.items()}
    if isinstance(target := named.get("_target_"), str):
        named["_target_"] = MOVED.get(target, target)
    return named
