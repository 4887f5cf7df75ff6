"""A data set through frozen encoders, once: what is judged afterwards lies in memory."""

from collections.abc import Callable, Mapping
from copy import copy

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from kindred.data.datamodule import MultiViewDataModule
from kindred.data.loading import Batch, Images
from kindred.data.order import permutation, stratified_order
from kindred.evaluation.judge import Encoded


def encode(
    datamodule: MultiViewDataModule,
    images: Images,
    name: str,
    encoders: Mapping[str, Callable[[Tensor], Tensor]],
    device: torch.device,
) -> dict[str, Encoded]:
    """Read `images` once, as evaluation sees them, through each of `encoders` (normalised images [B, C, H, W] -> [B, F]).

    Args:
        datamodule: after setup(); without a trainer.
        images: one of its data sets, or a part of one (see `part`).
        name: of the data set, for errors.
        encoders: on `device`, in eval mode.
    """
    features, labels = {key: [] for key in encoders}, []
    with torch.inference_mode():
        for batch in datamodule.eval_dataloader(images, name):
            batch = datamodule.on_after_batch_transfer(Batch(*(part.to(device) for part in batch)), 0)
            labels.append(batch.labels)
            for key, encoder in encoders.items():
                features[key].append(encoder(batch.views[0]).float())
    # Put together out here: a tensor that is made in inference mode cannot be trained on.
    return {key: Encoded(torch.cat(parts), torch.cat(labels)) for key, parts in features.items()}


def pixels(images: Tensor) -> Tensor:
    """Images [B, C, H, W] as features: their pixels, averaged down to at most 32x32."""
    return adaptive_avg_pool2d(images, [min(32, side) for side in images.shape[2:]]).flatten(1)


def part(images: Images, items: np.ndarray) -> Images:
    """The images at positions `items` of a data set."""
    chosen = copy(images)
    chosen.positions = images.positions[items]
    return chosen


def cut(datamodule: MultiViewDataModule, share: float = 1.0, seed: int = 0) -> dict[str, Images]:
    """The labelled "train", "val" and "test" images of a DataModule after setup().

    A DataModule with `val_size=0` has no val images but the test images: a tenth of its train images takes their place.

    Args:
        share: of the train images to keep, per class, rounded, at least one.
        seed: of the choice.

    Raises:
        ValueError: a split without labelled images.
    """
    splits = {"train": datamodule.bank, "val": datamodule.query, "test": datamodule.test_dataset()}
    splits = {name: part(images, np.flatnonzero(images.labels >= 0)) for name, images in splits.items()}
    if datamodule.monitor == "test":
        train = splits["train"]
        held_out, kept = stratified_order(train.labels, [round(len(train) / 10)])
        splits |= {"train": part(train, kept), "val": part(train, held_out)}
    if share < 1:
        splits["train"] = part(splits["train"], share_of_each_class(splits["train"].labels, share, seed))
    if empty := [name for name, images in splits.items() if len(images) == 0]:
        raise ValueError(f"{datamodule.source.name} has no labelled {empty[0]} images, which judging needs")
    return splits


def share_of_each_class(labels: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Sorted positions of `share` of the images of each class, rounded, at least one; a function of its arguments."""
    shuffled = permutation(len(labels), seed)
    members = [shuffled[labels[shuffled] == label] for label in np.unique(labels)]
    return np.sort(np.concatenate([own[: max(1, round(share * len(own)))] for own in members]))
