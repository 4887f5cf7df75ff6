"""The process that talks to W&B for a training, and reads from its standard input what to log.

The wandb library may prompt, print, wait for a server that hangs, and hold up the interpreter's exit. Here it may: the
training goes on meanwhile, waits for the end of this process for a bounded time, and is not touched by its failure.
`wandb_logger` starts it and sends (method of `Session`, arguments) as pickles; the end of the input is the end of
the training. What wandb itself prints goes to `<run directory>/wandb/output.log`.
"""

import contextlib
import fcntl
import os
import pickle
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from typing import Any, BinaryIO

from kindred.tracking.wandb_session import Session

PATIENCE = 30.0  # seconds after the end of the training, when this process ends too, whatever it is doing


def receive(messages: BinaryIO, queue: SimpleQueue, upload: float) -> None:
    """Pass messages on at once, so that the training never waits for room in the pipe, and then its end, whatever it was.

    Args:
        messages: pickles of (method, *arguments), the last one `finish`.
        upload: seconds for large files, after the end.
    """
    message = ("",)
    while message[0] != "finish":
        try:
            message = pickle.load(messages)
        except (EOFError, pickle.UnpicklingError):  # killed, perhaps in the middle of a message
            message = ("finish", 1)
        queue.put(message)
    threading.Timer(PATIENCE + upload, os._exit, (1,)).start()


def isolate(folder: Path) -> None:
    """No input to prompt for, output to `<folder>/output.log`, and a process of wandb's that is no one else's."""
    folder.mkdir(parents=True, exist_ok=True)
    output = os.open(folder / "output.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for number, replacement in ((0, os.open(os.devnull, os.O_RDONLY)), (1, output), (2, output)):
        os.dup2(replacement, number)
    os.environ["WANDB_SILENT"] = "true"
    os.environ.pop("WANDB_SERVICE", None)  # that of a W&B sweep's agent, which is not ours to end
    os.environ.setdefault("WANDB_DATA_DIR", str(folder.resolve()))  # where pictures wait for their upload


def log_all(start: dict[str, Any], queue: SimpleQueue, say: Callable[[str], None]) -> None:
    """Start or resume the run, and do what the messages say up to `finish`."""
    folder = Path(start["directory"]) / "wandb"
    isolate(folder)
    sys.argv = start["command"]
    # An earlier part of the run, of a training that was killed a moment ago, may still be written.
    with contextlib.suppress(OSError):  # a file system without locks
        fcntl.flock(os.open(folder / "lock", os.O_WRONLY | os.O_CREAT), fcntl.LOCK_EX)
    session = Session(folder.parent, start["settings"], start["seconds"], start["upload"], start["process"], say)
    method = ""
    while method != "finish":
        method, *arguments = queue.get()
        try:
            getattr(session, method)(*arguments)
        except Exception:  # one row less, or no table: the rest is still worth having
            traceback.print_exc()


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)  # sent to the training, whose end ends this process
    messages, terminal = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(2), "w")  # which no other process gets
    start, queue = pickle.load(messages), SimpleQueue()
    threading.Thread(target=receive, args=(messages, queue, start["upload"]), daemon=True).start()

    def say(line: str) -> None:
        print(f"W&B: {line}", file=terminal, flush=True)

    # wandb's own temporary files, one for each picture, would outlive an end that is past its hooks.
    with tempfile.TemporaryDirectory(prefix="kindred-", ignore_cleanup_errors=True) as folder:
        os.environ["TMPDIR"] = tempfile.tempdir = folder
        try:
            log_all(start, queue, say)
        except Exception as error:
            traceback.print_exc()
            say(f"{' '.join(str(error).split())}; the run goes on without it")
    os._exit(0)  # past wandb's own hooks, which wait for the server


if __name__ == "__main__":
    main()
