"""Accuracy against minutes on CIFAR-10 as JPEG files: Kindred, lightly under lightning, and a plain PyTorch loop.

    python benchmarks/time_to_accuracy.py --data data/cifar10-jpg --output benchmarks/results
    python benchmarks/time_to_accuracy.py --data data/cifar10-jpg --images 50000 --methods simclr --seeds 0 --output ...

SimCLR and MoCo v2 with the same encoder, batch, optimiser and schedule; each contestant (rivals.py) reads, augments and
contrasts with its own code, in a process of its own: minutes begin with the command, so that imports, decoding and caches
count. Nobody evaluates on the way; the encoder is kept after some epochs and judged afterwards by scikit-learn alone: kNN
(k = 20, cosine) and logistic regression on the train images' features, on the test images. A training or a judgement that
is there already, in --work, is not repeated: interrupted, the same command goes on; with --only it does a part, such as
simclr-plain-0. Trainings need the machine alone. Needs torchvision, lightly, lightning and scikit-learn, and no network.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from judging import judge, pictures, tiny_images
from methods import mean_and_deviation
from report import Row, row_table, save
from rivals import ConvNet
from torch import Tensor

HERE = Path(__file__).parent
NAMES = {
    "kindred": "Kindred",
    "lightly": "lightly under lightning",
    "plain": "plain PyTorch, torchvision's transforms",
    "plain_empty": "plain PyTorch with an empty queue",  # only where it is asked for: what the start of MoCo's queue does
}
JUDGES = {"knn": "kNN", "linear": "linear"}
PACKAGES = ("torch", "torchvision", "lightning", "lightly", "scikit-learn")


def lay_out(data: Path, place: Path, count: int) -> Path:
    """A folder with links to `count` train images, as many of each class, all test images, and ten of those as val."""
    folder, done = place / f"images-{count}", place / f"images-{count}" / "done"
    if done.exists():
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    classes = sorted(path.name for path in (data / "train").iterdir() if path.is_dir())
    for split, origin, each in (("train", "train", count // len(classes)), ("test", "test", None), ("val", "test", 1)):
        for name in classes:
            (folder / split / name).mkdir(parents=True)
            for path in sorted((data / origin / name).iterdir())[:each]:
                (folder / split / name / path.name).symlink_to(path.resolve())
    done.touch()
    return folder


def train(settings: dict, folder: Path) -> None:
    """One training, unless it was done with these settings."""
    record = folder / "settings.json"
    if record.exists() and json.loads(record.read_text()) == settings:
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    print(f"training: {folder.name}", flush=True)
    command = settings | {"folder": str(folder.resolve()), "began": time.time()}
    subprocess.run(
        [sys.executable, str(HERE / "rivals.py"), json.dumps(command)], check=True, stdout=subprocess.DEVNULL
    )
    shutil.rmtree(folder / "cache", ignore_errors=True)
    record.write_text(json.dumps(settings))


def curve(folder: Path, widths: list[int], sets: list[tuple[Tensor, np.ndarray]]) -> list[dict[str, float]]:
    """Epoch, seconds and accuracies of each snapshot, in order; each is judged once."""
    points = []
    for path in sorted(folder.glob("*.pt"), key=lambda path: int(path.stem)):
        written = path.with_suffix(".json")
        if not written.exists():
            kept, encoder = torch.load(path, weights_only=True), ConvNet(widths=tuple(widths)).eval()
            encoder.load_state_dict(kept["encoder"])
            print(f"judging: {folder.name}, epoch {path.stem}", flush=True)
            found = {"epoch": int(path.stem), "seconds": kept["seconds"], **judge(encoder, *sets)}
            written.write_text(json.dumps(found))
        points.append(json.loads(written.read_text()))
    return points


def minutes_to(points: list[dict[str, float]], name: str, accuracy: float) -> float | None:
    """When a curve first reaches `accuracy`, on straight lines between its points; None: never."""
    before = None
    for point in points:
        if point[name] >= accuracy:
            share = 1.0 if before is None else (accuracy - before[name]) / (point[name] - before[name])
            start = point["seconds"] if before is None else before["seconds"]
            return (start + share * (point["seconds"] - start)) / 60
        before = point
    return None


def rows_of(curves: dict[str, dict[str, dict[str, list]]], target: float | None, images: int) -> list[Row]:
    """Minutes to each peer's last accuracy, and to the best that both reach, by seed.

    Where Kindred does not reach a peer's last accuracy the target is missed, and the note says in which seed, by how much.
    """
    rows = []
    for method, of in curves.items():
        what, kindred = f"{method}, {images:,} CIFAR-10 images: minutes to", of.get("kindred", {})
        for peer, judged in product((name for name in of if name != "kindred"), JUDGES):
            if seeds := {seed: (kindred[seed], of[peer][seed]) for seed in sorted(of[peer].keys() & kindred.keys())}:
                rows += compared(what, NAMES[peer], judged, seeds, target)
    return rows


def compared(what: str, peer: str, judged: str, seeds: dict[str, tuple[list, list]], target: float | None) -> list[Row]:
    """The two rows of one peer and judge, from Kindred's curve and the peer's in each seed."""
    last, both, never = [], [], []
    for seed, (ours, theirs) in seeds.items():
        if (found := minutes_to(ours, judged, theirs[-1][judged])) is None:
            never.append(f"seed {seed}: {ours[-1][judged]:.3f} of {theirs[-1][judged]:.3f}")
        else:
            last.append((found, theirs[-1]["seconds"] / 60))
        common = min(max(point[judged] for point in points) for points in (ours, theirs))
        both.append((minutes_to(ours, judged, common), minutes_to(theirs, judged, common)))

    def row(question: str, pairs: list[tuple[float, float]], **more: Any) -> Row:
        own, others = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
        return Row(f"{what} {question}", peer, "min", own, others, "times less", **more)

    title, note = JUDGES[judged], f"never reached in {'; '.join(never)}" if never else ""
    return [
        row(f"the peer's last {title} accuracy", last, target=target, note=note, never=bool(never)),
        row(f"the best {title} accuracy that both reach", both),
    ]


def accuracies(curves: dict[str, dict[str, dict[str, list]]]) -> str:
    """The last accuracies as Markdown."""
    lines = ["| method | by | kNN | linear | minutes | seeds |", "|---|---|---:|---:|---:|---:|"]
    for method, of in curves.items():
        for name, seeds in of.items():
            last = [points[-1] for points in seeds.values()]
            judged = [mean_and_deviation([point[key] for point in last]) for key in JUDGES]
            minutes = statistics.mean(point["seconds"] for point in last) / 60
            lines.append(f"| {method} | {NAMES[name]} | {' | '.join(judged)} | {minutes:.1f} | {len(last)} |")
    return "\n".join(lines)


def draw(path: Path, curves: dict[str, dict[str, dict[str, list]]]) -> None:
    """Accuracy over minutes: a column for each method, a row for each judge, a line for each seed."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.5 * len(curves), 6), layout="constrained")
    axes = figure.subplots(len(JUDGES), len(curves), squeeze=False, sharex="col")
    for column, (method, of) in enumerate(curves.items()):
        for row, (judged, title) in enumerate(JUDGES.items()):
            for number, (name, seeds) in enumerate(of.items()):
                for first, points in enumerate(seeds.values()):
                    minutes, values = [p["seconds"] / 60 for p in points], [p[judged] for p in points]
                    label = None if first else NAMES[name]
                    axes[row, column].plot(minutes, values, ".-", color=f"C{number}", label=label)
            axes[row, column].set_ylabel(f"{title} accuracy")
        axes[0, column].set_title(method)
        axes[-1, column].set_xlabel("minutes since the command")
        axes[-1, column].set_xlim(left=0)  # a start-up counts
    axes[0, 0].legend(fontsize="small")
    figure.savefig(path, dpi=120)


def main(arguments: list[str] | None = None) -> list[Row]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="a folder with train/<class>/*.jpg and test/<class>/*.jpg of 32x32")
    parser.add_argument("--output", type=Path, help="folder for time_to_accuracy.json, .md and .png")
    parser.add_argument("--work", type=Path, default=Path("data/time_to_accuracy"), help="where what is done is kept")
    parser.add_argument("--images", type=int, default=10_000, help="train images")
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--snapshots", type=int, default=10, help="epochs that are judged")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--methods", nargs="+", default=["simclr", "mocov2"], choices=("simclr", "mocov2"))
    parser.add_argument("--contestants", nargs="+", default=list(NAMES)[:3], choices=NAMES)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="of the peers' loaders; Kindred needs none")
    parser.add_argument(
        "--only", nargs="+", help="parts: <method>-<contestant>-<seed>; what else is there is shown too"
    )
    parser.add_argument(
        "--tiny", action="store_true", help="a few random images: shows that it works, measures nothing"
    )
    options = parser.parse_args(arguments)
    if options.tiny:
        options.work, options.images, options.epochs, options.snapshots = options.work / "tiny", 32, 2, 2
        options.batch, options.seeds, options.workers = 8, [0], 0
        options.data = tiny_images(options.work / "data")
    elif options.data is None:
        parser.error("--data: needs a folder")

    images, widths = (
        lay_out(options.data, options.work, options.images),
        [8, 16] if options.tiny else [32, 64, 128, 256],
    )
    sets = [pictures(images / split) for split in ("train", "test")]
    common = {
        "images": str(images.resolve()),
        "widths": widths,
        "hidden": 512,
        "temperature": 0.2,
        "batch": options.batch,
    }
    common |= {"epochs": options.epochs, "snapshots": options.snapshots, "workers": options.workers}
    common["lr"] = 0.06 * options.batch / 128
    curves: dict[str, dict[str, dict[str, list]]] = {}
    for seed in options.seeds:
        for method in options.methods:
            for name in options.contestants:
                part = f"{method}-{name}-{seed}"
                folder = options.work / f"{options.images}-{options.epochs}" / part
                if options.only is None or part in options.only:
                    train(common | {"method": method, "contestant": name, "seed": seed}, folder)
                if (folder / "settings.json").exists():
                    points = curve(folder, widths, sets)
                    curves.setdefault(method, {}).setdefault(name, {})[str(seed)] = points
    rows = rows_of(curves, 2.5, options.images)
    notes = f"{options.epochs} epochs, batch {options.batch}, convnet, {torch.get_num_threads()} threads, {options.workers} "
    notes += f"workers of the peers' loaders, seeds {', '.join(map(str, options.seeds))}, wall time"
    name = "time_to_accuracy" if options.images in (32, 10_000) else f"time_to_accuracy-{options.images}"
    results = {"rows": [asdict(row) for row in rows], "curves": curves}
    save(options.output, name, f"{row_table(rows)}\n\n{accuracies(curves)}", results, PACKAGES, notes)
    if options.output is not None:
        draw(options.output / f"{name}.png", curves)
    return rows


if __name__ == "__main__":
    main()
