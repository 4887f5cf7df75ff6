"""What belongs to an encoder beside its weights, such as the tokenizer of its texts: kept in its run's directory."""

from collections.abc import Mapping
from pathlib import Path

from kindred.errors import ConfigError
from kindred.files import write_atomically


def check_attachments(folder: Path, attachments: Mapping[str, str]) -> None:
    """Refuse data that are read in another way than those of the run in `folder` were.

    Raises:
        ConfigError: an attachment is there, and has another content.
    """
    for name, text in attachments.items():
        path = folder / name
        if path.is_file() and path.read_text(encoding="utf-8") != text:
            raise ConfigError(
                f"{path}: is not the {name} of these data, whose inputs would mean something else to the encoder that was "
                f"trained with it; take the data as they were, or read others with it: data.source.{path.stem}={path}"
            )


def write_attachments(folder: Path, attachments: Mapping[str, str]) -> None:
    """Write those that are not there yet."""
    for name, text in attachments.items():
        if not (folder / name).exists():
            write_atomically(folder / name, text)
