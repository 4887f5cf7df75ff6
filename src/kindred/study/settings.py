"""The settings of runs: flat, and those in which they differ, as a person reads them. Imports no torch."""

import json
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, TypeGuard

from kindred.runs.run import Run

ABSENT = object()

SEED = re.compile(r"(.*\.)?(label_)?seed")
# Seeds, places, and what only says how a run is shown and written down: no run scores better for it.
ASIDE = re.compile(
    r"(.*\.)?((label_)?seed|_convert_)|(run_dir|log_dir|resume|logger|callbacks\.(progress|figures|checkpoints))(\..*)?"
    r"|trainer\.enable_.*|data\.source\.cache_dir"
)


@lru_cache(maxsize=1024)
def flat_config(run: Run) -> dict[str, Any]:
    """The resolved config of `run` as dotted key -> plain value, keys as on the command line.

    A list of plain values is a value; one that holds parts, such as the views, is taken apart (`views.views.0.flip`).

    Raises:
        ConfigError: config.yaml is no plain configuration.
    """
    flat: dict[str, Any] = {}

    def flatten(node: Any, key: str) -> None:
        entries = enumerate(node) if isinstance(node, list) and any(isinstance(v, dict) for v in node) else None
        entries = node.items() if isinstance(node, dict) and node else entries
        if entries is None:
            flat[key] = node
        for name, value in entries or ():
            flatten(value, f"{key}.{name}" if key else str(name))

    flatten(run.settings, "")
    return flat


def differing(configs: Sequence[dict[str, Any]]) -> list[str]:
    """The keys of flat configs whose value is not the same in all; absent is a value; seeds and places do not count.

    Where runs differ in the choice of a group (`choices.model`), of that group's keys only the numbers that every run
    has are listed (the temperature, the learning rate): the others follow from the choice. Of the entries of a list that
    differ in the same way, as both views do, the first is listed. An int is not a float here, since Lightning's trainer
    takes 1 for one batch and 1.0 for all of them.
    """
    keys = dict.fromkeys(key for config in configs for key in config if not ASIDE.fullmatch(key))
    texts = {key: [exact(config.get(key, ABSENT)) for config in configs] for key in keys}
    texts = {key: values for key, values in texts.items() if len(set(values)) > 1}

    def counts(key: str) -> bool:
        group, _, rest = key.partition(".")
        if group == "choices":
            return any(other.startswith(f"{rest}.") for other in texts)
        choice = texts.get(f"choices.{group}")
        if choice is None or len(set(zip(choice, texts[key], strict=True))) > len(set(choice)):
            return True
        return not re.search(r"\.\d+\.", rest) and all(is_number(config.get(key)) for config in configs)

    alike: dict[tuple, str] = {}
    for key in filter(counts, texts):
        alike.setdefault((re.sub(r"\.\d+\.", ".", key), *texts[key]), key)
    return list(alike.values())


def exact(value: Any) -> str:
    """A value as a text that is the same only where the value is; of ABSENT it is empty."""
    return "" if value is ABSENT else json.dumps(value, sort_keys=True, default=str)


def is_number(value: Any) -> TypeGuard[float]:
    """Whether it is one; True and False are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def natural_order(value: Any) -> tuple:
    """Absent, null, numbers by value, then texts, the numbers in them by value."""
    if value is ABSENT or value is None:
        return (0, value is None)
    if isinstance(value, int | float):
        return (1, value)
    parts = re.split(r"(\d+)", value if isinstance(value, str) else exact(value))
    return (2, *(int(part) if place % 2 else part for place, part in enumerate(parts)))


def short_names(keys: Sequence[str]) -> dict[str, str]:
    """Each dotted key -> its end, as short as no other key has it: model.temperature -> temperature."""

    def shortest(key: str) -> str:
        parts = key.split(".")
        ends = (".".join(parts[start:]) for start in range(len(parts) - 1, -1, -1))
        return next((e for e in ends if not any(f".{k}".endswith(f".{e}") for k in keys if k != key)), key)

    return {key: shortest(key) for key in keys}


def as_text(value: Any) -> str:
    """A setting as a person reads it: texts as they are, all else as JSON; without what a terminal would act on."""
    text = value if isinstance(value, str) else exact(value)
    return "".join(character if character.isprintable() else "\ufffd" for character in text)
