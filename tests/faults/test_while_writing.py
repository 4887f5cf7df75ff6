"""Kills and full disks in the middle of a write: at a random byte of a file that a run writes."""

import os
import shutil
import signal
import subprocess

import numpy as np
import pytest
from children import in_child
from faulty import assert_ended_as, die_of_limit, go, limit_files, limit_while_writing, one_line

from kindred.data.cache import build_once
from kindred.runs.reading.weights import resume_point
from kindred.tracking.metrics_csv import read_metrics

# What a run writes, as it opens it, and how often: a random time of those is hit.
FILES = {
    "last.ckpt": ("*/checkpoints/.last.ckpt.*", 7),
    "best.ckpt": ("*/checkpoints/.best.ckpt.*", 1),
    "metrics.csv": ("*/metrics.csv", 20),
    "metrics.csv, rewritten": ("*/.metrics.csv.*", 3),
    "summary.json": ("*/.summary.json.*", 1),
}


def size_of(directory, name):
    """The bytes that a file has in a run that was never stopped."""
    file = name.partition(",")[0]
    return (directory / ("checkpoints" if file.endswith("ckpt") else ".") / file).stat().st_size


@pytest.mark.parametrize("name", FILES)
def test_killed_while_a_file_is_written(unbroken, ledger, chance, tmp_path, name):
    whole, _ = unbroken()
    pattern, most = FILES[name]
    with ledger.meets() as met:
        hits = 0
        while hits < 3:
            run = tmp_path / f"run{hits}"
            occurrence = chance.randint(1, most)
            size = size_of(whole, name) * chance.uniform(0, 0.9)
            statuses = go(run, prepare=lambda o=occurrence, s=int(size): limit_while_writing(pattern, o, s, True))
            if statuses == [0]:  # the file was not opened so often, or stayed as short
                shutil.rmtree(run)
                continue
            assert statuses == [-signal.SIGXFSZ]
            met.append(f"killed at a random byte of {name}")
            hits += 1
            assert go(run) == [0]
            assert_ended_as(run, whole)


@pytest.mark.parametrize("name", FILES)
def test_the_disk_is_full_while_a_file_is_written(unbroken, ledger, chance, tmp_path, capfd, name):
    whole, _ = unbroken()
    pattern, most = FILES[name]
    with ledger.meets() as met:
        hits = 0
        while hits < 2:
            run = tmp_path / f"run{hits}"
            occurrence = chance.randint(1, most)
            size = max(400, size_of(whole, name) * chance.uniform(0, 0.9))  # stderr is a file here, and needs room
            capfd.readouterr()
            statuses = go(run, prepare=lambda o=occurrence, s=int(size): limit_while_writing(pattern, o, s, False))
            said = capfd.readouterr().err
            if statuses == [0]:  # the file was not opened so often, or stayed as short
                shutil.rmtree(run)
                continue
            met.append(f"disk full at a random byte of {name}")
            hits += 1
            assert statuses == [1]
            assert "cannot be written: File too large" in one_line(said)
            rows = read_metrics(run / "metrics.csv")
            found = resume_point(run / "checkpoints")
            assert rows or found is None
            assert found is None or {row["step"] for row in rows} >= set(range(found[1]["global_step"] + 1))
            assert go(run) == [0]
            assert_ended_as(run, whole)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own, if this may mount one; and how to give it more room."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=160k", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a small disk takes root")
    yield disk, lambda: subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
    subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_small_disk_is_full_and_gets_room(unbroken, ledger, tmp_path, capfd, small_disk):
    whole, _ = unbroken()
    disk, enlarge = small_disk
    with ledger.meets("a disk of 160 KB is full, and gets room"):
        assert go(disk / "run") == [1]
        assert "No space left on device" in one_line(capfd.readouterr().err)
        enlarge()
        assert go(disk / "run") == [0]
        assert_ended_as(disk / "run", whole)


def arrays(folder):
    for name in "abc":
        np.save(folder / f"{name}.npy", np.arange(20_000))


@pytest.mark.parametrize("deadly", [True, False])
def test_while_the_data_cache_is_written(ledger, chance, tmp_path, deadly):
    fault = "killed at a random byte of the data cache" if deadly else "disk full at a random byte of the data cache"
    for attempt in range(3):
        with ledger.meets(fault):
            folder, size = tmp_path / str(attempt) / "cache", chance.randint(0, 150_000)

            def build(folder=folder, size=size):
                die_of_limit(deadly)
                limit_files(size)
                build_once(folder, arrays, key="key")

            assert in_child(build) == (-signal.SIGXFSZ if deadly else 1)
            assert not folder.exists()
            build_once(folder, arrays, key="key")
            assert all(np.array_equal(np.load(folder / f"{name}.npy"), np.arange(20_000)) for name in "abc")
            assert [path.name for path in folder.parent.iterdir()] == ["cache"]


def test_a_run_is_killed_while_its_data_are_prepared(unbroken, ledger, chance, tmp_path):
    whole, _ = unbroken()
    root = tmp_path / "data"
    with ledger.meets("killed at a random byte of a run's data cache"):
        run, size = tmp_path / "run", chance.randint(0, 60_000)
        own = [f"data.source.root={root}"]
        assert go(run, own, prepare=lambda: (die_of_limit(True), limit_files(size))) == [-signal.SIGXFSZ]
        assert not run.exists()
        assert go(run, own) == [0]
        assert_ended_as(run, whole)
        assert sorted(os.listdir(root)) == ["v1"]
