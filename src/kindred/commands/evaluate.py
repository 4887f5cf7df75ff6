"""Judge a finished run: how good is its frozen encoder on images that nothing has been chosen on?

    kindred evaluate                               logs/latest, on the test split of its own data set
    kindred evaluate --run logs/photos/simclr/...  another run
    kindred evaluate --data cifar10                transfer: the encoder on another data set
    kindred evaluate --data imagefolder data.source.root=my/images       with Hydra overrides for it
    kindred evaluate --labels 0.01                 with one in a hundred of the train labels
    kindred evaluate --wandb                       and add the result to the W&B run that the run was logged to
    kindred evaluate --run "logs/sweeps/*" --brief every run below, the trained encoder alone and no pictures

kNN and a linear classifier see the features of the unaugmented train images; their settings are chosen on val images;
test images are scored once, or val images where there is no test split, which is said. Raw pixels and the untrained
encoder go through the same. Writes evaluation.json and
figures/confusion.png and map.png into the run directory (evaluation-cifar10.json, evaluation-labels0.01.json, ...).
"""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from kindred.commands.command_line import Parser, names, overrides, say_own_configs
from kindred.commands.errors import attempt
from kindred.errors import AbsentError
from kindred.runs.judging.evaluate import evaluate
from kindred.runs.run import load_run
from kindred.study.groups import find_runs
from kindred.tracking.base_lines import base_lines, written

ROWS = {"untrained": "untrained encoder", **dict.fromkeys(("test", "val"), "trained encoder")}


def print_evaluation(result: dict[str, Any], directory: Path, pictures: bool) -> None:
    """A table of accuracies on the images that judge, the base lines first, and what was chosen."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    of = "" if result["labels"] == 1 else f", with {result['labels']:g} of the train labels"
    on, chosen = result.get("judged_on", "test"), result.get("held_out_examples", result["val_examples"])
    heading = f"{result[f'{on}_examples']} {on} examples of {result['data']}, {result['classes']} classes{of}"
    columns = [f"{probe}_top{k}" for probe in ("knn", "linear") for k in (1, 5)]
    table = Table("", "kNN top-1", "top-5", "linear top-1", "top-5")
    lines = {line: written(line) for line in base_lines(result)}
    rows = {name: label for name, label in (lines | ROWS).items() if f"{name}/knn_top1" in result}
    for name, label in rows.items():
        values = [result.get(f"{name}/{column}") for column in columns]
        table.add_row(label, *("" if value is None else f"{value:.3f}" for value in values))
    console = Console()
    console.print(heading, soft_wrap=True)
    if on == "val":
        console.print(
            "there is no test split: judged on val examples, on which trainings are monitored",
            soft_wrap=True,
        )
    if changed := result.get("data_changed"):
        console.print(Text(f"the data are not those of the training: {changed}"), soft_wrap=True)
    console.print(table)
    for name, label in rows.items():
        k, temperature, penalty = (result[f"{name}/{key}"] for key in ("knn_k", "knn_temperature", "linear_penalty"))
        console.print(f"{label}: k={k}, T={temperature:g}, penalty {penalty:.1e}", soft_wrap=True)
    for name, epoch in (("classifier", "last epoch"), ("classifier_best", "best epoch on val")):
        if (value := result.get(f"{on}/{name}_top1")) is not None:
            console.print(f"its own classifier, {epoch}: {value:.3f}", soft_wrap=True)
    console.print(f"chosen on {result['chosen_on']} ({chosen} examples); {result['seconds']:.0f} s")
    if pictures:
        console.print(f"pictures: {directory / 'figures'}", soft_wrap=True)


def runs_in(place: str) -> list[str | Path]:
    """The run directory `place`, or those that it names as a glob or has below it."""
    if not Path(place, "config.yaml").exists():
        with suppress(AbsentError):
            return [run.path for run in find_runs([place])]
    return [place]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status. Errors that Kindred raised on purpose take one line."""
    parser = Parser("kindred evaluate", __doc__)
    parser.add_argument("--run", default="logs/latest", help="run directory, or several (default: %(default)s)")
    parser.add_completed("--data", by=names("data"), help="another data set of configs/data/")
    parser.add_argument("--labels", type=float, default=1.0, help="share of the train labels (default: all)")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of that share (default: %(default)s)")
    parser.add_argument("--brief", action="store_true", help="no base lines and no pictures, in less time")
    parser.add_argument("--wandb", action="store_true", help="add the result to the run's run in W&B")
    parser.add_argument("--trust", action="append", default=[], help="a class of your own that the run's config names")
    parser.add_completed("overrides", by=overrides, nargs="*", help="Hydra overrides of the other data set")
    options = parser.read(arguments)

    def work() -> None:
        if options.data:
            say_own_configs()
        places = runs_in(options.run)
        for place in places:
            run = load_run(place, options.trust)
            result = evaluate(
                run, options.data, options.labels, options.seed, options.overrides, options.wandb, options.brief
            )
            if len(places) == 1:
                print_evaluation(result, run.path, pictures=not options.brief)
            else:
                print(f"{run.path}: kNN {result['test/knn_top1']:.3f}, linear {result['test/linear_top1']:.3f}")
            if not options.wandb and (run.path / "wandb.json").exists():
                print(f"not sent to W&B; to the run that {run.path / 'wandb.json'} names: --wandb")

    return attempt(work)
