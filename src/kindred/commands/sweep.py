"""Many trainings from one sweep file, and what they say together.

    kindred sweep temperature model=nnclr data=photos          configs/sweep/temperature.yaml
    kindred sweep temperature --jobs 2                         two trainings side by side
    kindred sweep temperature --storage postgresql://...       several machines on one sweep
    kindred sweep temperature --engine wandb                   as a sweep of W&B's, with an agent here

Interrupted and started again with the same words, it goes on with what is missing, and in the middle of the training that
was cut. The sweep's directory, <log_dir>/sweeps/<name>/, holds

    sweep.yaml       what was asked for
    study.db         Optuna's record of every training (unless a database server keeps it)
    trials/<n>/      the run directories; trials/<n>.log is what each training printed
    sweep.csv        one row per training: its parameters and its summary
    sweep.png        accuracy and geometry against what was varied
"""

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from kindred.commands.command_line import Parser, names, overrides, say_own_configs
from kindred.commands.errors import report
from kindred.config import ConfigError
from kindred.errors import UnwritableError
from kindred.study.sweeps.checking import check
from kindred.study.sweeps.reading import read_sweep
from kindred.study.sweeps.sweep_file import SweepFile, sweep_directory, write_sweep

STOPS = (signal.SIGTERM, signal.SIGUSR1)  # a cluster's; as Ctrl-C, they stop all trainings in order
STORAGE = "KINDRED_STORAGE"  # the environment variable for --storage: a password is none of a process list's business


def run_with_wandb(sweep: SweepFile) -> None:
    """Register the sweep with W&B and work on it here; more machines join with the command that W&B prints.

    Raises:
        ConfigError: there is no W&B server to register it with.
    """
    import wandb

    project = os.environ.get("WANDB_PROJECT", "kindred")
    try:
        names = [wandb.sweep(part, project=project) for part in sweep.for_wandb()]
    except (wandb.errors.Error, OSError) as error:
        raise ConfigError(
            f"ENGINE=wandb: W&B did not take the sweep ({' '.join(str(error).split())}); `wandb login` first, or leave "
            "ENGINE away: Optuna needs no server"
        ) from error
    for name in names:
        wandb.agent(name, project=project)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status: 1 if all trainings failed."""
    parser = Parser("kindred sweep", __doc__)
    parser.add_completed("sweep", by=names("sweep"), help="a file of configs/sweep/, or a path")
    parser.add_completed("overrides", by=overrides, nargs="*", help="Hydra overrides of every training")
    parser.add_argument("--engine", choices=("optuna", "wandb"), default="optuna")
    parser.add_argument(
        "--jobs", type=int, default=1, help="trainings side by side, each with its share of the machine"
    )
    parser.add_argument("--storage", default=os.environ.get(STORAGE), help=f"a database server's URL (or ${STORAGE})")
    parser.add_argument("--directory", type=Path, help="instead of <log_dir>/sweeps/<name>")
    parser.add_argument("--retry", action="store_true", help="run trainings that failed once more")
    options = parser.read(arguments)
    before = {number: signal.signal(number, _interrupt) for number in STOPS}
    try:
        if options.jobs < 1:
            raise ConfigError(f"--jobs is {options.jobs}: give 1 or more")
        say_own_configs()
        sweep = read_sweep(options.sweep).with_overrides(options.overrides)
        config = check(sweep)
        if options.engine == "wandb":
            run_with_wandb(sweep)
            return 0
        directory = options.directory or sweep_directory(sweep, config)
        write_sweep(directory, sweep)
        return _run(sweep, directory, options)
    except Exception as error:
        if type(error).__name__ == "StorageInternalError":  # Optuna's, not imported here for the sake of a quick start
            why = " ".join(str(error.__cause__ or error).partition("\n[SQL")[0].split())
            error = UnwritableError(
                f"the sweep's database cannot be written: {why}. What was there is whole: the same command goes on"
            )
        return report(error)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _run(sweep: SweepFile, directory: Path, options: argparse.Namespace) -> int:
    from kindred.study.sweeps.report import print_sweep, write_sweep_report
    from kindred.study.sweeps.trial_queue import TrialQueue

    queue = TrialQueue(sweep, directory, options.storage)
    if options.retry:
        queue.retry_failed()
    try:
        queue.work(options.jobs)
    except KeyboardInterrupt:
        print("stopped; the same command goes on where it was", file=sys.stderr)
        return 130
    finally:
        rows = queue.rows()
        write_sweep_report(directory, sweep, rows)
    print_sweep(directory, sweep, rows)
    return 1 if rows and all("error" in row for row in rows) else 0


def _interrupt(*_) -> None:
    raise KeyboardInterrupt
