"""What `make faults` counts, and the one table that it ends with."""

import os
import platform
import random
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import faulty
import pytest


@dataclass
class Ledger:
    """How often each fault was met, and how often it was survived.

    Attributes:
        counts: fault -> [times, survived].
        remarks: lines below the table.
    """

    counts: dict[str, list[int]] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)

    @contextmanager
    def meets(self, *faults: str) -> Generator[list[str]]:
        """Count `faults`, and those that the block appends, as survived if the block ends well, else as lost."""
        met, survived = list(faults), False
        try:
            yield met
            survived = True
        finally:
            for fault in met:
                count = self.counts.setdefault(fault, [0, 0])
                count[0] += 1
                count[1] += survived

    def table(self, seed: int) -> str:
        """Markdown."""
        rows = [(fault, times, survived, times - survived) for fault, (times, survived) in self.counts.items()]
        sums = ("together", *(sum(row[column] for row in rows) for column in (1, 2, 3)))
        lines = ["| fault | times | survived | lost |", "|---|---:|---:|---:|"]
        lines += [f"| {fault} | {times} | {survived} | {lost} |" for fault, times, survived, lost in [*rows, sums]]
        versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "lightning", "optuna", "wandb"))
        minutes = (time.monotonic() - self.began) / 60
        remarks = [
            *self.remarks,
            f"Seed {seed}, {minutes:.1f} minutes; Python {platform.python_version()}, {versions}.",
        ]
        return "\n".join(lines) + "\n\n" + "\n\n".join(remarks) + "\n"


LEDGER = pytest.StashKey[Ledger]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("faults")
    group.addoption("--faults-table", type=Path, help="write the table there too")
    group.addoption("--faults-seed", type=int, help="of the moments; printed, so that a failure can be repeated")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[LEDGER] = Ledger()
    seed = config.getoption("--faults-seed", None)
    faulty.SEED = random.randrange(1 << 31) if seed is None else seed


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.faults)


def pytest_report_header() -> str:
    return f"faults: seed {faulty.SEED}"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    ledger = config.stash.get(LEDGER, Ledger())
    if not ledger.counts:
        return
    table = ledger.table(faulty.SEED)
    terminalreporter.write_line(f"\n{table}")
    if path := config.getoption("--faults-table", None):
        path.write_text(table)


@pytest.fixture
def ledger(request) -> Ledger:
    return request.config.stash[LEDGER]


@pytest.fixture
def chance(request) -> random.Random:
    """Random numbers of the seed and the test: the same whichever tests run with it."""
    return random.Random(f"{faulty.SEED} {request.node.name}")


@pytest.fixture(scope="session")
def unbroken(tmp_path_factory):
    """A function: the directory of a run with these settings and ranks that was never stopped, and its seconds."""
    known = {}

    def run(*settings: str, ranks: int = 1) -> tuple[Path, float]:
        key = (settings, ranks)
        if key not in known:
            directory = tmp_path_factory.mktemp("unbroken") / "run"
            began = time.monotonic()
            assert faulty.go(directory, settings, ranks) == [0] * ranks
            known[key] = directory, time.monotonic() - began
        return known[key]

    os.environ.setdefault("OMP_NUM_THREADS", "1")
    return run
