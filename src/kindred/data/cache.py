"""What is decoded once is kept on disk: folders that are either complete or absent."""

import contextlib
import fcntl
import os
import shutil
import uuid
from collections.abc import Callable, Generator
from pathlib import Path

import numpy as np

from kindred.errors import UnwritableError


def build_once(folder: Path, build: Callable[[Path], None], key: str) -> None:
    """Let `build` fill `folder` unless it exists.

    `build` writes into a temporary neighbour which is renamed when it is complete and on disk, so that a killed or
    failed build leaves nothing that a later start would take for the real thing; the later start deletes it.

    Args:
        folder: what to fill; its name must change with everything its content depends on.
        build: called with an empty folder.
        key: the configuration key that decides where `folder` lies, named in the error.

    Raises:
        OSError: `folder` cannot be written.
    """
    if folder.is_dir():
        return
    for remains in folder.parent.glob(f".{folder.name}-????????"):
        with contextlib.suppress(OSError), _locked(remains):  # else it is being built, or there are no locks here
            shutil.rmtree(remains)
    unfinished = folder.with_name(f".{folder.name}-{uuid.uuid4().hex[:8]}")
    try:
        unfinished.mkdir(parents=True)
    except OSError as error:
        raise UnwritableError(
            f"{key}: cannot write to {folder.parent} ({error}); set {key} to a folder that can be"
        ) from error
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, unfinished, ignore_errors=True)
        with contextlib.suppress(OSError):  # a file system without locks
            stack.enter_context(_locked(unfinished))
        unfinished.mkdir(exist_ok=True)  # another process may have taken it for remains, until it was locked
        build(unfinished)
        for path in unfinished.iterdir():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        try:
            os.rename(unfinished, folder)
        except OSError:
            if not folder.is_dir():  # another process may have finished the same folder first: then its is as good
                raise


@contextlib.contextmanager
def _locked(folder: Path) -> Generator[None]:
    """A lock on `folder` that ends with this process, at the latest; an OSError if another one has it."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(handle)


def open_array(path: Path) -> np.ndarray:
    """The array in a .npy file, memory-mapped and read-only: pages are read when they are touched."""
    # np.asarray: indexing an np.memmap returns another np.memmap, which torch.from_numpy need not see.
    return np.asarray(np.load(path, mmap_mode="r"))
