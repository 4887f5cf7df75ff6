"""Train one method on one data set, and show how good its representation is.

    kindred train                                  SimCLR on the embedded photographs, minutes on a laptop
    kindred train model=simclr data=cifar10        groups are the folders of configs/
    kindred train model.temperature=0.2 seed=1     any key of the configuration, as Hydra overrides
    kindred train resume=logs/latest               goes on where that run stopped
    kindred train --cfg model=simclr               prints the configuration and stops
    kindred train model=nnclr --help               this, and what that choice makes of the most used keys

The run directory, logs/<data>/<model>/<time>-<letters>/, is described in kindred.runs.run.
"""

import os
import shlex
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kindred.commands.command_line import Parser, overrides, say_own_configs
from kindred.commands.errors import attempt, report
from kindred.config_files import config_names, default_choices
from kindred.errors import AbsentError, ConfigError, lines

if TYPE_CHECKING:
    from omegaconf import DictConfig

KEYS = {  # the most used ones
    "model.temperature": "tau of the loss",
    "model.optimizer.lr": "learning rate of a step",
    "data.batch_size": "images in one loss, all devices together",
    "data.val_size": "train images held out for monitoring: a number or a share; 0: monitors on test",
    "data.source.root": "where the images are, or go",
    "trainer.max_epochs": "epochs",
    "trainer.check_val_every_n_epoch": "epochs between evaluations",
    "trainer.devices": "how many; -1: all",
    "callbacks.knn.k": "neighbours that vote",
    "seed": "of weights, sample order and augmentation",
    "init_from": "a run directory or a weights file: where the encoder starts",
    "resume": "a run directory that goes on where it stopped",
    "log_dir": "runs go to <log_dir>/<data>/<model>/<time>-<letters>",
    "run_dir": "or this very directory",
}


class Terminated(SystemExit):
    """SIGTERM, where nothing else listens for it."""


def _terminate(*_: object) -> None:
    raise Terminated(128 + signal.SIGTERM)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = Parser("kindred train", __doc__, usage="kindred train [--cfg] [key=value ...]", add_help=False)
    settings = {"nargs": "*", "metavar": "key=value", "help": "Hydra overrides: groups and keys"}
    parser.add_completed("overrides", by=overrides, **settings)
    parser.add_argument("--cfg", action="store_true", help="print the configuration and stop")
    parser.add_argument("-h", "--help", action="store_true", help="print this and stop")
    options = parser.read(arguments)
    from kindred.training import launch

    if run := launch.handed_down():  # logs/latest may be another run by now
        options.overrides = [f"resume={run}" if a.startswith("resume=") else a for a in options.overrides]
    if options.help:
        return attempt(lambda: print(f"{parser.format_help()}\n{choices_and_keys(options.overrides)}"))
    return start(lambda: options.overrides, options.cfg)


def start(words: Callable[[], Sequence[str]], cfg: bool = False) -> int:
    """Train as overrides say, or print the configuration that they make; the exit status."""
    from omegaconf import OmegaConf  # these take longer than a shell's completion may

    from kindred.config import resolve
    from kindred.runs.train import train
    from kindred.training import launch

    try:
        config = configure(words())
        if cfg:
            resolve(config)
            print(OmegaConf.to_yaml(config))
            return 0
        # While data are prepared, say: a step and an evaluation have a handler that lets them end in order.
        before = signal.signal(signal.SIGTERM, _terminate)
        try:
            train(config)
        finally:
            signal.signal(signal.SIGTERM, before)
        return 0
    except Exception as error:
        # Until the ranks have met, all see the same settings, and the same fault in them; later on, each its own.
        if launch.rank() == 0:
            status = report(error)
            if isinstance(error, ConfigError) and error.rest is not None:
                report_rest(error)
            return status
        return report(error, f"error on rank {launch.rank()}") if launch.met() or lines(error) is None else 1
    except (SystemExit, KeyboardInterrupt) as stop:
        interrupted = isinstance(stop, KeyboardInterrupt) or isinstance(stop.__context__, KeyboardInterrupt)
        # Lightning's, not imported here for the sake of a quick start; Ctrl-C it ends by a status of its own.
        if not (isinstance(stop, Terminated) or type(stop).__name__ == "SIGTERMException" or interrupted):
            raise
        if launch.rank() == 0:
            directory = Path(os.environ.get("KINDRED_RUN_DIR", ""))
            begun = (directory / "config.yaml").exists()
            way_on = (
                f"; to go on: make train RESUME={shlex.quote(str(directory))}" if begun else " before the run began"
            )
            print(f"stopped by a signal{way_on}", file=sys.stderr)
        # Lightning's launcher kills rank 0, which may still be closing its loggers, when a rank fails: this is no failure.
        return 0 if launch.handed_down() else 130 if interrupted else int(stop.code or 143)


def report_rest(error: ConfigError) -> None:
    """What else is wrong, where names were: this needs the classes, whose imports the first lines did not wait for."""
    from kindred.config import check

    try:
        check(error.rest)
    except ConfigError as more:
        if lines_left := [line for line in more.args if line not in error.args]:
            report(ConfigError(*lines_left))


def configure(arguments: Sequence[str]) -> "DictConfig":
    """The configuration for command-line overrides; with `resume=<run directory>`, that run's, unchanged but for trainer.

    With `trust=[<class>, ...]` classes of one's own, in a run that someone else has started, are built too.
    """
    from kindred.config import compose
    from kindred.runs.writing.resuming import resumed_config
    from kindred.training import launch

    given = {key: [a.partition("=")[2] for a in arguments if a.startswith(f"{key}=")] for key in ("resume", "trust")}
    words = [a for a in arguments if not a.startswith(("resume=", "trust="))]
    trust = [name.strip() for names in given["trust"] for name in names.strip("[]").split(",") if name.strip()]
    if given["resume"] and given["resume"][-1] not in ("", "null"):
        return resumed_config(Path(given["resume"][-1]), words, trust)
    if trust:
        raise ConfigError(
            f"trust={trust[0]}: it is for resume=<run directory>; what you name yourself is built without it"
        )
    if launch.rank() == 0:
        say_own_configs()
    config = compose(words)
    if config.init_from is not None and not Path(config.init_from).exists():
        raise AbsentError(f"init_from: {config.init_from}: there is no such run directory, or weights file")
    return config


def choices_and_keys(words: Sequence[str]) -> str:
    """The groups and their choices, and the most used keys with the values that `words` give them."""
    from omegaconf import OmegaConf

    from kindred.config import compose

    config, split = compose(words), [word.partition("=") for word in words]
    chosen = {**default_choices(), **{key: value for key, _, value in split}, **config.choices}
    lines = ["groups, and the files of configs/<group>/ to choose from, [chosen]:"]
    for group in default_choices():
        marked = [f"[{name}]" if name == chosen[group] else name for name in config_names(group)]
        lines.append(f"  {f'{group}=':13} {' '.join(marked)}")
    lines.append("the most used keys, and their values (all of them: kindred train --cfg):")
    for key, meaning in KEYS.items():
        parent, _, name = key.rpartition(".")
        node = OmegaConf.select(config, parent) if parent else config
        if node is not None and name in node.keys():  # noqa: SIM118 - a value that is missing counts
            value = "???" if OmegaConf.is_missing(node, name) else "null" if node[name] is None else node[name]
            lines.append(f"  {f'{key}={value}':40} {meaning}")
    return "\n".join(lines)
