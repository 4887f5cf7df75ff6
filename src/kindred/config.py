"""From the command line to a checked configuration, and from that to objects.

`compose` puts the YAML files of configs/ together, `check` compares every key with the signature of what it configures
(Hydra passes an unknown key that stands in a file), `build` instantiates one part. Imports torch only in `check`/`build`.
"""

import difflib
import inspect
import re
from collections.abc import Iterator, Sequence
from functools import cache
from math import sqrt
from typing import Any

import yaml
from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict

from kindred.config_files import CONFIGS, config_names, default_choices, own_configs


class ConfigError(ValueError):
    """A setting that cannot work. The message names the key, the value, and what would be right."""


class YamlLoader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
    """Plain YAML as OmegaConf reads it, in a tenth of the time: 1e-3 is a number here, to YAML 1.1 it is a text."""


YamlLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d[\d_]*(\.[\d_]*)?[eE][-+]?\d+$"), list("-+0123456789")
)


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


# Rules that need other settings are resolvers, so that the resolved config.yaml shows the number that ran.
OmegaConf.register_new_resolver("lr.linear", linear_lr, replace=True)
OmegaConf.register_new_resolver("lr.sqrt", sqrt_lr, replace=True)
# Images of up to 64 pixels lose too much in the ImageNet stem (SimCLR, appendix B.9).
OmegaConf.register_new_resolver(
    "on_gpu", lambda where, there, otherwise: there if _on_gpu(where) else otherwise, replace=True
)
OmegaConf.register_new_resolver("small_images", lambda size: int(size) <= 64, replace=True)


def _on_gpu(accelerator: str) -> bool:
    """Whether Lightning's choice of `accelerator` is, on this machine, a GPU that computes in bfloat16."""
    import torch

    return accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available() and torch.cuda.is_bf16_supported()


def compose(overrides: Sequence[str] = ()) -> DictConfig:
    """The configuration for Hydra overrides such as `["model=simclr", "model.temperature=0.2"]`.

    Raises:
        ConfigError: a group, name or key that does not exist, with those that do.
    """
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    _search_own_configs()
    try:
        with initialize_config_dir(str(CONFIGS), version_base="1.3"):
            config = hydra_compose("train", list(overrides), return_hydra_config=True)
    except (HydraException, OmegaConfBaseException, YAMLError, ValueError) as error:  # Hydra lets the others through
        raise ConfigError(_explain(error, overrides)) from error
    with open_dict(config):
        choices = config.pop("hydra").runtime.choices
        config.choices = {group: choices[group] for group in ("model", "data", "encoder", "views", "trainer")}
        config.choices.experiment = choices.get("experiment")
    return config


@cache
def _search_own_configs() -> None:
    """Tell Hydra to look into a working directory's own configs/ first.

    `hydra.searchpath` cannot: its places come after the one that holds train.yaml.
    """
    from hydra.core.config_search_path import ConfigSearchPath, SearchPathQuery
    from hydra.core.plugins import Plugins
    from hydra.plugins.search_path_plugin import SearchPathPlugin

    class OwnConfigs(SearchPathPlugin):
        def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
            kindred = any(place.path.removeprefix("file://") == str(CONFIGS) for place in search_path.get_path())
            if kindred and (own := own_configs()):  # other users of Hydra in this process search as they did
                search_path.prepend("own", f"file://{own}", SearchPathQuery(provider="main"))

    Plugins.instance().register(OwnConfigs)


def _explain(error: Exception, overrides: Sequence[str]) -> str:
    """Hydra's message in one line, with the names or keys that exist where it says that one does not."""
    message = " ".join(str(error).partition("\nConfig search path:")[0].split())
    if name := re.search(r"Could not find '([^']+)/([^'/]+)'", message):
        among = _among(name[2], config_names(name[1]), "Choices")
        return f"{name[1]}={name[2]}: there is no configs/{name[1]}/{name[2]}.yaml{among}"
    if word := getattr(error, "override", None):  # an OverrideParseException's
        groups = [group for group in default_choices() if word in config_names(group)]
        meant = f"; did you mean {groups[0]}={word}?" if groups else f" ({message.partition(' See http')[0]})"
        return f"{word}: write key=value, and quotes around a value with special characters{meant}"
    if override := re.search(r"Could not override '([^']+)'", message):
        key = override[1]
        others = [text for text in overrides if not text.lstrip("+~").startswith(f"{key}=")]
        if len(others) == len(overrides):
            return message  # a file of configs/ says it, not the command line
        config = compose(others)
        parent, _, name = key.rpartition(".")
        while parent and OmegaConf.select(config, parent) is None:
            parent, _, name = parent.rpartition(".")
        valid, place = _keys(config, parent), f"Keys of {parent or 'the configuration'}"
        if name not in valid:
            return f"{key}: there is no such key{_among(name, valid, place)}"
    return message


def _keys(config: DictConfig, parent: str) -> list[str]:
    node = OmegaConf.select(config, parent) if parent else config
    return [str(key) for key in node if key != "_target_"] if isinstance(node, DictConfig) else []


def _among(name: str, valid: Sequence[str], heading: str) -> str:
    close = difflib.get_close_matches(name, valid, n=1)
    return f"{f'; did you mean {close[0]!r}?' if close else '.'} {heading}: {', '.join(sorted(valid))}"


def nodes(config: Any, path: str = "") -> Iterator[tuple[str, DictConfig]]:
    """Every part of `config` that has a `_target_`, with its dotted path, outermost first."""
    if isinstance(config, DictConfig):
        if "_target_" in config:
            yield path, config
        for key in config:
            yield from nodes(config._get_node(key), f"{path}.{key}" if path else str(key))
    elif isinstance(config, ListConfig):
        for position in range(len(config)):
            yield from nodes(config._get_node(position), f"{path}.{position}")


def check(config: DictConfig) -> None:
    """Resolve `config` in place, and compare each key with the signature of the class that gets it.

    Raises:
        ConfigError: a value that is missing or does not resolve, a class that cannot be imported, an unknown key.
    """
    from hydra.utils import get_object
    from omegaconf.errors import OmegaConfBaseException

    if missing := sorted(OmegaConf.missing_keys(config)):
        raise ConfigError(f'{missing[0]}: needs a value, for example ARGS="{missing[0]}=..."')
    try:
        OmegaConf.resolve(config)
    except OmegaConfBaseException as error:
        raise ConfigError(f"{error.full_key}: {error.msg or error}") from error
    for path, node in nodes(config):
        try:
            target = get_object(node._target_)
        except Exception as error:
            reason = " ".join(str(error).split())
            raise ConfigError(f"{path}._target_: {node._target_!r} cannot be imported: {reason}") from error
        parameters = inspect.signature(target).parameters
        if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            continue
        for key in node:
            if not str(key).startswith("_") and key not in parameters:
                valid = [name for name in parameters if name != "self"]
                raise ConfigError(
                    f"{path}.{key}: {node._target_} takes no {key!r}{_among(str(key), valid, 'Arguments')}"
                )


def build(config: DictConfig, key: str, **more: Any) -> Any:
    """Instantiate `config[key]` with `more` arguments; an error of its constructor names the key."""
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate

    try:
        return instantiate(config[key], _convert_="all", **more)
    except InstantiationException as error:
        cause = error.__cause__ or error
        where = re.search(r"full_key: (\S+)", str(error))
        place = where.group(1) if where else key
        message = " ".join(str(cause).split())
        raise ConfigError(message if message.startswith(key) else f"{place}: {message}") from error
