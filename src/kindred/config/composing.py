"""The YAML files of configs/ put together, and what is said where they cannot be."""

import re
from collections.abc import Sequence
from functools import cache

import yaml
from omegaconf import DictConfig, OmegaConf, open_dict

from kindred.config.parts import OWN_KEYS, among, faults_of
from kindred.config.resolvers import register
from kindred.config_files import CONFIGS, config_names, default_choices, own_configs
from kindred.errors import ConfigError

register()


class YamlLoader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
    """Plain YAML as OmegaConf reads it, in a tenth of the time: 1e-3 is a number here, to YAML 1.1 it is a text."""


YamlLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d[\d_]*(\.[\d_]*)?[eE][-+]?\d+$"), list("-+0123456789")
)


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
    wrong_values = [] if config is None else faults_of(config, "", OWN_KEYS)
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
        listed = among(name[2], config_names(name[1]), "Choices")
        return f"{name[1]}={name[2]}: there is no configs/{name[1]}/{name[2]}.yaml{listed}"
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
            return f"{key}: there is no such key{among(name, valid, place)}"
    return message


def _keys(config: DictConfig, parent: str) -> list[str]:
    node = OmegaConf.select(config, parent) if parent else config
    return [str(key) for key in node if key != "_target_"] if isinstance(node, DictConfig) else []
