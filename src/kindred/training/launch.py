"""Before there is a process group: which rank this process is, whether the devices exist, where all ranks meet.

Ranks are started in one of three ways. Lightning's launcher: rank 0 starts the others and hands its run directory down
in their environment. torchrun or srun: all start at once, and the job's id, which outlives a requeue, names the
directory. Or there is a process group already (train() called again): then rank 0 tells.
"""

import hashlib
import logging
import os
import re
import signal
import sys
import threading
import time
import uuid
from pathlib import Path

from omegaconf import DictConfig

from kindred.config import ConfigError, build

SWEEP_PROCESS = "KINDRED_SWEEP_PROCESS"  # names the process that started this training
LAUNCHER_LOG = "lightning.fabric.strategies.launchers.subprocess_script"


def hand_down(directory: Path) -> None:
    """Tell the ranks that this process is going to launch where the run is."""
    os.environ["KINDRED_RUN_DIR"] = str(directory)
    os.environ["KINDRED_RUN_PARENT"] = str(os.getpid())


def handed_down() -> Path | None:
    """The run directory from the rank 0 that launched this process; a variable left over from another run is none."""
    launched_here = os.environ.get("KINDRED_RUN_PARENT") == str(os.getppid())
    if launched_here and int(os.environ.get("LOCAL_RANK", 0)) > 0:
        return Path(os.environ["KINDRED_RUN_DIR"])
    return None


def met() -> bool:
    """Whether there is a process group. Does not import torch, for which an error message would have to wait."""
    dist = sys.modules.get("torch.distributed")
    return dist is not None and dist.is_initialized()


def launched() -> tuple[int, int] | None:
    """(rank, number of ranks) as whoever started this process says; None if it is alone, or Lightning's rank 0."""
    environment = os.environ
    if met():
        import torch.distributed as dist

        return dist.get_rank(), dist.get_world_size()
    if "TORCHELASTIC_RUN_ID" in environment:
        return int(environment["RANK"]), int(environment["WORLD_SIZE"])
    if handed_down() is not None:
        return int(environment["LOCAL_RANK"]), int(environment["WORLD_SIZE"])
    if int(environment.get("SLURM_STEP_NUM_TASKS", 1)) > 1:
        return int(environment["SLURM_PROCID"]), int(environment["SLURM_STEP_NUM_TASKS"])
    return None


def rank() -> int:
    """This process's rank as far as it is known yet; 0 where it will launch the others."""
    return (launched() or (0, 1))[0]


def job() -> str | None:
    """A name that all ranks of this job, and its requeues, agree on; None if nobody else starts ranks."""
    run_id = os.environ.get("TORCHELASTIC_RUN_ID", "none")
    if run_id != "none":
        return re.sub(r"[^\w.-]+", "-", run_id)
    if "SLURM_JOB_ID" in os.environ and not _interactive():
        return f"slurm-{os.environ['SLURM_JOB_ID']}"
    if "TORCHELASTIC_RUN_ID" in os.environ:  # torchrun without --rdzv-id: the first rank to come makes a name
        return _through_store(f"{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:4]}")
    return None


def job_run_name(job: str, settings: str) -> str:
    """A run directory's name from the job and the run's settings: a job may hold several trainings, one after another."""
    return f"{job}-{hashlib.sha256(settings.encode()).hexdigest()[:6]}"


def _interactive() -> bool:
    """A Slurm job in which a person types commands is not one run (and Lightning does not count it as Slurm either)."""
    return os.environ.get("SLURM_JOB_NAME") in ("bash", "interactive")


def _through_store(name: str) -> str:
    """`name`, or the one that another rank, or this job before a restart, gave to torchrun's own store."""
    from datetime import timedelta

    from torch.distributed import TCPStore

    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        raise ConfigError(
            "torchrun: the ranks have nothing to name the run directory by; give torchrun --rdzv-id=<name>"
        )
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = TCPStore(address, port, is_master=False, wait_for_workers=False, timeout=timedelta(minutes=5))
    return store.compare_set("kindred/job", "", name).decode()


def check_devices(config: DictConfig) -> int:
    """The number of ranks that `config.trainer` asks for.

    Raises:
        ConfigError: devices that this machine lacks, a precision that they lack, or another number of ranks than were
            started.
    """
    trainer = config.trainer
    asked = f"trainer.devices={trainer.devices}"
    try:
        built = build(
            config, "trainer", logger=False, precision=None
        )  # Lightning would have a CPU compute in another one
    except Exception as error:  # Lightning's of many kinds, all of them about these settings
        message = " ".join(str(error).removeprefix("trainer: ").split())
        raise ConfigError(f"{asked} with trainer.accelerator={trainer.accelerator}: {message}") from error
    check_precision(trainer.precision, built.strategy.root_device.type)
    ranks = built.num_devices * built.num_nodes
    started = launched()
    if started is not None and _interactive() and "TORCHELASTIC_RUN_ID" not in os.environ and handed_down() is None:
        raise ConfigError(
            f"srun started {started[1]} ranks in a Slurm job named {os.environ['SLURM_JOB_NAME']!r}, which Lightning takes "
            "for a shell: add --job-name=train to srun"
        )
    if started is not None and started[1] != ranks:
        raise ConfigError(
            f"{asked} on trainer.num_nodes={trainer.num_nodes} make {ranks} rank(s), but {started[1]} were started: set "
            "trainer.devices to the ranks of each node and trainer.num_nodes to the nodes (and trainer=ddp)"
        )
    if started is None and built.num_nodes > 1:
        raise ConfigError(
            f"trainer.num_nodes={trainer.num_nodes}, but this process is alone: start it on every node, with torchrun or "
            "srun (docs/clusters.md)"
        )
    return ranks


def check_precision(precision: int | str | None, device: str) -> None:
    """Raise a ConfigError for a precision in which nothing is learnt, or that `device` does not have.

    Weights that are kept in half precision lose updates below a thousandth of them (bf16-true, 16-true).
    """
    known = ("32-true", "64-true", "bf16-mixed", "16-mixed", "32", "64", "bf16", "16", "None")
    if str(precision) not in known:
        raise ConfigError(
            f"trainer.precision={precision}: choose 32-true, bf16-mixed, 16-mixed (on GPUs) or 64-true; weights are kept "
            "in 32 bits or more, in fewer small updates are lost"
        )
    if str(precision).startswith("16") and device == "cpu":
        raise ConfigError(f"trainer.precision={precision}: a CPU has no float16; choose bf16-mixed, 32-true or 64-true")


def watch_launcher() -> None:
    """End with the others: a rank in a collective would otherwise wait for a dead one, on NCCL for ever.

    Lightning's launcher watches the ranks that it started and kills all if one dies; here they watch it in turn.
    torchrun and srun (with --kill-on-bad-exit) do so themselves. The trainings of a sweep end with the sweep, which
    starts them again where they stopped: two that write to one run directory would spoil it.
    """
    logging.getLogger(LAUNCHER_LOG).setLevel(logging.INFO)  # so that it says which rank died, before it kills the rest
    if handed_down() is not None:
        parent = os.getppid()
    elif SWEEP_PROCESS in os.environ:
        parent = int(os.environ[SWEEP_PROCESS])  # it may be gone by now
    else:
        return

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True, name="launcher-watch").start()
