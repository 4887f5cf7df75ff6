"""Checkpoints and weights files, read back as data; where a run goes on, and whether it is the run that was."""

import contextlib
import json
import pickle
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from kindred.config import ConfigError
from kindred.errors import AbsentError
from kindred.files import seal_holds
from kindred.training import launch

# What a resume may change, where things are, and how they are shown: the rest of a run's settings makes its numbers.
FREE = (
    *("trainer", "choices.trainer", "data.num_workers"),
    *("data.source.root", "data.source.path", "data.source.cache_dir"),
    *("resume", "run_dir", "log_dir", "logger", "callbacks.checkpoints", "callbacks.figures", "callbacks.progress"),
)


class DamagedCheckpointError(ConfigError):
    """A file that is not what was written: cut off, or with bits that flipped."""


class ForeignCheckpointError(DamagedCheckpointError, pickle.UnpicklingError):
    """A file that holds something else than weights, or no training's."""


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint or weights file on the CPU; tensors, numbers, strings, lists and dicts only.

    Raises:
        FileNotFoundError: there is no such file.
        DamagedCheckpointError: it is not what was written.
        ForeignCheckpointError: it holds something else, which is not executed.
    """
    import torch

    if not path.is_file():
        raise AbsentError(f"{path}: no such checkpoint")
    if found := damage(path):
        raise DamagedCheckpointError(f"{path}: damaged: {found}")
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except RuntimeError as error:  # torch looks at some bytes of an archive that zipfile passes over
        raise DamagedCheckpointError(f"{path}: damaged: {str(error).partition('. ')[0]}") from error
    except (pickle.UnpicklingError, EOFError) as error:
        reason = str(error).partition("\n")[0].partition(". ")[0]
        raise ForeignCheckpointError(
            f"{path}: holds something other than weights, which is not executed: {reason}"
        ) from error
    if not isinstance(found, dict):
        raise ForeignCheckpointError(f"{path}: holds no checkpoint or weights, but a {type(found).__name__}")
    return found


def read_training(path: Path) -> dict[str, Any]:
    """A checkpoint that a training wrote; see `read_checkpoint`."""
    checkpoint = read_checkpoint(path)
    if not {"global_step", "state_dict"} <= checkpoint.keys():
        raise ForeignCheckpointError(f"{path}: is no checkpoint of a training: it lacks global_step or state_dict")
    return checkpoint


def damage(path: Path) -> str | None:
    """What is wrong with the bytes of a file that torch.save wrote; None if nothing is.

    Checkpoints end with a checksum. Others are zip archives with one of each tensor, which torch itself does not look at.
    """
    with open(path, "rb") as file:
        start = file.read(2)
    if start == b"\x80\x02":  # from before torch 1.6: a pickle, without checksums
        return None
    if start != b"PK":
        return "it is no checkpoint" if start else "it is empty"
    if (holds := seal_holds(path)) is not None:
        return None if holds else "its checksum is wrong"
    try:
        with zipfile.ZipFile(path) as archive:
            part = archive.testzip()
    except Exception as error:  # whatever zipfile makes of bytes that are anything
        return f"it was cut off, or changed ({error})"
    return f"the checksum of its part {part} is wrong" if part else None


def resume_point(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """The newest good checkpoint in a run's `checkpoints/`, and what it holds; None if none was written yet.

    That is last.ckpt, or, which is said, previous.ckpt or best.ckpt.

    Raises:
        DamagedCheckpointError: there are some, and none is good.
    """
    last, *others = (folder / f"{name}.ckpt" for name in ("last", "previous", "best"))
    wrong, good = f"{last}: no such checkpoint", []
    if last.exists():
        try:
            return last, read_training(last)
        except DamagedCheckpointError as error:
            wrong = str(error)
    for path in filter(Path.exists, others):
        with contextlib.suppress(DamagedCheckpointError):
            good.append((path, read_training(path)))
    if good:
        path, checkpoint = max(good, key=lambda found: found[1]["global_step"])
        if launch.rank() == 0:
            print(f"{wrong}; going on from {path.name}, at step {checkpoint['global_step']}", file=sys.stderr)
        return path, checkpoint
    if last.exists():
        raise DamagedCheckpointError(f"{wrong}, and no other checkpoint is good: start a new run, or delete {folder}")
    return None


def bound_settings(config: DictConfig) -> str:
    """The settings of a resolved `config` that make a run's numbers, as JSON: dotted key -> value.

    Of a class only its name: modules move.
    """
    plain = OmegaConf.to_container(config)
    kept = {key: value for key, value in _flat(plain) if not key.startswith(FREE)}
    return json.dumps(
        {key: value.rpartition(".")[2] if key.endswith("_target_") else value for key, value in kept.items()}
    )


def _flat(node: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    if not node or not isinstance(node, dict | list):
        yield key, node
    else:
        for name, value in node.items() if isinstance(node, dict) else enumerate(node):
            yield from _flat(value, f"{key}.{name}" if key else str(name))


def check_settings(checkpoint: dict[str, Any], config: DictConfig, path: Path) -> None:
    """Raise a ConfigError if `config` is not what the checkpoint at `path` was trained with; old ones do not say."""
    before, now = json.loads(checkpoint.get("settings", "null")), json.loads(bound_settings(config))
    if before is None or before == now:
        return
    absent = object()
    key, *others = (key for key in before | now if before.get(key, absent) != now.get(key, absent))
    more = f" ({len(others)} more differ)" if others else ""
    raise ConfigError(
        f"{path.parents[1] / 'config.yaml'}: {key} is {now.get(key, 'absent')}, but {path.name} was trained with "
        f"{before.get(key, 'absent')}{more}: put it back, or start a new run"
    )
