"""What SimCLR on ImageNet-1k at batch 4096 needs on 8 and on 64 GPUs, from what was measured: docs/scaling.md.

    python benchmarks/imagenet.py --results benchmarks/results --page docs/scaling.md

Bytes and FLOPs follow from shapes; memory and exponents from scaling.json, images per core from loading.json. Nothing here
is assumed of a GPU: how many cores decoding needs is given for a range of speeds. (`scaling.py --page` does the same.)
"""

import argparse
import json
import re
import statistics
from pathlib import Path

from scaling import DIM, FEATURES, slope, tile_mib

BATCH, VIEWS = 4096, 2
IMAGES, WIDTH = 1_281_167, 2048  # ImageNet-1k's train images; ResNet-50's features
QUEUE, SUPPORT, SUPPORT_DIM = 65_536, 98_304, 256  # MoCo's and NNCLR's
WEIGHTS = 23_508_032  # ResNet-50 without its classifier
ENCODER_FLOPS = 3 * 2 * 4.09e9  # forward and backward of one view of 224x224: multiply-adds count twice
RATES = (500, 1000, 2000, 4000)  # images per second and GPU, each of them two views
MIB = 2**20


def fit(curve: dict, key: str) -> tuple[float, float]:
    """(exponent, value at size 1) through the medians of a curve's three largest sizes."""
    return slope(curve["sizes"][-3:], [statistics.median(turns) for turns in curve[key][-3:]])


def needs(ranks: int, curves: dict, batch: int = BATCH) -> dict[str, float]:
    """What one of `ranks` GPUs sends and holds.

    Args:
        ranks: W.
        curves: of scaling.json.
        batch: the global batch B.

    Returns:
        MiB, but for `loss_share`, the loss's FLOPs as a share of the encoder's.
    """
    sent = (ranks - 1) / ranks  # of a tensor, by each rank: a ring passes on all shards but one
    candidates = VIEWS * batch
    exponent, one = fit(curves["loss"], "mib")
    queue_exponent, queue_one = fit(curves["queue"], "mib")
    bank_exponent, bank_one = fit(curves["bank"], "mib")
    return {
        "gather": 2 * sent * candidates * DIM * 4 / MIB,  # all-gather forward, reduce-scatter backward
        "gradients": 2 * sent * WEIGHTS * 4 / MIB,
        # All candidates on every rank: at most what one process needs whose anchors they all are.
        "loss": one * batch**exponent + tile_mib(batch),
        "loss_as_matrix": candidates / ranks * candidates * 4 / MIB,
        "queue": queue_one * QUEUE**queue_exponent,
        "support": SUPPORT * SUPPORT_DIM * 4 / MIB,
        "bank": bank_one * (IMAGES / ranks) ** bank_exponent * WIDTH / FEATURES,
        # Three products (logits, two gradients) of anchors x candidates x D, against V views of each image.
        "loss_share": 3 * 2 * (candidates / ranks) * candidates * DIM / (VIEWS * batch / ranks * ENCODER_FLOPS),
    }


def tables(curves: dict, worker_rate: float | None) -> str:
    """The measured part of the page, as Markdown."""
    fits = {name: {key: fit(curve, key)[0] for key in ("seconds", "mib")} for name, curve in curves.items()}
    lines = ["| measured exponent (theory) | time | memory |", "|---|---:|---:|"]
    for name, what, theory in (("loss", "loss, of the global batch", 2), ("queue", "queue", 1), ("bank", "bank", 1)):
        lines.append(f"| {what} | {fits[name]['seconds']:.2f} ({theory}) | {fits[name]['mib']:.2f} (1) |")
    few, many = needs(8, curves), needs(64, curves)
    rows = (
        ("sent by the gather of embeddings, forward and backward", "gather", "{:,.1f} MiB"),
        ("sent for the gradients of ResNet-50, for comparison", "gradients", "{:,.0f} MiB"),
        ("memory of the loss, in tiles", "loss", "at most {:,.0f} MiB"),
        ("the matrix of all pairs that it does not hold", "loss_as_matrix", "{:,.0f} MiB"),
        ("MoCo's queue and its step (65,536 x 128)", "queue", "{:,.0f} MiB"),
        ("NNCLR's support set (98,304 x 256)", "support", "{:,.0f} MiB"),
        ("kNN bank of all train images, this GPU's shard, and its search", "bank", "{:,.0f} MiB"),
        ("FLOPs of the loss, as a share of the encoder's", "loss_share", "{:.3%}"),
    )
    lines += ["", "| each GPU, per step at batch 4096 | 8 GPUs | 64 GPUs |", "|---|---:|---:|"]
    lines += [f"| {what} | {form.format(few[key])} | {form.format(many[key])} |" for what, key, form in rows]
    if worker_rate is None:
        return "\n".join([*lines, "", "Decoding was not measured yet (`python benchmarks/loading.py`)."])
    lines += ["", f"A core decodes and crops {worker_rate:.0f} images of 500x375 per second (both views). So:", ""]
    lines += ["| images per second that a GPU trains on | cores, 8 GPUs | cores, 64 GPUs | cores per GPU |"]
    lines += ["|---:|---:|---:|---:|"]
    lines += [
        f"| {r:,} | {8 * r / worker_rate:,.0f} | {64 * r / worker_rate:,.0f} | {r / worker_rate:.1f} |" for r in RATES
    ]
    return "\n".join(lines)


def write_page(page: Path, curves: dict, results: Path | None) -> None:
    """Put the tables between the marks of `page`, in the place of those that are there."""
    loading = results / "loading.json" if results else Path("none")
    rate = None
    if loading.exists():
        rows = json.loads(loading.read_text())["results"]["rows"]
        rate = statistics.median(rows[0]["kindred"])
    begin, end = "<!-- measured -->", "<!-- /measured -->"
    text = page.read_text()
    if not re.search(f"{begin}.*{end}", text, flags=re.DOTALL):
        raise ValueError(f"{page} has no lines {begin} and {end}, between which the tables go")
    before, after = text.split(begin)[0], text.split(end)[1]
    page.write_text(f"{before}{begin}\n\n{tables(curves, rate)}\n\n{end}{after}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--page", type=Path, default=Path("docs/scaling.md"))
    options = parser.parse_args()
    curves = json.loads((options.results / "scaling.json").read_text())["results"]["curves"]
    write_page(options.page, curves, options.results)
