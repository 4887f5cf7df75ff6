"""The model card of an exported encoder: what it is, what it has seen, how good it is and how to load it."""

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import yaml
from omegaconf import DictConfig, OmegaConf

from kindred.runs.run import Run
from kindred.tracking.metrics_csv import read_metrics, summarise

if TYPE_CHECKING:
    from torch import Tensor

    from kindred.data.images.datamodule import ImageSource
    from kindred.data.views import Views

FILES = {
    "safetensors": "encoder.safetensors",
    "onnx": "encoder.onnx",
    "torch-export": "encoder.pt2",
    "huggingface": "model.safetensors",  # and config.json, in a folder of their own
}
LOADING = {
    "safetensors": """`encoder.safetensors`, with Kindred:

```python
from kindred.runs.exporting.export import load_encoder

encoder = load_encoder("encoder.safetensors")
features = encoder({inputs})
```

or with plain torch and an `encoder` of the same architecture, {encoder}:

```python
from safetensors.torch import load_file

state = load_file("encoder.safetensors")
{plain}
```""",
    "onnx": """`encoder.onnx`, {inputs} as a numpy array:

```python
import onnxruntime

session = onnxruntime.InferenceSession("encoder.onnx")
features = session.run(None, {{"{inputs}": {inputs}}})[0]
```""",
    "torch-export": """`encoder.pt2`, with torch alone:

```python
import torch

encoder = torch.export.load("encoder.pt2").module()
features = encoder({inputs})
```""",
    "huggingface": """This folder, with timm and with transformers, which expect normalised images as `config.json` says:

```python
import timm
import torch

encoder = timm.create_model("local-dir:.", pretrained=True).eval()  # or hf-hub:<user>/<name>
mean, std = (torch.tensor(encoder.pretrained_cfg[key]).view(-1, 1, 1) for key in ("mean", "std"))
features = encoder((images - mean) / std)
```

```python
from transformers import AutoModel

features = AutoModel.from_pretrained(".")((images - mean) / std).pooler_output
```""",
}
PLAIN = """encoder.load_state_dict(state)
features = encoder.eval()({inputs})"""
NORMALISED = """mean, std = state.pop("mean"), state.pop("std")
encoder.load_state_dict({name.removeprefix("encoder."): value for name, value in state.items()})
features = encoder.eval()((images - mean) / std)"""


def model_card(
    run: Run,
    weights: Mapping[str, Any],
    files: Collection[str],
    inputs: "Tensor",
    views: "Views",
    attachments: Collection[str],
    license: str,
) -> str:
    """The text of README.md beside exported files.

    Args:
        run: with evaluation.json, if it has been evaluated: its figures are in the card, if they are of the same weights.
        weights: that it has now, see `kindred.runs.judging.origin`.
        files: names of those that hold them.
        inputs: such as the files take, [N, ...].
        views: what they are called, and how they are made.
        attachments: files beside, without which they could not be.
        license: of the weights.
    """
    config, data, choices = run.config, run.config.data, run.config.choices
    rows = [row for row in read_metrics(run.path / "metrics.csv") if row["step"] <= weights["step"]]
    summary = summarise(rows) or run.summary
    library = "timm" if set(files) == {FILES["huggingface"]} else "kindred"
    head = {"license": license, "library_name": library, "tags": ["self-supervised", "contrastive", choices.model]}
    head["kindred"] = dict(weights)
    settings = {
        "method": f"`{_call(config.model)}`",
        "encoder": f"`{_call(config.encoder)}`, from {config.init_from or 'random weights'}",
        "data": f"{choices.data} (`{data.source._target_}`), views {choices.views}",
        "epochs": f"{summary['epoch']:g}",
        "weights": f"of step {weights['step']}, checkpoint {weights['checkpoint'][:12]}",
        "batch size": data.batch_size,
        "seed": config.seed,
    }
    shape = f"{str(inputs.dtype).removeprefix('torch.')} [B, {', '.join(map(str, inputs.shape[1:]))}], any B"
    if "image_size" in data:
        source = cast("ImageSource", run.datamodule().source)
        settings |= {"mean": list(source.mean), "standard deviation": list(source.std)}
        shape += ", values in [0, 1]"
    inside = "" if library == "timm" else "Normalisation is inside. "
    if attachments:
        settings["beside it"] = ", ".join(f"`{name}`" for name in attachments)
    name = views.input_name
    plain = NORMALISED if "image_size" in data else PLAIN.format(inputs=name)
    words = {"encoder": f"`{_call(config.encoder)}`", "inputs": name, "plain": plain}
    sections = [
        f"---\n{OmegaConf.to_yaml(OmegaConf.create(head))}---",
        f"# {choices.model} on {choices.data}",
        f"An encoder that was trained by contrast. In: {shape}. Out: features [B, {run.encoder.num_features}]. "
        + (f"{inside}{_resizing(data)}" if "image_size" in data else ""),
        _table("setting", settings),
        "## How good it is",
        *_results(run, weights, summary),
        "## Loading",
        *([] if views.preparation is None else [f"```python\n{views.preparation}\n```"]),
        *(LOADING[name].format(**words) for name, file in FILES.items() if file in files),
    ]
    return "\n\n".join(sections) + "\n"


def _call(node: Any) -> str:
    """A part of the configuration as the call that it stands for."""
    if not isinstance(node, DictConfig):
        return str(node)
    arguments = [f"{key}={_call(value)}" for key, value in node.items() if not str(key).startswith("_")]
    return f"{node.get('_target_', 'dict')}({', '.join(arguments)})"


def _resizing(data: DictConfig) -> str:
    """How images of other sizes are brought to `data.image_size` when the encoder is judged."""
    size = data.image_size
    if not data.source._target_.endswith(("ImageFolder", "HuggingFace")):
        call = f'torch.nn.functional.interpolate(images, size=({size}, {size}), mode="bilinear", antialias=True)'
        return f"Images of another size are resized before: `{call}.clamp(0, 1)`."
    enlarged = round(size * 256 / 224) if data.source.stream or data.source.get("pack") else size
    return (
        f"Images of another size are resized before: shorter side to {enlarged} pixels, then the central {size}x{size}."
    )


def card_weights(path: Path) -> dict[str, Any] | None:
    """Which weights the card at `path` is of; nothing in it if it does not say, None if there is no card of Kindred's."""
    parts = path.read_text(encoding="utf-8", errors="replace").split("---\n") if path.is_file() else []
    try:
        head = yaml.safe_load(parts[1]) if len(parts) > 2 else None
    except yaml.YAMLError:
        head = None
    is_ours = isinstance(head, dict) and (head.get("library_name") == "kindred" or "kindred" in head)
    return head.get("kindred", {}) if is_ours else None


def _results(run: Run, weights: Mapping[str, Any], summary: Mapping[str, float]) -> list[str]:
    """Paragraphs: the accuracies of evaluation.json, if it is of the same weights, and those that the training logged."""
    found = []
    if (path := run.path / "evaluation.json").exists():
        result = json.loads(path.read_text())
        if result.get("checkpoint", weights["checkpoint"]) == weights["checkpoint"]:
            on = result.get("judged_on", "test")
            count = result.get(f"{on}_examples") or result[f"{on}_images"]  # as they were called
            where = f"{count} {on} examples of {result['data']}"
            where += " (there is no test split, and the training was monitored on these)" if on == "val" else ""
            changed = (
                f" The data have changed since the training: {text}." if (text := result.get("data_changed")) else ""
            )
            found += [
                f"On {where}; settings were chosen on other images.{changed}",
                _table("accuracy", _accuracies(result)),
            ]
        else:
            found += [f"These weights were not judged on test images; those of step {result['step']} were."]
    if accuracies := _accuracies(summary):
        split = "test" if run.config.data.val_size == 0 else "held-out"
        found += [f"At the end of training, on {split} images:", _table("accuracy", accuracies)]
    return found or ["Not measured."]


def _accuracies(metrics: Mapping[str, Any]) -> dict[str, str]:
    return {
        name: f"{value:.3f}"
        for name, value in metrics.items()
        if name.endswith(("_top1", "_top5")) and not name.endswith("_val_top1")
    }


def _table(heading: str, rows: Mapping[str, Any]) -> str:
    return "\n".join([f"| {heading} | |", "|---|---|", *(f"| {key} | {value} |" for key, value in rows.items())])
