"""Judging a finished run: every number again by other means, and nothing chosen on test images."""

import itertools
import json
import re
import shutil
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from matplotlib import colormaps
from omegaconf import OmegaConf
from PIL import Image
from sklearn.linear_model import LogisticRegression
from torch.nn.functional import normalize

import kindred
from kindred.commands.evaluate import main
from kindred.data.images.embedded import Digits
from kindred.data.images.views import MultiView, View
from kindred.data.loading import Subset
from kindred.data.order import share_of_each_class
from kindred.data.source import ArrayExamples, NoTestError
from kindred.errors import ConfigError
from kindred.evaluation.accuracy import confusion_matrix
from kindred.evaluation.judge import KNN_K, KNN_TEMPERATURES, Encoded, choose_knn
from kindred.evaluation.knn import knn_classify
from kindred.runs.exporting.model_card import model_card
from kindred.runs.fingerprint import short
from kindred.runs.judging.evaluate import evaluate, flatten, other_datamodule, untrained_encoder
from kindred.runs.judging.features import cut, encode
from kindred.study.groups import numbers
from kindred.tracking.figures import draw_confusion, draw_map

CHOSEN = [
    f"{name}/{key}"
    for name in ("pixels", "untrained", "test")
    for key in ("knn_k", "knn_temperature", "knn_val_top1", "linear_penalty", "linear_val_top1")
]
ACCURACIES = [
    f"{name}/{probe}_top{k}"
    for name in ("pixels", "untrained", "test")
    for probe, k in itertools.product(("knn", "linear"), (1, 5))
]


def copy_of(run, place, **changes):
    """A copy of a run directory whose configuration has `changes` (dotted keys, __ for the dot)."""
    shutil.copytree(run, place)
    config = OmegaConf.load(place / "config.yaml")
    for key, value in changes.items():
        OmegaConf.update(config, key.replace("__", "."), value)
    OmegaConf.save(config, place / "config.yaml")
    return place


@pytest.fixture(scope="module")
def evaluated(run, tmp_path_factory):
    """(directory, evaluation.json) of the finished run, after the command."""
    directory = copy_of(run, tmp_path_factory.mktemp("evaluated") / "run")
    assert main(["--run", str(directory)]) == 0
    return directory, json.loads((directory / "evaluation.json").read_text())


@pytest.fixture(scope="module")
def encoded(run):
    """The run's own data through its encoder and the untrained one, by split."""
    loaded = kindred.load_run(run)
    datamodule = loaded.datamodule()
    datamodule.setup()
    encoders = {"test": loaded.encoder, "untrained": untrained_encoder(loaded), "pixels": datamodule.views.as_features}
    cpu = torch.device("cpu")
    return {name: encode(datamodule, images, name, encoders, cpu) for name, images in cut(datamodule).items()}


# What the command finds


def test_what_it_writes(evaluated):
    directory, result = evaluated
    assert {"evaluation.json", "figures/confusion.png", "figures/map.png"} <= {
        str(path.relative_to(directory)) for path in directory.rglob("*")
    }
    facts = [
        "step",
        "checkpoint",
        "data",
        "labels",
        "seed",
        "data_fingerprint",
        "judged_on",
        "chosen_on",
        "classes",
        "train_examples",
        "val_examples",
        "test_examples",
    ]
    assert set(result) == {*facts, *CHOSEN, *ACCURACIES, "per_class", "seconds"}
    assert (result["step"], re.fullmatch("[0-9a-f]{64}", result["checkpoint"]) is not None) == (12, True)
    facts.remove("data_fingerprint")
    assert [result[key] for key in facts[2:]] == ["digits", 1, 0, "test", "val", 10, 1079, 359, 359]
    assert result["data_fingerprint"] == short(kindred.load_run(directory).data)


def test_briefly_and_of_several_runs_at_once(evaluated, tmp_path, capsys):
    """As after a sweep: what is left out changes nothing about the rest."""
    for name in ("one", "other"):
        copy_of(evaluated[0], tmp_path / "trials" / name)
        shutil.rmtree(tmp_path / "trials" / name / "figures")
    assert main(["--run", str(tmp_path / "tri*"), "--brief"]) == 0
    whole = {key: value for key, value in evaluated[1].items() if not key.startswith(("pixels/", "untrained/"))}
    for name in ("one", "other"):
        directory = tmp_path / "trials" / name
        assert json.loads((directory / "evaluation.json").read_text()) | {"seconds": whole["seconds"]} == whole
        assert not (directory / "figures").exists()
    numbers = f"kNN {whole['test/knn_top1']:.3f}, linear {whole['test/linear_top1']:.3f}"
    assert capsys.readouterr().out.splitlines() == [f"{tmp_path}/trials/{name}: {numbers}" for name in ("one", "other")]


@pytest.mark.parametrize("name", ["pixels", "untrained", "test"])
def test_knn_against_brute_force(evaluated, encoded, name):
    """All pairs, all settings: the first best on val, and its accuracy on test."""
    train, val, test = (encoded[split][name] for split in ("train", "val", "test"))
    top1 = {}
    for k, temperature in itertools.product(KNN_K, KNN_TEMPERATURES):
        for part in (val, test):
            cosines = normalize(part.features.double()) @ normalize(train.features.double()).T
            values, rows = cosines.topk(k)
            votes = torch.zeros(len(values), 10, dtype=torch.float64)
            votes.scatter_add_(1, train.labels[rows], (values / temperature).exp())
            top1[k, temperature, part is test] = (votes.argmax(dim=1) == part.labels).double().mean().item()
    on_val = {setting[:2]: value for setting, value in top1.items() if not setting[2]}
    k, temperature = max(on_val, key=on_val.get)
    result = {key.partition("/")[2]: value for key, value in evaluated[1].items() if key.startswith(f"{name}/")}
    assert (result["knn_k"], result["knn_temperature"]) == (k, temperature)
    assert result["knn_val_top1"] == pytest.approx(on_val[k, temperature])
    assert result["knn_top1"] == pytest.approx(top1[k, temperature, True], abs=1e-6)


def sklearn_top1(fitted_to, test, penalty):
    """Accuracy of scikit-learn's classifier with this penalty of features of mean square 1."""
    features, labels = (torch.cat(parts).double().numpy() for parts in zip(*fitted_to, strict=True))
    train = fitted_to[0].features.double()
    strength = penalty * float((train - train.mean(dim=0)).square().mean())
    model = LogisticRegression(C=1 / (len(labels) * strength), solver="newton-cholesky", tol=1e-8, max_iter=1000)
    return model.fit(features, labels).score(test.features.double().numpy(), test.labels.numpy())


def test_linear_against_scikit_learn(evaluated, encoded):
    train, val, test = (encoded[split]["test"] for split in ("train", "val", "test"))
    expected = sklearn_top1([train, val], test, evaluated[1]["test/linear_penalty"])
    assert evaluated[1]["test/linear_top1"] == pytest.approx(expected, abs=1.5 / len(test.labels))


def test_per_class_accuracies_add_up(evaluated, encoded):
    result, labels = evaluated[1], encoded["test"]["test"].labels
    shares = labels.bincount() / len(labels)
    for probe in ("knn", "linear"):
        mean = sum(shares[int(name)] * found[probe] for name, found in result["per_class"].items())
        assert float(mean) == pytest.approx(result[f"test/{probe}_top1"], abs=1e-6)


def test_the_untrained_encoder_is_the_very_one_the_run_started_from(run, encoded):
    loaded = kindred.load_run(run)
    (bank, labels), (queries, query_labels) = (encoded[split]["untrained"] for split in ("train", "val"))
    knn = loaded.config.callbacks.knn
    found = knn_classify(bank, labels, queries, knn.k, knn.temperature, 10).argmax(dim=1)
    top1 = (found == query_labels).double().mean().item()
    assert top1 == pytest.approx(loaded.summary["untrained/knn_top1"], abs=1e-6)
    assert top1 != pytest.approx(loaded.summary["val/knn_top1"], abs=1e-6)


def test_building_the_untrained_encoder_leaves_the_random_stream_alone(run):
    before = torch.get_rng_state()
    untrained_encoder(kindred.load_run(run))
    assert torch.equal(torch.get_rng_state(), before)


def test_an_encoder_that_started_from_a_file(run, tmp_path):
    directory = copy_of(run, tmp_path / "run", init_from=str(run))
    start, trained = untrained_encoder(kindred.load_run(directory)), kindred.load_run(run).encoder
    assert all(
        torch.equal(a, b) for a, b in zip(start.state_dict().values(), trained.state_dict().values(), strict=True)
    )
    assert not start.training
    directory = copy_of(run, tmp_path / "gone", init_from=str(tmp_path / "gone.ckpt"))
    assert untrained_encoder(kindred.load_run(directory)) is None


def test_the_table_has_base_lines_first(run, tmp_path, capsys, monkeypatch):
    result = {"data": "digits", "labels": 0.1, "classes": 3, "chosen_on": "val"}
    result |= {"val_examples": 20, "test_examples": 30, "seconds": 7.2}
    for number, name in enumerate(("test", "untrained", "pixels")):
        result |= {f"{name}/{probe}_top1": 0.9 - number / 10 for probe in ("knn", "linear")}
        result |= {f"{name}/knn_k": 5, f"{name}/knn_temperature": 0.07, f"{name}/linear_penalty": 0.01}
    monkeypatch.setattr("kindred.commands.evaluate.evaluate", lambda *_: result)
    assert main(["--run", str(run)]) == 0
    text = capsys.readouterr().out
    order = [text.index(part) for part in ("0.1 of the train labels", "0.700", "0.800", "0.900", "T=0.07", "7 s")]
    assert order == sorted(order)


# Nothing is chosen on test


class SpoiltDigits(Digits):
    """Test images that are noise, with wrong labels."""

    def load(self, split):
        array = super().load(split)
        if split != "test":
            return array
        noise = np.random.default_rng(0).integers(0, 256, array.array.shape, dtype=np.uint8)
        return ArrayExamples(noise, (array.labels + 1) % 10)


def test_test_images_and_labels_have_no_part_in_choosing(evaluated, run, tmp_path, monkeypatch):
    monkeypatch.setattr("kindred.data.images.embedded.Digits", SpoiltDigits)
    result = evaluate(kindred.load_run(copy_of(run, tmp_path / "run")))
    assert {key: result[key] for key in CHOSEN} == {key: evaluated[1][key] for key in CHOSEN}
    assert result["test/linear_top1"] < 0.3 < evaluated[1]["test/linear_top1"]  # they were read, though


def test_without_val_images_a_tenth_of_the_train_images_chooses(run, tmp_path):
    datamodule = kindred.load_run(copy_of(run, tmp_path / "run", data__val_size=0)).datamodule()
    datamodule.setup()
    splits = cut(datamodule)
    positions = [splits[name].positions for name in ("train", "val")]
    assert sorted(np.concatenate(positions)) == list(range(1079))
    assert len(splits["val"]) == 108
    assert np.bincount(splits["val"].labels).min() >= 10
    assert np.array_equal(splits["test"].labels, datamodule.source.load("test").labels)


class WithoutTest(Digits):
    """Digits that have no test split, and whose val images are the test ones."""

    def load(self, split):
        if split == "test":
            raise NoTestError("there are no test digits")
        return super().load({"val": "test"}.get(split, split))


def test_without_a_test_split_the_val_images_judge_and_have_no_part_in_choosing(
    evaluated, run, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr("kindred.data.images.embedded.Digits", WithoutTest)
    directory = copy_of(run, tmp_path / "run")
    assert main(["--run", str(directory)]) == 0
    said = capsys.readouterr().out
    assert "359 val examples of digits" in said
    assert "there is no test split: judged on val examples" in said
    assert "chosen on a tenth of the train examples (108 examples)" in said
    result = json.loads((directory / "evaluation.json").read_text())
    assert [result[key] for key in ("judged_on", "train_examples", "held_out_examples", "val_examples")] == [
        "val",
        971,
        108,
        359,
    ]
    assert not any(key.startswith("test/") for key in result)
    assert result["val/linear_top1"] == pytest.approx(evaluated[1]["test/linear_top1"], abs=0.05)  # of the same images
    spoilt = copy_of(run, tmp_path / "spoilt")
    monkeypatch.setattr(WithoutTest, "load", lambda self, split: spoil(Digits.load, self, split))
    other = evaluate(kindred.load_run(spoilt))
    chosen = [key.replace("test/", "val/") for key in CHOSEN]
    assert {key: other[key] for key in chosen} == {key: result[key] for key in chosen}
    assert other["val/linear_top1"] < 0.3

    loaded = kindred.load_run(directory)
    assert numbers(loaded)["evaluation/val_linear_top1"] == result["val/linear_top1"]
    assert "evaluation/linear_top1" not in numbers(loaded)
    weights = {"step": result["step"], "checkpoint": result["checkpoint"]}
    card = model_card(loaded, weights, [], torch.zeros(1, 1, 8, 8), loaded.datamodule().views, [], "")
    assert "On 359 val examples of digits (there is no test split, and the training was monitored on these)" in card


def spoil(load, source, split):
    """Val images that are noise, with wrong labels."""
    if split == "test":
        raise NoTestError("there are no test digits")
    found = load(source, split)
    if split != "val":
        return found
    noise = np.random.default_rng(0).integers(0, 256, found.array.shape, dtype=np.uint8)
    return ArrayExamples(noise, (found.labels + 1) % 10)


def test_data_that_changed_since_the_training_are_said(run, tmp_path, capsys):
    directory = copy_of(run, tmp_path / "run")
    found = json.loads((directory / "data.json").read_text())
    found["splits"]["train"]["names"] = "others"
    (directory / "data.json").write_text(json.dumps(found))
    (directory / "data.npz").unlink()
    assert main(["--run", str(directory), "--labels", "0.05"]) == 0
    changed = "train: other labels or names"
    assert f"the data are not those of the training: {changed}\n" in capsys.readouterr().out
    assert json.loads((directory / "evaluation-labels0.05.json").read_text())["data_changed"] == changed


# A share of the labels, another data set, W&B


def test_a_share_of_the_labels(run, encoded, tmp_path, monkeypatch):
    """Bank and classifier see the share alone; W&B, where that is asked for, gets what evaluation.json has."""
    directory = copy_of(run, tmp_path / "run")
    (directory / "wandb.json").write_text("{}")
    sent = []
    module = ModuleType("kindred.tracking.wandb_logger")
    module.add_to_run, module.check_mode = lambda *arguments: sent.append(arguments), lambda: None
    monkeypatch.setitem(sys.modules, "kindred.tracking.wandb_logger", module)

    result = evaluate(kindred.load_run(directory), labels=0.05, seed=3, wandb=True)

    train, val, test = (encoded[split]["test"] for split in ("train", "val", "test"))
    kept = share_of_each_class(train.labels.numpy(), 0.05, seed=3)
    share = Encoded(train.features[kept], train.labels[kept])
    assert result["train_examples"] == len(kept)
    k, temperature, _ = choose_knn(share, val, 10)
    scores = knn_classify(*share, test.features, k, temperature, 10)
    assert result["test/knn_top1"] == pytest.approx((scores.argmax(dim=1) == test.labels).double().mean().item())
    expected = sklearn_top1([share], test, result["test/linear_penalty"])
    assert result["test/linear_top1"] == pytest.approx(expected, abs=1.5 / len(test.labels))

    name = "evaluation-labels0.05-seed3"
    assert json.loads((directory / f"{name}.json").read_text()) == result
    assert (directory / "figures" / "map-labels0.05-seed3.png").exists()
    [(where, metrics, images)] = sent
    assert where == directory
    assert metrics[f"{name}/test/linear_top1"] == result["test/linear_top1"]
    assert all(isinstance(value, int | float) for value in metrics.values())
    assert {key: path.name for key, path in images.items()} == {
        f"{name}/confusion": "confusion-labels0.05-seed3.png",
        f"{name}/map": "map-labels0.05-seed3.png",
    }


def test_nothing_is_sent_to_wandb_unasked(run, tmp_path, monkeypatch, capsys):
    """The run, and its wandb.json, may be someone else's; the key that would be used is one's own."""
    directory = copy_of(run, tmp_path / "run")
    sent = []
    module = ModuleType("kindred.tracking.wandb_logger")
    module.add_to_run, module.check_mode = lambda *arguments: sent.append(arguments), lambda: None
    monkeypatch.setitem(sys.modules, "kindred.tracking.wandb_logger", module)
    assert main(["--run", str(directory), "--wandb", "--labels", "0.05"]) == 1
    assert capsys.readouterr().err.startswith(f"error: --wandb: {directory} has no wandb.json")
    (directory / "wandb.json").write_text('{"id": "1", "entity": "someone", "project": "else"}')
    assert main(["--run", str(directory), "--labels", "0.05"]) == 0
    assert sent == []
    assert "wandb.json names: --wandb" in capsys.readouterr().out


def test_a_picture_that_cannot_be_drawn_is_left_out(run, tmp_path, monkeypatch, capsys):
    directory = copy_of(run, tmp_path / "run")
    monkeypatch.setattr("kindred.tracking.figures.draw_confusion", lambda *_: 1 / 0)
    assert main(["--run", str(directory), "--labels", "0.05"]) == 0
    assert (directory / "evaluation-labels0.05.json").exists()
    assert (directory / "figures" / "map-labels0.05.png").exists()
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("left out: ")]
    assert "confusion-labels0.05.png (ZeroDivisionError: division by zero" in line


def test_the_share_is_of_each_class_and_at_least_one():
    labels = np.repeat([0, 1, 2], [200, 40, 3])
    kept = share_of_each_class(labels, 0.1, seed=0)
    assert np.bincount(labels[kept]).tolist() == [20, 4, 1]
    assert np.array_equal(kept, share_of_each_class(labels, 0.1, seed=0))
    assert not np.array_equal(kept, share_of_each_class(labels, 0.1, seed=1))
    assert len(np.unique(kept)) == 25


def test_another_data_set(run, tmp_path, capsys):
    """Grey stripes, of another size, in folders: across, along and none."""
    generator = np.random.default_rng(0)
    for split, count in (("train", 30), ("test", 6)):
        for name, axis in (("across", 0), ("along", 1), ("none", None)):
            folder = tmp_path / "stripes" / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                image = generator.normal(90, 20, (20, 20))
                if axis is not None:
                    image += 120 * (np.indices((20, 20))[axis] // 5 % 2)
                Image.fromarray(np.clip(image, 0, 255).astype(np.uint8)).save(folder / f"{number}.png")
    directory = copy_of(run, tmp_path / "run")
    options = ["data.channels=1", "data.image_size=20", "data.source.mean=[0.5]", "data.source.std=[0.3]"]
    root = f"data.source.root={tmp_path / 'stripes'}"
    assert main(["--run", str(directory), "--data", "imagefolder", root, *options]) == 0
    result = json.loads((directory / "evaluation-imagefolder.json").read_text())
    assert (result["data"], result["classes"], result["test_examples"], result["val_examples"]) == (
        "imagefolder",
        3,
        18,
        9,
    )
    assert result["test/linear_top1"] > 0.9
    assert "test/linear_top5" not in result  # of three classes
    assert set(result["per_class"]) == {"across", "along", "none"}
    assert (directory / "figures" / "confusion-imagefolder.png").exists()
    assert "18 test examples of imagefolder, 3 classes" in capsys.readouterr().out


def test_digits_for_an_encoder_of_colours(run, tmp_path):
    """Three times the same grey, in the size that the encoder knows; the data set has to be asked for that."""
    other = kindred.load_run(copy_of(run, tmp_path / "colours", data__channels=3))
    with pytest.raises(
        ConfigError, match=r"--data digits: its images have 1 channel\(s\) \(data.channels\), .* reads 3"
    ):
        other_datamodule(other, "digits")
    datamodule = other_datamodule(other, "digits", ["data.channels=3", "data.image_size=32"])
    datamodule.setup()
    raw = datamodule.query.examples.read(np.arange(4))
    plain = datamodule.views.plain(torch.from_numpy(raw))
    assert plain.shape == (4, 3, 32, 32)
    torch.testing.assert_close(plain[:, 0], plain[:, 2])


# What cannot work


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--labels", "0"], r"--labels is 0.0: give a share"),
        (["--labels", "2"], r"--labels is 2.0: give a share"),
        (
            ["--labels", "0.0001"],
            r"--labels is 0.0001: that is 0.11 of 1079 .* need one each; give 0.0093 or more",
        ),
        (["data.source.root=x"], r"data.source.root=x: the run's own data set stays as it is"),
        (["--data", "photos"], r"--data photos: its images have 3 channel\(s\).* reads 1"),
        (["--data", "fotos"], r"data=fotos: there is no configs/data/fotos.yaml; did you mean 'photos'"),
        (["--data", "imagefolder"], r"data.source.root: needs a value"),
    ],
)
def test_one_line_errors(run, capsys, arguments, message):
    assert main(["--run", str(run), *arguments]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(error)


def test_no_run_and_no_checkpoint(run, tmp_path, capsys):
    assert main(["--run", str(tmp_path)]) == 1
    assert "is no run directory" in capsys.readouterr().err
    shutil.copy(run / "config.yaml", tmp_path)
    assert main(["--run", str(tmp_path)]) == 1
    assert "no such checkpoint" in capsys.readouterr().err


def test_the_smallest_share_that_the_message_gives_can_be_had():
    images = Subset(ArrayExamples(np.zeros((1079, 1)), np.arange(1079) % 10), np.arange(1079), None)
    datamodule = SimpleNamespace(bank=images, query=images, monitor="val", test_dataset=lambda: images)
    assert len(cut(datamodule, 0.0093)["train"]) == 10
    with pytest.raises(ValueError, match=r"give 0\.0093 or more"):
        cut(datamodule, 0.0092)


@pytest.mark.parametrize("place", ["encoder", "model.optimizer", "data.source", "views.views.0"])
def test_a_class_that_is_not_on_the_list_is_not_built(run, tmp_path, capsys, place):
    directory = copy_of(run, tmp_path / "run", **{f"{place}._target_": "torch.utils.collect_env.run"})
    assert main(["--run", str(directory), "--labels", "0.1"]) == 1
    assert f"{place}._target_: 'torch.utils.collect_env.run'" in capsys.readouterr().err


def test_a_source_without_labels_cannot_judge():
    images = Subset(ArrayExamples(np.zeros((3, 1, 2, 2), np.uint8), np.full(3, -1)), np.arange(3), None)
    datamodule = SimpleNamespace(
        bank=images, query=images, monitor="val", test_dataset=lambda: images, source=SimpleNamespace(name="heap")
    )
    with pytest.raises(ValueError, match="heap has no labelled train examples"):
        cut(datamodule)


def test_other_data_is_checked_before_it_is_built(run):
    with pytest.raises(ValueError, match=r"data\.size: there is no such key"):
        other_datamodule(kindred.load_run(run), "digits", ["data.size=3"])


# Pieces


def test_confusion_matrix_by_hand():
    labels, predicted = torch.tensor([0, 0, 0, 2, 2, 1]), torch.tensor([0, 1, 1, 2, 0, 1])
    assert confusion_matrix(predicted, labels, 4).tolist() == [[1, 2, 0, 0], [0, 1, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0]]


def test_k_is_cut_to_the_bank_and_the_first_of_equals_is_chosen():
    bank = Encoded(torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]]), torch.tensor([0, 0, 1]))
    assert choose_knn(bank, bank, 2) == (3, 0.03, 1.0)


def test_pixels_are_averaged_down_to_32():
    images, views = torch.arange(2 * 3 * 64 * 16, dtype=torch.float32).view(2, 3, 64, 16), MultiView([View()], seed=0)
    assert torch.equal(views.as_features(images), images.unflatten(2, (32, 2)).mean(dim=3).flatten(1))
    assert torch.equal(views.as_features(images[:, :, :8]), images[:, :, :8].flatten(1))


def test_encoded_features_can_be_trained_on(encoded):
    features = encoded["train"]["test"].features
    weight = torch.ones(features.shape[1], requires_grad=True)
    (features @ weight).sum().backward()
    torch.testing.assert_close(weight.grad, features.sum(dim=0))


def test_the_map_keeps_clusters_apart_and_is_always_the_same():
    generator = np.random.default_rng(0)
    centres = np.repeat(np.eye(3, 8) * 5, 40, axis=0)
    features = (centres + generator.normal(0, 0.2, centres.shape)).astype(np.float32)
    points = flatten(features)
    assert np.array_equal(points, flatten(features))
    middles = points.reshape(3, 40, 2).mean(axis=1)
    nearest = np.linalg.norm(points[:, None] - middles, axis=2).argmin(axis=1)
    assert np.array_equal(nearest, np.repeat([0, 1, 2], 40))
    assert np.isfinite(flatten(features[:4])).all()


def colours(path):
    return np.asarray(Image.open(path).convert("RGB")).reshape(-1, 3)


def has(path, colour):
    return (np.abs(colours(path) - np.round(255 * np.array(colour[:3]))).max(axis=1) <= 2).sum() > 20


def test_pictures(tmp_path):
    names = ["cat", "dog", "eel"]
    draw_confusion(tmp_path / "half.png", np.array([[2, 2, 0], [0, 0, 4], [0, 0, 0]]), names)
    blues = colormaps["Blues"]
    assert all(has(tmp_path / "half.png", blues(share)) for share in (0.0, 0.5, 1.0))
    assert not has(tmp_path / "half.png", blues(0.25))
    points = np.random.default_rng(0).normal(size=(90, 2)) * 5
    draw_map(tmp_path / "map.png", points, np.repeat([0, 1, 2], 30), names)
    hues = colormaps["tab20"](np.array([0, 10, 19]))  # the first, the middle and the last of twenty
    assert all(has(tmp_path / "map.png", hue) for hue in hues)
