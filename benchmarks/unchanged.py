"""Whether what was added for other data has made images slower: views, and an epoch, against an older checkout.

    python benchmarks/unchanged.py --before <checkout> [--output benchmarks/results] [--repeats 8] [--tiny]

Both work in processes of their own, on one thread each, and take turns; seconds are the processor's, so that other programs
may run beside it. Views are SimCLR's of 32x32 and of 224x224 pixels (as in views.py). An epoch is SimCLR's steps
on 1,024 images of `photos`, from the views to the optimiser; reading, Lightning and evaluations are left out.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import measure
import torch
from report import Row, save_rows
from steps import HERE, TINY, step_of

RECIPES = {"32x32, batch 512, no blur": (512, 32, 32, 0.5, 0.0), "224x224, batch 16, blur": (16, 256, 224, 1.0, 0.5)}
STEPS = 4  # of an epoch


def views_of(checkout: Path, count: int, side: int, size: int, strength: float, blur: float) -> Callable[[], float]:
    """Two views of `count` images in `checkout`; it returns its seconds."""
    if checkout != HERE:
        sys.path.insert(0, str(checkout / "src"))
    from views import photograph_cuts, simclr_views  # they import kindred, which may be the older one only now

    views, images, index = simclr_views(size, strength, blur), photograph_cuts(count, side), torch.arange(count)

    def work() -> float:
        start = time.process_time()
        views(images, index, 0)
        return time.process_time() - start

    return work


def epoch_of(checkout: Path, overrides: list[str]) -> Callable[[], float]:
    """An epoch's steps in `checkout`; it returns their seconds."""
    step = step_of(checkout, overrides, False, True)
    return lambda: sum(step()[1] for _ in range(STEPS))


def in_turns(prepare: Callable, before: Path, arguments: tuple, repeats: int) -> list[list[float]]:
    """Seconds of each turn, of this checkout and of the older one."""
    passed = 0.0

    def contestant(stack: ExitStack, checkout: Path) -> tuple[int, Callable[[], None]]:
        started = stack.enter_context(measure.Contestant({"OMP_NUM_THREADS": "1"}, prepare, checkout, *arguments))

        def call() -> None:
            nonlocal passed
            passed += started()

        return 1, call

    with ExitStack() as stack, measure.threads(1):
        turns = {place: contestant(stack, path) for place, path in (("here", HERE), ("before", before.resolve()))}
        return list(measure.alternate(turns, repeats, lambda: passed).values())


def main(arguments: list[str] | None = None) -> list[Row]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, required=True, help="the older checkout")
    parser.add_argument("--output", type=Path, help="folder for unchanged.json and unchanged.md")
    parser.add_argument("--repeats", type=int, default=8, help="turns of each")
    parser.add_argument("--tiny", action="store_true", help="small: shows that it works, measures nothing")
    options = parser.parse_args(arguments)
    against, rows = f"checkout {options.before.name}", []
    for what, (count, side, size, strength, blur) in RECIPES.items():
        shape = (count // 8, side, size, strength, blur) if options.tiny else (count, side, size, strength, blur)
        here, before = in_turns(views_of, options.before, shape, options.repeats)
        rows.append(Row(f"views, {what}", against, "s", here, before, "at most", 1.03))
    shape = TINY if options.tiny else ["data=photos", "data.batch_size=256", f"data.source.root={HERE / 'data/photos'}"]
    here, before = in_turns(epoch_of, options.before, (["model=simclr", *shape],), options.repeats)
    rows.append(Row(f"epoch of {STEPS} steps on photos, simclr", against, "s", here, before, "at most", 1.03))
    save_rows(options.output, "unchanged", rows, ("torch",), "1 thread, processor time")
    return rows


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    main()
