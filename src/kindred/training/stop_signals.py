"""SIGTERM, SIGUSR1 and Ctrl-C as a flag that all ranks read at the same step."""

import os
import signal
import subprocess
import threading
from typing import Any

import torch
import torch.distributed as dist
from lightning import Trainer
from lightning.pytorch.utilities.exceptions import SIGTERMException

STOP, INTERRUPT, REQUEUE = 1, 2, 3  # the highest one wins: Slurm sends SIGTERM after SIGUSR1 too
STATUS = {STOP: 128 + signal.SIGTERM, INTERRUPT: 128 + signal.SIGINT, REQUEUE: 128 + signal.SIGTERM}


class StopSignals:
    """Notes that a signal came, and lets the ranks agree on it.

    Lightning 2.6 broadcasts (SIGTERM) and writes a checkpoint (SIGUSR1 under Slurm) inside the signal handler: in the
    middle of a step, and between whichever two collectives the rank happens to be. Two ranks that are at different ones
    dead-lock, and a signal to one rank alone always does. It also broadcasts at the start of each step, for which the
    host waits for the GPU. Ctrl-C it takes for the end, without a checkpoint. Here the handler sets a flag, and the flags
    are reduced on the CPU where a stop is possible; a second Ctrl-C ends the process.
    """

    def __init__(self) -> None:
        self.received = 0
        self._before: dict[signal.Signals, Any] = {}  # the handlers that were there
        self._group: dist.ProcessGroup | None = None

    def install(self, trainer: Trainer) -> None:
        """Put the flag in the place of Lightning's handlers, which it registers when a loop starts and takes back after."""
        in_main_thread = threading.current_thread() is threading.main_thread()
        for number in (signal.SIGINT, signal.SIGTERM):  # Lightning calls a handler of SIGTERM that it finds, too
            if in_main_thread and signal.getsignal(number) not in (signal.SIG_IGN, self._note):  # ignored: nohup, `&`
                self._before[number] = signal.signal(number, self._note)
        connector = trainer._signal_connector
        connector._sigterm_notifier_fn = connector._slurm_sigusr_handler_fn = self._note
        trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None
        if self._group is None and dist.is_initialized():
            world = dist.get_backend() == "gloo"
            self._group = dist.group.WORLD if world else dist.new_group(backend="gloo")  # ty: ignore[invalid-assignment]  it is of all ranks

    def give_back(self, trainer: Trainer) -> None:
        """The signals are what they were before `install`; Lightning, which comes after, would as it found them."""
        while self._before:
            number, handler = self._before.popitem()
            trainer._signal_connector._original_handlers.pop(number, None)
            signal.signal(number, handler)

    def _note(self, signum: int, _: Any) -> None:
        if signum == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
        kinds = {signal.SIGUSR1: REQUEUE, signal.SIGINT: INTERRUPT}
        self.received = max(self.received, kinds.get(signum, STOP))

    def agreed(self) -> bool:
        """Whether any rank got a signal. All ranks must ask at the same place."""
        self.received = self._reduce([self.received], dist.ReduceOp.MAX)[0]
        return self.received > 0

    def shared(self, counts: list[int]) -> list[int]:
        """The minimum of each count over the ranks."""
        return self._reduce(counts, dist.ReduceOp.MIN)

    def _reduce(self, values: list[int], operation: dist.ReduceOp.RedOpType) -> list[int]:
        if self._group is None:
            return values
        reduced = torch.tensor(values)
        dist.all_reduce(reduced, op=operation, group=self._group)
        return reduced.tolist()

    def stop(self, trainer: Trainer) -> None:
        """End the run on this rank; after SIGUSR1 in a Slurm job, have it started again first."""
        if self.received == REQUEUE and trainer.is_global_zero:
            subprocess.run(["scontrol", "requeue", os.environ["SLURM_JOB_ID"]], check=True)
        raise SIGTERMException(STATUS[self.received])
