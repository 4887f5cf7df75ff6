"""The parts of a configuration that are built: compared, key by key, with the signature of their class, and made."""

import difflib
import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any

from annotated_types import Ge, Lt
from omegaconf import DictConfig, ListConfig, OmegaConf

from kindred.errors import ConfigError, KindredError
from kindred.values import annotations, fault

GIVEN = ("encoder", "views", "directory")  # arguments that whoever calls `build` adds

# What train.yaml itself holds: nothing that is built has a signature for it.
OWN_KEYS = {
    "seed": Annotated[int, Ge(0), Lt(2**32)],
    "log_dir": str,
    **dict.fromkeys(("init_from", "resume", "run_dir"), str | None),
}


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
    missing = [f'{key}: needs a value, for example ARGS="{key}=..."' for key in sorted(missing_keys(config))]
    signatures = {path: (node._target_, _parameters(path, node._target_)) for path, node in nodes(config)}
    unknown = [
        f"{path}.{key}: {target} takes no {key!r}{among(str(key), list(parameters), 'Arguments')}"
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
        faults = [*missing, *unknown, *faults_of(config, "", OWN_KEYS)]
        for path, (_, parameters) in signatures.items():
            faults += faults_of(OmegaConf.select(config, path), f"{path}.", annotations(parameters))
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


def missing_keys(config: Any, path: str = "") -> Iterator[str]:
    """The keys that have no value, as OmegaConf.missing_keys gives them; that resolves what may not resolve yet."""
    for key in range(len(config)) if isinstance(config, ListConfig) else config:
        if OmegaConf.is_missing(config, key):
            yield f"{path}{key}"
        elif isinstance(value := config._get_node(key), DictConfig | ListConfig) and not value._is_interpolation():
            yield from missing_keys(value, f"{path}{key}.")


def faults_of(node: DictConfig, prefix: str, expected: Mapping[str, Any]) -> list[str]:
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


def among(name: str, valid: Sequence[str], heading: str) -> str:
    """`<heading>: <valid>`, and before it which of them is meant where `name` is close to one."""
    close = difflib.get_close_matches(name, valid, n=1)
    return f"{f'; did you mean {close[0]!r}?' if close else '.'} {heading}: {', '.join(sorted(valid))}"
