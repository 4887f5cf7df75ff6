"""Train one method on one data set, and show how good its representation is.

    kindred train                                  SimCLR on the embedded photographs, minutes on a laptop
    kindred train model=simclr data=cifar10        groups are the folders of configs/
    kindred train model.temperature=0.2 seed=1     any key of the configuration, as Hydra overrides
    kindred train resume=logs/latest               goes on where that run stopped
    kindred train --cfg model=simclr               prints the configuration and stops

The run directory, logs/<data>/<model>/<time>-<letters>/, is described in kindred.runs.run.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from kindred.commands.errors import on_purpose
from kindred.config import compose
from kindred.runs.directory import resumed_config
from kindred.runs.train import train
from kindred.training import launch


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if run := launch.handed_down():  # logs/latest may be another run by now
        arguments = [f"resume={run}" if a.startswith("resume=") else a for a in arguments]
    if {"-h", "--help"} & set(arguments):
        print(__doc__)
        return 0
    try:
        config = configure([a for a in arguments if a != "--cfg"])
        if "--cfg" in arguments:
            print(OmegaConf.to_yaml(config, resolve=True))
            return 0
        train(config)
        return 0
    except Exception as error:
        if not on_purpose(error):
            raise
        # Until the ranks have met, all see the same settings, and the same fault in them; later on, each its own.
        if launch.rank() == 0:
            print(f"error: {error}", file=sys.stderr)
        elif launch.met():
            print(f"error on rank {launch.rank()}: {error}", file=sys.stderr)
        return 1
    except (SystemExit, KeyboardInterrupt) as stop:
        interrupted = isinstance(stop, KeyboardInterrupt) or isinstance(stop.__context__, KeyboardInterrupt)
        # Lightning's, not imported here for the sake of a quick start; Ctrl-C it ends by a status of its own.
        if type(stop).__name__ != "SIGTERMException" and not interrupted:
            raise
        if launch.rank() == 0:
            directory = Path(os.environ.get("KINDRED_RUN_DIR", ""))
            begun = (directory / "config.yaml").exists()
            way_on = f"; to go on: make train RESUME={directory}" if begun else " before the run began"
            print(f"stopped by a signal{way_on}", file=sys.stderr)
        # Lightning's launcher kills rank 0, which may still be closing its loggers, when a rank fails: this is no failure.
        return 0 if launch.handed_down() else 130 if interrupted else stop.code or 143


def configure(arguments: Sequence[str]) -> DictConfig:
    """The configuration for command-line overrides; with `resume=<run directory>`, that run's, unchanged but for trainer."""
    resume = [a.partition("=")[2] for a in arguments if a.startswith("resume=")]
    if resume and resume[-1] not in ("", "null"):
        return resumed_config(Path(resume[-1]), [a for a in arguments if not a.startswith("resume=")])
    return compose(arguments)
