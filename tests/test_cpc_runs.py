"""CPC through the whole house: trained on images as sequences, resumed, judged, exported, and refused in one line."""

import json
import signal

import pytest
import torch
from children import At, add_callback, in_child, kill_self
from outcomes import assert_same, outcome
from rank_helpers import as_ranks, command, finish
from safetensors import safe_open

import kindred
from kindred.callbacks.metric_names import metric_names
from kindred.commands.train import main
from kindred.config import compose
from kindred.runs.exporting.export import export, load_encoder
from kindred.runs.judging.evaluate import evaluate

TINY = [
    *("data=digits", "data.batch_size=180", "trainer.max_epochs=2", "trainer.check_val_every_n_epoch=1"),
    *("trainer.log_every_n_steps=1", "callbacks.checkpoints.every_n_steps=2", "trainer.enable_progress_bar=false"),
]
GRID = ["encoder=patches", "encoder.size=4", "encoder.stride=2", "encoder.encoder.widths=[8,16]"]  # 3x3 patches
CPC = [*TINY, *GRID, "model=cpc", "views=cpc", "model.steps_ahead=2", "model.hidden_dim=16"]


def start(run, settings=CPC, prepare=lambda: None):
    return in_child(lambda: (prepare(), main([*settings, f"run_dir={run}"]))[1])


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    run = tmp_path_factory.mktemp("cpc") / "run"
    assert start(run) == 0
    return run


def test_it_records_how_well_each_step_ahead_is_told_apart(whole):
    run = kindred.load_run(whole)
    pairs = {"train/positive_similarity", "train/alignment", "train/projector_alignment"}  # of one view there are none
    assert set(run.summary) == metric_names(compose(CPC)) - pairs
    for k in (1, 2):
        bound, accuracy = (run.summary[f"train/step{k}_{name}"] for name in ("bound", "accuracy"))
        assert 0 <= accuracy <= 1
        assert bound > 0
    both = (run.summary["train/step1_bound"] + run.summary["train/step2_bound"]) / 2
    assert run.summary["train/information_bound"] == pytest.approx(both, abs=1e-4)


def test_it_is_resumed_to_the_bit(whole, tmp_path):
    run = tmp_path / "run"
    assert start(run, prepare=lambda: add_callback(At(3, kill_self))) == -signal.SIGKILL
    assert in_child(lambda: main([f"resume={run}"])) == 0
    ours, theirs = outcome(run), outcome(whole)
    assert repr(ours.pop("rows")) == repr(theirs.pop("rows"))  # an empty cell is NaN, equal to none
    assert_same(ours, theirs)


def test_it_is_judged_by_the_mean_of_its_latents(whole):
    assert in_child(lambda: evaluate(kindred.load_run(whole)) and None) == 0
    result = json.loads((whole / "evaluation.json").read_text())
    assert result["test/linear_top1"] > 0.3  # of ten classes


@pytest.mark.parametrize("format", ["safetensors", "torch-export", pytest.param("onnx", marks=pytest.mark.slow)])
def test_the_encoder_is_exported_with_its_grid(whole, tmp_path, format):
    run = kindred.load_run(whole)
    path = export(run, format, tmp_path)
    images = torch.rand(3, 1, 8, 8)
    with torch.inference_mode():
        expected = run.datamodule().views.exported(run.encoder)(images)
        if format == "safetensors":
            features = load_encoder(path)(images)
            with safe_open(path, "pt") as file:
                assert not any("context" in name or "bilinear" in name for name in file.keys())  # noqa: SIM118
        elif format == "torch-export":
            features = torch.export.load(path).module()(images)
        else:
            import onnxruntime

            features = torch.from_numpy(onnxruntime.InferenceSession(path).run(None, {"images": images.numpy()})[0])
    assert torch.allclose(features, expected, atol=1e-5)


@pytest.mark.parametrize(
    "settings",
    [
        ["model=simclr", "model.hidden_dim=16"],
        pytest.param(["model=mocov2", "model.queue_size=512"], marks=pytest.mark.slow),
        pytest.param(["model=nnclr", "model.predictor_dim=32", "model.queue_size=512"], marks=pytest.mark.slow),
        pytest.param(["model=supcon", "model.chunks=2"], marks=pytest.mark.slow),
    ],
)
def test_other_methods_train_on_patches(tmp_path, settings):
    assert start(tmp_path / "run", [*TINY, *GRID, *settings, "callbacks.figures=null"]) == 0
    assert kindred.load_run(tmp_path / "run").summary["val/linear_top1"] > 0.3


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        ["model.negatives=sequence", "model.context=conv", "trainer.precision=64-true"],
        [
            "model.chunks=2",
            "model.negatives=mixed",
            "views=small",
            "temperature=learnable",
            "model.temperature.initial=1.0",
        ],
        ["trainer.precision=bf16-mixed", "trainer.channels_last=false"],
    ],
)
def test_its_options_train(tmp_path, settings):
    assert start(tmp_path / "run", [*CPC, *settings, "callbacks.figures=null"]) == 0
    summary = kindred.load_run(tmp_path / "run").summary
    assert summary["val/linear_top1"] > 0.3
    assert summary["train/step1_bound"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("trainer", ["ddp_cpu", "fsdp"])
def test_two_ranks_are_the_same_experiment(whole, tmp_path, trainer):
    settings = [*CPC, f"run_dir={tmp_path / 'run'}", f"trainer={trainer}", "trainer.devices=2"]
    if trainer == "fsdp":
        settings += ["trainer.accelerator=cpu", "trainer.precision=32-true", "trainer.fused=false"]
        settings += ["trainer.log_every_n_steps=1", "trainer.check_val_every_n_epoch=1", "trainer.max_epochs=2"]
    assert as_ranks(2, lambda rank: main(settings)) == [0, 0]
    ours, theirs = (kindred.load_run(run).metrics["train/loss"] for run in (tmp_path / "run", whole))
    assert ours[1:] == pytest.approx(theirs[1:], rel=1e-3, nan_ok=True)  # NaN in rows of evaluations
    assert (ours > 0).sum() == 10


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        (["encoder=convnet"], "encoder: ConvNet gives no windows (it has no encode_windows), which CPC predicts: give"),
        ([*GRID, "model.steps_ahead=3"], "model.steps_ahead is 3, but an input has 3 steps of windows: give at most 2"),
        ([*GRID, "encoder.stride=3"], "encoder.stride is 3: patches of 4 pixels do not end where an image of 8 does"),
        ([*GRID, "encoder.size=9"], "encoder.size is 9: a patch must fit into an image of 8 pixels"),
        ([*GRID, "model.negatives=all"], "model.negatives must be batch or sequence or mixed, got 'all'"),
        ([*GRID, "model.context=lstm"], "model.context must be gru or conv, got 'lstm'"),
        ([*GRID, "model.steps_ahead=0"], "model.steps_ahead must be 1 or more, got 0"),
        (["data=photos", "data.source.patch=48"], "data.source.patch must be 32 or 64, got 48"),
    ],
)
def test_what_cannot_work_is_one_line_before_the_first_epoch(tmp_path, capfd, settings, line):
    assert in_child(lambda: main([*TINY, "model=cpc", f"run_dir={tmp_path / 'run'}", *settings])) == 1
    error = capfd.readouterr().err
    assert line in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_the_command_as_a_person_types_it(tmp_path):
    run = tmp_path / "run"
    printed = finish(
        command("train", "model=cpc", "trainer.max_epochs=1", "data.train_size=128", f"run_dir={run}"), 400
    )
    found = kindred.load_run(run)
    assert found.config.data.image_size == 64, printed
    assert found.summary["train/step1_accuracy"] > 0
    assert "linear probe, untrained encoder" in printed
