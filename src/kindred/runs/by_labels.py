"""What `kindred finetune` and `kindred distill` make of a finished run: ordinary overrides of `kindred train`."""

import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from kindred.config import ConfigError, compose
from kindred.runs.reading.trust import PARTS
from kindred.runs.run import Run, build_datamodule

if TYPE_CHECKING:
    from torch import nn

EPOCHS, EPOCHS_FEW, FEW = 30, 90, 0.1  # by more labels, and by up to that share (docs/labels.md)
EVALUATIONS = 10
BATCH, BATCHES = 128, 4  # images at most, and the batches that an epoch has at least
COLOURS = (  # what changes the values of pixels, and not which of them are there
    *("jitter", "brightness", "contrast", "saturation", "hue", "jitter_order", "gray", "gray_first"),
    *("blur", "blur_sigma", "solarize", "solarize_threshold"),
)
OWN = ("batch_size", "seed", "labels", "label_seed", "unlabelled")  # keys of data that are not the earlier run's


def finetune_overrides(
    run: Run, labels: float = 1.0, layer: int = 1, scratch: bool = False, given: Sequence[str] = ()
) -> list[str]:
    """The overrides that fine-tune `run`: its data, its encoder, its first view without changes of colour.

    Args:
        run: finished, of any method.
        labels: share of the train labels.
        layer: layers of its projector that are kept; 0: none.
        scratch: the same network, from random weights.
        given: overrides that come last.

    Raises:
        ConfigError: a layer that there is not, data without labels, another image size.
    """
    widths, batch_norm = kept_layers(run, layer, "--layer")
    words = [
        *_words_of(run, given, "finetuned"),
        *([] if scratch else [f"init_from={quoted(str(run.path.resolve()))}"]),
        f"model.widths={quoted(widths)}",
        f"model.batch_norm={quoted(batch_norm)}",
        f"data.labels={labels}",
        *_epochs(EPOCHS_FEW if labels <= FEW else EPOCHS),
    ]
    return [*words, *_fitting(run, words, given), *given]


def distill_overrides(teacher: Run, start: Run | None = None, layer: int = 0, given: Sequence[str] = ()) -> list[str]:
    """The overrides that distil `teacher` into a student, on its data and its labels, with its views.

    Args:
        teacher: a fine-tuned or distilled run.
        start: the run that the student's encoder starts from, with layers of its projector; None: an encoder like the
            teacher's, from random weights.
        layer: as many; 0: none.
        given: overrides that come last.

    Raises:
        ConfigError: a teacher without a classifier, a layer that there is not, another image size.
    """
    from kindred.models.finetuned import ClassifierHead

    if not isinstance(teacher.module.projector, ClassifierHead):
        raise ConfigError(
            f"{teacher.path} has no classifier that could teach: fine-tune it first (make finetune RUN={teacher.path})"
        )
    if layer and start is None:
        raise ConfigError(f"--layer is {layer}: the student has a projector's layers only with --init=<run>")
    widths, batch_norm = ([], True) if start is None else kept_layers(start, layer, "--layer")
    settings, head = teacher.settings, teacher.settings["model"]
    taught = {key: value for key, value in settings["encoder"].items() if key != "pretrained"}  # its weights follow
    words = [
        *_words_of(teacher, given, "distilled", start or teacher),
        *([] if start is None else [f"init_from={quoted(str(start.path.resolve()))}"]),
        f"model.widths={quoted(widths)}",
        f"model.batch_norm={quoted(batch_norm)}",
        f"model.teacher_from={quoted(str(teacher.path.resolve()))}",
        f"model.teacher={quoted(taught)}",
        f"model.teacher_widths={quoted(head['widths'])}",
        f"model.teacher_batch_norm={quoted(head['batch_norm'])}",
        *(f"data.{key}={settings['data'][key]}" for key in ("labels", "label_seed")),
        *_epochs(EPOCHS),
    ]
    return [*words, *_fitting(teacher, words, given, head["classes"]), *given]


def kept_layers(run: Run, layer: int, key: str) -> tuple[list[int], bool]:
    """The widths of the first `layer` layers of the run's projector, and whether they have batch norm.

    Raises:
        ConfigError: it has not so many before its last one; the line names `key`.
    """
    widths, batch_norm = _hidden_layers(run.module.projector)
    if not 0 <= layer <= len(widths):
        possible = " or ".join(map(str, range(len(widths) + 1)))
        raise ConfigError(
            f"{key} is {layer}: the projector of {run.path} has {len(widths)} layer(s) before its last one, so give "
            f"{possible}"
        )
    return widths[:layer], batch_norm


def _hidden_layers(projector: "nn.Module") -> tuple[list[int], bool]:
    """Widths of a projector's layers as `ClassifierHead` has them, from the first on, and whether they have batch norm."""
    from torch import nn

    from kindred.models.finetuned import ClassifierHead

    parts = list(getattr(projector.kept if isinstance(projector, ClassifierHead) else projector, "layers", ()))
    kinds = [type(part) for part in parts]
    layer = [nn.Linear, nn.BatchNorm1d, nn.ReLU] if nn.BatchNorm1d in kinds else [nn.Linear, nn.ReLU]
    widths = []
    while kinds[: len(layer)] == layer:
        widths.append(parts[0].out_features)
        parts, kinds = parts[len(layer) :], kinds[len(layer) :]
    return widths, nn.BatchNorm1d in layer


def _words_of(run: Run, given: Sequence[str], model: str, student: Run | None = None) -> Iterator[str]:
    """Data and views of `run`, and the encoder of `student`, as far as they are not given."""
    config = run.trusted(*PARTS).copy()
    run.find_data(config)
    settings, student = run.settings, student or run
    student.trusted("encoder")
    groups = {word.partition("=")[0] for word in given}
    yield f"model={model}"
    if "data" not in groups:
        yield f"data={settings['choices']['data']}"
        kept = {key: value for key, value in config.data.items() if key not in OWN}
        yield from (f"++{key}={quoted(value)}" for key, value in _leaves(kept, "data"))
    if "encoder" not in groups:
        yield f"encoder={student.settings['choices']['encoder']}"
        yield from (f"++{key}={quoted(value)}" for key, value in _leaves(student.settings["encoder"], "encoder"))
    if "views" not in groups:
        yield f"views={settings['choices']['views']}"
        view = {key: value for key, value in settings["views"]["views"][0].items() if key not in COLOURS}
        yield f"views.views={quoted([view])}"


def _epochs(count: int) -> list[str]:
    return [f"trainer.max_epochs={count}", f"trainer.check_val_every_n_epoch={count // EVALUATIONS}"]


def _fitting(run: Run, words: Sequence[str], given: Sequence[str], classes: int | None = None) -> Iterator[str]:
    """The classes, and a batch of which the images that are trained on hold some."""
    try:
        config = compose([*words, *given, "data.batch_size=1"])
    except ConfigError as error:
        error.rest = None  # what is missing there is filled in below
        raise
    for key in ("image_size", "channels"):
        now, before = config.data.get(key), run.settings["data"].get(key)
        if now != before:
            raise ConfigError(f"data.{key} is {now}, and {run.path} was trained with {before}: give that")
    datamodule = build_datamodule(config)
    datamodule.setup()
    yield f"model.classes={datamodule.num_classes if classes is None else classes}"
    fits = max(2, 1 << (len(datamodule.train) // BATCHES).bit_length() >> 1)
    yield f"data.batch_size={min(BATCH, fits)}"


def _leaves(node: Any, key: str) -> Iterator[tuple[str, Any]]:
    if hasattr(node, "items") and len(node):
        for name, value in node.items():
            yield from _leaves(value, f"{key}.{name}")
    else:
        yield key, node


def quoted(value: Any) -> str:
    """A plain value as Hydra reads it."""
    if hasattr(value, "items"):
        return "{" + ",".join(f"{key}:{quoted(entry)}" for key, entry in value.items()) + "}"
    if isinstance(value, str):
        # A quote ends the text unless an odd number of backslashes stands before it.
        parts = value.split("'")
        doubled = [part + "\\" * (len(part) - len(part.rstrip("\\"))) for part in parts]
        return "'" + "\\'".join(doubled) + "'"
    if hasattr(value, "__iter__"):
        return "[" + ",".join(map(quoted, value)) + "]"
    return json.dumps(value)
