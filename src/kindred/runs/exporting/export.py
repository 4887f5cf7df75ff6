"""The encoder of a run as a file that others can use, with its normalisation inside and a model card beside it.

All formats take inputs [B, ...] with any B, such as images float32 [B, C, S, S] in [0, 1] with S = data.image_size or
tokens int64 [B, L], and give features [B, F]. What else an encoder needs (`DataModule.attachments`) stands beside it.
"""

import json
import os
import sys
from collections.abc import Callable, Collection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from kindred.config import ConfigError, build, nodes
from kindred.data.images.normalisation import NormalizedEncoder
from kindred.files import write_atomically
from kindred.runs.exporting.huggingface import timm_twin, write_for_timm
from kindred.runs.exporting.model_card import FILES, card_weights, model_card
from kindred.runs.judging.origin import origin
from kindred.runs.reading.trust import as_plain_settings, check_classes
from kindred.runs.run import Run, without_weights

TOLERANCE = 1e-4  # of the features of an exported file
EXAMPLES = 7  # inputs that it is tried on
WEIGHTS = "kindred.json"  # what encoder.pt2 holds beside the program: which weights it is of


def export(run: Run, format: str, output: Path | None = None, license: str = "unknown") -> Path:
    """Write the encoder of `run` and README.md to `output` (by default <run>/export); the path of the file.

    What was written is read back, and its features compared with those of the run. The file says which weights it is of
    (`kindred.runs.judging.origin`), and so does the card; files there that are of other ones are removed, which is said.

    Args:
        format: safetensors, onnx, torch-export, or huggingface, which is a folder (by default <run>/export/huggingface).
        license: of the weights, for the card; it depends on the images as well, so it is yours to know.

    Raises:
        ConfigError: packages that a format needs are missing, a class that is not trusted, an encoder that timm has not.
        RuntimeError: the file's features differ from the run's by more than 1e-4.
    """
    if format == "huggingface":
        timm_twin(run)  # or an error, before anything is made
    default = run.path / "export" / "huggingface" if format == "huggingface" else run.path / "export"
    output = default if output is None else output
    datamodule = run.datamodule()
    views = datamodule.views
    encoder = views.exported(run.encoder).eval()
    inputs = views.example_inputs(EXAMPLES)
    if inputs is None:
        datamodule.setup()
        inputs = views.plain(datamodule.bank.__getitems__(range(EXAMPLES)).raw)
    output.mkdir(parents=True, exist_ok=True)
    for name, text in (attachments := datamodule.attachments()).items():
        write_atomically(output / name, text)
    weights = origin(run)
    path = output / FILES[format]
    write = {"safetensors": _safetensors, "onnx": _onnx, "torch-export": _torch_export, "huggingface": _huggingface}
    with TemporaryDirectory(dir=output, prefix=".") as temporary:
        features = write[format](
            encoder,
            inputs,
            Path(temporary, path.name),
            run,
            {key: str(value) for key, value in weights.items()},
            views.input_name,
        )
        with torch.inference_mode():
            difference = max(float((features(part) - encoder(part)).abs().max()) for part in (inputs, inputs[:1]))
        if not difference <= TOLERANCE:
            raise RuntimeError(f"{path.name}: features differ from the run's by {difference:.1e}, not {TOLERANCE:.0e}")
        for file in Path(temporary).iterdir():
            os.replace(file, output / file.name)
    described = card_weights(output / "README.md")
    kept = {path.name}
    for other in (output / name for name in FILES.values() if name != path.name):
        if other.exists() and described == weights:
            kept.add(other.name)
        elif other.exists() and described is not None:
            other.unlink()
            print(
                f"removed: {other}, which was of other weights (step {described.get('step', 'unknown')})",
                file=sys.stderr,
            )
    write_atomically(output / "README.md", model_card(run, weights, kept, inputs, views, attachments, license))
    return path


def load_encoder(path: str | Path, trust: Collection[str] = ()) -> nn.Module:
    """The encoder in encoder.safetensors, in eval mode: inputs [B, ...] -> features [B, F].

    Nothing in the file is executed: it says which class to build, which must be among
    kindred.runs.reading.trust.TRUSTED or `trust`.

    Raises:
        ConfigError: a class that is not trusted, or a file that Kindred did not write.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dict
    except SafetensorError as error:
        raise ConfigError(f"{path}: no safetensors file: {error}") from error
    if "encoder" not in metadata:
        raise ConfigError(
            f"{path}: its metadata does not say which encoder it holds; was it written by `kindred export`?"
        )
    try:
        described = json.loads(metadata["encoder"])
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: its metadata does not say which encoder it holds: {error}") from error
    settings = as_plain_settings({"encoder": described}, str(path))
    check_classes(settings, ["encoder"], str(path), trust)
    encoder = build(without_weights(OmegaConf.create(settings)), "encoder")
    if {"mean", "std"} == {name for name in state if not name.startswith("encoder.")}:
        encoder = NormalizedEncoder(encoder, state["mean"].flatten().tolist(), state["std"].flatten().tolist())
    try:
        encoder.load_state_dict(state)
    except RuntimeError as error:
        raise ConfigError(
            f"{path}: its weights are of another encoder: {' '.join(str(error).split())[:300]}"
        ) from error
    return encoder.eval()


def _safetensors(
    encoder: nn.Module, inputs: Tensor, path: Path, run: Run, weights: dict[str, str], input_name: str
) -> Callable[[Tensor], Tensor]:
    """Writes `path`; what reads inputs with it."""
    from safetensors.torch import save

    config = cast("dict[str, Any]", OmegaConf.to_container(run.config, resolve=True))
    metadata = {"format": "pt", "encoder": json.dumps(config["encoder"]), "config": json.dumps(config), **weights}
    path.write_bytes(save({name: value.contiguous() for name, value in encoder.state_dict().items()}, metadata))
    return load_encoder(path, trust={node._target_ for _, node in nodes(run.config.encoder)})


def _onnx(
    encoder: nn.Module, inputs: Tensor, path: Path, run: Run, weights: dict[str, str], input_name: str
) -> Callable[[Tensor], Tensor]:
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401 - torch's exporter needs it
    except ImportError as error:
        raise ConfigError(
            f"--format onnx needs the package {error.name}: make setup, or pip install kindred[export]"
        ) from error
    torch.onnx.export(
        encoder,
        (inputs,),
        path,
        dynamo=True,
        verbose=False,
        external_data=False,  # one file
        input_names=[input_name],
        output_names=["features"],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
    )
    model = onnx.load(path)
    onnx.helper.set_model_props(model, weights)
    onnx.save(model, path)
    onnx.checker.check_model(path, full_check=True)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda inputs: torch.from_numpy(session.run(None, {input_name: inputs.numpy()})[0])


def _huggingface(
    encoder: nn.Module, inputs: Tensor, path: Path, run: Run, weights: dict[str, str], input_name: str
) -> Callable[[Tensor], Tensor]:
    return write_for_timm(run, path.parent, weights)


def _torch_export(
    encoder: nn.Module, inputs: Tensor, path: Path, run: Run, weights: dict[str, str], input_name: str
) -> Callable[[Tensor], Tensor]:
    program = torch.export.export(encoder, (inputs,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    torch.export.save(program, path, extra_files={WEIGHTS: json.dumps(weights)})
    return torch.export.load(path).module()
