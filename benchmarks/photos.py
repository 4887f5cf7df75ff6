"""The results table of the README: each method on `photos` with its default settings, several seeds.

    python benchmarks/photos.py [--models simclr mocov2 nnclr supcon] [--seeds 0 1 2] [--output benchmarks/results]

Runs `python -m kindred.train model=... seed=...` as a user would, one after the other, and reads each summary.json. The
accuracies are those of the last epoch on held-out images, never a maximum; seconds are the command's, from start to end.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from report import save

from kindred import load_run

COLUMNS = ("pixels/knn_top1", "untrained/knn_top1", "val/knn_top1", "val/linear_top1")


def run(model: str, seed: int, directory: Path, overrides: list[str]) -> dict[str, float]:
    """One training; its summary, and the seconds of the whole command."""
    command = [sys.executable, "-m", "kindred.train", f"model={model}", f"seed={seed}", f"run_dir={directory}"]
    start = time.time()
    subprocess.run([*command, *overrides], check=True, stdout=subprocess.DEVNULL)
    return {**load_run(directory).summary, "command_seconds": time.time() - start}


def mean_and_deviation(values: list[float]) -> str:
    """ "0.790 ± 0.003": the mean and the sample standard deviation."""
    deviation = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.3f}{deviation}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["simclr", "mocov2", "nnclr", "supcon"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--output", type=Path, help="folder for photos.json and photos.md")
    arguments, overrides = parser.parse_known_args()
    results, rows = {}, []
    with tempfile.TemporaryDirectory() as folder:
        for model in arguments.models:
            runs = [run(model, seed, Path(folder) / f"{model}-{seed}", overrides) for seed in arguments.seeds]
            results[model] = runs
            cells = [mean_and_deviation([run[name] for run in runs]) for name in COLUMNS]
            seconds = statistics.mean(run["command_seconds"] for run in runs)
            rows.append(f"| `make train MODEL={model}` | {' | '.join(cells)} | {runs[0]['epochs']:g} | {seconds:.0f} |")
            print(rows[-1], flush=True)
    head = "| command | kNN, raw pixels | kNN, untrained | kNN | linear probe | epochs | seconds |"
    markdown = "\n".join([head, "|---|---:|---:|---:|---:|---:|---:|", *rows])
    notes = f"last epoch, mean ± standard deviation, n = {len(arguments.seeds)} (SEED={arguments.seeds})"
    save(arguments.output, "photos", markdown, results, ("torch", "torchvision", "lightning", "lightly"), notes)
