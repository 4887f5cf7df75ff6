"""10,000 steps: memory and file handles do not grow."""

import os
from pathlib import Path

from children import add_callback, in_child
from faulty import SMALL
from lightning import Callback

from kindred.commands.train import main

LONG = [
    *("data=digits", *SMALL, "data.batch_size=64", "encoder.widths=[4,8]"),  # 16 steps an epoch
    *("trainer.max_epochs=625", "trainer.check_val_every_n_epoch=25", "callbacks.checkpoints.every_n_steps=100"),
    *("trainer.log_every_n_steps=10", "~callbacks.progress", "trainer.enable_progress_bar=false"),
]
WARM_UP = 2000  # steps, in which allocators, caches of kernels and pictures find their size


class Measure(Callback):
    """Writes step, resident bytes and open descriptors every 1,000 steps; of the last one before the pictures of the end."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx) -> None:
        if trainer.global_step % 1000 == 0:
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            size = pages * os.sysconf("SC_PAGE_SIZE")
            with self.path.open("a") as file:
                file.write(f"{trainer.global_step} {size} {len(os.listdir('/proc/self/fd'))}\n")


def test_memory_and_descriptors_are_flat_over_10000_steps(ledger, tmp_path):
    path = tmp_path / "measured.txt"

    def train():
        add_callback(Measure(path))
        return main([*LONG, f"run_dir={tmp_path / 'run'}"])

    with ledger.meets("10,000 steps in one process"):
        assert in_child(train, seconds=900) == 0
        measured = [[int(word) for word in line.split()] for line in path.read_text().splitlines()]
        assert [step for step, _, _ in measured] == list(range(1000, 10_001, 1000))
        shown = [f"| {step:,} | {size / 1e6:.1f} | {handles} |" for step, size, handles in measured]
        ledger.remarks.append("\n".join(["| step | memory, MB | open descriptors |", "|---:|---:|---:|", *shown]))
        settled = [row for row in measured if row[0] >= WARM_UP]
        sizes, handles = [row[1] for row in settled], [row[2] for row in settled]
        assert sizes[-1] - sizes[0] < 10e6
        assert max(handles) == min(handles)
