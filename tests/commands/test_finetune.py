"""`kindred finetune` and `kindred distill`, as a person types them: through resume, evaluation, comparison and export."""

import json
import re
import shutil
import signal

import pytest
import torch
from children import At, add_callback, in_child, kill_self, resume
from outcomes import assert_same, outcome
from rank_helpers import as_ranks, command, finish

from kindred.callbacks.metric_names import metric_names
from kindred.commands import compare, distill, evaluate, finetune
from kindred.runs.exporting.export import export
from kindred.runs.run import load_run

BRIEFLY = ["~callbacks.figures", "~callbacks.label_free", "trainer=cpu", "trainer.enable_progress_bar=false"]
EPOCHS = ["trainer.max_epochs=3", "trainer.check_val_every_n_epoch=1", "callbacks.checkpoints.every_n_steps=2"]
FINETUNE = ["--labels", "0.3", *BRIEFLY, *EPOCHS, "model.optimizer.lr=0.1"]
DISTILL = [*BRIEFLY, *EPOCHS, "encoder.widths=[6,12]", "model.alpha=0.7", "trainer.log_every_n_steps=1"]


@pytest.fixture(scope="module")
def place(run, tmp_path_factory):
    """A finished run, fine-tuned and distilled in processes of their own; each gone when its weights are in the next one."""
    folder = tmp_path_factory.mktemp("labels")
    shutil.copytree(run, folder / "first")
    said = finish(command("finetune", "--run", str(folder / "first"), *FINETUNE, f"run_dir={folder / 'finetuned'}"))
    assert "the first 1 layer(s) of its projector loaded" in said
    assert "classifier, best epoch" in said
    shutil.rmtree(folder / "first")
    shutil.copytree(folder / "finetuned", folder / "teacher")
    said = finish(command("distill", "--run", str(folder / "teacher"), *DISTILL, f"run_dir={folder / 'distilled'}"))
    assert "loaded into the teacher" in said
    shutil.rmtree(folder / "teacher")
    return folder


def test_it_is_a_run_like_any_other_with_the_labels_of_evaluate(place, run):
    settings = load_run(place / "finetuned").settings
    assert settings["encoder"] == load_run(run).settings["encoder"]
    assert settings["model"]["widths"] == [32]
    assert (settings["data"]["labels"], settings["data"]["unlabelled"], settings["data"]["batch_size"]) == (
        0.3,
        False,
        64,
    )
    (view,) = settings["views"]["views"]
    assert {"jitter", "brightness", "contrast"}.isdisjoint(view)
    assert view["crop_scale"] == load_run(run).settings["views"]["views"][0]["crop_scale"]
    assert load_run(place / "finetuned").summary["val/classifier_top1"] > 0.3
    assert load_run(place / "finetuned").summary["val/classifier_top1_best"] > 0.3
    student = load_run(place / "distilled")
    assert student.settings["data"]["labels"] == 0.3
    assert student.settings["encoder"]["widths"] == [6, 12]
    assert {"train/top1", "train/agreement"} < student.summary.keys()
    for name in ("finetuned", "distilled"):
        of_run = load_run(place / name)
        assert "untrained/classifier_top1" not in of_run.summary
        assert of_run.summary.keys() <= metric_names(of_run.config)


def test_evaluate_says_how_often_the_classifier_is_right_on_test(place, capfd):
    where = place / "finetuned"
    assert in_child(lambda: evaluate.main(["--run", str(where), "--brief"])) == 0
    said = capfd.readouterr().out
    assert "with 0.3 of the train labels" in said
    found = json.loads((where / "evaluation.json").read_text())
    assert found["labels"] == 0.3
    assert f"its own classifier, last epoch: {found['test/classifier_top1']:.3f}" in said
    assert f"its own classifier, best epoch on val: {found['test/classifier_best_top1']:.3f}" in said

    def by_hand():
        run = load_run(where)
        datamodule = run.datamodule()
        datamodule.setup()
        test = datamodule.test_dataset()
        images = datamodule.views.plain(torch.from_numpy(test.examples.read(test.positions)))
        for name, key in (("last", "classifier"), ("best", "classifier_best")):
            checkpoint = torch.load(where / "checkpoints" / f"{name}.ckpt", weights_only=True)
            run.module.load_state_dict(checkpoint["state_dict"])
            right = run.module.classify(images).argmax(dim=1) == torch.from_numpy(test.labels)
            assert abs(float(right.float().mean()) - found[f"test/{key}_top1"]) <= 1.01 / len(test)
        assert found["classifier_best_step"] == checkpoint["global_step"]

    with torch.inference_mode():
        assert in_child(by_hand) == 0


def test_compare_has_the_classifier_as_a_column(place, capfd):
    assert compare.main([str(place), "--output", str(place / "page.html")]) == 0
    said = capfd.readouterr().out
    assert "classifier best" in said
    assert "distilled" in said


def test_what_is_exported_is_the_students_encoder(place):
    def body():
        written = export(load_run(place / "distilled"), "safetensors", place / "encoder.safetensors")
        weights = sum(p.numel() for p in load_run(place / "distilled").encoder.parameters())
        assert written.stat().st_size < 4 * weights + 20_000

    assert in_child(body) == 0


@pytest.mark.parametrize("name", ["finetuned", "distilled"])
def test_killed_in_mid_epoch_and_resumed_without_what_it_came_from_it_ends_as_if_never_stopped(
    place, run, name, tmp_path
):
    source = tmp_path / "source"
    shutil.copytree(run if name == "finetuned" else place / "finetuned", source)
    main, words = (finetune.main, FINETUNE) if name == "finetuned" else (distill.main, DISTILL)

    def body(directory, killed):
        if killed:
            add_callback(At(7 if name == "finetuned" else 11, kill_self))
        return main(["--run", str(source), *words, f"run_dir={directory}"])

    whole, ours = tmp_path / "whole", tmp_path / "run"
    assert in_child(lambda: body(whole, False)) == 0
    assert in_child(lambda: body(ours, True)) == -signal.SIGKILL
    shutil.rmtree(source)
    assert resume(ours) == 0
    one, other = outcome(ours), outcome(whole)
    assert repr(one.pop("rows")) == repr(other.pop("rows"))  # of one view some are NaN, equal to none
    assert_same(one, other)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["finetuned", "distilled"])
def test_two_ranks_end_as_one(place, run, name, tmp_path):
    main, words = (finetune.main, FINETUNE) if name == "finetuned" else (distill.main, DISTILL)
    source = run if name == "finetuned" else place / "finetuned"
    words = ["--run", str(source), *words, "trainer.precision=64-true"]
    assert in_child(lambda: main([*words, f"run_dir={tmp_path / 'one'}"])) == 0
    ranks = [word.replace("trainer=cpu", "trainer=ddp_cpu") for word in words] + ["trainer.devices=2"]
    assert as_ranks(2, lambda rank: main([*ranks, f"run_dir={tmp_path / 'two'}"])) == [0, 0]
    one, two = (load_run(tmp_path / each).module.state_dict() for each in ("one", "two"))
    for key, value in one.items():
        assert (two[key] - value).double().norm() <= 1e-9 * value.double().norm() + 1e-12, key


WRONG = [
    (
        "finetune --run {run} --layer 2",
        r"--layer is 2: the projector of .* has 1 layer\(s\) before .*, so give 0 or 1$",
    ),
    ("finetune --run {run} --layer -1", r"--layer is -1: .* give 0 or 1$"),
    ("finetune --run {run} --labels 0", r"data\.labels (must be|is) .*"),
    ("finetune --run {run} --labels 0.001", r"data\.labels is 0\.001: that is 1\.1 of 1079 train labels"),
    ("finetune --run {run} data.image_size=16", r"data\.image_size is 16, and .* was trained with 8: give that"),
    ("finetune --run {run} model.temprature=1", r"model\.temprature: there is no such key"),
    ("finetune --run {run} encoder.widths=[4,8]", r"init_from: .* does not fit the encoder"),
    ("distill --run nowhere", r"nowhere is no run directory"),
    ("distill --run {run}", r"has no classifier that could teach: fine-tune it first"),
    ("distill --run {finetuned} --layer 1", r"--layer is 1: .* only with --init=<run>"),
    ("distill --run {finetuned} --init {run} --layer 4", r"--layer is 4: .* give 0 or 1$"),
    ("distill --run {finetuned} --init {run} encoder.widths=[4,8]", r"init_from: .* does not fit the encoder"),
    ("distill --run {finetuned} model.temperature=0", r"model\.temperature must be greater than 0, got 0"),
    ("distill --run {finetuned} model.alpha=2", r"model\.alpha must be from 0 to 1, got 2"),
]


@pytest.mark.parametrize(("words", "message"), WRONG, ids=[words for words, _ in WRONG])
def test_what_cannot_be_is_one_line_and_leaves_nothing(words, message, place, run, tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name, *rest = words.format(run=run, finetuned=place / "finetuned").split()
    main = {"finetune": finetune.main, "distill": distill.main}[name]
    assert in_child(lambda: main([*rest, *BRIEFLY])) == 1
    (line,) = [line for line in capfd.readouterr().err.splitlines() if not line.startswith("init_from")]
    assert line.startswith("error: ")
    assert re.search(message, line), line
    assert not (tmp_path / "logs").exists()
