"""Train one method on one data set, and show how good its representation is.

    python -m kindred.train                                  SimCLR on the embedded photographs, minutes on a laptop
    python -m kindred.train model=simclr data=cifar10        groups are the folders of configs/
    python -m kindred.train model.temperature=0.2 seed=1     any key of the configuration, as Hydra overrides
    python -m kindred.train resume=logs/latest               goes on where that run stopped
    python -m kindred.train --cfg model=simclr               prints the configuration and stops

The run directory, logs/<data>/<model>/<time>-<letters>/, is described in kindred.runs.
"""

import logging
import os
import sys
import warnings
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from kindred import launch
from kindred.command_line import on_purpose
from kindred.config import ConfigError, build, check, compose
from kindred.metrics import write_atomically
from kindred.run_directory import new_run_directory, resumed_config, write_environment, write_summary
from kindred.runs import build_datamodule, build_module, load_encoder_weights, read_checkpoint


def train(config: DictConfig) -> dict[str, float]:
    """Train as `config` says (see `kindred.config.compose`), and return the content of summary.json.

    Raises:
        ConfigError, ValueError: a setting that cannot work, before the first epoch.
        NonFiniteLossError: the loss became NaN or infinite; the checkpoints are from before that.
    """
    import lightning

    from kindred.callbacks.checkpoints import AtomicCheckpointIO
    from kindred.loggers import MetricsCSV, build_loggers
    from kindred.report import print_summary

    quieten()
    launch.watch_launcher()
    config = deepcopy(config)
    check(config)
    ranks = launch.check_devices(config)
    lightning.seed_everything(config.seed, verbose=False)
    datamodule = build_datamodule(config)
    module = build_module(config)
    if config.init_from is not None:
        load_encoder_weights(module.encoder, Path(config.init_from))
    datamodule.check_batch_size(ranks)
    module.check(datamodule.batch_size, ranks)

    directory = run_directory(config)
    last = directory / "checkpoints" / "last.ckpt"
    resuming = last.exists()  # the first one is written long after the last rank has come by here
    csv = MetricsCSV(directory, resume_step=read_checkpoint(last)["global_step"] if resuming else -1)
    trainer = build(
        config,
        "trainer",
        default_root_dir=str(directory),
        callbacks=[callback for callback in build(config, "callbacks").values() if callback is not None],
        logger=[csv, *build_loggers(config, directory)],
        plugins=[AtomicCheckpointIO()],
    )
    if trainer.is_global_zero:
        write_atomically(directory / "config.yaml", saved_form(config))
        write_environment(directory)
    for logger in trainer.loggers:
        logger.log_hyperparams(OmegaConf.to_container(OmegaConf.create(saved_form(config))))

    trainer.speed_up(module)
    if not resuming:
        trainer.validate(module, datamodule, verbose=False)  # the untrained encoder: the base line of every curve
    trainer.fit(module, datamodule, ckpt_path=str(last) if resuming else None, weights_only=True)

    summary = write_summary(directory, trainer)
    if trainer.is_global_zero:
        print_summary(summary, directory)
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


def saved_form(config: DictConfig) -> str:
    """config.yaml: the same whether a run starts or goes on."""
    return OmegaConf.to_yaml(OmegaConf.merge(config, {"resume": None}))


def run_directory(config: DictConfig) -> Path:
    """The directory to write to, the same on every rank: of the run that goes on, the one that was asked for, or a new one.

    In a job of torchrun or Slurm its name comes from the job's id and the settings, so that ranks and nodes agree on it;
    if it is there already, with the same settings, the job was requeued, and the run goes on where it stopped.
    """
    if (handed_down := launch.handed_down()) and not launch.met():
        return handed_down
    directory = Path(config.resume) if config.resume is not None else named_directory(config)
    if launch.met():  # train() for the second time in this process: rank 0 tells
        import torch.distributed as dist

        box = [directory]
        dist.broadcast_object_list(box)
        directory = box[0]
    if launch.rank() == 0:
        directory.mkdir(parents=True, exist_ok=True)
        launch.hand_down(directory)
    return directory


def named_directory(config: DictConfig) -> Path:
    """The directory of a run that does not say `resume`; in a job it may be there already."""
    job, first = launch.job(), launch.rank() == 0
    if config.run_dir is None:
        place = (Path(config.log_dir), config.choices.data, config.choices.model)
        name = launch.job_run_name(job, saved_form(config)) if job else None
        return new_run_directory(*place, name) if first else Path(*place, name or "")
    directory, saved = Path(config.run_dir), Path(config.run_dir) / "config.yaml"
    requeued = job is not None and saved.exists() and saved.read_text() == saved_form(config)
    if first and saved.exists() and not requeued:
        raise ConfigError(f"run_dir: {directory} already holds a run; to go on with it: resume={directory}")
    return directory


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
    """The configuration for command-line overrides; with `resume=<run directory>`, that run's, unchanged but for trainer."""
    resume = [a.partition("=")[2] for a in arguments if a.startswith("resume=")]
    if resume and resume[-1] not in ("", "null"):
        return resumed_config(Path(resume[-1]), [a for a in arguments if not a.startswith("resume=")])
    return compose(arguments)


if __name__ == "__main__":
    sys.exit(main())
