"""An encoder as a folder that timm and transformers load: config.json and model.safetensors."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from kindred.config import ConfigError
from kindred.runs.run import Run

if TYPE_CHECKING:
    from torch import Tensor

    from kindred.data.images.datamodule import ImageSource

ABLE = "ENCODER=timm, and torchvision's ResNets with their usual stem (encoder.small_images=false)"
# What timm knows of the weights that it has for the name.
OF_OTHER_WEIGHTS = {"tag", "license", "description", "origin_url", "paper_name", "paper_ids", "notes"}


def timm_twin(run: Run) -> Any:
    """The encoder of `run` as timm's model of that name, with its weights, in eval mode.

    Raises:
        ConfigError: timm is missing, or has no such network.
    """
    try:
        import timm
        import torchvision
    except ImportError as error:
        raise ConfigError(
            f"--format huggingface needs the package {error.name}: make setup, or pip install kindred[timm]"
        ) from error
    encoder, settings = run.encoder, run.config.encoder
    if hasattr(encoder, "pretrained_cfg"):
        return encoder
    if isinstance(encoder, torchvision.models.ResNet) and timm.is_model(name := settings.get("name", "")):
        twin = timm.create_model(name, num_classes=0, in_chans=settings.in_channels)
        own, theirs = encoder.state_dict(), twin.state_dict()
        if {key: value.shape for key, value in own.items()} == {key: value.shape for key, value in theirs.items()}:
            twin.load_state_dict(own)
            return twin.eval()
    raise ConfigError(
        f"--format huggingface: neither timm nor transformers has an encoder like {settings._target_} of {run.path} has; "
        f"those that they have: {ABLE}. Any encoder can be exported to safetensors, onnx and torch-export"
    )


def write_for_timm(run: Run, folder: Path, weights: dict[str, str]) -> "Callable[[Tensor], Tensor]":
    """Fill `folder`; what reads images in [0, 1] with what it holds.

    config.json says mean, deviation and size of the images, as the run's data have them.
    """
    import timm
    import torch
    from safetensors.torch import save
    from timm.models import save_for_hf

    model, data = timm_twin(run), run.config.data
    source = cast("ImageSource", run.datamodule().source)
    enlarged = data.source.get("stream") or data.source.get("pack")
    save_for_hf(
        model,
        str(folder),
        safe_serialization=True,
        data_config={
            "input_size": (data.channels, data.image_size, data.image_size),
            "mean": tuple(source.mean),
            "std": tuple(source.std),
            "interpolation": "bilinear",
            "crop_pct": 224 / 256 if enlarged else 1.0,
        },
    )
    state = {name: value.contiguous() for name, value in model.state_dict().items()}
    (folder / "model.safetensors").write_bytes(save(state, {"format": "pt", **weights}))  # which timm leaves out
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config["model_args"].pop("num_classes")  # transformers gives it itself, and pretrained_cfg says it to timm
    for key in OF_OTHER_WEIGHTS & config["pretrained_cfg"].keys():
        del config["pretrained_cfg"][key]
    path.write_text(json.dumps(config, indent=2) + "\n")
    loaded = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (source.mean, source.std))
    return lambda images: loaded((images - mean) / std)
