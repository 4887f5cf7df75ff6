"""Multi-crop (VIEWS=multicrop) against two crops, on the CPU: what a step costs, and what it gains at equal time.

    python benchmarks/multicrop.py [--output benchmarks/results] [--models simclr nnclr supcon] [--seeds 0 1 2] [--tiny]

Steps of both take turns in one process, on one thread, by processor time, so that other programs hardly count. Then both
train on `photos` as `kindred train` does: two crops for `--epochs`, multi-crop for as many epochs fewer as its steps are
longer. Accuracies are of the last epoch, on val images; processor seconds are the whole command's, and say how equal the
time was. What follows the options is passed on as overrides.
"""

import argparse
import os
import resource
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import measure
from methods import mean_and_deviation, run
from report import save
from steps import HERE, TINY, step_of

VIEWS = ("small", "multicrop")
PROBES = {"kNN": "val/knn_top1", "linear": "val/linear_top1"}


def step_times(model: str, overrides: list[str], repeats: int) -> dict[str, list[float]]:
    """Processor milliseconds of a training step with either views, in turns."""
    with measure.threads(1):
        steps = {views: step_of(HERE, [f"model={model}", f"views={views}", *overrides], True, True) for views in VIEWS}
        turns = {views: (2, step) for views, step in steps.items()}
        found = measure.alternate(turns, repeats, time.process_time)
    return {views: [1000 * value for value in values] for views, values in found.items()}


def equal_epochs(epochs: int, ratio: float) -> dict[str, int]:
    """Epochs of either views in the same time, where a step of the second takes `ratio` times as long."""
    return dict(zip(VIEWS, (epochs, max(1, round(epochs / ratio))), strict=True))


def train(model: str, data: str, seed: int, directory: Path, overrides: list[str]) -> dict[str, float]:
    """One training's summary, and its processor seconds."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    summary = run([f"model={model}", f"data={data}", f"seed={seed}", *overrides], directory, False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {**summary, "processor_seconds": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime}


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="folder for multicrop.json and multicrop.md")
    parser.add_argument(
        "--models", nargs="+", choices=("simclr", "nnclr", "supcon"), default=["simclr", "nnclr", "supcon"]
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--epochs", type=int, default=15, help="of two crops")
    parser.add_argument("--repeats", type=int, default=8, help="turns of either, of two steps")
    parser.add_argument("--tiny", action="store_true", help="small: shows that it works, measures nothing")
    options, overrides = parser.parse_known_args(arguments)
    place = Path.cwd()
    data = "digits" if options.tiny else "photos"
    # The views are of colours, and digits' small crops would be of 4x4.
    shape = [*TINY, "data.image_size=16", "data.channels=3"] if options.tiny else ["data=photos"]
    root = [f"data.source.root={HERE / 'data' / data}"]
    head = ["method", "views", "ms a step", "times", "epochs", "processor s", *PROBES]
    notes = f"{data}, val images, last epoch, n = {len(options.seeds)}, seeds {options.seeds}; steps on one thread"
    results: dict[str, Any] = {}
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for model in options.models:
            steps = step_times(model, [*shape, *root, *overrides], options.repeats)
            os.chdir(place)
            ratio = statistics.median(b / a for a, b in zip(*(steps[views] for views in VIEWS), strict=True))
            epochs, trained = equal_epochs(options.epochs, ratio), {}
            for views in VIEWS:
                given = [f"views={views}", f"trainer.max_epochs={epochs[views]}", *shape[1:], *root, *overrides]
                given += [f"trainer.check_val_every_n_epoch={epochs[views]}"]
                trained[views] = [
                    train(model, data, seed, Path(folder) / f"{model}-{views}-{seed}", given) for seed in options.seeds
                ]
                cells = [mean_and_deviation([each[name] for each in trained[views]]) for name in PROBES.values()]
                seconds = statistics.mean(each["processor_seconds"] for each in trained[views])
                step = f"{statistics.median(steps[views]):.0f}"
                times = f"{ratio:.2f}" if views == VIEWS[1] else "1"
                row = [model, views, step, times, str(epochs[views]), f"{seconds:.0f}", *cells]
                rows.append(f"| {' | '.join(row)} |")
                print(rows[-1], flush=True)
            results[model] = {"milliseconds": steps, "ratio": ratio, "epochs": epochs, "runs": trained}
            markdown = "\n".join([f"| {' | '.join(head)} |", f"|---|---{'|---:' * (len(head) - 2)}|", *rows])
            save(options.output, "multicrop", markdown, results, ("torch", "lightning", "lightly"), notes)
    return results


if __name__ == "__main__":
    main()
