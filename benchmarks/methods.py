"""Each method on one data set with its default settings, several seeds: the results table of the README.

    python benchmarks/methods.py --output benchmarks/results
    python benchmarks/methods.py --data cifar10 --seeds 0 --output benchmarks/results trainer=gpu data.val_size=0
    python benchmarks/methods.py --models instdisc --output benchmarks/results

Runs `python -m kindred train model=... data=... seed=...` as a user would, one after the other, and reads each
summary.json. Accuracies are those of the last epoch, never a maximum; seconds are the whole command's. What follows the
options is passed on as overrides: the second line is CIFAR-10 on a GPU, 200 epochs, kNN (k=200, T=0.1) on the test split,
for comparison with published tables. With --evaluate they are those of `kindred evaluate --brief`, on test, instead:
cifar10.sh has such a table's command.

With --output the table is written after each run. A run that is in it already, with the same command and the same files of
configs/, is not repeated, one that was cut goes on (its directory is in --work), and rows of other models stay: the third
line adds one.
"""

import argparse
import json
import re
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
import zlib
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from report import save

from kindred import load_run
from kindred.config import compose
from kindred.tracking.base_lines import base_lines, written

PROBES = ("knn", "linear")
PACKAGES = ("torch", "torchvision", "lightning", "lightly")
SEED = re.compile(r" seed=\d+")
FOUR = ["simclr", "mocov2", "nnclr", "supcon"]
Runs = dict[str, list[dict[str, Any]]]  # of each model, by seed


def kindred(*words: str) -> None:
    """`python -m kindred <words>`, whose words for a person are left out."""
    subprocess.run([sys.executable, "-m", "kindred", *words], check=True, stdout=subprocess.DEVNULL)


def run(words: list[str], directory: Path, evaluate: bool) -> dict[str, Any]:
    """One training, from where it was cut if it was; its summary, and the seconds of its commands.

    Args:
        words: of the training.
        directory: of the run.
        evaluate: judge it on test, whose accuracies are then part of what is returned.
    """
    clock = directory.with_suffix(".seconds")  # of earlier parts, but for one that was killed
    before, start = float(clock.read_text()) if clock.exists() else 0.0, time.time()
    directory.parent.mkdir(parents=True, exist_ok=True)
    begun = (directory / "config.yaml").exists()
    try:
        kindred("train", *([f"resume={directory}"] if begun else [*words, f"run_dir={directory}"]))
    finally:
        clock.write_text(str(before + time.time() - start))
    found = {**load_run(directory).summary, "command_seconds": float(clock.read_text())}
    if evaluate:
        kindred("evaluate", "--run", str(directory), "--brief")
        judged = json.loads((directory / "evaluation.json").read_text())
        found |= {f"test/{probe}_top1": judged[f"test/{probe}_top1"] for probe in PROBES}
    return found


def digest(words: list[str]) -> str:
    """Of what a training's words mean, but for the seed: another one where a recipe says something else."""
    return f"{zlib.crc32(OmegaConf.to_yaml(compose([*words, 'seed=0'])).encode()):08x}"


def with_other_seeds(command: str, runs: list[dict[str, Any]], settings: str = "") -> dict[str, dict[str, Any]]:
    """Those of `runs` that differ from `command` in nothing but the seed, or not at all, by their own; of those that say
    what their words meant, the ones that meant `settings`."""
    return {
        run["command"]: run
        for run in runs
        if SEED.sub("", run.get("command", "")) == SEED.sub("", command) and run.get("settings", settings) == settings
    }


def mean_and_deviation(values: list[float]) -> str:
    """Such as `0.790 ± 0.003`: the mean and the sample standard deviation."""
    deviation = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.3f}{deviation}"


def as_typed(model: str, data: str, run: dict[str, Any]) -> str:
    """The training as a person types it; what an earlier version wrote has no settings but the default ones."""
    words = shlex.split(run.get("command", "").partition(";")[0])[2:]
    given = [word for word in words if not word.startswith(("model=", "data=", "seed="))]
    place = f" DATA={data}" if data != "photos" else ""
    return f"make train MODEL={model}{place}" + (f" ARGS={shlex.quote(' '.join(given))}" if given else "")


def table(results: Runs, options: argparse.Namespace, split: str) -> str:
    """Markdown: a row for each model, its command in front."""
    first = next(iter(results.values()))[0]
    lines = [] if options.evaluate else [*base_lines(first), "untrained"]
    of = [*(written(line) for line in lines), "trained"]
    head = ["command", *(f"{probe}, {what}" for probe in ("kNN", "linear") for what in of), "epochs", "n", "seconds"]
    rows = [f"| {' | '.join(head)} |", f"|---{'|---:' * (len(head) - 1)}|"]
    for model, runs in results.items():
        columns = [f"{line}/{probe}_top1" for probe in PROBES for line in (*lines, split)]
        cells = [
            mean_and_deviation([run[name] for run in runs]) if all(name in run for run in runs) else ""
            for name in columns
        ]
        seconds = statistics.mean(run["command_seconds"] for run in runs)
        cells += [f"{runs[0]['epochs']:g}", str(len(runs)), f"{seconds:.0f}"]
        rows.append(f"| `{as_typed(model, options.data, runs[0])}` | {' | '.join(cells)} |")
    return "\n".join(rows)


def main(arguments: list[str] | None = None) -> Runs:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="photos")
    parser.add_argument("--models", nargs="+", default=FOUR, help="files of configs/model/")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--evaluate", action="store_true", help="accuracies by kindred evaluate, on test")
    parser.add_argument("--output", type=Path, help="folder for <name>.json and <name>.md")
    parser.add_argument("--name", help="of these files; default: the data's")
    parser.add_argument(
        "--work", type=Path, default=Path("logs/methods"), help="where runs are, if there is an --output"
    )
    options, options.given = parser.parse_known_args(arguments)
    split = "test" if options.evaluate or "data.val_size=0" in options.given else "val"
    name = options.name or options.data
    path = options.output and options.output / f"{name}.json"
    results: Runs = json.loads(path.read_text())["results"] if path and path.exists() else {}
    with ExitStack() as stack:
        work = options.work / name if path else Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for model in options.models:
            settings = digest([f"model={model}", f"data={options.data}", *options.given])
            for seed in options.seeds:
                words = [f"model={model}", f"data={options.data}", f"seed={seed}", *options.given]
                command = shlex.join(["kindred", "train", *words]) + "; kindred evaluate --brief" * options.evaluate
                # Other settings, another directory: a run that was cut goes on with its own.
                directory = work / f"{model}-{seed}-{zlib.crc32((command + settings).encode()):08x}"
                alike = with_other_seeds(command, results.get(model, []), settings)
                if command not in alike:
                    found = run(words, directory, options.evaluate)
                    alike[command] = {"command": command, "settings": settings, **found}
                results[model] = list(alike.values())
                notes = f"{split} images, last epoch, mean ± sample standard deviation over n seeds"
                save(options.output, name, table(results, options, split), results, PACKAGES, notes)
    return results


if __name__ == "__main__":
    main()
