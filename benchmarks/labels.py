"""What unlabelled images are worth: fine-tuning, distillation and their base lines at several shares of the labels.

    python benchmarks/labels.py photos --output benchmarks/results
    python benchmarks/labels.py imagefolder --output benchmarks/results data.source.root=data/cifar10-jpg \\
        data.train_size=5000 data.val_size=2000
    python benchmarks/labels.py --report --output benchmarks/results

For each seed SimCLR v2 is pretrained, a large and a small encoder; then, for each share of the labels, the large one is
trained from scratch, judged frozen, fine-tuned from layers 0, 1 and 2 of its projector, and the best of these on val
distilled into itself and into the small one, which is fine-tuned alone too. Each training is a run directory below --runs,
made by `kindred train`, `finetune` and `distill`; interrupted and started again with the same words, the study goes on where
it was cut. Accuracies are of the last epoch, on test. labels.csv gets a row for each, in place of those of the same data,
share, seed and kind; --report prints its tables and draws labels.png. What follows the options goes to pretraining.
"""

import argparse
import csv
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

COLUMNS = ("data", "labels", "seed", "what", "test_top1", "val_top1", "epochs", "cpu_seconds")
LAYERS = (0, 1, 2)
WHAT = {
    "scratch": "large, from scratch",
    "probe": "large, frozen: linear probe",
    **{f"layer{layer}": f"large, fine-tuned from layer {layer}" for layer in LAYERS},
    "distilled": "large, distilled into itself",
    "small": "small, fine-tuned alone",
    "small-distilled": "small, distilled from large",
}
SMALL = "encoder.widths=[16,32,64,128]"  # half the width of configs/encoder/convnet.yaml
QUIET = [*(f"~callbacks.{name}" for name in ("label_free", "geometry", "figures", "linear_probe"))]
QUIET += ["trainer.enable_progress_bar=false", "trainer.accelerator=cpu"]
PRETRAINING = ["model=simclrv2", "model.temperature=0.2", "model.hidden_dim=256", "model.warmup_epochs=1"]
PRETRAINING += ["encoder=convnet", "data.batch_size=128", "trainer.max_epochs=15", "trainer.check_val_every_n_epoch=15"]
EPOCHS = {0.1: 90, 1.0: 20}  # of fine-tuning by up to that share
DISTILLATION = 20  # epochs
ALPHA = {0.5: 1.0, 1.0: 0.5}  # up to that share: of few labels the teacher's alone, else the true ones too


def trained(directory: Path, words: Callable[[], Sequence[str]]) -> dict[str, float]:
    """The summary of the run in `directory`: there already, gone on with, or new with the overrides that `words` gives."""
    from kindred import load_run
    from kindred.commands.train import configure
    from kindred.runs.train import train

    if not (directory / "summary.json").exists():
        begun = any((directory / "checkpoints").glob("*.ckpt"))
        start = time.process_time()
        if (directory / "config.yaml").exists() and not begun:
            (directory / "config.yaml").unlink()  # cut before its first checkpoint
        train(configure([f"resume={directory}"] if begun else [*words(), *QUIET, f"run_dir={directory}"]))
        used = time.process_time() - start
        before = json.loads(path.read_text()) if (path := directory / "cpu.json").exists() else 0
        path.write_text(json.dumps(before + used))
    return load_run(directory).summary


def classified(directory: Path) -> dict[str, float]:
    """Accuracy of a run's own classifier on test, judged once."""
    import torch

    from kindred import load_run
    from kindred.runs.judging.classifying import classifier_accuracies
    from kindred.runs.judging.features import cut

    if not (path := directory / "classifier.json").exists():
        run = load_run(directory)
        datamodule = run.datamodule()
        datamodule.setup()
        images = cut(datamodule)["test"]
        path.write_text(json.dumps(classifier_accuracies(run, datamodule, images, "test", torch.device("cpu"))))
    return json.loads(path.read_text())


def probed(directory: Path, labels: float, seed: int) -> dict[str, float]:
    """A linear classifier on the frozen encoder, by `kindred evaluate`, judged once."""
    from kindred import load_run
    from kindred.runs.judging.evaluate import evaluate

    suffix = f"-labels{labels:g}" + (f"-seed{seed}" if seed else "") if labels < 1 else ""
    if not (path := directory / f"evaluation{suffix}.json").exists():
        evaluate(load_run(directory), labels=labels, seed=seed, brief=True)
    return json.loads(path.read_text())


def reached(directory: Path) -> dict:
    """What a row says of a run with a classifier."""
    from kindred import load_run

    summary, test = load_run(directory).summary, classified(directory)["test/classifier_top1"]
    used = json.loads((directory / "cpu.json").read_text())
    kept = {"val_top1": summary["val/classifier_top1"], "epochs": summary["epochs"]}
    return {"what": directory.name, "test_top1": test, **kept, "cpu_seconds": round(used, 1)}


def finetuned(directory: Path, run: Path, labels: float, layer: int, given: Sequence[str]) -> dict:
    """`kindred finetune`, once; what it reached."""
    from kindred import load_run
    from kindred.runs.by_labels import finetune_overrides

    scratch = directory.name == "scratch"
    trained(directory, lambda: finetune_overrides(load_run(run), labels, layer, scratch, given))
    return reached(directory)


def distilled(directory: Path, teacher: Path, start: Path, layer: int, given: Sequence[str]) -> dict:
    """`kindred distill`, once; what it reached."""
    from kindred import load_run
    from kindred.runs.by_labels import distill_overrides

    trained(directory, lambda: distill_overrides(load_run(teacher), load_run(start), layer, given))
    return reached(directory)


def lasting(epochs: int) -> list[str]:
    """Overrides: as many epochs, evaluated at the end."""
    return [f"trainer.max_epochs={epochs}", f"trainer.check_val_every_n_epoch={epochs}"]


def measure(
    place: Path, pretraining: list[str], seed: int, labels: Sequence[float], epochs: int | None
) -> Iterator[dict]:
    """Rows of one seed, as they are there."""
    large, small = place / "large", place / "small"
    trained(large, lambda: [*pretraining, f"seed={seed}"])
    trained(small, lambda: [*pretraining, f"seed={seed}", SMALL])
    for share in labels:
        by_labels = lasting(epochs or next(count for most, count in EPOCHS.items() if share <= most))
        alpha = next(weight for most, weight in ALPHA.items() if share <= most)
        by_teacher = [*lasting(epochs or DISTILLATION), f"model.alpha={alpha}"]
        words = [f"seed={seed}", *by_labels], [f"seed={seed}", *by_teacher]
        for row in at_share(place / f"labels{share:g}", large, small, share, seed, *words):
            yield {"labels": share, "seed": seed, **row}


def at_share(
    where: Path, large: Path, small: Path, share: float, seed: int, by_labels: list[str], by_teacher: list[str]
) -> Iterator[dict]:
    """Rows of one seed and share of the labels."""
    found = probed(large, share, seed)
    test, val = found["test/linear_top1"], found["test/linear_val_top1"]
    yield {"what": "probe", "test_top1": test, "val_top1": val, "cpu_seconds": round(found["seconds"], 1)}
    yield finetuned(where / "scratch", large, share, 1, by_labels)
    by_layer = [finetuned(where / f"layer{layer}", large, share, layer, by_labels) for layer in LAYERS]
    yield from by_layer
    best = max(LAYERS, key=lambda layer: by_layer[layer]["val_top1"])
    teacher = where / f"layer{best}"
    yield finetuned(where / "small", small, share, best, by_labels)
    yield distilled(where / "small-distilled", teacher, small, best, by_teacher)
    yield distilled(where / "distilled", teacher, large, best, by_teacher)


def keep(path: Path, row: dict) -> None:
    """Put `row` into the table at `path`, in place of one of the same data, share, seed and kind."""
    rows = read(path)
    key = [str(row[name]) for name in COLUMNS[:4]]
    rows = [old for old in rows if [old[name] for name in COLUMNS[:4]] != key] + [row]
    new = path.with_suffix(".tmp")
    with new.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    os.replace(new, path)


def read(path: Path) -> list[dict]:
    """Rows of labels.csv, as texts."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def spread(values: Sequence[float]) -> tuple[float, float]:
    """Mean, and sample standard deviation (0 of one)."""
    return statistics.mean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def cell(values: Sequence[float]) -> str:
    """Such as `0.412 ± 0.004`, the mean alone of one; nothing of none."""
    if not values:
        return ""
    mean, deviation = spread(values)
    return f"{mean:.3f}" + (f" ± {deviation:.3f}" if len(values) > 1 else "")


def accuracies(rows: list[dict], data: str, what: str) -> dict[float, list[float]]:
    """Share of the labels -> accuracies on test, of each seed."""
    found: dict[float, list[float]] = {}
    for row in rows:
        if (row["data"], row["what"]) == (data, what):
            found.setdefault(float(row["labels"]), []).append(float(row["test_top1"]))
    return dict(sorted(found.items()))


def table(rows: list[dict], data: str) -> str:
    """Markdown: a line for each kind, a column for each share of the labels."""
    shares = sorted({float(row["labels"]) for row in rows if row["data"] == data})
    seeds = len({row["seed"] for row in rows if row["data"] == data})
    lines = [
        f"| {data}, n = {seeds} | {' | '.join(f'{100 * share:g}%' for share in shares)} |",
        "|---" + "|---:" * len(shares) + "|",
    ]
    for what, heading in WHAT.items():
        values = accuracies(rows, data, what)
        cells = [cell(values.get(share, [])) for share in shares]
        lines.append(f"| {heading} | {' | '.join(cells)} |")
    return "\n".join(lines)


def draw(rows: list[dict], path: Path) -> None:
    """Accuracy on test over the share of labels, a panel for each data set."""
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(row["data"] for row in rows))
    colours = ("#8d99ae", "#8d99ae", "#9cc5a1", "#49a078", "#216869", "#33658a", "#f4a259", "#d1495b")
    figure = Figure(figsize=(5.4 * len(names), 4.4), layout="constrained")
    for axes, data in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        for (what, heading), colour in zip(WHAT.items(), colours, strict=True):
            if values := accuracies(rows, data, what):
                means, deviations = zip(*map(spread, values.values()), strict=True)
                style = ":" if what == "scratch" else "--" if what == "probe" else "-"
                axes.errorbar(
                    list(values), means, deviations, color=colour, linestyle=style, marker="o", ms=3, label=heading
                )
        axes.set_xscale("log")
        axes.set_xlabel("share of the train labels")
        axes.set_ylabel("top-1 on test, last epoch")
        axes.set_title(data, fontsize=9, loc="left")
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].legend(fontsize=7, frameon=False)
    figure.savefig(path, dpi=130)


def main(words: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", default="photos", help="of configs/data/ (default: %(default)s)")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--labels", nargs="+", type=float, default=[0.01, 0.1, 1.0], help="shares")
    parser.add_argument("--epochs", type=int, help="of fine-tuning and distillation (default: 20 to 90)")
    parser.add_argument(
        "--runs", type=Path, default=Path("logs/labels"), help="where the runs go (default: %(default)s)"
    )
    parser.add_argument("--output", type=Path, required=True, help="folder for labels.csv")
    parser.add_argument("--report", action="store_true", help="print the tables, draw labels.png, train nothing")
    parser.add_argument("--figure", type=Path, default=Path("docs/labels.png"), help="default: %(default)s")
    arguments, overrides = parser.parse_known_intermixed_args(words)
    arguments.output.mkdir(parents=True, exist_ok=True)
    results = arguments.output / "labels.csv"
    if not arguments.report:
        pretraining = [f"data={arguments.data}", *PRETRAINING, *overrides]
        for seed in arguments.seeds:
            place = arguments.runs / arguments.data / f"seed{seed}"
            for row in measure(place, pretraining, seed, arguments.labels, arguments.epochs):
                keep(results, {"data": arguments.data, **row})
                print(row, flush=True)
    measured = read(results)
    print("\n\n".join(table(measured, data) for data in dict.fromkeys(row["data"] for row in measured)))
    if arguments.report:
        draw(measured, arguments.figure)


if __name__ == "__main__":
    main()
