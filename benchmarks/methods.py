"""Each method on one data set with its default settings, several seeds: the results table of the README.

    python benchmarks/methods.py --output benchmarks/results
    python benchmarks/methods.py --data cifar10 --seeds 0 --output benchmarks/results trainer=gpu data.val_size=0

Runs `python -m kindred train model=... data=... seed=...` as a user would, one after the other, and reads each
summary.json. Accuracies are those of the last epoch, never a maximum; seconds are the whole command's. What follows the
options is passed on as overrides: the second line is CIFAR-10 on a GPU, 200 epochs, kNN (k=200, T=0.1) on the test split,
for comparison with published tables. Without a download, the same from a folder of images:

    python benchmarks/methods.py --data imagefolder --seeds 0 --output benchmarks/results trainer=gpu data.val_size=0 \\
        data.source.root=data/cifar10-jpg data.batch_size=512
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
from kindred.tracking.base_lines import base_lines, written

PROBES = ("knn", "linear")


def run(model: str, data: str, seed: int, directory: Path, overrides: list[str]) -> dict[str, float]:
    """One training; its summary, and the seconds of the whole command."""
    command = [sys.executable, "-m", "kindred", "train", f"model={model}", f"data={data}", f"seed={seed}"]
    start = time.time()
    subprocess.run([*command, f"run_dir={directory}", *overrides], check=True, stdout=subprocess.DEVNULL)
    return {**load_run(directory).summary, "command_seconds": time.time() - start}


def mean_and_deviation(values: list[float]) -> str:
    """Such as `0.790 ± 0.003`: the mean and the sample standard deviation."""
    deviation = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.3f}{deviation}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="photos")
    parser.add_argument("--models", nargs="+", default=["simclr", "mocov2", "nnclr", "supcon"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--output", type=Path, help="folder for <data>.json and <data>.md")
    arguments, overrides = parser.parse_known_args()
    split = "test" if "data.val_size=0" in overrides else "val"
    results, rows = {}, []
    with tempfile.TemporaryDirectory() as folder:
        for model in arguments.models:
            runs = [
                run(model, arguments.data, seed, Path(folder) / f"{model}-{seed}", overrides)
                for seed in arguments.seeds
            ]
            results[model] = runs
            lines = base_lines(runs[0])
            columns = [f"{of}/{probe}_top1" for probe in PROBES for of in (*lines, "untrained", split)]
            cells = [mean_and_deviation([run[name] for run in runs]) for name in columns]
            seconds = statistics.mean(run["command_seconds"] for run in runs)
            command = f"make train MODEL={model}" + (f" DATA={arguments.data}" if arguments.data != "photos" else "")
            rows.append(f"| `{command}` | {' | '.join(cells)} | {runs[0]['epochs']:g} | {seconds:.0f} |")
            print(rows[-1], flush=True)
    of = (*map(written, lines), "untrained", "trained")
    head = ["command", *(f"{probe}, {what}" for probe in ("kNN", "linear") for what in of), "epochs", "seconds"]
    markdown = "\n".join([f"| {' | '.join(head)} |", f"|---{'|---:' * (len(head) - 1)}|", *rows])
    notes = (
        f"{split} images, last epoch, mean ± standard deviation, n = {len(arguments.seeds)}, seeds {arguments.seeds}"
    )
    save(arguments.output, arguments.data, markdown, results, ("torch", "torchvision", "lightning", "lightly"), notes)
