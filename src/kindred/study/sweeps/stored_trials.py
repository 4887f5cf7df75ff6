"""The trials of a sweep as a study in a database: what is planned, what ended and how, and what was cut and waits again."""

import math
import time
import warnings
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, Trial, TrialState

from kindred.config import ConfigError
from kindred.runs.run import load_run
from kindred.study.sweeps.sweep_file import SweepFile
from kindred.study.sweeps.workers import Workers

HEARTBEAT, GRACE = 60, 300  # seconds; a machine that has been silent for longer than the grace is taken for dead
PATIENCE = 60  # seconds that SQLite waits for other processes; its 5 were too few for four workers on a busy machine


class StoredTrials:
    """The study of one sweep, made where there is none.

    Args:
        sweep: what to run.
        directory: the sweep's directory; its name is the study's.
        storage: URL of a database server; None keeps SQLite in the directory, which is for one machine.

    Raises:
        ConfigError: the database does not answer.
    """

    def __init__(self, sweep: SweepFile, directory: Path, storage: str | None = None) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
        warnings.filterwarnings(
            "ignore", message="Heartbeat of storage"
        )  # Study.optimize would keep it; here `work` does
        self.sweep, self.directory, self.workers = sweep, directory, Workers(directory)
        self.storage = self._storage(storage or f"sqlite:///{directory / 'study.db'}")
        self.study = self._load()
        self.distributions = sweep.distributions()
        with self.workers.alone():
            # What is planned comes first, each a write of its own: a start that was killed there left the rest of it to do.
            for parameters in self._known_from_the_start()[len(self.study.trials) :]:
                self.study.enqueue_trial(parameters, user_attrs={"planned": list(parameters)})
        self._judge_by_metric()

    def _load(self) -> optuna.Study:
        """The sweep's study, made if there is none: the newest one that is whole, see `_judge_by_metric`."""
        own = self.directory.name
        with self.workers.alone():
            found = [s for s in self.storage.get_all_studies() if s.study_name.partition("/")[0] == own]
            whole = [study for study in found if study.study_name == own or "metric" in study.user_attrs]
            name = max(whole, key=lambda study: study._study_id).study_name if whole else own
            for study in found:
                if study.study_name != name:
                    optuna.delete_study(study_name=study.study_name, storage=self.storage)
            return self._study(name)

    def _study(self, name: str) -> optuna.Study:
        return optuna.create_study(
            study_name=name,
            storage=self.storage,
            sampler=optuna.samplers.TPESampler(seed=0, constant_liar=True),
            direction=self.sweep.goal,
            load_if_exists=True,
        )

    def _storage(self, url: str, attempts: int = 3) -> optuna.storages.RDBStorage:
        """The database, with Optuna's tables in it; workers that start together all try to make them, and one succeeds."""
        patience = {"connect_args": {"timeout": PATIENCE}} if url.startswith("sqlite") else None
        try:
            return optuna.storages.RDBStorage(
                url,
                engine_kwargs=patience,
                heartbeat_interval=HEARTBEAT,
                grace_period=GRACE,
                heartbeat_stale_trial_callback=self._requeue,
            )
        except Exception as error:  # whatever the database's driver raises
            if attempts > 1 and not isinstance(error, ImportError):
                time.sleep(1)
                return self._storage(url, attempts - 1)
            raise ConfigError(f"STORAGE: the database cannot be used: {' '.join(str(error).split())[:300]}") from error

    def _known_from_the_start(self) -> list[dict[str, Any]]:
        if self.sweep.method == "grid":
            return self.sweep.grid()[: self.sweep.run_cap]
        if self.sweep.method == "random":
            draws = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
            assert self.sweep.run_cap is not None  # only a grid has none
            return [draws.ask(self.distributions).params for _ in range(self.sweep.run_cap)]
        return []

    def _judge_by_metric(self) -> None:
        """Where the sweep has got another metric since, have each training that ended count by that: none is repeated.

        Optuna changes no value of a trial that ended, so another study is written, with the same numbers. Until it is whole,
        which its metric says, the one before counts.

        Raises:
            ConfigError: trainings run under the metric that it had.
        """
        asked = [self.sweep.metric, self.sweep.goal]
        if self.study.user_attrs.get("metric", asked) != asked:
            self._requeue_the_dead()
            with self.workers.alone():
                trials = self.study.trials
                if running := sum(trial.state is TrialState.RUNNING for trial in trials):
                    before = self.study.user_attrs["metric"][0]
                    raise ConfigError(
                        f"metric.name is {asked[0]}: {running} trainings of {self.directory} run under {before}; "
                        "stop them first"
                    )
                before, self.study = self.study, self._study(f"{self.directory.name}/{' '.join(asked)}")
                for trial in trials:
                    self.study.add_trial(self._judged(trial))
                self.study.set_user_attr("metric", asked)
                optuna.delete_study(study_name=before.study_name, storage=self.storage)
        self.study.set_user_attr("metric", asked)

    def _judged(self, trial: FrozenTrial) -> FrozenTrial:
        """A copy of a trial that does not run, with the value or the error that it has under the sweep's metric."""
        value, attributes, state = None, dict(trial.user_attrs), trial.state
        ended = state in (TrialState.COMPLETE, TrialState.FAIL) and not was_cut(trial)
        if ended and (self._run(trial) / "summary.json").exists():
            value, outcome = self._outcome(self._run(trial))
            attributes = {key: attributes[key] for key in ("run", "planned", "worker") if key in attributes} | outcome
            state = TrialState.FAIL if value is None else TrialState.COMPLETE
        return optuna.trial.create_trial(
            state=state,
            value=value,
            params=trial.params,
            distributions=trial.distributions,
            user_attrs=attributes,
            system_attrs={key: trial.system_attrs[key] for key in ("fixed_params",) if key in trial.system_attrs},
        )

    def _run(self, trial: Trial | FrozenTrial) -> Path:
        return self.directory / trial.user_attrs["run"]

    def _outcome(self, run: Path) -> tuple[float | None, dict[str, Any]]:
        """What a training that ended is worth, and its summary; or None, and why there is no value."""
        summary = load_run(run).summary
        value = summary.get(self.sweep.metric, math.nan)
        if not math.isnan(value):
            return value, {"summary": summary}
        names = ", ".join(sorted(summary))
        return None, {"error": f"metric.name is {self.sweep.metric}, which summary.json lacks; it has {names}"}

    def _end(self, number: int, value: float | None, **attributes: Any) -> bool:
        """Complete a trial with its value, or fail it; False if another process did so before. Called while alone."""
        trial = self.study.trials[number]
        try:
            for name, attribute in attributes.items():
                self.storage.set_trial_user_attr(trial._trial_id, name, attribute)
            self.study.tell(number, value, state=TrialState.FAIL if value is None else None)
        except (ValueError, optuna.exceptions.UpdateFinishedTrialError):
            return False
        return True

    def _cut(self, trial: FrozenTrial) -> None:
        """Have a trial of which nothing failed wait again."""
        with self.workers.alone():
            if self._end(trial.number, None):
                self._requeue(self.study, trial)

    def _requeue(self, study: optuna.Study, trial: FrozenTrial) -> None:
        study.add_trial(
            optuna.trial.create_trial(
                state=TrialState.WAITING,
                params=trial.params,
                distributions=trial.distributions,
                user_attrs={key: trial.user_attrs[key] for key in ("planned",) if key in trial.user_attrs}
                | {"run": run_of(trial)},
                system_attrs={"fixed_params": {**trial.system_attrs.get("fixed_params", {}), **trial.params}},
            )
        )

    def retry_failed(self) -> None:
        """Have trials that failed wait again."""
        for trial in self._last_trials():
            if trial.state is TrialState.FAIL:
                self._requeue(self.study, trial)

    def rows(self) -> list[dict[str, Any]]:
        """One row per training that ended: the number and name of its directory, its parameters, its summary or error."""
        rows = []
        for trial in self._last_trials():
            if trial.state in (TrialState.COMPLETE, TrialState.FAIL):
                ended = {key: trial.user_attrs[key] for key in ("run", "error") if key in trial.user_attrs}
                number = int(Path(ended["run"]).name)
                rows.append({"trial": number, **ended, **trial.params, **trial.user_attrs.get("summary", {})})
        return rows

    def _last_trials(self) -> list[FrozenTrial]:
        """Of each run directory the last trial: one that was cut, or failed and is tried again, has a new number."""
        trials = self.study.get_trials(deepcopy=False)
        last = {trial.user_attrs["run"]: trial for trial in trials if "run" in trial.user_attrs}
        return [trial for trial in last.values() if not was_cut(trial)]

    def _requeue_the_dead(self) -> None:
        """Have the trials wait again whose sweep process died on this machine; the heartbeat tells of other machines.

        It may have died between two writes: a trial that runs for nobody, or was cut and does not wait.
        """
        with self.workers.alone():
            for trial in {run_of(trial): trial for trial in self.study.trials}.values():
                worker = trial.user_attrs.get("worker")
                here = worker is None or self.workers.is_here(worker)
                dead = trial.state is TrialState.RUNNING and here and not (worker and self.workers.is_alive(worker))
                if was_cut(trial) or (dead and self._end(trial.number, None)):
                    self._requeue(self.study, trial)


def run_of(trial: Trial | FrozenTrial) -> str:
    """The run directory of a trial, in the sweep's: its own number's, or that of the trial in whose place it goes on."""
    return trial.user_attrs.get("run", f"trials/{trial.number:04d}")


def was_cut(trial: FrozenTrial) -> bool:
    """Whether a trial ended without an end: another one goes on in its place."""
    return trial.state is TrialState.FAIL and "error" not in trial.user_attrs
