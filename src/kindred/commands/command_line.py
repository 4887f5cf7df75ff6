"""The words after `kindred <command>`: read, refused in one line, or completed for a shell."""

import argparse
import difflib
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

from kindred.config_files import config_names, default_choices, own_configs, top_level

Completer = Callable[..., list[str]]  # (prefix, parsed_args, ...) -> candidates, in argcomplete's way
COMPLETING = "_ARGCOMPLETE"  # argcomplete's variable: a shell asks for candidates


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose errors take one line with the nearest right word, and that a shell may ask for candidates."""

    def __init__(self, prog: str, description: str | None, **settings: Any) -> None:
        super().__init__(
            prog, description=description, formatter_class=argparse.RawDescriptionHelpFormatter, **settings
        )

    def add_completed(self, *flags: str, by: Completer, **settings: Any) -> None:
        """`add_argument`, of something whose candidates are those of `by`."""
        vars(self.add_argument(*flags, **settings))["completer"] = by  # where argcomplete looks for it

    def read(self, words: Sequence[str] | None) -> argparse.Namespace:
        """What `words` say, options and the rest in any order; answers the shell instead, and ends, if it asks."""
        if COMPLETING in os.environ:
            import argcomplete

            argcomplete.autocomplete(self)
        return self.parse_intermixed_args(words)

    def error(self, message: str) -> NoReturn:
        """One line, and status 2."""
        valid = [*self._option_string_actions, *(str(c) for action in self._actions for c in action.choices or ())]
        wrong = re.search(r"unrecognized arguments: ([^\s=]+)|invalid choice: '([^']*)'", message)
        close = wrong and difflib.get_close_matches(wrong[1] or wrong[2], valid, n=1)
        self.exit(2, f"error: {self.prog}: {message}{f'; did you mean {close[0]!r}?' if close else ''}\n")


def names(group: str) -> Completer:
    """A completer: the names of files in configs/<group>/."""
    return lambda **_: config_names(group)


def overrides(prefix: str, parsed_args: argparse.Namespace, **_: Any) -> list[str]:
    """A completer: groups, their choices, and the keys that the words before give the configuration."""
    word = prefix.lstrip("+~")
    sign, key, equals = prefix.removesuffix(word), word.partition("=")[0], "=" in word
    groups = default_choices()
    if equals and key in groups:
        return [f"{sign}{key}={name}" for name in config_names(key)]
    if not equals and "." not in key:
        plain = top_level().keys() - {"defaults", "choices"}
        return [f"{sign}{name}=" for name in (*groups, *plain)] + [f"{sign}{name}." for name in groups if groups[name]]
    keys = _keys(key.partition(".")[0], getattr(parsed_args, "overrides", None) or [])
    if equals:
        truth = isinstance(getattr(keys.get(key), "_val", None), bool)  # unresolved: some resolvers import torch
        return [f"{sign}{key}={value}" for value in ("true", "false") if truth]
    if "~" in sign:
        return [f"{sign}{name}" for name in keys]
    return [f"{sign}{name}=" for name, node in keys.items() if not hasattr(node, "keys")]


def _keys(group: str, words: list[str]) -> dict[str, Any]:
    """The dotted keys below `group` in the configuration for `words`, and their nodes."""
    from omegaconf import DictConfig

    from kindred.config import ConfigError, compose

    try:
        config = compose(words)
    except ConfigError:
        config = compose()

    def below(node: Any, path: str) -> Iterator[tuple[str, Any]]:
        for name in node if isinstance(node, DictConfig) else ():
            if not str(name).startswith("_"):
                yield f"{path}.{name}", node._get_node(name)
                yield from below(node._get_node(name), f"{path}.{name}")

    return dict(below(config._get_node(group, validate_access=False), group))


def say_own_configs() -> None:
    """One line if a `configs/` of the working directory is searched: it may be there for another program."""
    if own := own_configs():
        print(f"{own} is searched first, then Kindred's own configs/", file=sys.stderr)
