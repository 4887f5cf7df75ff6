"""A run directory is there once there is something to run, and not before."""

import contextlib
import errno
import fcntl
import os
import signal
import socket
import time

import pytest
from children import DIGITS, At, add_callback, in_child, kill_self, resume, start
from rank_helpers import as_ranks, command, finish, free_port

from kindred.commands.train import main
from kindred.config import ConfigError
from kindred.runs.writing.claim import Claim
from kindred.tracking.metrics_csv import read_metrics
from kindred.training.checkpoints import AtomicCheckpointIO

WRONG = {
    "data.source.root=/proc/no/such": "data.source.root",
    "data.val_size=5000": "data.val_size is 5000",
    "data.batch_size=4096": "only 1079 train examples",
    "data.channels=2": "data.source.channels",
    "callbacks.knn.every_n_epochs=3": "every_n_epochs=3 is no multiple",
}


@pytest.mark.parametrize(("setting", "message"), WRONG.items())
def test_what_is_wrong_leaves_nothing_behind_and_latest_where_it_was(tmp_path, capfd, setting, message):
    (tmp_path / "digits").mkdir()
    (tmp_path / "latest").symlink_to("digits")
    more = ["trainer.check_val_every_n_epoch=2"] if "every_n" in setting else []
    assert in_child(lambda: main([*DIGITS, f"log_dir={tmp_path}", setting, *more])) == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert message in line
    assert [path.name for path in sorted(tmp_path.rglob("*"))] == ["digits", "latest"]
    assert os.readlink(tmp_path / "latest") == "digits"


def test_wrong_data_is_found_before_ranks_are_launched(tmp_path, capfd):
    # Should the check fail to fail, ddp would launch this pytest once more; ddp_fork does not.
    settings = [*DIGITS, "trainer=ddp_cpu", "trainer.strategy=ddp_fork", "data.val_size=5000", f"log_dir={tmp_path}"]
    assert in_child(lambda: main(settings)) == 1
    assert capfd.readouterr().err.startswith("error: data.val_size is 5000")
    assert not list(tmp_path.iterdir())


def test_latest_moves_when_training_begins_and_the_run_that_goes_on_stays_where_it_is(tmp_path):
    """`resume=<...>/latest` is one run, even if `latest` leads to another one by the time of its next checkpoint."""
    settings = [*DIGITS, f"log_dir={tmp_path}"]

    def killed():
        add_callback(At(3, kill_self))
        return main(settings)

    in_child(killed)
    (run,) = (tmp_path / "digits" / "simclr").iterdir()
    assert (tmp_path / "latest").resolve() == run

    def move_latest():
        (tmp_path / "latest").unlink()
        (tmp_path / "other").mkdir()
        (tmp_path / "latest").symlink_to("other")

    assert resume(tmp_path / "latest", prepare=lambda: add_callback(At(4, move_latest))) == 0
    assert not list((tmp_path / "other").iterdir())
    assert read_metrics(run / "metrics.csv")[-1]["step"] == 12
    assert (tmp_path / "latest").resolve() == tmp_path / "other"


@pytest.mark.slow
def test_wrong_data_under_torchrun_ends_all_ranks_and_leaves_nothing(tmp_path):
    node = ["--nproc-per-node=2", f"--master-port={free_port()}", "--rdzv-id=wrong", "-m", "kindred", "train"]
    settings = [*DIGITS, "trainer=ddp_cpu", f"log_dir={tmp_path / 'logs'}", "data.val_size=5000"]
    started = command(*node, *settings, module="torch.distributed.run")
    printed = finish(started)
    assert started.returncode != 0
    assert "data.val_size is 5000" in printed
    assert not (tmp_path / "logs").exists()


def test_sources_are_read_once(tmp_path):
    """torchvision's prepare() reads the whole data set, as load() would again."""
    calls = []

    def counted():
        from kindred.data.images.embedded import Digits

        prepare = Digits.prepare
        Digits.prepare = lambda self: (calls.append("prepare"), prepare(self))
        main([*DIGITS, f"run_dir={tmp_path / 'run'}", "trainer.max_epochs=1"])
        return len(calls)

    assert in_child(counted) == 1


def test_ranks_that_were_started_together_agree_on_the_directory_and_find_wrong_data(tmp_path, capfd):
    settings = [*DIGITS, "trainer=ddp_cpu", f"log_dir={tmp_path}", "data.val_size=5000"]
    assert as_ranks(2, lambda rank: main(settings)) == [1, 1]
    assert "data.val_size is 5000" in capfd.readouterr().err
    assert not list(tmp_path.iterdir())


def test_two_processes_on_one_directory_are_one_too_many(tmp_path, capfd):
    run = tmp_path / "run"

    def second():
        assert resume(run) == 1
        (line,) = capfd.readouterr().err.splitlines()
        me = f"process {os.getpid()} on {socket.gethostname()}"
        assert line == f"error: {run}: {me} is writing to this run; stop it first"
        assert start(run) == 1

    assert start(run, prepare=lambda: add_callback(At(2, second))) == 0
    assert "already holds a run" in capfd.readouterr().err
    assert [row["step"] for row in read_metrics(run / "metrics.csv")] == list(range(13))
    assert not (run / ".lock").exists()


def test_the_lock_ends_with_its_process_even_if_loader_workers_outlive_it(tmp_path, capfd):
    run = tmp_path / "run"
    workers = ["data.num_workers=2", "trainer.max_epochs=1"]

    def fork_and_die():
        if (worker := os.fork()) == 0:
            for handle in os.listdir("/proc/self/fd"):  # whoever waits for the parent would wait for this one, too
                with contextlib.suppress(OSError):
                    if os.readlink(f"/proc/self/fd/{handle}").startswith("pipe:"):
                        os.close(int(handle))
            time.sleep(60)
            os._exit(0)
        (tmp_path / "worker").write_text(str(worker))
        kill_self()

    assert start(run, workers, prepare=lambda: add_callback(At(3, fork_and_die))) == -signal.SIGKILL
    assert (run / ".lock").exists()
    assert resume(run) == 0
    os.kill(int((tmp_path / "worker").read_text()), signal.SIGKILL)  # which was there all the time
    assert not (run / ".lock").exists()


def test_who_held_the_lock_elsewhere_is_named(tmp_path, capsys, monkeypatch):
    with Claim(tmp_path) as claim:
        claim.path.write_text("process 7 on another-host\n")
        claim.take()
        assert capsys.readouterr().err.startswith(f"{claim.path}: process 7 on another-host did not end in order")
        claim.file.truncate(0)  # not through another handle, whose closing would give the lock back
        claim.file.write("process 7 on another-host\n")
        claim.file.flush()

        def second():
            with pytest.raises(ConfigError, match=rf"process 7 on another-host is writing .* delete {claim.path}"):
                Claim(tmp_path).take()

        assert in_child(second) == 0
    assert not claim.path.exists()

    def no_locks(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", no_locks)
    with Claim(tmp_path) as claim:
        claim.take()


def test_a_directory_that_was_given_back_meanwhile_is_not_locked_by_two(tmp_path, monkeypatch):
    """The lock file that a run deletes at its end may be the one that the next has just opened."""
    lock, first = fcntl.lockf, Claim(tmp_path)
    first.take()

    def give_back_first(*arguments):
        first.__exit__()
        lock(*arguments)

    monkeypatch.setattr(fcntl, "lockf", give_back_first)
    with Claim(tmp_path) as second:
        second.take()
        assert os.path.samestat(os.fstat(second.file.fileno()), second.path.stat())


def test_sigterm_before_the_run_begins_is_one_line_and_leaves_no_half_data(tmp_path, capfd):
    def terminated():
        from kindred.data.images.embedded import Digits

        Digits._decode = lambda self: os.kill(os.getpid(), signal.SIGTERM)
        return main([*DIGITS, f"run_dir={tmp_path / 'run'}", f"data.source.root={tmp_path / 'data'}"])

    assert in_child(terminated) == 143
    assert capfd.readouterr().err == "stopped by a signal before the run began\n"
    assert [path.name for path in tmp_path.rglob("*")] == ["data"]


def test_a_directory_that_is_gone_ends_the_run_in_one_line_and_is_not_made_anew(tmp_path, capfd):
    run, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    assert start(run, prepare=lambda: add_callback(At(3, lambda: run.rename(elsewhere)))) == 1
    assert capfd.readouterr().err == (
        f"error: {run / 'metrics.csv'}: cannot be written: its directory was moved or deleted\n"
    )
    assert not run.exists()
    (elsewhere / ".summary.json.host-1.tmp").touch()  # as a kill leaves it
    assert resume(elsewhere) == 0
    assert (elsewhere / "summary.json").exists()
    assert list(elsewhere.rglob(".*")) == []


def test_a_checkpoint_makes_no_run_directory(tmp_path):
    with pytest.raises(OSError, match="its directory was moved or deleted"):
        AtomicCheckpointIO("{}").save_checkpoint({}, tmp_path / "gone" / "checkpoints" / "last.ckpt")
    assert not (tmp_path / "gone").exists()
