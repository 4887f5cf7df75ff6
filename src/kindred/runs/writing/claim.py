"""Who writes to a run directory: one process at a time."""

import contextlib
import fcntl
import os
import socket
import sys
from pathlib import Path
from typing import IO

from kindred.config import ConfigError


class Claim:
    """One process at a time writes a run directory; the ranks of a run are one, of which rank zero takes it.

    A record lock on `<directory>/.lock`, which holds who took it. The kernel gives it back however the process ends, and
    loader workers that were forked do not inherit it.

    Args:
        directory: the run directory.
    """

    def __init__(self, directory: Path) -> None:
        self.directory, self.path = directory, directory / ".lock"
        self.file: IO[str] | None = None

    def take(self) -> None:
        """Lock the directory, which exists, unless that is done.

        Raises:
            ConfigError: another process has it.
        """
        here = f" on {socket.gethostname()}"
        while self.file is None:
            file = open(self.path, "a+", encoding="utf-8")  # noqa: SIM115 - open as long as the run lasts
            file.seek(0)
            holder = file.read().strip()
            elsewhere = holder and not holder.endswith(here)
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError):
                file.close()
                gone = f"; if that machine is gone for good, delete {self.path}" if elsewhere else ""
                raise ConfigError(
                    f"{self.directory}: {holder or 'another process'} is writing to this run; stop it first{gone}"
                ) from None
            except OSError:  # a file system without locks
                pass
            if not self.path.exists() or not os.path.samestat(os.fstat(file.fileno()), self.path.stat()):
                file.close()  # whose it was deleted it between the lines above
                continue
            if elsewhere:
                print(f"{self.path}: {holder} did not end in order; if it still runs, stop it", file=sys.stderr)
            file.truncate(0)
            file.write(f"process {os.getpid()}{here}\n")
            file.flush()
            self.file = file

    def __enter__(self) -> "Claim":
        return self

    def __exit__(self, *_: object) -> None:
        if self.file is not None:
            with contextlib.suppress(OSError):
                self.path.unlink(missing_ok=True)
            self.file.close()
            self.file = None
