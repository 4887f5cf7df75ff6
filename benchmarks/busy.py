"""A training step on a machine that others use too: how OpenMP's threads wait, and what that costs.

    python benchmarks/busy.py [--output benchmarks/results] [--rounds 4] [--repeats 6] [--tiny]

Threads that wait for work look for it some times (GOMP_SPINCOUNT) before they sleep: 300,000 times if nothing is said,
5,000 in Kindred (`import kindred` says so before torch is there). A step of encoder and head, forwards and backwards, on all
cores, in processes that differ in this only and take turns: alone, then beside a loop on every core that never ends. Two
processes without any difference may be a seventh apart, by where their memory lies; so there are new ones in each round.
"""

import argparse
import multiprocessing
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import measure
import torch
from lightly.models.modules import SimCLRProjectionHead
from report import Row, save_rows

import kindred  # noqa: F401 - its import sets what is measured
from kindred.encoders.convnet import ConvNet

OWN = {"GOMP_SPINCOUNT": "300000"}  # libgomp's, where nothing is said
PASSIVE = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0"}


def step_of(batch_size: int, widths: tuple[int, ...]) -> Callable[[], None]:
    """The work of a process."""
    encoder = ConvNet(widths=widths)
    network = torch.nn.Sequential(encoder, SimCLRProjectionHead(encoder.num_features, 2048, 128))
    network.to(memory_format=torch.channels_last)
    images = torch.randn(batch_size, 3, 32, 32).contiguous(memory_format=torch.channels_last)

    def step() -> None:
        network.zero_grad()
        network(images).square().mean().backward()

    return step


def never_end() -> None:
    while True:
        pass


@contextmanager
def beside(loops: int) -> Iterator[None]:
    """Processes that never end, until the block does."""
    context = multiprocessing.get_context(measure.START_METHOD)
    load = [context.Process(target=never_end, daemon=True) for _ in range(loops)]
    for process in load:
        process.start()
    try:
        yield
    finally:
        for process in load:
            process.kill()
            process.join()


def main(arguments: list[str] | None = None) -> list[Row]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="folder for busy.json and busy.md")
    parser.add_argument("--rounds", type=int, default=4, help="of new processes")
    parser.add_argument(
        "--repeats", type=int, default=6, help="turns of each in a round, of three steps, alone and beside the load"
    )
    parser.add_argument("--tiny", action="store_true", help="small: shows that it works, measures nothing")
    options = parser.parse_args(arguments)
    network = (8, (4, 8)) if options.tiny else (256, (32, 64, 128, 256))

    kindreds = {"GOMP_SPINCOUNT": os.environ.get("GOMP_SPINCOUNT", "5000")}
    settings = {"Kindred": kindreds, "own": OWN, "passive": PASSIVE}
    seconds = {loaded: {name: [] for name in settings} for loaded in (False, True)}
    for _ in range(options.rounds):
        with ExitStack() as stack:
            turns = {}
            for name, environment in settings.items():
                turns[name] = (3, stack.enter_context(measure.Contestant(environment, partial(step_of, *network))))
            for loops in (0, os.cpu_count() or 1):
                with beside(loops):
                    for name, values in measure.alternate(turns, options.repeats).items():
                        seconds[loops > 0][name] += values

    rows = []
    for loaded, target in ((False, ("at most", 1.02)), (True, ("times less", 1.3))):
        what = f"step of encoder and head, {'beside a busy loop on every core' if loaded else 'alone'}"
        times = {name: [1000 * value for value in values] for name, values in seconds[loaded].items()}
        rows.append(Row(what, "OpenMP's own waiting", "ms", times["Kindred"], times["own"], *target))
        rows.append(Row(what, "OMP_WAIT_POLICY=PASSIVE", "ms", times["Kindred"], times["passive"], target[0]))
    note = f"{torch.get_num_threads()} threads, wall time"
    save_rows(options.output, "busy", rows, ("torch",), note, settings=settings)
    return rows


if __name__ == "__main__":
    main()
