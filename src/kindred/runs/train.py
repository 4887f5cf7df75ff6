"""How a run is put together: DataModule, method and Trainer from a configuration, fit, summary."""

import inspect
import logging
import sys
import warnings
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig, OmegaConf

from kindred.config import build, check, fitted
from kindred.errors import ConfigError
from kindred.runs.attachments import check_attachments, write_attachments
from kindred.runs.fingerprint import check_unchanged, write_record
from kindred.runs.reading.trust import read_settings
from kindred.runs.reading.weights import bound_settings, check_settings, resume_point
from kindred.runs.run import build_datamodule, build_module, without_weights
from kindred.runs.starting_weights import load_starting_weights
from kindred.runs.writing.claim import Claim
from kindred.runs.writing.directory import begin, check_place, remove_remains, run_directory, saved_form
from kindred.runs.writing.environment import write_skipped
from kindred.training import launch

if TYPE_CHECKING:
    from lightning import Trainer
    from lightning.pytorch.loggers import Logger

    from kindred.data.datamodule import DataModule
    from kindred.models.contrastive import ContrastiveModule


def train(config: DictConfig) -> dict[str, float]:
    """Train as `config` says (see `kindred.config.compose`), and return the content of summary.json.

    Raises:
        ConfigError, ValueError: a setting that cannot work, before the first epoch.
        NonFiniteLossError: the loss became NaN or infinite; the checkpoints are from before that.
    """
    import lightning

    quieten()
    launch.watch_launcher()
    config = deepcopy(config)
    most = fitted(config)
    check(config)
    if config.resume is None:
        check_place(config)
    ranks = launch.check_devices(config)
    lightning.seed_everything(config.seed, verbose=False)
    datamodule = build_datamodule(config)
    begun = config.resume is not None and any(Path(config.resume, "checkpoints").glob("*.ckpt"))
    module = build_module(without_weights(config) if begun else config)
    for loaded in [] if begun else load_starting_weights(module, config):
        if launch.rank() == 0:
            print(loaded, file=sys.stderr)
    datamodule.check_batch_size(ranks)
    module.check(datamodule, ranks)
    if launch.launched() is None:  # else one process a node prepares the data, and Lightning has the others wait
        datamodule.setup()
        check_limits(config, datamodule)

    if launch.rank() == 0:
        say_fitted({key: (number, OmegaConf.select(config, key)) for key, number in most.items()})
    directory = run_directory(config)
    with Claim(directory) as claim:
        if directory.exists() and launch.rank() == 0:
            claim.take()
            remove_remains(directory)
        return fit(config, claim, datamodule, module)


def say_fitted(numbers: dict[str, tuple[int, int]]) -> None:
    """One line if settings that say `${fitting:...}` have become smaller: key -> (as it stands there, what fits)."""
    if few := [f"{key} is {value} (not {most})" for key, (most, value) in numbers.items() if value != most]:
        print(f"{', '.join(few)}: what fits so few train examples; a number of your own goes before", file=sys.stderr)


def check_limits(config: DictConfig, datamodule: "DataModule") -> None:
    """Refuse a share of an epoch that is less than a batch."""
    for part, loaders in (("train", [datamodule.train_dataloader()]), ("val", datamodule.val_dataloader())):
        limit, batches = config.trainer.get(f"limit_{part}_batches"), min(map(len, loaders))
        if isinstance(limit, float) and limit * batches < 1:
            raise ConfigError(f"trainer.limit_{part}_batches is {limit}: that is less than one of {batches} batches")


def fit(config: DictConfig, claim: Claim, datamodule: "DataModule", module: "ContrastiveModule") -> dict[str, float]:
    """Train what has been checked, in the run directory that `claim` is for."""
    from lightning.pytorch.callbacks import LambdaCallback

    from kindred.runs.judging.features import judged_on
    from kindred.runs.summary import print_summary, write_summary
    from kindred.tracking.csv_logger import MetricsCSV
    from kindred.training.checkpoints import AtomicCheckpointIO
    from kindred.training.gradients import sum_parameter_by_parameter

    directory = claim.directory
    # The first checkpoint is written long after the last rank has come by here.
    last, step = None, -1
    if found := resume_point(directory / "checkpoints"):
        last, checkpoint = found
        step = checkpoint["global_step"]
        check_settings(checkpoint, config, last)
    begun = False

    def start(trainer: "Trainer", _: object) -> None:
        """Lightning has asked for the data's loaders by now, and every callback has checked its settings."""
        nonlocal begun
        if not begun:
            begun = True
            if trainer.is_global_zero:
                attachments = datamodule.attachments()
                for earlier in (directory, *([] if config.init_from is None else [Path(config.init_from)])):
                    check_attachments(earlier, attachments)
                check_unchanged(directory, datamodule)
                begin(config, claim, last)
                write_record(directory, datamodule)
                write_attachments(directory, attachments)
                write_skipped(directory, getattr(datamodule.source, "skipped_files", ()))
            for logger in trainer.loggers:
                logger.log_hyperparams(read_settings(saved_form(config), "config.yaml"))

    csv = MetricsCSV(directory, resume_step=step)
    trainer = build(
        config,
        "trainer",
        default_root_dir=str(directory),
        callbacks=[
            LambdaCallback(on_validation_start=start, on_train_start=start, on_fit_start=sum_parameter_by_parameter),
            *(callback for callback in build(config, "callbacks").values() if callback is not None),
        ],
        logger=[csv, *build_loggers(config, directory)],
        plugins=[AtomicCheckpointIO(bound_settings(config))],
    )
    trainer.speed_up(module)
    if last is None:
        trainer.validate(module, datamodule, verbose=False)  # the untrained encoder: the base line of every curve
    trainer.fit(module, datamodule, ckpt_path=None if last is None else str(last), weights_only=True)

    summary = write_summary(directory, trainer)
    if trainer.is_global_zero:
        labelled = all((part.labels >= 0).any() for part in (datamodule.bank, datamodule.query))
        print_summary(summary, directory, judge=judged_on(datamodule) if labelled else None)
    for logger in trainer.loggers:
        if finish := getattr(logger, "finish", None):
            finish(summary)
    return summary


def quieten() -> None:
    """Leave out what Lightning tells every user at every start; warnings about this run still come through."""
    for name in ("lightning", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")  # between Lightning's and torch's own modules
    warnings.filterwarnings("ignore", message=".*sync_dist=True.*")  # what callbacks record is the same on every rank


def build_loggers(config: DictConfig, directory: Path) -> "list[Logger]":
    """The loggers of `config.logger`; one whose constructor takes a `directory` is given the run directory."""
    from hydra.utils import get_object

    loggers = []
    for name, node in config.logger.items():
        takes_directory = "directory" in inspect.signature(get_object(node._target_)).parameters
        loggers.append(build(config.logger, name, **({"directory": str(directory)} if takes_directory else {})))
    return loggers
