"""Where a new run starts. `init_from`: an encoder's weights in a run, or in a file of others: torchvision, timm, lightly,
solo-learn, FAIR; for fine-tuning a run's projector too, and `model.teacher_from`: for distillation, a run's classifier.

A file may hold the encoder's state dict, or a checkpoint with the encoder in it, below any prefix.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from kindred.config import ConfigError
from kindred.runs.reading.weights import DamagedCheckpointError, read_checkpoint

if TYPE_CHECKING:
    from torch import Tensor, nn

    from kindred.models.contrastive import ContrastiveModule

# A moving average of the encoder, which stands beside it in MoCo's, BYOL's and DINO's checkpoints and in timm's.
AVERAGE = re.compile(r"(^|[._])(momentum|teacher|target|ema|key|k)([._]|$)")
NUMBERED = re.compile(r"((?:[A-Za-z_]\w*\.)*?)(\d+)\.(.+)")
NAMED = 4  # tensors that a line names


def load_starting_weights(module: "ContrastiveModule", config: DictConfig) -> list[str]:
    """Start `module` as a new run with `config` does.

    Returns:
        A line for each thing that was loaded.

    Raises:
        ValueError: weights that do not fit.
    """
    from kindred.models.distilled import Distilled
    from kindred.models.finetuned import ClassifierHead

    said = []
    if config.init_from is not None:
        place = Path(config.init_from)
        said.append(load_encoder_weights(module.encoder, place))
        head = module.projector
        if isinstance(head, ClassifierHead) and (layers := list(config.model.widths)):
            where = f"init_from: {place}: the first {len(layers)} layer(s) of its projector"
            _load(head.kept, place, ("projector.kept.", "projector."), where, f"model.widths={layers}")
            said.append(f"{where} loaded")
    if isinstance(module, Distilled):
        if config.model.teacher_from is None:
            raise ConfigError(
                "model.teacher_from is null: name the fine-tuned run that teaches, as kindred distill does"
            )
        place = Path(config.model.teacher_from)
        where = f"model.teacher_from: {place}: encoder and classifier"
        for name, part in module.teacher.named_children():
            _load(part, place, (f"{name}.",), where, f"model.teacher and model.classes={config.model.classes}")
        said.append(f"{where} loaded into the teacher")
    return said


def _load(part: "nn.Module", place: Path, prefixes: Sequence[str], where: str, expected: str) -> None:
    """Load `part` from the tensors of the run in `place` below the first of the prefixes that has them all."""
    tensors = dict(_tensors(_read(place / "checkpoints" / "last.ckpt" if place.is_dir() else place)))
    own = part.state_dict()
    for prefix in prefixes:
        found = {name: tensors.get(f"state_dict.{prefix}{name}") for name in own}
        if all(value is not None and value.shape == own[name].shape for name, value in found.items()):
            part.load_state_dict(found)
            return
    raise ConfigError(f"{where} are not those of {expected}")


def load_encoder_weights(encoder: "nn.Module", path: Path) -> str:
    """Start `encoder` from a run directory (its last checkpoint) or a weights file.

    Of several encoders in a file that fit, one that is no moving average is taken. Every tensor of the encoder must be
    there, with its shape; what else the file holds, such as a classifier or a projection head, is left out.

    Returns:
        A line: what was loaded, and what was left out.

    Raises:
        ValueError: the file holds no weights, or not of this architecture.
    """
    tensors = dict(_tensors(_read(path / "checkpoints" / "last.ckpt" if path.is_dir() else path)))
    expected = {name: tuple(value.shape) for name, value in encoder.state_dict().items()}
    found = [(prefix, own, _misfits(expected, own)) for prefix, own in _candidates(tensors, encoder)]
    found = found or [("", tensors, sorted(expected))]
    prefix, own, wrong = min(found, key=lambda each: (len(each[2]), bool(AVERAGE.search(each[0]))))
    if wrong:
        name = wrong[0]
        given = tuple(own[name].shape) if name in own else "absent"
        raise ConfigError(
            f"init_from: {path} does not fit the encoder in {len(wrong)} of {len(expected)} tensors; the first is {name}: "
            f"{given} in the file, {expected.get(name, 'absent')} in the encoder. Choose the encoder "
            "that the weights come from (ENCODER=...)"
        )
    used = expected.keys() & own.keys()
    encoder.load_state_dict(encoder.state_dict() | {name: own[name] for name in used})
    left = [name.removeprefix(prefix) for name in own if name not in expected]
    left += [name for name in tensors if not name.startswith(prefix)]
    more = f" and {len(left) - NAMED} more" if len(left) > NAMED else ""
    rest = f"left out: {', '.join(left[:NAMED])}{more}" if left else "nothing left out"
    return (
        f"init_from: {path}: {len(used)} tensors{f' below {prefix}' if prefix else ''} loaded into the encoder; {rest}"
    )


def _read(path: Path) -> dict[str, Any]:
    if path.suffix != ".safetensors":
        return read_checkpoint(path)
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise DamagedCheckpointError(f"{path}: damaged: no safetensors file: {error}") from error


def _tensors(node: Mapping[Any, Any], prefix: str = "", depth: int = 3) -> Iterator[tuple[str, "Tensor"]]:
    """Every tensor of a checkpoint by its dotted name; a checkpoint holds state dicts, perhaps one level down."""
    from torch import Tensor

    for name, value in node.items():
        if isinstance(value, Tensor):
            yield f"{prefix}{name}", value
        elif isinstance(value, Mapping) and depth > 1:
            yield from _tensors(value, f"{prefix}{name}.", depth - 1)


def _candidates(tensors: Mapping[str, "Tensor"], encoder: "nn.Module") -> Iterator[tuple[str, dict[str, "Tensor"]]]:
    """Prefixes below which the encoder may be, and the tensors there by the names that they would have in it."""
    first = next(iter(encoder.state_dict()), "")
    for prefix in [name[: -len(first)] for name in tensors if f".{name}".endswith(f".{first}")]:
        yield prefix, {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    # nn.Sequential(*resnet.children()), as in lightly's examples: children without weights have numbers as well, or not.
    children = [name for name, child in encoder.named_children() if child.state_dict()]
    numbered: dict[str, dict[tuple[int, str], Tensor]] = {}
    for name, value in tensors.items():
        if match := NUMBERED.fullmatch(name):
            prefix, place, rest = match.groups()
            numbered.setdefault(prefix, {})[int(place), rest] = value
    for prefix, own in numbered.items():
        names = dict(zip(sorted({place for place, _ in own}), children, strict=False))
        yield (
            prefix,
            {
                f"{names.get(place, place)}.{rest}".replace(".shortcut.", ".downsample."): value  # lightly's own ResNet
                for (place, rest), value in own.items()
            },
        )


def _misfits(expected: Mapping[str, tuple[int, ...]], own: Mapping[str, "Tensor"]) -> list[str]:
    """Names of what the encoder lacks in `own`, and of what its own parts would not know of: a deeper network's layers."""
    parts = {name.partition(".")[0] for name in expected}
    counts = {name for name in expected if name.endswith("num_batches_tracked")}  # which old files do not have
    return [
        name
        for name, shape in expected.items()
        if (tuple(own[name].shape) != shape if name in own else name not in counts)
    ] + [name for name in own if name not in expected and name.partition(".")[0] in parts]
