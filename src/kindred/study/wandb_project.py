"""The runs of a W&B project, read as run directories are."""

import math
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from kindred.errors import ConfigError
from kindred.runs.run import Run
from kindred.tracking.metrics_csv import summarise


class WandbRun(Run):
    """A run of a W&B project, with the config, metrics and summary that its directory would give.

    Args:
        run: as `wandb.Api().runs(project)` gives it.

    Raises:
        ValueError: it has no history of a training.
    """

    def __init__(self, run: Any) -> None:
        self.path = Path(f"wandb:{run.entity}", run.project, run.name or run.id)
        self.settings = dict(run.config)
        rows: dict[float, dict[str, float]] = {}  # by step: after a resume, the later ones
        for logged in run.scan_history():
            if (step := logged.get("trainer/global_step")) is not None:
                row = {k: float(v) for k, v in logged.items() if isinstance(v, int | float) and not k.startswith("_")}
                rows.setdefault(step, {"step": float(step)}).update(row)
        if not rows:
            raise ConfigError("it has no history of a training")
        ordered = [rows[step] for step in sorted(rows)]
        names = dict.fromkeys(name for row in ordered for name in row)
        self.metrics = {name: np.array([row.get(name, math.nan) for row in ordered]) for name in names}
        reached = {name: value for name, value in run.summary_metrics.items() if isinstance(value, int | float)}
        if run.state == "finished":
            reached.setdefault("epochs", ordered[-1].get("epoch", math.nan))
        else:
            reached.pop("epochs", None)
        self.summary = reached | summarise(ordered)


def wandb_runs(project: str, api: Any = None) -> list[Run]:
    """The training runs of a W&B project, `entity/project`.

    Args:
        api: what answers as `wandb.Api()` does.

    Raises:
        ValueError: W&B has no key here, does not answer within 10 s, or does not know the project.
    """
    try:
        if api is None:
            import wandb

            if not wandb.login(prompt=False):
                raise ConfigError("no key is known here; `wandb login` asks for one")
            api = wandb.Api(timeout=10)
        found = list(api.runs(project, lazy=False))
        runs = []
        for run in found:
            with suppress(ValueError):  # evaluations and the like
                runs.append(WandbRun(run))
    except Exception as error:  # of many classes: no key, no network, no such project
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ConfigError(f"{project} cannot be read as a W&B project: {reason}") from error
    if not runs:
        raise ConfigError(f"{project}: none of its {len(found)} runs in W&B is a training")
    return runs
