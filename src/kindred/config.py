"""From the command line to a checked configuration, and from that to objects.

`compose` puts the YAML files of configs/ together, `check` compares every key with the signature of what it configures
(Hydra passes an unknown key that stands in a file), `build` instantiates one part. Imports torch only in `check`/`build`.
"""

import contextlib
import difflib
import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from math import sqrt
from typing import Annotated, Any

import yaml
from annotated_types import Ge, Lt
from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict

from kindred.config_files import CONFIGS, config_names, default_choices, own_configs
from kindred.errors import ConfigError, KindredError
from kindred.values import annotations, fault

GIVEN = ("encoder", "views", "directory")  # arguments that whoever calls `build` adds

# What train.yaml itself holds: nothing that is built has a signature for it.
OWN_KEYS = {
    "seed": Annotated[int, Ge(0), Lt(2**32)],
    "log_dir": str,
    **dict.fromkeys(("init_from", "resume", "run_dir"), str | None),
}


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
            if not list(_missing(_root_.data)):
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


# Rules that need other settings are resolvers, so that the resolved config.yaml shows the number that ran.
OmegaConf.register_new_resolver("lr.linear", linear_lr, replace=True)
OmegaConf.register_new_resolver("lr.sqrt", sqrt_lr, replace=True)
OmegaConf.register_new_resolver("fitting", fitting, replace=True)
# Images of up to 64 pixels lose too much in the ImageNet stem (SimCLR, appendix B.9).
OmegaConf.register_new_resolver(
    "on_gpu", lambda where, there, otherwise: there if _on_gpu(where) else otherwise, replace=True
)
OmegaConf.register_new_resolver("scaled", lambda size, factor: round(int(size) * factor), replace=True)
OmegaConf.register_new_resolver("small_images", lambda size: int(size) <= 64, replace=True)


def _on_gpu(accelerator: str) -> bool:
    """Whether Lightning's choice of `accelerator` is, on this machine, a GPU that computes in bfloat16."""
    import torch

    return accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available() and torch.cuda.is_bf16_supported()


def compose(overrides: Sequence[str] = ()) -> DictConfig:
    """The configuration for Hydra overrides such as `["model=simclr", "model.temperature=0.2"]`.

    Raises:
        ConfigError: the groups, names and keys that do not exist, with those that do, and values that the keys of train.yaml
            itself cannot have.
    """
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    _search_own_configs()
    words, faults, config = list(overrides), [], None
    while config is None:
        try:
            config = _composed(words)
        # Hydra lets others than its own through.
        except (HydraException, OmegaConfBaseException, YAMLError, ValueError) as error:
            message = " ".join(str(error).partition("\nConfig search path:")[0].split())
            no_file = "Could not find '" in message
            if not no_file and any("Could not find '" in other for _, other in faults):
                break  # the file that was not found would have had the key, perhaps
            wrong = [word for word in words if _is_about(error, message, word)]
            faults.append((error, message))
            if not wrong:  # it stands in a file: nothing can be left out to see what else is wrong
                break
            words = [word for word in words if word not in wrong]
    choices = {}
    if config is not None:
        with open_dict(config):
            choices = config.pop("hydra").runtime.choices
    wrong_values = [] if config is None else _faults(config, "", OWN_KEYS)
    if config is None or faults or wrong_values:
        error = ConfigError(*(_explain(*found, config) for found in faults), *wrong_values)
        if not any("Could not find '" in message for _, message in faults):  # else it is not what was meant
            error.rest = config if any("." in word.partition("=")[0] for word in words) else None
        raise error
    with open_dict(config):
        config.choices = {group: choices[group] for group in ("model", "data", "encoder", "views", "trainer")}
        config.choices.experiment = choices.get("experiment")
    return config


def _composed(words: Sequence[str]) -> DictConfig:
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir

    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return hydra_compose("train", list(words), return_hydra_config=True)


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


def _is_about(error: Exception, message: str, word: str) -> bool:
    """Whether Hydra's error is about this override."""
    if file := re.search(r"Could not find '([^']+)'", message):
        return "/".join(word.lstrip("+").split("=", 1)) == file[1]
    key = re.search(r"'([^']+)'", message)
    return word == getattr(error, "override", None) or bool(key and word.lstrip("+~").partition("=")[0] == key[1])


def _explain(error: Exception, message: str, config: DictConfig | None) -> str:
    """Hydra's message with the names or keys that exist, in `config`, where it says that one does not."""
    if name := re.search(r"Could not find '([^']+)/([^'/]+)'", message):
        among = _among(name[2], config_names(name[1]), "Choices")
        return f"{name[1]}={name[2]}: there is no configs/{name[1]}/{name[2]}.yaml{among}"
    if word := getattr(error, "override", None):  # an OverrideParseException's
        groups = [group for group in ("model", *default_choices()) if word in config_names(group)]  # most likely that
        meant = f"; did you mean {groups[0]}={word}?" if groups else f" ({message.partition(' See http')[0]})"
        return f"{word}: write key=value, and quotes around a value with special characters{meant}"
    if config is not None and (override := re.search(r"Could not override '([^']+)'", message)):
        key = override[1]
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
    """Resolve `config` in place, and compare each key and value with the signature of the class that gets it.

    Raises:
        ConfigError: a line for each value that is missing, unknown key, and value that is not what the annotation of its
            argument says; else, for the first value that does not resolve. Nothing is built.
    """
    missing = [f'{key}: needs a value, for example ARGS="{key}=..."' for key in sorted(_missing(config))]
    signatures = {path: (node._target_, _parameters(path, node._target_)) for path, node in nodes(config)}
    unknown = [
        f"{path}.{key}: {target} takes no {key!r}{_among(str(key), list(parameters), 'Arguments')}"
        for path, (target, parameters) in signatures.items()
        if all(parameter.kind is not parameter.VAR_KEYWORD for parameter in parameters.values())
        for key in OmegaConf.select(config, path)
        if not str(key).startswith("_") and key not in parameters
    ]
    missing += [
        f"{path}.{name}: {target} needs a value for it"
        for path, (target, parameters) in signatures.items()
        for name, parameter in parameters.items()
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
        if name not in (node := OmegaConf.select(config, path)).keys() and name not in GIVEN  # noqa: SIM118 - one that is ???
        if not node.get("_partial_") and "_args_" not in node
    ]
    # What is wrong is said at the key that was given; one that is computed from others comes second.
    for resolved in (False, True):
        faults = [*missing, *unknown, *_faults(config, "", OWN_KEYS)]
        for path, (_, parameters) in signatures.items():
            faults += _faults(OmegaConf.select(config, path), f"{path}.", annotations(parameters))
        if faults:
            raise ConfigError(*faults)
        if not resolved:
            resolve(config)


def resolve(config: DictConfig) -> None:
    """Fill in, in place, what is computed from other values.

    Raises:
        ConfigError: for the first value that cannot be.
    """
    from omegaconf.errors import OmegaConfBaseException

    try:
        OmegaConf.to_container(config, resolve=True)  # in whose errors the key stands, unlike in those of the next line
        OmegaConf.resolve(config)
    except OmegaConfBaseException as error:
        raise ConfigError(f"{error.full_key}: {str(error).partition(chr(10))[0]}") from error


def _parameters(path: str, target: str) -> dict[str, inspect.Parameter]:
    from hydra.utils import get_object

    try:
        found = get_object(target)
    except Exception as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{path}._target_: {target!r} cannot be imported: {reason}") from error
    try:
        signature = inspect.signature(found, eval_str=True)
    except Exception:  # annotations that only a type checker can evaluate
        signature = inspect.signature(found)
    return {name: parameter for name, parameter in signature.parameters.items() if name != "self"}


def _missing(config: Any, path: str = "") -> Iterator[str]:
    """The keys that have no value, as OmegaConf.missing_keys gives them; that resolves what may not resolve yet."""
    for key in range(len(config)) if isinstance(config, ListConfig) else config:
        if OmegaConf.is_missing(config, key):
            yield f"{path}{key}"
        elif isinstance(value := config._get_node(key), DictConfig | ListConfig) and not value._is_interpolation():
            yield from _missing(value, f"{path}{key}.")


def _faults(node: DictConfig, prefix: str, expected: Mapping[str, Any]) -> list[str]:
    """What is wrong with the values of `node`; those that are computed from others, or built from a node, are left out."""
    found = []
    for key, annotation in expected.items():
        value = node._get_node(key, validate_access=False)
        if value is None or OmegaConf.is_missing(node, key) or OmegaConf.is_interpolation(node, key):
            continue
        if any(nodes(value)) or "${" in str(value):
            continue
        plain = OmegaConf.to_container(value) if isinstance(value, DictConfig | ListConfig) else node[key]
        if wrong := fault(plain, annotation):
            found.append(f"{prefix}{key} {wrong}")
    return found


def value_fault(config: DictConfig, key: str, value: Any) -> str | None:
    """What `check` would say of `value` at the dotted `key`, which need not have been resolved; None: nothing."""
    parent, _, name = key.rpartition(".")
    node = OmegaConf.select(config, parent) if parent else None
    target = node.get("_target_") if isinstance(node, DictConfig) else None
    expected = OWN_KEYS if not parent else annotations(_parameters(parent, target)) if target else {}
    wrong = None if value is None or name not in expected else fault(value, expected[name])
    return None if wrong is None else f"{key} {wrong}"


def build(config: DictConfig, key: str, **more: Any) -> Any:
    """Instantiate `config[key]` with `more` arguments.

    Raises:
        ConfigError: its constructor refuses a value, by a ValueError of any kind; the line names the key. Other errors are
            raised as they are.
    """
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate

    try:
        return instantiate(config[key], _convert_="all", **more)
    except InstantiationException as error:
        cause = error.__cause__ or error
        lightnings = type(cause).__name__ == "MisconfigurationException"  # which is no ValueError
        if not lightnings and not isinstance(cause, KindredError | ValueError):
            raise cause from None
        where = re.search(r"full_key: (\S+)", str(error))
        place = where.group(1) if where else key
        message = " ".join(str(cause).split())
        raise ConfigError(message if message.startswith(key) else f"{place}: {message}") from error
