"""The YAML files that a configuration is put together from: where they lie, and which there are.

A `configs/` in the working directory comes before the one that comes with Kindred, file by file. Imports next to nothing,
so that help and completion need not wait.
"""

from pathlib import Path
from typing import Any

_WITH_PACKAGE = Path(__file__).resolve().with_name("configs")  # a wheel holds them; in a clone they lie above src/
CONFIGS = _WITH_PACKAGE if _WITH_PACKAGE.is_dir() else Path(__file__).resolve().parents[2] / "configs"


def own_configs() -> Path | None:
    """`configs/` of the working directory; None where there is none, or where it is Kindred's own, as in a clone."""
    own = Path("configs")
    return own.resolve() if own.is_dir() and own.resolve() != CONFIGS else None


def config_directories() -> list[Path]:
    """Where files are looked for, the first place first."""
    own = own_configs()
    return [CONFIGS] if own is None else [own, CONFIGS]


def find_config(name: str) -> Path | None:
    """The file `<name>.yaml`, such as `sweep/temperature`; None if there is none."""
    paths = (directory / f"{name}.yaml" for directory in config_directories())
    return next((path for path in paths if path.is_file()), None)


def config_names(group: str) -> list[str]:
    """The choices of `group`, such as `model`."""
    return sorted({path.stem for directory in config_directories() for path in (directory / group).glob("*.yaml")})


def top_level() -> dict[str, Any]:
    """What train.yaml says: its keys, and its defaults list."""
    import yaml

    return yaml.safe_load((find_config("train") or CONFIGS / "train.yaml").read_text())


def default_choices() -> dict[str, str | None]:
    """The groups of train.yaml, in its order, with the choice that each has where nobody makes another."""
    entries = [entry for entry in top_level().get("defaults", []) if isinstance(entry, dict)]
    groups = [(str(group), name) for entry in entries for group, name in entry.items()]
    return {group: name for group, name in groups if not group.startswith("optional ")}  # those come by themselves
