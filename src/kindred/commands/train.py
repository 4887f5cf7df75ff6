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
from kindred.config import ConfigError, compose
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
    except SystemExit as stop:
        if type(stop).__name__ != "SIGTERMException":  # Lightning's; not imported here for the sake of a quick start
            raise
        if launch.rank() == 0:
            directory = os.environ.get("KINDRED_RUN_DIR", "<run directory>")
            print(f"stopped by a signal; to go on: make train RESUME={directory}", file=sys.stderr)
        # Lightning's launcher kills rank 0, which may still be closing its loggers, when a rank fails: this is no failure.
        return 0 if launch.handed_down() else 143


def configure(arguments: Sequence[str]) -> DictConfig:
    """The configuration for command-line overrides; with `resume=<run directory>`, that run's, unchanged but for trainer.

    With `trust=[<class>, ...]` classes of one's own, in a run that someone else has started, are built too.
    """
    given = {key: [a.partition("=")[2] for a in arguments if a.startswith(f"{key}=")] for key in ("resume", "trust")}
    overrides = [a for a in arguments if not a.startswith(("resume=", "trust="))]
    trust = [name.strip() for names in given["trust"] for name in names.strip("[]").split(",") if name.strip()]
    if given["resume"] and given["resume"][-1] not in ("", "null"):
        return resumed_config(Path(given["resume"][-1]), overrides, trust)
    if trust:
        raise ConfigError(
            f"trust={trust[0]}: it is for resume=<run directory>; what you name yourself is built without it"
        )
    return compose(overrides)
