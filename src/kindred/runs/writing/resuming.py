"""With which settings a run goes on."""

from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from kindred.config import ConfigError, compose
from kindred.runs.reading.trust import PARTS
from kindred.runs.run import load_run
from kindred.training import launch


def resumed_config(directory: Path, overrides: Sequence[str], trust: Sequence[str] = ()) -> DictConfig:
    """The configuration of a run that goes on: its own, but for devices and trainer settings.

    Args:
        directory: the run directory.
        overrides: `trainer.<key>=<value>`, or `trainer=<name>` for another choice of devices, and the order in memory that
            it has; precision and all else stay the run's.
        trust: classes of one's own that someone else's run may name.

    Raises:
        ConfigError: an override that would make it another experiment, or fewer epochs than were asked for before; a
            class that is not trusted.
        FileNotFoundError: `directory` holds no run.
    """
    run = load_run(directory, trust)
    config = run.trusted(*PARTS)
    for override in sorted(overrides, key=lambda text: not text.startswith("trainer=")):  # which says less than a key
        key, _, value = override.partition("=")
        if key == "trainer":
            fresh = compose([override]).trainer
            # The order in memory too: shards have one of their own.
            devices = ("accelerator", "devices", "num_nodes", "strategy", "sync_batchnorm", "channels_last")
            config.trainer.update({name: fresh[name] for name in devices})
        elif key.startswith("trainer.") and key.removeprefix("trainer.") in config.trainer:
            before = OmegaConf.select(config, key)
            OmegaConf.update(config, key, OmegaConf.create(f"value: {value}").value)
            epochs = config.trainer.max_epochs  # of any type yet
            if key == "trainer.max_epochs" and isinstance(epochs, int) and epochs != before:
                if epochs < before:
                    raise ConfigError(f"{override}: the run was to have {before} epochs; a resume may only raise that")
                if launch.rank() == 0:
                    print(
                        f"trainer.max_epochs {before} -> {value}: from here on the schedules are those of the longer run"
                    )
        else:
            raise ConfigError(
                f"{override}: a run goes on as it began; only trainer=... and the keys of trainer may change on resume "
                f"({', '.join(str(k) for k in config.trainer if k != '_target_')}). For anything else start a new run"
            )
    run.find_data(config)
    config.resume = str(directory)
    return config
