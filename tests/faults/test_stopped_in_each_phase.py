"""SIGTERM and Ctrl-C in each phase of a run."""

import os
import signal

import pytest
from children import add_callback
from faulty import assert_ended_as, go, one_line
from lightning import Callback

from kindred.data.images.embedded import Digits
from kindred.runs import summary

SAVED = ("training step", "evaluation")


class During(Callback):
    """Sends this process a signal in the middle of one phase, once."""

    def __init__(self, phase: str, number: int) -> None:
        self.phase, self.number = phase, number

    def send(self, phase: str) -> None:
        if phase == self.phase:
            self.phase = ""
            os.kill(os.getpid(), self.number)

    def on_validation_batch_start(self, trainer, module, batch, batch_idx, dataloader_idx=0) -> None:
        phases = {0: "evaluation of the untrained encoder", 8: "evaluation"}
        self.send(phases.get(trainer.global_step, ""))

    def on_before_backward(self, trainer, module, loss) -> None:
        self.send("training step" if trainer.global_step == 4 else "")


def interrupt_before(owner, name, number):
    """Have a signal come when a function is called."""
    function = getattr(owner, name)

    def interrupted(*arguments, **named):
        os.kill(os.getpid(), number)
        return function(*arguments, **named)

    setattr(owner, name, interrupted)


def prepared(phase, number):
    """What sends the signal in that phase, in the process that trains."""
    if phase == "preparation of the data":
        interrupt_before(Digits, "_build", number)
    elif phase == "writing of the summary":
        interrupt_before(summary, "write_atomically", number)
    else:
        add_callback(During(phase, number))


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
@pytest.mark.parametrize(
    "phase",
    [
        "preparation of the data",
        "evaluation of the untrained encoder",
        "training step",
        "evaluation",
        "writing of the summary",
    ],
)
def test_stopped_in_each_phase(unbroken, ledger, tmp_path, capfd, phase, number, ranks):
    if ranks == 2 and phase not in SAVED:
        pytest.skip("one process does this")
    whole, _ = unbroken(ranks=ranks)
    run = tmp_path / "run"
    own = [f"data.source.root={tmp_path / 'data'}"] if phase == "preparation of the data" else []
    with ledger.meets(f"{number.name} in the {phase}"):
        capfd.readouterr()
        statuses = go(run, own, ranks, prepare=lambda: prepared(phase, number))
        assert statuses == [128 + number] * ranks
        said = one_line(capfd.readouterr().err)
        assert said.startswith("stopped by a signal")
        assert (f"make train RESUME={run}" in said) == (phase != "preparation of the data") == run.exists()
        assert go(run, own, ranks) == [0] * ranks
        assert_ended_as(run, whole)
        if own:
            assert [path.name for path in (tmp_path / "data").iterdir()] == ["v1"]
