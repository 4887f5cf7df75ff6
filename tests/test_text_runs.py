"""Texts through the whole house: trained by every method, resumed, judged, transferred, exported, read."""

import json
import signal

import numpy as np
import pytest
import torch
from children import At, add_callback, in_child, kill_self
from outcomes import assert_same, outcome
from safetensors import safe_open

import kindred
from kindred.commands.train import main
from kindred.runs.exporting.export import export, load_encoder
from kindred.runs.judging.evaluate import evaluate, other_datamodule

TOPICS = {
    "sea": ["wave", "harbour", "sail", "anchor", "tide", "gull", "captain", "reef"],
    "kitchen": ["spoon", "oven", "butter", "flour", "kettle", "onion", "plate", "pepper"],
    "forest": ["oak", "moss", "owl", "fern", "trail", "mushroom", "deer", "pine"],
}
COMMON = ["the", "a", "of", "with", "and", "near", "under", "old", "new", "is", "was", "then"]


def sentences(topic, count, seed):
    draw = np.random.default_rng(seed)
    return [" ".join(draw.choice(TOPICS[topic] + COMMON, 14)) + "." for _ in range(count)]


def write_folder(root, count=80):
    for number, topic in enumerate(TOPICS):
        for split, share in (("train", count), ("val", 20), ("test", 20)):
            (root / split / topic).mkdir(parents=True)
            for place, text in enumerate(sentences(topic, share, [number, share, len(split)])):
                (root / split / topic / f"{place}.txt").write_text(text)
    return root


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("texts") / "texts")


def settings(root):
    return [
        *("data=textfolder", f"data.source.root={root}", "data.source.vocab_size=200", "data.source.length=24"),
        *("data.batch_size=60", "encoder.width=16", "encoder.depth=1", "model.hidden_dim=32", "callbacks.knn.k=10"),
        *("trainer.max_epochs=3", "trainer.check_val_every_n_epoch=1", "trainer.log_every_n_steps=1"),
        *("callbacks.checkpoints.every_n_steps=2", "trainer.enable_progress_bar=false"),
    ]


def start(run, root, overrides=(), prepare=lambda: None):
    return in_child(lambda: (prepare(), main([*settings(root), f"run_dir={run}", *overrides]))[1])


@pytest.fixture(scope="module")
def whole(root, tmp_path_factory):
    run = tmp_path_factory.mktemp("text-run") / "run"
    assert start(run, root) == 0
    return run


def test_a_run_has_the_base_lines_of_texts_and_neighbours_that_can_be_read(whole):
    summary = kindred.load_run(whole).summary
    assert summary["val/knn_top1"] > 0.5  # of three classes
    assert summary["tfidf/knn_top1"] > 0.9  # words alone tell these topics apart
    assert {"untrained/knn_top1", "tfidf/linear_top1"} <= summary.keys()
    assert not any(name.startswith("pixels") for name in summary)
    assert {path.name for path in (whole / "figures").iterdir()} == {"curves.png", "neighbours.html"}
    page = (whole / "figures" / "neighbours.html").read_text()
    assert page.count('<tr class="query">') == 8
    assert any(
        text.lower() in page for topic in TOPICS for text in sentences(topic, 20, [list(TOPICS).index(topic), 20, 3])
    )


@pytest.mark.slow
@pytest.mark.parametrize("model", ["mocov2", "nnclr", "supcon"])
def test_the_other_methods_train_on_texts(model, root, tmp_path):
    queue = ["model.queue_size=120"] if model != "supcon" else []
    assert start(tmp_path / "run", root, [f"model={model}", *queue]) == 0
    assert kindred.load_run(tmp_path / "run").summary["val/knn_top1"] > 0.5


@pytest.mark.slow
def test_it_is_resumed_to_the_bit_dropout_included(whole, root, tmp_path):
    run = tmp_path / "run"
    assert start(run, root, prepare=lambda: add_callback(At(5, kill_self))) == -signal.SIGKILL
    assert in_child(lambda: main([f"resume={run}"])) == 0
    assert_same(outcome(run), outcome(whole))


@pytest.mark.slow
def test_texts_of_ones_own_are_judged_with_the_tokenizer_of_the_run(whole, tmp_path):
    assert in_child(lambda: evaluate(kindred.load_run(whole)) and None, seconds=300) == 0
    result = json.loads((whole / "evaluation.json").read_text())
    assert result["test/linear_top1"] > 0.7
    assert result["tfidf/linear_top1"] > 0.9
    # Other texts, on which another tokenizer would be trained.
    rows = [{"text": f"zebra {text}", "label": topic} for topic in TOPICS for text in sentences(topic, 30, 9)]
    (tmp_path / "other").mkdir()
    for split in ("train", "test"):
        (tmp_path / "other" / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    run = kindred.load_run(whole)
    datamodule = other_datamodule(
        run, "textfolder", [f"data.source.root={tmp_path / 'other'}", "data.source.length=24"]
    )
    datamodule.setup()
    assert datamodule.attachments() == {"tokenizer.json": (whole / "tokenizer.json").read_text()}


@pytest.mark.slow
@pytest.mark.parametrize("format", ["safetensors", "torch-export", "onnx"])
def test_an_exported_encoder_comes_with_its_tokenizer(whole, tmp_path, format):
    from tokenizers import Tokenizer

    run = kindred.load_run(whole)
    path = export(run, format, tmp_path)
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    tokens = torch.tensor([found.ids for found in tokenizer.encode_batch(["the owl near the oak", "Butter!"])])
    assert tokens.shape == (2, 24)
    with torch.inference_mode():
        expected = run.encoder(tokens)
        if format == "safetensors":
            features = load_encoder(path)(tokens)
            with safe_open(path, "pt") as file:
                assert "Transformer" in file.metadata()["encoder"]
        elif format == "torch-export":
            features = torch.export.load(path).module()(tokens)
        else:
            import onnxruntime

            features = torch.from_numpy(onnxruntime.InferenceSession(path).run(None, {"tokens": tokens.numpy()})[0])
    assert torch.allclose(features, expected, atol=1e-5)
    card = (tmp_path / "README.md").read_text()
    assert "In: int64 [B, 24], any B." in card
    assert 'Tokenizer.from_file("tokenizer.json")' in card


@pytest.mark.slow
def test_a_run_does_not_go_on_or_begin_with_weights_of_another_vocabulary(whole, root, tmp_path, capfd):
    other = write_folder(tmp_path / "texts", count=70)
    assert start(tmp_path / "run", other, [f"init_from={whole}"]) == 1
    error = capfd.readouterr().err
    assert f"{whole}/tokenizer.json: is not the tokenizer.json of these data" in error
    assert [line.partition(":")[0] for line in error.splitlines()] == ["init_from", "error"]
    assert not (tmp_path / "run").exists()
    given = [f"init_from={whole}", f"data.source.tokenizer={whole}/tokenizer.json", "trainer.max_epochs=1"]
    assert start(tmp_path / "run", other, given) == 0
