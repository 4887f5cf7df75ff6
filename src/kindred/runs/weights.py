"""Checkpoints and weights files, read back as data."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint or weights file on the CPU; tensors, numbers, strings, lists and dicts only.

    Raises:
        FileNotFoundError: there is no such file.
        pickle.UnpicklingError: it holds something else, which is not executed.
    """
    import torch

    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such checkpoint")
    return torch.load(path, map_location="cpu", weights_only=True)


def load_encoder_weights(encoder: "nn.Module", path: Path) -> None:
    """Start `encoder` from a run directory (its last checkpoint) or a weights file.

    A file may hold the encoder's state dict, or a checkpoint with one under `state_dict` and the prefix `encoder.`.

    Raises:
        ValueError: the weights are not of this architecture.
    """
    state = read_checkpoint(path / "checkpoints" / "last.ckpt" if path.is_dir() else path)
    state = state.get("state_dict", state)
    state = {
        name.removeprefix("encoder."): value for name, value in state.items() if name.startswith("encoder.")
    } or state
    expected = {name: tuple(value.shape) for name, value in encoder.state_dict().items()}
    given = {name: tuple(value.shape) for name, value in state.items()}
    if wrong := sorted(name for name in expected.keys() | given.keys() if expected.get(name) != given.get(name)):
        name = wrong[0]
        raise ValueError(
            f"init_from: {path} does not fit the encoder in {len(wrong)} of {len(expected)} tensors; the first is {name}: "
            f"{given.get(name, 'absent')} in the file, {expected.get(name, 'absent')} in the encoder. Choose the encoder "
            "that the weights come from (ENCODER=...)"
        )
    encoder.load_state_dict(state)
