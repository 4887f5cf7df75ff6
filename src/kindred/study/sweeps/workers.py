"""Which processes work on a sweep on this machine: one at a time where it matters, and who is still alive."""

import fcntl
import os
import socket
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path


class Workers:
    """The processes of this machine that run trainings of one sweep.

    Args:
        directory: the sweep's directory, which holds their locks.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @contextmanager
    def alone(self) -> Generator[None]:
        """One process at a time: SQLite has no lock on a row, and two that ask at once would be given the same trial."""
        with (self.directory / "study.lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    @contextmanager
    def registered(self) -> Generator[str]:
        """This process's name, locked as long as it lives: whoever comes next on this machine can tell."""
        folder = self.directory / "workers"
        folder.mkdir(exist_ok=True)
        name = f"{socket.gethostname()}-{os.getpid()}"
        with (folder / name).open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            try:
                yield name
            finally:
                (folder / name).unlink(missing_ok=True)

    def is_here(self, worker: str) -> bool:
        """Whether `worker` is, or was, a process of this machine."""
        return worker.rpartition("-")[0] == socket.gethostname()

    def is_alive(self, worker: str) -> bool:
        """Whether that process of this machine still holds its lock."""
        try:
            with (self.directory / "workers" / worker).open() as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True
        (self.directory / "workers" / worker).unlink(missing_ok=True)
        return False
