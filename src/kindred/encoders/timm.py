"""timm's models as encoders (https://github.com/huggingface/pytorch-image-models), the extra `timm`."""

import difflib
import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from kindred.errors import AbsentError, ConfigError
from kindred.values import Count

# What is said by arguments of Kindred's own, and what would bring weights past them.
OWN = (
    "num_classes",
    "in_chans",
    "img_size",
    "pretrained_cfg",
    "pretrained_cfg_overlay",
    "checkpoint_path",
    "cache_dir",
)


def timm_encoder(
    name: str,
    in_channels: Count = 3,
    image_size: Count = 224,
    pretrained: bool | str = False,
    options: Mapping[str, Any] | None = None,
) -> nn.Module:
    """timm's model `name` without its classifier: images [B, in_channels, image_size, image_size] -> features [B, F].

    Args:
        name: of timm's list, with a tag of pretrained weights (`vit_small_patch16_224.dino`) or without.
        in_channels: channels of the images.
        image_size: their side in pixels: models whose weights depend on it, such as ViTs, are built for it.
        pretrained: True: the weights that timm has for the name, downloaded once. Or the path of a file with those of the
            same architecture (.safetensors, .pth). timm fits either to `in_channels` and `image_size`.
        options: further arguments of the model, such as {"drop_path_rate": 0.1}.

    Raises:
        ConfigError, AbsentError: no timm, no such model or file, or a model that does not take such images.
    """
    try:
        import timm
    except ImportError as error:
        raise ConfigError(
            f"encoder=timm needs the package {error.name}: make setup, or pip install kindred[timm]"
        ) from error
    _check_name(name)
    if taken := sorted(set(options or {}) & set(OWN)):
        raise ConfigError(
            f"encoder.options.{taken[0]}: is said by encoder.in_channels, image_size and pretrained; leave it out"
        )
    settings: dict[str, Any] = {"num_classes": 0, "in_chans": in_channels, "pretrained": bool(pretrained)}
    known = timm.get_pretrained_cfg(name.partition(".")[0])
    if known is not None and known.fixed_input_size:
        settings["img_size"] = image_size
    if isinstance(pretrained, str):
        if not os.path.isfile(pretrained):
            raise AbsentError(
                f"encoder.pretrained: {pretrained}: there is no such file; or true, for timm's own weights"
            )
        settings["pretrained_cfg_overlay"] = {"file": pretrained}
    try:
        encoder = timm.create_model(name, **settings, **(options or {}))
        with (
            torch.no_grad()
        ):  # its shape is not always what the model says of itself: some have layers after the pooling
            features = encoder.eval()(torch.zeros(1, in_channels, image_size, image_size))
    except Exception as error:  # whatever a thousand models make of sizes, arguments and files that they do not expect
        way_out = "; encoder.pretrained=<file> needs no network" if pretrained is True else ""
        raise ConfigError(
            f"encoder.name: timm's {name} cannot be built for data.image_size={image_size}, data.channels={in_channels}, "
            f"encoder.pretrained={pretrained}, encoder.options={dict(options or {})} "
            f"({type(error).__name__}: {' '.join(str(error).split())[:300]}){way_out}"
        ) from error
    if not isinstance(features, torch.Tensor) or features.ndim != 2:
        shape = list(features.shape) if isinstance(features, torch.Tensor) else type(features).__name__
        raise ConfigError(f"encoder.name: timm's {name} gives {shape} of an image, and not features [1, F]")
    embed = getattr(encoder, "patch_embed", None)
    patch, grid = (getattr(embed, key, None) for key in ("patch_size", "grid_size"))
    if isinstance(patch, tuple) and isinstance(grid, tuple) and patch[0] * grid[0] < image_size:  # no words from timm
        raise ConfigError(
            f"data.image_size is {image_size}: {name} would not see what is left beside {grid[0]} patches of {patch[0]} "
            f"pixels; give a multiple of {patch[0]}"
        )
    encoder.num_features = features.shape[1]
    return encoder.train()


def _check_name(name: str) -> None:
    """Refuse what is not on timm's list, with the nearest that is."""
    import timm

    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        near = difflib.get_close_matches(architecture, timm.list_models(), n=3)
        raise ConfigError(
            f"encoder.name: {name!r} is no model of timm's{'; did you mean ' + ', '.join(near) + '?' if near else '.'} "
            'All of them: python -c "import timm; print(*timm.list_models())"'
        )
    tags = [full.partition(".")[2] for full in timm.list_models(f"{architecture}.*", pretrained=True)]
    if tag and tag not in tags:
        raise ConfigError(
            f"encoder.name: timm has no weights {tag!r} of {architecture}; it has {', '.join(tags) or 'none'}"
        )
