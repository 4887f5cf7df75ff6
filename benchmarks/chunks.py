"""Peak memory and time of a training step whose batch is encoded in chunks (model.chunks), against the whole batch.

    python benchmarks/chunks.py [--output benchmarks/results] [--batches 512 2048 8192 16384] [--model simclr] [--tiny]

A step is forward, backward and the optimiser's, with two views of 32x32, the convnet and the default head: of the batch as a
whole, and in parts of 1,024 and of 256 images. Memory is what a step needs at its peak beside weights, optimiser and views:
on a CPU the growth of a process of its own, on a GPU (--device cuda, where ResNet-18 in bfloat16 takes the convnet's place)
what torch has allocated. Contestants take turns in time, which on one thread (OMP_NUM_THREADS=1) is the processor's. Where
the whole batch would not fit, which its size at the smallest batch tells, the row has no peer. About 15 minutes on two
cores, most of them for the largest batch.
"""

import argparse
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import torch
from losses import free_gib
from measure import alternate, clock, clock_note, in_fresh_process, peak_growth, wait
from report import Row, save_rows

from kindred.config import check, compose
from kindred.data.loading import ViewBatch
from kindred.runs.run import build_module
from kindred.training.heap import keep_freed_memory

BATCHES, PARTS = (512, 2048, 8192, 16_384), (1024, 256)
TINY = ["encoder.widths=[8,16]", "model.hidden_dim=32"]


def stepper(model: str, chunks: int, device: str, tiny: bool) -> Callable[[ViewBatch], None]:
    """A training step of a new module on one batch."""
    encoder = ["encoder=convnet", *TINY] if tiny else ["encoder=convnet" if device == "cpu" else "encoder=resnet18"]
    config = compose(["data=photos", f"model={model}", f"model.chunks={chunks}", "trainer=cpu", *encoder])
    check(config)
    torch.manual_seed(0)
    module = build_module(config).to(device, memory_format=torch.channels_last)  # as the Trainer does
    optimizer = module.build_optimizer()
    precision = nullcontext() if device == "cpu" else torch.autocast(device, torch.bfloat16)

    def step(batch: ViewBatch) -> None:
        with precision:
            loss = module.training_step(batch, 0)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        wait(module.device)

    step(views(2 * chunks, device))  # makes the optimiser's state, and starts thread pools
    return step


def views(batch: int, device: str) -> ViewBatch:
    images = torch.randn(2, batch, 3, 32, 32, generator=torch.Generator().manual_seed(0)).to(device)
    numbers = torch.arange(batch, device=device)
    ordered = (image.contiguous(memory_format=torch.channels_last) for image in images)
    return ViewBatch(tuple(ordered), numbers % 10, numbers)


def memory(model: str, batch: int, chunks: int, device: str, tiny: bool) -> float:
    """MiB, once, since it hardly varies."""
    step, some = stepper(model, chunks, device, tiny), views(batch, device)
    if device == "cpu":
        return peak_growth(lambda: step(some))
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step(some)
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def free_mib(device: str) -> float:
    if device == "cpu":
        return 1024 * free_gib()
    torch.cuda.empty_cache()  # what this process keeps for later
    return torch.cuda.mem_get_info()[0] / 2**20


def rows_of(model: str, batch: int, parts: list[int], fits: bool, repeats: int, device: str, tiny: bool) -> list[Row]:
    """Memory and time of each number of chunks; those of the whole batch too where it `fits`."""
    counts = [1] * fits + [batch // part for part in parts if part < batch]
    held = {count: [in_fresh_process(memory, model, batch, count, device, tiny)] for count in counts}
    if device == "cpu":
        keep_freed_memory()  # as a training does; the processes that measured memory hand it back
    some, steps = views(batch, device), {count: stepper(model, count, device, tiny) for count in counts}
    turns = {str(count): (1, partial(step, some)) for count, step in steps.items()}
    seconds = alternate(turns, repeats, clock() if device == "cpu" else time.perf_counter)
    note = "" if fits else "which does not fit"
    rows = []
    for count in counts[fits:]:
        what = f"{model} step, batch {batch:,}, in {count} chunks"
        rows.append(
            Row(
                f"{what}: peak memory", "the whole batch", "MiB", held[count], held.get(1, []), "times less", None, note
            )
        )
        against = seconds.get("1", [])
        rows.append(Row(f"{what}: time", "the whole batch", "s", seconds[str(count)], against, "at most", 1.4, note))
    return rows


def measure(model: str, batches: list[int], parts: list[int], repeats: int, device: str, tiny: bool) -> list[Row]:
    """All rows, smallest batch first; whether a whole batch fits into memory follows from the smallest one's."""
    each = in_fresh_process(memory, model, min(batches), 1, device, tiny) / min(batches)
    rows = []
    for batch in sorted(batches):
        fits = each * batch < 0.7 * free_mib(device)
        rows += rows_of(model, batch, parts, fits, repeats, device, tiny)
    return rows


def main(arguments: list[str] | None = None) -> list[Row]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="folder for chunks.json and chunks.md")
    parser.add_argument("--model", default="simclr")
    parser.add_argument("--batches", nargs="+", type=int, default=BATCHES, help="images, each of two views")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--repeats", type=int, default=3, help="turns of each contestant")
    parser.add_argument("--tiny", action="store_true", help="small sizes: shows that it works, measures nothing")
    options = parser.parse_args(arguments)
    batches, parts = ([64], [32]) if options.tiny else (options.batches, PARTS)
    rows = measure(options.model, batches, parts, options.repeats, options.device, options.tiny)
    name = torch.cuda.get_device_name() if options.device == "cuda" else clock_note()
    save_rows(options.output, "chunks" if options.device == "cpu" else "chunks-gpu", rows, ("torch",), name)
    return rows


if __name__ == "__main__":
    main()
