"""Rules for values that need other settings: resolvers, so that the resolved config.yaml shows the number that ran."""

import contextlib
import re
from math import sqrt

from omegaconf import DictConfig, OmegaConf

from kindred.config.parts import build, missing_keys


def linear_lr(base: float, base_batch: int, batch: int, accumulation: int = 1) -> float:
    """`base` x images per optimiser step / `base_batch` (Goyal et al. 2017, arXiv:1706.02677, section 2.1).

    Args:
        base: learning rate at `base_batch` images.
        base_batch: images that `base` was found with.
        batch: images in one loss, all ranks together.
        accumulation: losses accumulated before a step.
    """
    return base * batch * accumulation / base_batch


def sqrt_lr(base: float, batch: int, accumulation: int = 1) -> float:
    """`base` x the square root of images per optimiser step; SimCLR's is 0.075 (arXiv:2002.05709, appendix B.1)."""
    return base * sqrt(batch * accumulation)


def fitting(most: int, parts: int, *, _root_: DictConfig) -> int:
    """`most`, or if there are fewer train examples than `parts` times that, the largest power of two, from 2 up, of which
    they hold `parts`. The same on any number of devices.

    Args:
        most: where there are enough, and where nobody can tell: no data, a source that knows no files.
        parts: for a batch, the steps that an epoch is to have at least.
        _root_: the configuration; OmegaConf gives it.
    """
    counts, settings = OmegaConf.get_cache(_root_)["fitting"], str(OmegaConf.to_container(_root_.data))
    if settings not in counts:  # listing the data may take a while
        counts[settings] = None
        # Whoever builds the data set, or lists it, for its own sake says what is wrong.
        with contextlib.suppress(Exception):
            if not list(missing_keys(_root_.data)):
                views = build(_root_, "views")
                counts[settings] = build(_root_, "data", views=views, batch_size=most).expected_examples()
    count = counts[settings]
    return most if count is None or count >= most * parts else max(2, 1 << (count // parts).bit_length() >> 1)


def fitted(config: DictConfig) -> dict[str, int]:
    """The keys of an unresolved `config` that say `${fitting:<most>,...}` -> that most."""
    flat, found = [("", OmegaConf.to_container(config))], {}
    for key, value in flat:
        if isinstance(value, dict):
            flat += [(f"{key}.{name}" if key else str(name), entry) for name, entry in value.items()]
        elif isinstance(value, str) and (most := re.match(r"\$\{fitting:\s*(\d+)", value)):
            found[key] = int(most[1])
    return found


def _on_gpu(accelerator: str) -> bool:
    """Whether Lightning's choice of `accelerator` is, on this machine, a GPU that computes in bfloat16."""
    import torch

    return accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available() and torch.cuda.is_bf16_supported()


def register() -> None:
    """Have OmegaConf know the rules of this file by the names that configs/ uses."""
    rules = {
        "lr.linear": linear_lr,
        "lr.sqrt": sqrt_lr,
        "fitting": fitting,
        "on_gpu": lambda where, there, otherwise: there if _on_gpu(where) else otherwise,
        "scaled": lambda size, factor: round(int(size) * factor),
        # Images of up to 64 pixels lose too much in the ImageNet stem (SimCLR, appendix B.9).
        "small_images": lambda size: int(size) <= 64,
    }
    for name, rule in rules.items():
        OmegaConf.register_new_resolver(name, rule, replace=True)
