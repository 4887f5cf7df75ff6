"""A run directory holds what it should, reads back as it was, and executes nothing."""

import json
import math
import os
import pickle
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

import kindred
from kindred import load_run
from kindred.config import ConfigError
from kindred.runs.judging.evaluate import other_datamodule
from kindred.runs.reading.weights import read_checkpoint
from kindred.runs.starting_weights import load_encoder_weights
from kindred.runs.writing.directory import new_name, point_latest
from kindred.runs.writing.resuming import resumed_config
from kindred.tracking.metrics_csv import summarise


def test_everything_is_there(run):
    files = {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()}
    assert files == {
        "config.yaml",
        "environment.json",
        "data.json",
        "data.npz",
        "metrics.csv",
        "summary.json",
        "checkpoints/last.ckpt",
        "checkpoints/best.ckpt",
        "checkpoints/previous.ckpt",
        "figures/views.png",
        "figures/curves.png",
        "figures/neighbours.png",
    }
    environment = json.loads((run / "environment.json").read_text())
    assert environment["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert {"command", "git_commit", "git_diff", "python", "platform", "cpu_cores", "gpus"} <= environment.keys()
    assert environment["openmp"].keys() & {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"}


def test_summary_is_the_last_epoch_with_base_lines_and_best_values(run):
    summary, metrics = kindred.load_run(run).summary, kindred.load_run(run).metrics
    knn = metrics["val/knn_top1"][~np.isnan(metrics["val/knn_top1"])]
    assert len(knn) == 4  # untrained, and after each of the three epochs
    assert summary["untrained/knn_top1"] == knn[0]
    assert summary["val/knn_top1"] == knn[-1]
    assert summary["val/knn_top1_best"] == knn[1:].max()
    assert summary["pixels/knn_top1"] > 0.9  # digits are that easy
    linear = metrics["val/linear_top1"][~np.isnan(metrics["val/linear_top1"])]
    assert len(linear) == 4
    assert (summary["untrained/linear_top1"], summary["val/linear_top1"]) == (linear[0], linear[-1])
    assert summary["pixels/linear_top1"] > 0.9
    assert summary["epochs"] == 3
    assert summary["seconds"] > 0
    assert summary["images_per_second"] > 0
    assert all(isinstance(value, int | float) for value in summary.values())


def test_metrics_have_the_documented_names(run):
    metrics = kindred.load_run(run).metrics
    assert set(metrics) == {
        *("step", "epoch", "train/loss", "train/lr", "train/temperature", "train/images_per_second"),
        *("train/positive_similarity", "train/negative_similarity", "train/information_bound"),
        *("train/alignment", "train/projector_alignment"),
        *(f"val/{of}{name}" for of in ("", "projector_") for name in ("uniformity", "tolerance", "effective_rank")),
        *(f"val/{of}{name}" for of in ("", "projector_") for name in ("rankme", "alpha_req", "lidar")),
        *(f"val/{of}{name}" for of in ("", "projector_") for name in ("alignment", "info_nce")),
        *("val/knn_top1", "val/knn_top5", "val/linear_top1", "val/linear_top5"),
        *(f"pixels/{probe}_top{k}" for probe in ("knn", "linear") for k in (1, 5)),
    }
    np.testing.assert_allclose(metrics["epoch"], metrics["step"] / 4)
    assert np.all(np.diff(metrics["step"]) > 0)


def test_best_checkpoint_is_from_the_best_epoch(run):
    metrics = kindred.load_run(run).metrics
    evaluated = ~np.isnan(metrics["val/knn_top1"]) & (metrics["step"] > 0)
    best = metrics["step"][evaluated][metrics["val/knn_top1"][evaluated].argmax()]
    assert read_checkpoint(run / "checkpoints" / "best.ckpt")["global_step"] == best


def test_a_loaded_run_scores_what_the_run_scored(run):
    """Features of the rebuilt encoder on the rebuilt data give the accuracy in summary.json."""
    from kindred.evaluation.knn import knn_classify

    loaded = kindred.load_run(run)
    assert not loaded.encoder.training
    datamodule = loaded.datamodule()
    datamodule.prepare_data()
    datamodule.setup()
    with torch.inference_mode():
        encoded = [encode(loaded.encoder, datamodule, loader) for loader in datamodule.val_dataloader()]
    (bank, bank_labels), (query, query_labels) = encoded
    knn = loaded.config.callbacks.knn
    scores = knn_classify(bank, bank_labels, query, knn.k, knn.temperature, datamodule.num_classes)
    accuracy = (scores.argmax(dim=1) == query_labels).double().mean().item()
    assert accuracy == pytest.approx(loaded.summary["val/knn_top1"], abs=1e-6)


def test_the_linear_accuracy_of_a_run_is_that_of_the_judge(run):
    """The judge is `kindred evaluate`'s, to which the bank's last tenth is val and the run's val images are test."""
    from kindred.evaluation.judge import Encoded, judge
    from kindred.evaluation.linear import hold_out

    loaded = kindred.load_run(run)
    datamodule = loaded.datamodule()
    datamodule.setup()
    with torch.inference_mode():
        encoded = [encode(loaded.encoder, datamodule, loader) for loader in datamodule.val_dataloader()]
    (bank, bank_labels), (query, query_labels) = [[part.clone() for part in pair] for pair in encoded]
    held_out = hold_out(bank_labels)
    train, val = (Encoded(bank[rows], bank_labels[rows]) for rows in (~held_out, held_out))
    scores, _ = judge(train, val, query, datamodule.num_classes)
    accuracy = (scores["linear"].argmax(dim=1) == query_labels).double().mean().item()
    assert accuracy == pytest.approx(loaded.summary["val/linear_top1"], abs=2.5 / len(query_labels))


def encode(encoder, datamodule, loader):
    batches = [datamodule.on_after_batch_transfer(batch, 0) for batch in loader]
    return torch.cat([encoder(batch.views[0]) for batch in batches]), torch.cat([batch.labels for batch in batches])


def test_listing_runs_imports_no_torch(run):
    code = f"import kindred, sys; print(kindred.load_run({str(run)!r}).metrics['step'][-1], 'torch' in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        == "12.0 False\n"
    )


@pytest.mark.parametrize("place", ["encoder", "model.optimizer", "data.source", "views.views.0"])
def test_a_class_that_is_not_on_the_list_is_not_built(run, tmp_path, place):
    config = OmegaConf.load(run / "config.yaml")
    OmegaConf.update(config, f"{place}._target_", "torch.utils.collect_env.run")
    OmegaConf.save(config, tmp_path / "config.yaml")
    (tmp_path / "checkpoints").symlink_to(run / "checkpoints")
    loaded = kindred.load_run(tmp_path)
    with pytest.raises(ConfigError, match=r"_target_: 'torch.utils.collect_env.run'.*trust="):
        _ = loaded.module if place in ("encoder", "model.optimizer") else loaded.datamodule()


def test_trust_extends_the_list(run, tmp_path):
    config = OmegaConf.load(run / "config.yaml")
    config.encoder = {"_target_": "test_run.Encoder"}
    OmegaConf.save(config, tmp_path / "config.yaml")
    loaded = kindred.load_run(tmp_path, trust=["test_run.Encoder"])
    with pytest.raises(FileNotFoundError, match=r"last\.ckpt"):  # it was built: only its weights are missing
        _ = loaded.module


class Encoder(torch.nn.Linear):
    num_features = 3

    def __init__(self):
        super().__init__(2, 3)


class Malicious:
    def __reduce__(self):
        return exec, ("raise SystemExit('executed')",)


def test_a_checkpoint_with_code_in_it_is_refused(tmp_path):
    torch.save({"state_dict": Malicious()}, tmp_path / "last.ckpt")
    with pytest.raises(pickle.UnpicklingError):
        read_checkpoint(tmp_path / "last.ckpt")


def test_no_run_directory(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no run directory: it has no config\.yaml"):
        kindred.load_run(tmp_path)


def test_latest_points_to_the_newest(tmp_path):
    first, second = (tmp_path / "photos" / "simclr" / new_name() for _ in range(2))
    assert first != second
    for directory in (first, second):
        directory.mkdir(parents=True)
        point_latest(tmp_path, directory)
        assert (tmp_path / "latest").resolve() == directory.resolve()
    assert {path.name for path in tmp_path.iterdir()} == {"photos", "latest"}


def test_summarise_leaves_the_untrained_encoder_out_of_the_best():
    rows = [
        {"step": 0, "val/knn_top1": 0.9, "pixels/knn_top1": 0.5},
        {"step": 5, "val/knn_top1": 0.6, "train/loss": 2.0},
        {"step": 9, "val/knn_top1": 0.5, "train/loss": 1.0},
    ]
    summary = summarise(rows)
    assert (summary["untrained/knn_top1"], summary["val/knn_top1"], summary["val/knn_top1_best"]) == (0.9, 0.5, 0.6)
    assert (summary["pixels/knn_top1"], summary["train/loss"]) == (0.5, 1.0)
    assert not any(math.isinf(value) for value in summary.values())


def test_weights_of_another_architecture_are_refused(run):
    with pytest.raises(ValueError, match=r"init_from: .* does not fit the encoder in .* tensors.*ENCODER="):
        load_encoder_weights(torch.nn.Linear(2, 2), run)


def test_a_relative_data_folder_is_where_the_run_was_started(run, tmp_path, monkeypatch, capsys):
    environment = json.loads((run / "environment.json").read_text())
    assert environment["directory"] == os.getcwd()
    copy, home, here = (tmp_path / name for name in ("run", "home", "here"))
    shutil.copytree(run, copy)
    home.mkdir()
    here.mkdir()
    (copy / "environment.json").write_text(json.dumps({**environment, "directory": str(home)}))

    def roots():
        found = load_run(copy)
        return {
            found.datamodule().source.root,
            other_datamodule(found, "digits").source.root,
            resumed_config(copy, []).data.source.root,
        }

    monkeypatch.chdir(home)
    assert roots() == {"data/digits"}
    assert capsys.readouterr().err == ""
    monkeypatch.chdir(here)
    assert roots() == {"data/digits"}
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert all(line.startswith("data.source.root: data/digits is not in ") for line in lines)
    assert all(str(home) in line and str(here) in line for line in lines)
    (home / "data" / "digits").mkdir(parents=True)
    assert roots() == {str(home / "data" / "digits")}
    assert capsys.readouterr().err == ""
    mine = other_datamodule(load_run(copy), "digits", ["data.source.root=mine"])  # said now, by who is here
    assert mine.source.root == "mine"
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("text", ["", "[]", '{"directory": 3}', "{}"])
def test_an_environment_that_does_not_say_where_leaves_the_data_folder_as_it_is(text, run, tmp_path, capsys):
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / "environment.json").write_text(text)
    assert load_run(tmp_path / "run").datamodule().source.root == "data/digits"
    assert capsys.readouterr().err == ""
