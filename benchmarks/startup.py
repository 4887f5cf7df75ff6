"""How long it takes from the command to the first training step, against importing Lightning and torchvision alone.

    python benchmarks/startup.py [--repeats 5] [--output benchmarks/results]

Alternates `python -c 'import lightning, torchvision'` with a run on `photos` (the photographs cached) that stops after its
first training step; the evaluation of the untrained encoder is left out. Prints the median of the ratios: 0.95 on two cores
of an Intel Xeon (results/startup.md). Part of what is imported late falls into the evaluation, which is not counted.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from lightning import Callback
from report import save


class Clock(Callback):
    """Prints when the process began its evaluation, ended it, and took its first training step."""

    def on_validation_start(self, trainer, module) -> None:
        self.evaluation_start = time.time()

    def on_validation_end(self, trainer, module) -> None:
        self.evaluation = time.time() - self.evaluation_start

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx) -> None:
        print("clock", time.time(), self.evaluation, flush=True)
        os._exit(0)


def peer_seconds() -> float:
    """Seconds of the two imports that nothing can do without."""
    start = time.time()
    subprocess.run([sys.executable, "-c", "import lightning, torchvision"], check=True)
    return time.time() - start


def kindred_seconds(logs: str) -> float:
    """Seconds from the command to the end of the first training step, less the evaluation before it."""
    start = time.time()
    command = [sys.executable, "-m", "kindred", "train", f"log_dir={logs}", "+callbacks.clock._target_=startup.Clock"]
    environment = os.environ | {"PYTHONPATH": os.path.dirname(os.path.abspath(__file__))}
    output = subprocess.run(command, capture_output=True, text=True, env=environment, check=True).stdout
    _, end, evaluation = next(line.split() for line in output.splitlines() if line.startswith("clock"))
    return float(end) - start - float(evaluation)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="folder for startup.json and startup.md")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as logs:
        kindred_seconds(logs)  # decodes the photographs, and warms the disk's cache
        pairs = [(peer_seconds(), kindred_seconds(logs)) for _ in range(arguments.repeats)]
    rows = [f"| {peer:.2f} | {kindred:.2f} | {kindred / peer:.2f} |" for peer, kindred in pairs]
    ratio = statistics.median(kindred / peer for peer, kindred in pairs)
    markdown = "\n".join(["| the imports alone, s | to the first step, s | ratio |", "|---:|---:|---:|", *rows])
    save(
        arguments.output,
        "startup",
        f"{markdown}\n\nMedian ratio {ratio:.2f}.",
        {"seconds": pairs, "median_ratio": ratio},
        ("torch", "torchvision", "lightning"),
    )
