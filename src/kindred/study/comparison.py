"""A comparison of runs: which settings tell them apart, and what each group of seeds reached."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from kindred.errors import ConfigError
from kindred.runs.run import Run
from kindred.study.groups import Group, fold_seeds
from kindred.study.judges import Trial, try_judges
from kindred.study.settings import as_text, short_names

SPLIT_METRICS = {
    "classifier_top1": ("classifier", 3),
    "classifier_top1_best": ("classifier best", 3),
    "knn_top1": ("kNN", 3),
    "knn_top1_best": ("kNN best", 3),
    "linear_top1": ("linear", 3),
    "linear_top1_best": ("linear best", 3),
    "uniformity": ("uniformity", 2),
    "tolerance": ("tolerance", 3),
    "effective_rank": ("effective rank", 1),
    "projector_uniformity": ("projector uniformity", 2),
}


@dataclass(frozen=True)
class Column:
    """A metric as a column: its name in the summary, its heading, and the decimals it is shown with."""

    name: str
    heading: str
    decimals: int

    @property
    def accuracy(self) -> bool:
        return "_top1" in self.name

    def text(self, group: Group) -> str:
        """`mean ± std` over the group's runs, the mean alone of one run, nothing if none has the metric."""
        mean, std = group.mean(self.name), group.std(self.name)
        if math.isnan(mean):
            return ""
        return f"{mean:.{self.decimals}f}" + ("" if math.isnan(std) else f" ± {std:.{self.decimals}f}")


@dataclass(frozen=True)
class Setting:
    """A key in which the runs differ as a column."""

    name: str
    heading: str
    accuracy = False

    def text(self, group: Group) -> str:
        return as_text(group.settings[self.name]) if self.name in group.settings else ""


COLUMNS = (
    *(Column(f"val/{name}", *shown) for name, shown in SPLIT_METRICS.items()),
    *(Column(f"test/{name}", f"test {shown[0]}", shown[1]) for name, shown in SPLIT_METRICS.items()),
    Column("train/alignment", "alignment", 3),
    Column("evaluation/classifier_top1", "evaluated classifier", 3),
    Column("evaluation/linear_top1", "evaluated linear", 3),
    Column("evaluation/val_linear_top1", "evaluated linear on val", 3),
    Column("seconds", "seconds", 0),
)


@dataclass
class Comparison:
    """What the table and the page show.

    Args:
        names: the keys in which the runs differ -> the headings they get.
        columns: the metrics that any of the runs has.
        groups: the rows; an unfinished run is one of its own.
        trials: of label-free judges, where enough of the runs have been evaluated on test.
    """

    names: dict[str, str]
    columns: list[Column]
    groups: list[Group]
    trials: list[Trial]

    @classmethod
    def of(cls, runs: Sequence[Run]) -> "Comparison":
        keys, folded = fold_seeds(runs)
        groups = [part for group in folded for part in _unfinished_apart(group)]
        columns = sorted(
            (column for column in COLUMNS if any(group.values(column.name) for group in groups)),
            key=lambda column: not column.accuracy,  # the others after them, in their order
        )
        return cls({key: as_text(name) for key, name in short_names(keys).items()}, columns, groups, try_judges(runs))

    def sort(self, metric: str) -> None:
        """Rows by the mean of `metric`, a name of the summary or a heading: the highest first, those without it last."""
        name = next((column.name for column in self.columns if column.heading == metric), metric)
        known = sorted({key for group in self.groups for reached in group.numbers for key in reached})
        if name not in known:
            raise ConfigError(f"--sort {metric}: no run has it; they have {', '.join(known)}")
        self.groups.sort(key=lambda group: -group.mean(name) if group.values(name) else math.inf)

    @property
    def settings(self) -> list[Setting]:
        """The keys in which the runs differ as columns."""
        return [Setting(key, heading) for key, heading in self.names.items()]

    def headings(self, settings: Sequence[Setting]) -> list[str]:
        """Of the columns before the metrics."""
        state = ["state"] if any(map(self.state, self.groups)) else []
        return [*([setting.heading for setting in settings] or ["run"]), *state, "n"]

    def cells(self, group: Group, settings: Sequence[Setting]) -> list[str]:
        """Of the columns before the metrics: settings, or the directories' names if there are none; state; n."""
        named = [setting.text(group) for setting in settings]
        state = [self.state(group)] if "state" in self.headings(settings) else []
        return [*(named or [", ".join(as_text(run.path.name) for run in group.runs)]), *state, group.count]

    @staticmethod
    def state(group: Group) -> str:
        """`unfinished, epoch 7` of a run that has not come to its end, or nothing."""
        run = group.runs[0]
        return "" if _finished(run) else f"unfinished, epoch {run.summary.get('epoch', 0):.3g}"

    def label(self, group: Group) -> str:
        """The group in a few words, for a legend: `simclr, temperature 0.1`."""
        named = [
            as_text(value) if key.startswith("choices.") else f"{self.names[key]} {as_text(value)}"
            for key, value in group.settings.items()
            if key in self.telling
        ]
        label = ", ".join(named) or ", ".join(as_text(run.path.name) for run in group.runs)
        return f"{label} (unfinished)" if self.state(group) else label

    @cached_property
    def telling(self) -> list[str]:
        """Keys that tell the groups apart, the first ones that do; a learning rate that follows from others is not said."""
        keys, apart = [], 1
        for key in self.names:
            count = len({tuple(as_text(group.settings.get(k)) for k in [*keys, key]) for group in self.groups})
            keys, apart = ([*keys, key], count) if count > apart else (keys, apart)
        return keys

    def following(self) -> list[str]:
        """Keys that say nothing new beside the chosen names: runs with the same choices have the same value of them."""
        choices = [key for key in self.names if key.startswith("choices.")]

        def count(keys: Sequence[str]) -> int:
            return len({tuple(as_text(group.settings.get(key)) for key in keys) for group in self.groups})

        return [k for k in self.names if k not in choices and choices and count([*choices, k]) == count(choices)]

    def best(self, column: Column) -> list[Group]:
        """The groups with the highest accuracy; none if there is nothing to compare."""
        means = [group.mean(column.name) for group in self.groups if group.values(column.name)]
        if not column.accuracy or len(means) < 2:
            return []
        return [group for group in self.groups if group.mean(column.name) == max(means)]


def _unfinished_apart(group: Group) -> list[Group]:
    """The finished runs of a group, and each unfinished one alone: its last value is not theirs."""
    finished = [run for run in group.runs if _finished(run)]
    rest = [Group(group.settings, [run]) for run in group.runs if not _finished(run)]
    return [Group(group.settings, finished), *rest] if finished else rest


def _finished(run: Run) -> bool:
    return "epochs" in run.summary  # only the end of a run writes that
