"""What may be built from a run directory or a file: plain data, and known classes at the places where one is due.

Whoever wrote config.yaml, or the metadata of an exported file, may be someone else. So it is read as plain data: no
interpolation is followed, no tag is obeyed, and what is built is what was checked. Imports no torch.
"""

from collections.abc import Collection, Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any

import yaml

from kindred.config import ConfigError, YamlLoader
from kindred.runs.reading.moved import present_form

OPTIMISERS = frozenset({"kindred.optimisers.lars.LARS", "torch.optim.Adam", "torch.optim.AdamW", "torch.optim.SGD"})
ENCODERS = frozenset(
    {
        "kindred.encoders.convnet.ConvNet",
        "kindred.encoders.resnet.resnet",
        "kindred.encoders.timm.timm_encoder",
        "kindred.encoders.pretrained.Pretrained",
        "kindred.encoders.series.Series",
        "kindred.encoders.transformer.Transformer",
    }
)

# Place -> the classes that may stand there; `*` is any one key. A list of packages would not do: torch alone holds
# functions that run a shell. Nor would one list for all places: what is harmless as a source need not be so as a logger.
TRUSTED = {
    "encoder": ENCODERS | {"kindred.encoders.patches.Patches"},
    "encoder.encoder": frozenset({"kindred.encoders.convnet.ConvNet", "kindred.encoders.resnet.resnet"}),  # of patches
    "model": frozenset(
        f"kindred.models.{name}"
        for name in (
            "cpc.CPC",
            "distilled.Distilled",
            "finetuned.FineTuned",
            "instdisc.InstDisc",
            "simclr.SimCLR",
            "simclrv2.SimCLRv2",
            "mocov2.MoCoV2",
            "nnclr.NNCLR",
            "supcon.SupCon",
        )
    ),
    "model.optimizer": OPTIMISERS,
    "model.teacher": ENCODERS,
    "model.neighbours": frozenset(
        f"kindred.models.parts.neighbours.{name}" for name in ("Nearest", "TopK", "Soft", "Oracle")
    ),
    "model.temperature": frozenset({"kindred.temperature.Cosine", "kindred.temperature.Learnable"}),
    "views": frozenset(
        {
            "kindred.data.images.views.MultiView",
            "kindred.data.sequences.views.SequenceViews",
            "kindred.data.text.views.TextViews",
        }
    ),
    "views.views.*": frozenset(
        {
            "kindred.data.images.views.View",
            "kindred.data.sequences.views.SequenceView",
            "kindred.data.text.views.TextView",
        }
    ),
    "data": frozenset(
        {
            "kindred.data.datamodule.DataModule",
            "kindred.data.images.datamodule.ImageDataModule",
            "kindred.data.sequences.datamodule.SequenceDataModule",
            "kindred.data.text.datamodule.TextDataModule",
        }
    ),
    "data.source": frozenset(
        {"kindred.data.images.folder.ImageFolder", "kindred.data.images.huggingface.source.HuggingFace"}
        | {f"kindred.data.sequences.{name}" for name in ("arrays.Arrays", "audio.AudioFolder", "watch.Watch")}
        | {f"kindred.data.text.{name}" for name in ("docstrings.Docstrings", "folder.TextFolder")}
        | {f"kindred.data.images.embedded.{name}" for name in ("Digits", "Photos")}
        | {
            f"kindred.data.images.torchvision_sources.{name}"
            for name in ("CIFAR10", "CIFAR100", "FashionMNIST", "MNIST", "STL10", "SVHN")
        }
    ),
    "trainer": frozenset({"kindred.training.trainer.Trainer"}),
    "trainer.strategy": frozenset({"kindred.training.fsdp.FullySharded"}),
    "trainer.profiler": frozenset({"lightning.pytorch.profilers.PyTorchProfiler"}),
    "callbacks.*": frozenset(
        {
            "kindred.callbacks.judges.classifier.ClassifierCallback",
            "kindred.callbacks.judges.feature_store.FeatureStore",
            "kindred.callbacks.judges.figures.Figures",
            "kindred.callbacks.judges.geometry.GeometryCallback",
            "kindred.callbacks.guard.Guard",
            "kindred.callbacks.hardness.HardnessCallback",
            "kindred.callbacks.judges.knn.KNNCallback",
            "kindred.callbacks.judges.label_free.LabelFreeCallback",
            "kindred.callbacks.judges.linear_probe.LinearProbeCallback",
            "kindred.callbacks.progress.Progress",
            "kindred.callbacks.train_metrics.TrainMetrics",
            "kindred.training.checkpoints.Checkpoints",
            "kindred.training.step_seed.StepSeed",
        }
    ),
    "callbacks.*.views": frozenset({"kindred.data.images.views.MultiView"}),
    "callbacks.*.views.views.*": frozenset({"kindred.data.images.views.View"}),
    "logger.*": frozenset({"kindred.tracking.wandb_logger.WandbLogger"}),
}
PARTS = tuple(dict.fromkeys(place.partition(".")[0] for place in TRUSTED))  # keys of a configuration that are built
# What Hydra obeys in a saved configuration, and the values that it may have.
FLAGS = {
    "_target_": lambda value: isinstance(value, str),
    "_partial_": lambda value: value is True,
    "_convert_": lambda value: value == "all",
}

NODES, DEPTH, LENGTH = 20_000, 30, 1_000_000  # a configuration has some 200 nodes, 6 deep, in 4 kB


def read_settings(text: str, where: str) -> dict[str, Any]:
    """A saved config.yaml as plain data, moved classes by their present names.

    Args:
        text: of the file.
        where: it comes from, for errors.

    Raises:
        ConfigError: it is none: no YAML, too large or too deep, an interpolation, a tag, a class where none is due.
    """
    if len(text) > LENGTH:
        raise ConfigError(f"{where}: longer than any configuration ({LENGTH} characters)")
    try:
        settings = yaml.load(text, YamlLoader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{where}: {' '.join(str(error).split())[:300]}") from error
    return as_plain_settings(settings, where)


def as_plain_settings(settings: Any, where: str) -> dict[str, Any]:
    """`settings` as they were read, with moved classes by their present names.

    Args:
        settings: of plain types, such as YAML or JSON give.
        where: they come from, for errors.

    Raises:
        ConfigError: see `read_settings`.
    """
    if not isinstance(settings, dict):
        raise ConfigError(f"{where} holds no configuration, but a {type(settings).__name__}")
    for count, (place, value) in enumerate(_walk(settings)):
        if count >= NODES or place.count(".") >= DEPTH:
            raise ConfigError(f"{where}: larger or deeper than any configuration ({NODES} values, {DEPTH} levels)")
        if fault := _fault(place, value):
            name = place[:200] if place.isprintable() else ascii(place[:200])
            raise ConfigError(f"{where}: {name}: {fault}")
    return present_form(settings)


def _fault(place: str, value: Any) -> str | None:
    """What is wrong with a value of the settings; None: nothing."""
    if not isinstance(value, bool | int | float | str | list | dict | None):
        return f"{type(value).__name__} is no value of a configuration"
    if isinstance(value, str) and ("${" in value or value == "???"):
        return f"{value[:100]!r}: a saved configuration holds values, and nothing to fill in"
    if isinstance(value, dict):
        in_a_part = place.partition(".")[0] in PARTS and place not in ("callbacks", "logger")
        for key, entry in value.items():
            if not isinstance(key, str) or "${" in key:
                return f"key {str(key)[:100]!r} is no name"
            if key.startswith("_") and not (in_a_part and key in FLAGS and FLAGS[key](entry)):
                return f"{key[:100]!r} may not stand there; classes are named by _target_ in {', '.join(PARTS)}"
    return None


def _walk(node: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Every node with its dotted place, outermost first; what is caught in a circle has no end."""
    yield place, node
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in items:
        yield from _walk(value, f"{place}.{key}" if place else str(key))


def check_classes(settings: Mapping[str, Any], parts: Collection[str], where: str, trust: Collection[str] = ()) -> None:
    """Refuse a class that is not in its place, before any is imported.

    Args:
        settings: from `read_settings`.
        parts: of them, that are to be built.
        where: they come from, for the error.
        trust: further classes, at any place.

    Raises:
        ConfigError: naming place and class, and how to trust it.
    """
    for part in parts:
        for place, node in _walk(settings.get(part), part):
            target = node.get("_target_") if isinstance(node, dict) else None
            due = (classes for pattern, classes in TRUSTED.items() if _fits(place, pattern))
            if target is not None and target not in trust and not any(target in classes for classes in due):
                raise ConfigError(
                    f"{place}._target_: {target!r} of {where} is not among the classes that may be built there from someone "
                    "else's files; if you trust it: trust=[<class>] (train resume=...), --trust <class> (evaluate, export), "
                    "trust=['<class>'] (load_run, load_encoder)"
                )


def _fits(place: str, pattern: str) -> bool:
    return place.count(".") == pattern.count(".") and fnmatchcase(place, pattern)
