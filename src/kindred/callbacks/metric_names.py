"""The names that a run's metrics will have, from its configuration alone and without torch.

A sweep asks for them before it trains. What stands here is what the callbacks and methods record;
tests/callbacks/test_metric_names.py compares it with what runs wrote.
"""

from omegaconf import DictConfig, OmegaConf

from kindred.data.folders.layout import may_be_judged

TOP = ("top1", "top5")
GEOMETRY = ("uniformity", "tolerance", "effective_rank")
OF_VIEWS = ("lidar", "alignment", "info_nce")
KNN = "kindred.callbacks.judges.knn.KNNCallback"
# Class -> the names that it records; `split` stands for what the run is judged on, val or test.
CALLBACKS = {
    "kindred.callbacks.train_metrics.TrainMetrics": (
        *("train/loss", "train/positive_similarity", "train/negative_similarity", "train/information_bound"),
        *("train/temperature", "train/lr", "train/images_per_second", "seconds", "images_per_second"),
    ),
    **{
        f"kindred.callbacks.judges.{callback}": tuple(
            f"{on}/{probe}_{top}" for on in ("split", "untrained", "base_line") for top in TOP
        )
        for callback, probe in (("knn.KNNCallback", "knn"), ("linear_probe.LinearProbeCallback", "linear"))
    },
    "kindred.callbacks.judges.geometry.GeometryCallback": (
        *("train/alignment", "train/projector_alignment"),
        *(f"split/{of}{name}" for of in ("", "projector_") for name in GEOMETRY),
    ),
    "kindred.callbacks.judges.label_free.LabelFreeCallback": tuple(
        f"split/{of}{name}" for of in ("", "projector_") for name in ("rankme", "alpha_req", *OF_VIEWS)
    ),
    "kindred.callbacks.hardness.HardnessCallback": ("train/penalty_entropy", "train/effective_negatives"),
    "kindred.callbacks.judges.classifier.ClassifierCallback": tuple(f"split/classifier_{top}" for top in TOP),
    "kindred.callbacks.judges.feature_store.FeatureStore": (),
    "kindred.callbacks.judges.figures.Figures": (),
    "kindred.callbacks.guard.Guard": (),
    "kindred.callbacks.progress.Progress": (),
    "kindred.training.checkpoints.Checkpoints": (),
    "kindred.training.step_seed.StepSeed": (),
}
METHODS = {
    "kindred.models.cpc.CPC": ("train/step{k}_accuracy", "train/step{k}_bound"),  # k: each of model.steps_ahead
    "kindred.models.distilled.Distilled": ("train/top1", "train/agreement"),
    "kindred.models.finetuned.FineTuned": ("train/top1",),
    "kindred.models.instdisc.InstDisc": tuple(f"split/bank_knn_{top}" for top in TOP),
    "kindred.models.mocov2.MoCoV2": ("train/queue_fill",),
    "kindred.models.nnclr.NNCLR": ("train/nn_match", "train/support_fill"),
    "kindred.models.simclr.SimCLR": (),
    "kindred.models.simclrv2.SimCLRv2": ("train/memory_fill",),
    "kindred.models.supcon.SupCon": (),
}
BASE_LINES = {
    "kindred.data.images.views.MultiView": "pixels",
    "kindred.data.sequences.views.SequenceViews": "spectrum",
    "kindred.data.text.views.TextViews": "tfidf",
}
ALWAYS = ("step", "epoch", "epochs", "skipped_files")  # kindred.runs.summary


def has_labels(config: DictConfig) -> bool:
    """False if a look at the configuration, and at the folder of images that it names, shows that nothing can be judged."""
    source = config.data.get("source") or {}
    if "labels" not in source or OmegaConf.is_missing(source, "root"):
        return True
    if "root" not in source:  # a file of labels, or null
        return source["labels"] is not None
    return may_be_judged(str(source["root"]), str(source["labels"]))


def metric_names(config: DictConfig) -> set[str] | None:
    """The names that summary.json may have after a run with `config`; None if a class of someone's own could add to them.

    Of five classes or fewer there is no top-5 accuracy, of a large bank none of its base line, of one view no
    alignment and no similarity of positives.
    """
    callbacks = [node["_target_"] for node in config.callbacks.values() if node is not None]
    if not set(callbacks) <= CALLBACKS.keys() or config.model["_target_"] not in METHODS:
        return None
    if (base_line := BASE_LINES.get(config.views["_target_"])) is None:
        return None
    split = "test" if config.data.get("val_size") == 0 else "val"
    steps = range(1, config.model.get("steps_ahead", 1) + 1)
    own = {name.format(k=k) for name in METHODS[config.model["_target_"]] for k in steps}
    if KNN not in callbacks:
        own = [name for name in own if "knn" not in name]
    recorded = [*ALWAYS, *own, *(name for each in callbacks for name in CALLBACKS[each])]
    if any(node is not None and node.get("views") for node in config.callbacks.values()):  # label_free's
        recorded += [f"split/{of}common_{name}" for of in ("", "projector_") for name in OF_VIEWS]
    names = {name.replace("split/", f"{split}/").replace("base_line/", f"{base_line}/") for name in recorded}
    if not has_labels(config):
        names = {name for name in names if not name.endswith((*TOP, "tolerance"))}
    return names | {f"{name}_best" for name in names if name.startswith(split) and name.endswith(TOP)}
