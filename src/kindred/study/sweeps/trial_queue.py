"""Which training of a sweep comes next, on one machine or on several that share a database: Optuna's ask and tell.

A grid, or random draws, wait in the study from the start; Bayesian trials (TPE) are drawn when they are due. A training
that was cut (the sweep was stopped, its machine died) waits again and goes on in the same run directory. One that failed
is recorded with its last lines.
"""

import math
import time

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import Trial, TrialState

from kindred.study.sweeps.stored_trials import HEARTBEAT, StoredTrials, run_of, was_cut
from kindred.study.sweeps.sweep_file import as_overrides
from kindred.study.sweeps.trials import Training, last_lines, shares

LOOK = 10  # seconds between two looks at what other machines have done


class TrialQueue(StoredTrials):
    """The trainings of one sweep; see StoredTrials."""

    def work(self, jobs: int) -> None:
        """Run what is missing, `jobs` trainings side by side; stops them in order when it is interrupted."""
        from kindred.study.sweeps.report import Progress

        running: dict[int, tuple[Trial, Training]] = {}  # by share of the machine
        environments, beat, looked = shares(jobs), time.monotonic(), -math.inf
        with self.workers.registered() as worker, Progress(self.sweep) as progress:
            self._requeue_the_dead()
            try:
                while True:
                    for share in [share for share in range(jobs) if share not in running]:
                        if (trial := self._claim(worker)) is None:
                            break
                        overrides = [*self.sweep.base, *self._grouped(), *as_overrides(trial.params)]
                        running[share] = trial, Training.start(self._run(trial), overrides, environments[share])
                    if time.monotonic() > looked + LOOK:
                        progress.show(self.rows(), self.total())
                        looked = time.monotonic()
                    if not running:
                        return
                    time.sleep(0.2)
                    for share, (trial, training) in list(running.items()):
                        if training.process.poll() is not None:
                            del running[share]
                            self._tell(trial, training.process.returncode)
                            looked = -math.inf
                    if time.monotonic() > beat + HEARTBEAT:
                        beat = time.monotonic()
                        for trial, _ in running.values():
                            self.storage.record_heartbeat(trial._trial_id)
                        optuna.storages.fail_stale_trials(self.study)
            finally:
                for _, training in running.values():
                    training.ask_to_stop()
                for trial, training in running.values():
                    training.stop()
                    self._cut(self.study.trials[trial.number])

    def total(self) -> int:
        """Trainings of the whole sweep."""
        return self.sweep.run_cap or len(self.sweep.grid())

    def _claim(self, worker: str) -> Trial | None:
        """The next trial, or None if there is none (left)."""
        while True:
            trials = self.study.get_trials(deepcopy=False)
            waiting = any(trial.state is TrialState.WAITING for trial in trials)
            begun = [trial for trial in trials if not was_cut(trial) and trial.state is not TrialState.PRUNED]
            if not waiting and (self.sweep.method != "bayes" or len(begun) >= self.total()):
                return None
            trial = self._ask(worker)
            if trial is None or self._is_repeated(trial):  # several machines that started at once
                if trial is not None:
                    self.study.tell(trial, state=TrialState.PRUNED)
                continue
            if "run" not in trial.user_attrs:
                with self.workers.alone():
                    trial.set_user_attr("run", run_of(trial))
            if (self._run(trial) / "summary.json").exists():  # it ended, but the sweep did not live to see it
                self._tell(trial, 0)
                continue
            return trial

    def _ask(self, worker: str) -> Trial | None:
        """A trial with its parameters; None if it was planned, and another process took it in this moment."""
        draws = self.sweep.method == "bayes"
        with self.workers.alone():  # one that was cut waits in the study, whatever the method
            trial = self.study.ask(self.distributions if draws else None)
            self.storage.record_heartbeat(trial._trial_id)
            trial.set_user_attr("worker", worker)
        if draws:
            return trial
        if "planned" not in trial.user_attrs:
            self.study.tell(trial, state=TrialState.PRUNED)
            return None
        for key in trial.user_attrs["planned"]:  # of several grids not each has all parameters
            _suggest(trial, key, self.distributions[key])
        return trial

    def _is_repeated(self, trial: Trial) -> bool:
        earlier = self.study.get_trials(deepcopy=False)[: trial.number]
        alive = (TrialState.COMPLETE, TrialState.RUNNING)
        return self.sweep.method == "grid" and any(t.params == trial.params and t.state in alive for t in earlier)

    def _grouped(self) -> list[str]:
        """In W&B the trainings of a sweep are one group."""
        return [f"logger.wandb.group={self.directory.name}"] if "logger=wandb" in self.sweep.base else []

    def _tell(self, trial: Trial, status: int) -> None:
        """Record how a training ended, by the exit status of its process."""
        if status == 143:  # somebody stopped it alone
            self._cut(self.study.trials[trial.number])
            return
        if status:
            value, outcome = None, {"error": last_lines(self._run(trial)) or f"exit status {status}, without a word"}
        else:
            value, outcome = self._outcome(self._run(trial))
        with self.workers.alone():
            self._end(trial.number, value, **outcome)


def _suggest(trial: Trial, key: str, distribution: BaseDistribution) -> None:
    """Have `trial` take a planned value."""
    if isinstance(distribution, CategoricalDistribution):
        trial.suggest_categorical(key, distribution.choices)
    elif isinstance(distribution, IntDistribution):
        trial.suggest_int(key, distribution.low, distribution.high)
    else:
        assert isinstance(distribution, FloatDistribution)
        trial.suggest_float(key, distribution.low, distribution.high, step=distribution.step, log=distribution.log)
