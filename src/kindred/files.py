"""Files that are whole at any moment: a reader, or a kill, sees the old one or the new one and nothing between."""

import os
import socket
from pathlib import Path


def temporary_name(path: Path) -> Path:
    """A name next to `path` that no other process uses, not even on another machine."""
    return path.with_name(f".{path.name}.{socket.gethostname()}-{os.getpid()}.tmp")


def write_atomically(path: Path, text: str) -> None:
    """Write `text` to `path` so that a reader, or a kill, sees the old file or the new one and nothing between."""
    temporary = temporary_name(path)
    with open(temporary, "w", encoding="utf-8", newline="") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
