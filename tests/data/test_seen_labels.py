"""data.labels: the share of the train labels that anything may see, and that it is the same for every run with a seed."""

import numpy as np
import pytest

from kindred.config import check, compose
from kindred.data.order import share_of_each_class
from kindred.errors import ConfigError
from kindred.runs.judging.features import cut
from kindred.runs.run import build_datamodule

DATA = ["data=digits", "data.batch_size=16"]


def datamodule(*overrides, model="simclr"):
    config = compose([*DATA, f"model={model}", *overrides])
    if model == "simclr":
        check(config)
    made = build_datamodule(config)
    made.setup()
    return made


@pytest.fixture(scope="module")
def whole():
    return datamodule()


@pytest.mark.parametrize("share", [0.02, 0.1, 0.5])
def test_the_share_is_that_of_evaluate_with_the_same_seed_and_balanced(whole, share):
    for seed in (0, 3):
        ours = datamodule(f"+data.labels={share}", f"+data.label_seed={seed}", "+data.unlabelled=false", "seed=7")
        theirs = cut(whole, share, seed)["train"]
        assert np.array_equal(ours.bank.positions, theirs.positions)
        assert np.array_equal(ours.train.positions, ours.bank.positions)
        counts, of_all = np.bincount(ours.train.labels), np.bincount(whole.train.labels)
        assert np.abs(counts - share * of_all).max() <= 0.5
        assert np.array_equal(ours.query.positions, whole.query.positions)


def test_another_seed_is_another_choice(whole):
    labels = whole.bank.labels
    one, other = (set(share_of_each_class(labels, 0.1, seed)) for seed in (0, 1))
    assert one != other
    assert len(one) == len(other)


def test_of_the_others_nothing_reads_a_label(whole):
    ours = datamodule("+data.labels=0.1")
    assert np.array_equal(ours.train.positions, whole.train.positions)
    seen = np.isin(ours.train.positions, ours.bank.positions)
    assert np.array_equal(ours.train.labels >= 0, seen)
    assert np.array_equal(ours.train.labels[seen], ours.bank.labels)
    assert seen.sum() == len(ours.bank) < len(ours.train) / 5
    given = np.concatenate([batch.labels.numpy() for batch in ours.train_dataloader()])
    assert 0 < (given >= 0).sum() <= len(ours.bank)
    assert np.array_equal(ours.train.part(np.arange(50)).labels, ours.train.labels[:50])
    assert ours.labels().keys() == whole.labels().keys()  # of the source: its data are the same
    for split, labels in ours.labels().items():
        assert np.array_equal(labels, whole.labels()[split])


def test_all_labels_are_all(whole):
    for words in ([], ["+data.unlabelled=false"]):
        ours = datamodule("+data.labels=1.0", *words)
        assert np.array_equal(ours.train.positions, whole.train.positions)
        assert np.array_equal(ours.train.labels, whole.train.labels)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["+data.labels=0.001"], r"data\.labels is 0\.001: that is 1\.1 of 1079 train labels.*give 0\.0093 or more"),
        (["+data.labels=0.02", "+data.unlabelled=false", "data.batch_size=64"], r"only 20 train examples"),
        (["+data.labels=0"], r"data\.labels must be greater than 0, up to 1, got 0"),
        (["+data.labels=1.5"], r"data\.labels must be greater than 0, up to 1, got 1\.5"),
        (["+data.unlabelled=some"], r"data\.unlabelled must be true or false, got 'some'"),
    ],
)
def test_what_cannot_be_is_refused(overrides, message):
    with pytest.raises(ConfigError, match=message):
        datamodule(*overrides)


class Bare:
    """Images without a label, but for those of a bank of their own."""

    name = "bare"
    class_names = ["a", "b"]
    mean, std = (0.5,), (0.5,)
    skipped = 0

    def __init__(self, bank):
        self.sizes = {"train": 40, "test": 8, "bank": bank, "val": None}

    def prepare(self):
        pass

    def load(self, split):
        from kindred.data.source import ArrayExamples

        if (size := self.sizes[split]) is None:
            return None
        labels = np.full(size, -1) if split == "train" else np.arange(size) % 2
        return ArrayExamples(np.zeros((size, 1, 4, 4), np.uint8), labels)


def bare(bank, **settings):
    from kindred.data.images.datamodule import ImageDataModule
    from kindred.data.images.views import MultiView, View

    views = MultiView([View(size=4)], seed=0)
    made = ImageDataModule(Bare(bank), views, batch_size=2, image_size=4, channels=1, **settings)
    made.setup()
    return made


def test_of_a_source_with_a_bank_of_its_own_that_is_what_labels_are_of():
    ours = bare(bank=20, labels=0.5, unlabelled=False)
    assert ours.train is ours.bank
    assert len(ours.train) == 8  # of 18, 9 of each class: two are held out
    ours = bare(bank=20, labels=0.5)
    assert (len(ours.train), ours.train_is_labelled, len(ours.bank)) == (40, False, 8)


def test_without_any_label_there_is_nothing_to_train_by_and_nothing_to_hide():
    with pytest.raises(ConfigError, match=r"data\.labels: the train examples of bare have none"):
        bare(bank=None, unlabelled=False)
    assert not bare(bank=None, labels=0.5).train_is_labelled
