"""SIGTERM and SIGUSR1 as a flag that all ranks read at the same step."""

import os
import signal
import subprocess
from typing import Any

import torch
import torch.distributed as dist
from lightning import Trainer
from lightning.pytorch.utilities.exceptions import SIGTERMException

STOP, REQUEUE = 1, 2  # the higher one wins: Slurm sends SIGTERM after SIGUSR1 too


class StopSignals:
    """Notes that a signal came, and lets the ranks agree on it.

    Lightning 2.6 broadcasts (SIGTERM) and writes a checkpoint (SIGUSR1 under Slurm) inside the signal handler: in the
    middle of a step, and between whichever two collectives the rank happens to be. Two ranks that are at different ones
    dead-lock, and a signal to one rank alone always does. It also broadcasts at the start of each step, for which the
    host waits for the GPU. Here the handler sets a flag, and the flags are reduced on the CPU where a stop is possible.
    """

    def __init__(self) -> None:
        self.received = 0
        self._group: dist.ProcessGroup | None = None

    def install(self, trainer: Trainer) -> None:
        """Put the flag in the place of Lightning's handlers, which it registers when a loop starts and takes back after."""
        connector = trainer._signal_connector
        connector._sigterm_notifier_fn = connector._slurm_sigusr_handler_fn = self._note
        trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None
        if self._group is None and dist.is_initialized():
            world = dist.get_backend() == "gloo"
            self._group = dist.group.WORLD if world else dist.new_group(backend="gloo")  # ty: ignore[invalid-assignment]  it is of all ranks

    def _note(self, signum: int, _: Any) -> None:
        self.received = max(self.received, REQUEUE if signum == signal.SIGUSR1 else STOP)

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
        raise SIGTERMException
