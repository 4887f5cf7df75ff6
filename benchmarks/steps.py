"""A training step of each method on `photos`, on the CPU: against how it was before, and against SimCLR's.

    python benchmarks/steps.py [--output benchmarks/results] [--rounds 3] [--repeats 4] [--before <checkout>]
                                [--compile] [--tiny]

A step is all that a batch costs but reading it and Lightning: views, encoder, head, loss, backward, queue, optimiser.
Contestants are processes that take turns, new ones in each round: two without any difference may be a tenth apart, by where
their memory lies. Before is torch's own order of images and weights in memory and a malloc that
hands freed memory back; or, with `--before`, an older checkout with its own sources and configurations. Queues are full.
Wall time, all cores; on one thread (OMP_NUM_THREADS=1) the processor's time of each process, so that other programs may run
beside it. `--compile` compiles (trainer.compile=true) against the same that is not compiled, and says what the first
two steps of a process take, without a cache and with it, in steps_compiled.json and .md.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from itertools import cycle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import measure
import torch
from report import Row, save_rows

HERE = Path(__file__).resolve().parents[1]
METHODS = ("simclr", "mocov2", "nnclr", "supcon")
BEFORE = ["trainer.channels_last=false"]
TINY = ["data=digits", "data.batch_size=16", "encoder.widths=[4,8]", "model.hidden_dim=8"]
BATCHES = 8  # in turns


def step_of(checkout: Path, overrides: list[str], keeps: bool, processor: bool) -> Callable[[], tuple[float, float]]:
    """A training step in `checkout`, as its Trainer prepares the method; it returns the seconds of the first two steps, and
    its own.

    Args:
        keeps: whether freed memory stays with the process.
        processor: the seconds are of the processor, and of the compilers that were started; else they are the wall's.
    """
    os.chdir(checkout)
    clock = (lambda: time.process_time() + sum(os.times()[2:4])) if processor else time.perf_counter
    if checkout != HERE:
        sys.path.insert(0, str(checkout / "src"))
    from kindred.config import build, compose
    from kindred.data.loading import ViewBatch
    from kindred.runs.run import build_datamodule, build_module
    from kindred.runs.train import quieten

    if keeps:
        from kindred.training.heap import keep_freed_memory

        keep_freed_memory()
    quieten()
    config = compose(["trainer=cpu", *overrides])
    torch.manual_seed(0)
    data, method = build_datamodule(config), build_module(config)
    data.prepare_data()
    data.setup()
    build(config, "trainer", logger=False, callbacks=[]).speed_up(method)
    method.trainer = SimpleNamespace(
        global_step=1,
        accumulate_grad_batches=1,
        max_epochs=config.trainer.max_epochs,
        limit_train_batches=1.0,
        datamodule=data,
        current_epoch=0,
    )
    optimizer = method.build_optimizer()
    for name in ("queue", "support"):
        if (queue := getattr(method, name, None)) is not None:
            queue.enqueue(torch.randn(queue.features.shape))
    batches = cycle([batch for batch, _ in zip(data.train_dataloader(), range(BATCHES), strict=False)])

    def step() -> None:
        batch = next(batches)
        views = data.views.augment(batch.raw, batch.index, 0)
        method.on_train_batch_start(batch, 0)
        optimizer.zero_grad()
        method.training_step(ViewBatch(views, batch.labels, batch.index), 0)["loss"].backward()
        method.on_after_backward()
        optimizer.step()

    start = clock()
    for _ in range(2):
        step()
    first = clock() - start

    def work() -> tuple[float, float]:
        start = clock()
        step()
        return first, clock() - start

    return work


def main(arguments: list[str] | None = None) -> list[Row]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="folder for steps.json and steps.md")
    parser.add_argument("--rounds", type=int, default=3, help="of new processes")
    parser.add_argument("--repeats", type=int, default=4, help="turns of each in a round, of two steps")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--before", type=Path, help="an older checkout, instead of settings")
    parser.add_argument("--compile", action="store_true", help="with trainer.compile=true")
    parser.add_argument("--tiny", action="store_true", help="small: shows that it works, measures nothing")
    options = parser.parse_args(arguments)
    shape = TINY if options.tiny else ["data=photos", "data.batch_size=256", f"data.source.root={HERE / 'data/photos'}"]
    compiles = ["trainer.compile=true"] if options.compile else []
    against = f"checkout {options.before.name}" if options.before else "torch's own order in memory, and malloc"

    if options.compile:
        against = "the same, not compiled"
    processor, passed = torch.get_num_threads() == 1, 0.0

    rows: list[Row] = []
    first: dict[str, list[float]] = {}

    def contestant(stack: ExitStack, name: str, *arguments: Any, cache: str = "") -> tuple[int, Any]:
        environment = {"TORCHINDUCTOR_CACHE_DIR": cache} if cache else {}
        if processor:
            environment["TORCHINDUCTOR_COMPILE_THREADS"] = "1"  # in the process itself, whose time is counted
        started = stack.enter_context(measure.Contestant(environment, step_of, *arguments, processor))
        first.setdefault(name, []).append(started()[0])

        def call() -> None:
            nonlocal passed
            passed += started()[1]

        return 2, call

    for model in options.methods:
        here = [HERE, [f"model={model}", *shape, *compiles], True]
        found: dict[str, list[float]] = {}
        for _ in range(options.rounds):
            with ExitStack() as stack:
                cache = stack.enter_context(tempfile.TemporaryDirectory()) if compiles else ""
                turns = {model: contestant(stack, model, *here, cache=cache)}
                before = [f"model={model}", *shape, *([] if options.before or options.compile else BEFORE)]
                checkout = (options.before or HERE).resolve()
                turns["before"] = contestant(stack, "before", checkout, before, options.compile)
                if model != "simclr":
                    simclr = [HERE, ["model=simclr", *shape, *compiles], True]
                    turns["simclr"] = contestant(stack, "simclr", *simclr, cache=cache)
                if compiles:
                    contestant(stack, f"{model}, cached", *here, cache=cache)
                for name, values in measure.alternate(turns, options.repeats, lambda: passed).items():
                    found.setdefault(name, []).extend(values)
        times = {name: [1000 * value for value in values] for name, values in found.items()}
        what = f"training step on photos, {model}, batch 256{', compiled' if compiles else ''}"
        rows.append(
            Row(what, against, "ms", times[model], times["before"], "times less", None if options.compile else 1.3)
        )
        if model in ("mocov2", "nnclr"):
            rows.append(Row(what, "SimCLR's", "ms", times[model], times["simclr"], "at most", 1.15))
        if compiles:
            cached, without = first[f"{model}, cached"][-1:], first[model][-1:]
            rows.append(
                Row(f"{what}: the first two steps, cached", "without a cache", "s", cached, without, "times less")
            )
    name = "steps_compiled" if options.compile else "steps"
    save_rows(options.output, name, rows, ("torch", "lightly"), measure.clock_note())
    return rows


if __name__ == "__main__":
    main()
