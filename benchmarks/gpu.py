"""What a GPU makes of Kindred, in parts of under ten minutes: all that the README has no number for.

    python benchmarks/gpu.py --output benchmarks/results [--only simclr chunks] [--data data/cifar10-jpg] [--small]

Parts that have results in <output>/gpu/ are not repeated, so that what was interrupted goes on with the same command; --only
does some of them, --again anew. gpu.json and gpu.md are of all that are there.

simclr, mocov2, nnclr, supcon: whole epochs under the Trainer with the callbacks, ResNet-18 with the small stem, 32x32,
batch 512, mixed bfloat16, compiled, on random images as many as CIFAR-10's (what they show makes no difference), and the
share of the matrix peak that they reach; simclr's against lightly's documented recipe (trainings.py) with the same encoder,
batch and precision, and the number of workers that is fastest in a first try. pieces: views, loss and kNN by themselves,
against the step of simclr. resnet50: a step of SimCLR at 224x224. chunks: peak memory and time against model.chunks
(chunks.py). epochs200: 200 epochs of SimCLR by `kindred train`, of --data, a folder of CIFAR-10's images, or without it of
random ones, whose accuracy says nothing; after nine minutes it stops, and the same command goes on with it.

FLOPs are what torch.utils.flop_counter counts in an eager step; the peak is a bfloat16 product of 8192 x 8192 matrices in
the same part. Needs torch, torchvision, lightning, lightly, and Kindred itself; no network. --small runs all of it small, on
the CPU, and measures nothing.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from functools import partial
from importlib.util import find_spec
from pathlib import Path

if missing := [name for name in ("torch", "torchvision", "lightning", "lightly", "kindred") if find_spec(name) is None]:
    sys.exit(f"benchmarks/gpu.py needs {', '.join(missing)}: make setup, or pip install {' '.join(missing)}")

import chunks
import torch
from gpu_steps import FULL, METHODS, data_of, epochs_of, parts, resnet50
from report import Row, save_rows

from kindred.config import check, compose

PACKAGES = ("torch", "torchvision", "lightning", "lightly")


def pieces(options: argparse.Namespace, device: torch.device) -> list[Row]:
    """Views, loss and kNN by themselves, against the step that the part `simclr` measured."""
    config = compose(data_of(options))
    check(config)
    (epochs, *_) = done(options, "simclr") or epochs_of("simclr", options, device)
    return parts(config, device, config.data.batch_size / epochs.kindred[-1], options.small)


def in_chunks(options: argparse.Namespace, device: torch.device) -> list[Row]:
    sizes = ([64], [32], 1) if options.small else (list(chunks.BATCHES), list(chunks.PARTS), 3)
    return chunks.measure("simclr", *sizes, device.type, options.small)


def epochs200(options: argparse.Namespace, device: torch.device) -> list[Row]:
    """200 epochs by the command line, in runs of nine minutes; none, if it has not ended yet."""
    folder, epochs = options.output / "gpu" / "run-epochs200", 2 if options.small else 200
    data = data_of(options)
    if options.data:
        data = ["data=imagefolder", f"data.source.root={options.data.resolve()}", "data.val_size=0", *FULL]
    words = [
        "model=simclr",
        *data,
        f"trainer.max_epochs={epochs}",
        f"trainer.check_val_every_n_epoch={min(epochs, 10)}",
    ]
    words = [f"resume={folder}"] if (folder / "config.yaml").exists() else [*words, f"run_dir={folder}"]
    path = os.pathsep.join(filter(None, (str(Path(__file__).parent.resolve()), os.environ.get("PYTHONPATH"))))
    run = subprocess.Popen([sys.executable, "-m", "kindred", "train", *words], env={**os.environ, "PYTHONPATH": path})
    try:
        status = run.wait(540)
    except subprocess.TimeoutExpired:
        run.send_signal(signal.SIGTERM)
        run.wait(120)
        return []
    if status:
        raise RuntimeError(f"kindred train ended with status {status}")
    summary = json.loads((folder / "summary.json").read_text())
    of = "CIFAR-10's images" if options.data else "random images"
    what = f"simclr: {epochs} epochs with evaluations, {of}"
    rows = [Row(what, "6 minutes", "s", [summary["seconds"]], [360.0], "at most", 1.0)]
    if options.data:
        for judged in ("knn", "linear"):
            rows.append(
                Row(f"{what}: {judged} on test", "last epoch", "top-1", [summary[f"test/{judged}_top1"]], [], "more")
            )
    return rows


PARTS = {name: partial(epochs_of, name) for name in METHODS}
PARTS |= {"pieces": pieces, "resnet50": resnet50, "chunks": in_chunks, "epochs200": epochs200}


def done(options: argparse.Namespace, part: str) -> list[Row]:
    """The rows of a part that has results; none otherwise."""
    path = options.output / "gpu" / f"{part}.json"
    return [Row(**row) for row in json.loads(path.read_text())] if path.exists() else []


def main(arguments: list[str] | None = None) -> list[Row]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder for gpu.json, gpu.md and the parts' results")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="parts")
    parser.add_argument("--again", action="store_true", help="measure parts that have results anew")
    parser.add_argument("--data", type=Path, help="a folder with CIFAR-10's images, for epochs200")
    parser.add_argument("--small", "--tiny", action="store_true", help="a small encoder, few images, on the CPU")
    options = parser.parse_args(arguments)
    if not options.small and not torch.cuda.is_available():
        parser.error("there is no GPU; --small shows on the CPU that everything works")
    device = torch.device("cpu" if options.small else "cuda")
    (options.output / "gpu").mkdir(parents=True, exist_ok=True)
    name = "the CPU" if options.small else torch.cuda.get_device_name()
    for part in options.only:
        if options.again:
            shutil.rmtree(options.output / "gpu" / f"run-{part}", ignore_errors=True)
        if options.again or not done(options, part):
            torch.compiler.reset()  # the limit of recompilations counts per function, and parts share the encoder's
            start = time.perf_counter()
            rows = PARTS[part](options, device)
            print(f"{part}: {time.perf_counter() - start:.0f} s" if rows else f"{part}: not finished, call it again")
            if rows:
                (options.output / "gpu" / f"{part}.json").write_text(json.dumps([asdict(row) for row in rows]))
        rows = [row for each in PARTS for row in done(options, each)]
        save_rows(options.output, "gpu", rows, PACKAGES, name)
    return rows


if __name__ == "__main__":
    main()
