"""A data set through frozen encoders, once: what is judged afterwards lies in memory."""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from kindred.data.datamodule import DataModule
from kindred.data.loading import Batch, Subset
from kindred.data.order import share_of_each_class, stratified_order
from kindred.data.source import NoTestError
from kindred.errors import ConfigError
from kindred.evaluation.judge import Encoded


def encode(
    datamodule: DataModule,
    examples: Subset,
    name: str,
    encoders: Mapping[str, Callable[[Tensor], Tensor]],
    device: torch.device,
) -> dict[str, Encoded]:
    """Read `examples` once, as evaluation sees them, through each of `encoders` (inputs [B, ...] -> [B, F]).

    Args:
        datamodule: after setup(); without a trainer.
        examples: one of its data sets, or a part of one.
        name: of the data set, for errors.
        encoders: on `device`, in eval mode.
    """
    features, labels = {key: [] for key in encoders}, []
    with torch.inference_mode():
        for batch in datamodule.eval_dataloader(examples, name):
            batch = datamodule.on_after_batch_transfer(Batch(*(part.to(device) for part in batch)), 0)
            labels.append(batch.labels)
            for key, encoder in encoders.items():
                features[key].append(encoder(batch.views[0]).float())
    # Put together out here: a tensor that is made in inference mode cannot be trained on.
    return {key: Encoded(torch.cat(parts), torch.cat(labels)) for key, parts in features.items()}


def judged_on(datamodule: DataModule) -> str:
    """The split that judges: "test", or "val" of data that have no test split."""
    try:
        datamodule.test_dataset()
    except NoTestError:
        return "val"
    return "test"


def cut(datamodule: DataModule, share: float = 1.0, seed: int = 0) -> dict[str, Subset]:
    """The labelled examples of a DataModule after setup(): "train", "val" that settings are chosen on, "test" that judge.

    Without a test split the held-out examples judge, see `judged_on`. Then, and with `val_size=0`, where the test examples
    are the held-out ones, a tenth of the train examples takes the place of "val".

    Args:
        share: of the train examples to keep, per class, rounded, at least one.
        seed: of the choice.

    Raises:
        ConfigError: a split without labelled examples, train examples of one class, or a share that has not one example for
            each class.
    """
    test = datamodule.test_dataset() if (on := judged_on(datamodule)) == "test" else datamodule.query
    splits = {"train": datamodule.bank, "val": datamodule.query, "test": test}
    splits = {name: own.part(np.flatnonzero(own.labels >= 0)) for name, own in splits.items()}
    _check_that_they_judge(splits, datamodule)
    if datamodule.monitor == "test" or on == "val":
        train = splits["train"]
        held_out, kept = stratified_order(train.labels, [round(len(train) / 10)])
        splits |= {"train": train.part(kept), "val": train.part(held_out)}
    if share < 1:
        train = splits["train"]
        splits["train"] = train.part(share_of_each_class(train.labels, share, seed, "--labels"))
    _check_that_they_judge(splits, datamodule)
    return splits


def _check_that_they_judge(splits: dict[str, Subset], datamodule: DataModule) -> None:
    if empty := [name for name, own in splits.items() if len(own) == 0]:
        raise ConfigError(
            f"{datamodule.source.name} has no labelled {empty[0]} examples, which judging needs; --data judges the encoder "
            "on a data set that has some"
        )
    if len(classes := np.unique(splits["train"].labels)) == 1:
        name = datamodule.class_names[classes[0]]
        raise ConfigError(
            f"{datamodule.source.name} has labelled train examples of one class, {name}, and an accuracy needs two; --data "
            "judges the encoder on a data set that has more"
        )
