"""A W&B server that is of no use: the run is what it is without W&B, and what was not sent can be sent later."""

import multiprocessing
import threading
import time
from contextlib import ExitStack

import pytest
from children import At, add_callback
from fake_wandb_server import FakeWandbServer
from faulty import assert_ended_as, go
from uploads import assert_holds, refusing, said, upload, wandb_of_its_own


@pytest.fixture(autouse=True)
def wandb_alone(monkeypatch, tmp_path):
    wandb_of_its_own(monkeypatch, tmp_path)


def uploaded(lines, server):
    """The one run that the server has of it, once what the lines say is uploaded."""
    if any("wandb sync" in line for line in lines):
        return upload(next(line for line in reversed(lines) if "wandb sync" in line), server)
    (run,) = server.runs.values()
    return run


@pytest.mark.parametrize("fault", ["refuses", "hangs", "answers 500"])
def test_the_server_is_of_no_use_from_the_start(unbroken, ledger, tmp_path, capfd, monkeypatch, fault):
    whole, _ = unbroken()
    run = tmp_path / "run"
    with ExitStack() as stack, ledger.meets(f"the W&B server {fault}"):
        address = stack.enter_context(refusing())
        server = stack.enter_context(FakeWandbServer("fails" if fault == "answers 500" else "hangs"))
        monkeypatch.setenv("WANDB_BASE_URL", address if fault == "refuses" else server.url)
        capfd.readouterr()
        assert go(run, ["logger=wandb"]) == [0]
        assert_ended_as(run, whole)
        assert_holds(upload(said(capfd)[-1]), run)


@pytest.mark.parametrize("fault", ["hangs", "answers 500"])
@pytest.mark.parametrize("comes_back", [True, False])
def test_the_server_is_lost_under_way(unbroken, ledger, tmp_path, capfd, monkeypatch, fault, comes_back):
    whole, _ = unbroken()
    run, name = tmp_path / "run", f"the W&B server {fault} under way{' and comes back' if comes_back else ''}"
    lost, back = multiprocessing.Event(), multiprocessing.Event()
    with FakeWandbServer() as server, ledger.meets(name):
        monkeypatch.setenv("WANDB_BASE_URL", server.url)

        def outage():
            lost.wait(60)
            server.mode = "fails" if fault == "answers 500" else "hangs"
            time.sleep(2)
            if comes_back:
                server.mode = "answers"
            back.set()

        class Outage(At):
            def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
                if trainer.global_step == 3:
                    lost.set()
                if trainer.global_step == 9:
                    back.wait(60)

        thread = threading.Thread(target=outage)
        thread.start()
        capfd.readouterr()
        assert go(run, ["logger=wandb"], prepare=lambda: add_callback(Outage(0, lambda: None))) == [0]
        thread.join()
        assert_ended_as(run, whole)
        server.mode = "answers"
        assert_holds(uploaded(said(capfd), server), run)
