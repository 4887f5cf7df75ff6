"""A checkpoint that is not what was written, or not of these settings, is found before it is used."""

import os
import random
import shutil

import pytest
import torch
from children import At, add_callback, kill_self, resume, start
from omegaconf import OmegaConf
from outcomes import assert_same, outcome

from kindred.runs.reading.weights import DamagedCheckpointError, bound_settings, damage, read_checkpoint


def cut(path):
    os.truncate(path, path.stat().st_size // 2)


def empty(path):
    os.truncate(path, 0)


def flip(path):
    content = bytearray(path.read_bytes())
    for position in (len(content) // 2, len(content) // 2 + 1):
        content[position] ^= 16
    path.write_bytes(content)


def overwrite(path):
    path.write_text("no checkpoint")


@pytest.fixture
def cut_run(run, tmp_path):
    """A run that was killed in its third epoch: last.ckpt is of step 10, previous.ckpt of step 8."""
    directory = tmp_path / "run"
    assert start(directory, prepare=lambda: add_callback(At(11, kill_self))) != 0
    return directory


@pytest.mark.parametrize("break_it", [cut, empty, flip, overwrite])
def test_damage_is_named_and_a_loaded_run_is_none(run, tmp_path, break_it):
    path = shutil.copy(run / "checkpoints" / "last.ckpt", tmp_path)
    path = tmp_path / "last.ckpt"
    assert damage(path) is None
    break_it(path)
    with pytest.raises(DamagedCheckpointError, match=rf"{path}: damaged: "):
        read_checkpoint(path)


def test_whatever_bit_flips_is_found_or_does_not_matter(run, tmp_path):
    content = (run / "checkpoints" / "last.ckpt").read_bytes()
    truth, path = read_checkpoint(run / "checkpoints" / "last.ckpt"), tmp_path / "last.ckpt"
    draw, found = random.Random(0), 0
    directory = content.index(b"PK\x01\x02")  # of the archive, at its end; before it the tensors
    places = [draw.randrange(directory) for _ in range(60)] + [
        draw.randrange(directory, len(content)) for _ in range(200)
    ]
    for place in places:
        flipped = bytearray(content)
        flipped[place] ^= 1 << draw.randrange(8)
        path.write_bytes(flipped)
        try:
            assert_same(read_checkpoint(path), truth)
        except DamagedCheckpointError:
            found += 1
    assert found >= len(places) - 1  # but for the checksum's own mark, without which there are still the tensors'


def test_a_checkpoint_without_a_checksum_of_its_own_has_those_of_its_tensors(run, tmp_path):
    """As main wrote them before."""
    path = tmp_path / "last.ckpt"
    checkpoint = read_checkpoint(run / "checkpoints" / "last.ckpt")
    torch.save(checkpoint, path)
    assert_same(read_checkpoint(path), checkpoint)
    content = bytearray(path.read_bytes())
    weights = max((value for value in checkpoint["state_dict"].values()), key=torch.Tensor.numel)
    content[content.index(weights.numpy().tobytes())] ^= 1
    path.write_bytes(content)
    with pytest.raises(DamagedCheckpointError, match=r"the checksum of its part .* is wrong"):
        read_checkpoint(path)


def test_a_file_from_before_zip_archives_is_read(tmp_path):
    torch.save({"a": torch.arange(3)}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert torch.equal(read_checkpoint(tmp_path / "old.pt")["a"], torch.arange(3))


@pytest.mark.parametrize("break_it", [cut, flip, os.unlink])
def test_a_run_goes_on_from_the_newest_good_checkpoint_and_says_so(run, cut_run, capfd, break_it):
    checkpoints = cut_run / "checkpoints"
    assert [read_checkpoint(checkpoints / f"{n}.ckpt")["global_step"] for n in ("last", "previous")] == [10, 8]
    break_it(checkpoints / "last.ckpt")
    assert resume(cut_run) == 0
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(f"{checkpoints / 'last.ckpt'}: ")
    assert line.endswith("; going on from previous.ckpt, at step 8")
    assert_same(outcome(cut_run), outcome(run))
    assert (checkpoints / "damaged.ckpt").exists() == (break_it is not os.unlink)


def test_no_good_checkpoint_is_one_line_that_says_what_to_do(cut_run, capfd):
    for path in (cut_run / "checkpoints").iterdir():
        flip(path)
    assert resume(cut_run) == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(f"error: {cut_run / 'checkpoints' / 'last.ckpt'}: damaged: its checksum is wrong, ")
    assert line.endswith(f"no other checkpoint is good: start a new run, or delete {cut_run / 'checkpoints'}")


def test_a_checkpoint_is_bound_to_the_settings_that_make_the_numbers(run, cut_run, capfd):
    saved = cut_run / "config.yaml"
    config = OmegaConf.load(saved)
    for changes, more in (({}, ""), ({"data.batch_size": 128}, " (1 more differ)")):
        edited = config.copy()
        for key, value in {"model.temperature": 0.4, **changes}.items():
            OmegaConf.update(edited, key, value)
        OmegaConf.save(edited, saved)
        assert resume(cut_run) == 1
        (line,) = capfd.readouterr().err.splitlines()
        was = f"model.temperature is 0.4, but last.ckpt was trained with 0.2{more}"
        assert line == f"error: {saved}: {was}: put it back, or start a new run"
    moved = config.copy()  # places, what is shown, devices: none of it makes a number
    moved.data.num_workers = 1
    moved.callbacks.progress = None
    moved.encoder._target_ = "elsewhere.ConvNet"
    assert bound_settings(moved) == bound_settings(config)
    OmegaConf.save(config, saved)
    assert resume(cut_run, ["trainer.max_epochs=4", "trainer.log_every_n_steps=2"]) == 0


def test_a_checkpoint_that_says_nothing_of_its_settings_goes_on(run, cut_run):
    """Written before checkpoints were bound to them."""
    path = cut_run / "checkpoints" / "last.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    assert isinstance(checkpoint.pop("settings"), str)
    torch.save(checkpoint, path)
    assert resume(cut_run) == 0
    assert_same(outcome(cut_run), outcome(run))
