"""Files that are whole at any moment: a reader, or a kill, sees the old one or the new one and nothing between."""

import hashlib
import os
import shutil
import socket
from collections.abc import Generator
from contextlib import contextmanager
from io import BufferedRandom
from pathlib import Path

from kindred.errors import UnwritableError

SEAL = b"sha256:"  # and 64 hexadecimal digits


def temporary_name(path: Path) -> Path:
    """A name next to `path` that no other process uses, not even on another machine."""
    return path.with_name(f".{path.name}.{socket.gethostname()}-{os.getpid()}.tmp")


@contextmanager
def whole(path: Path) -> Generator[BufferedRandom]:
    """A file that takes the place of `path`, on disk, when the block has ended; if it fails, nothing of it stays.

    Raises:
        OSError: it cannot be written, in a line that names the disk.
    """
    temporary = temporary_name(path)
    try:
        with open(temporary, "w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        cause = error.__context__ if isinstance(error, RuntimeError) else error  # torch.save's says nothing of the disk
        if isinstance(cause, OSError):
            raise unwritable(path, cause) from error
        raise


def write_atomically(path: Path, text: str) -> None:
    """Write `text` to `path` so that a reader, or a kill, sees the old file or the new one and nothing between."""
    with whole(path) as file:
        file.write(text.encode())


def unwritable(path: Path, error: OSError) -> UnwritableError:
    """`error`, met while `path` was written, in one line for who has to mend it."""
    if isinstance(error, FileNotFoundError):
        return UnwritableError(f"{path}: cannot be written: its directory was moved or deleted")
    disk = path.absolute().parent
    while not os.path.ismount(disk):
        disk = disk.parent
    return UnwritableError(
        f"{path}: cannot be written: {error.strerror}; the disk at {disk} has {shutil.disk_usage(disk).free / 1e9:.1f} GB "
        "free. What was there before is whole: go on once there is room"
    )


def seal(file: BufferedRandom) -> None:
    """End a zip archive, which has no comment yet, by one: a checksum of every byte before it."""
    file.seek(-2, os.SEEK_END)  # the comment's length
    file.write((len(SEAL) + 64).to_bytes(2, "little"))
    file.seek(0)
    digest = hashlib.file_digest(file, "sha256").hexdigest()
    file.seek(0, os.SEEK_END)
    file.write(SEAL + digest.encode())


def seal_holds(path: Path) -> bool | None:
    """Whether the bytes of `path` are those that were sealed; None if it is not sealed, or no longer has its end."""
    content = hashlib.sha256()
    with open(path, "rb") as file:
        left = max(0, os.fstat(file.fileno()).st_size - len(SEAL) - 64)
        while left and (part := file.read(min(left, 1 << 20))):
            content.update(part)
            left -= len(part)
        end = file.read()
    return end == SEAL + content.hexdigest().encode() if end.startswith(SEAL) else None
