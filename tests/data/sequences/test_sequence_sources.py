"""Sequences of one's own and of a watch: their values, who is in which split, and what is wrong in one line."""

import json
import math
import subprocess
import sys

import numpy as np
import pytest
import torch

from kindred.data.sequences.arrays import Arrays
from kindred.data.sequences.audio import AudioFolder
from kindred.data.sequences.datamodule import SequenceDataModule
from kindred.data.sequences.source import scaling_of
from kindred.data.sequences.views import SequenceView, SequenceViews
from kindred.data.sequences.watch import Watch, read_recordings
from kindred.data.source import NoTestError
from kindred.errors import ConfigError

SPLITS = ("train", "val", "test")
RATE, LENGTH = 8000, 800


def everything(examples):
    return examples.read(np.arange(len(examples.labels)))


# Arrays


def write_arrays(root, dtype=np.float32, count=60):
    draw = np.random.default_rng(0)
    x = draw.integers(-1000, 1000, (count, 3, 20)).astype(dtype)
    labels = np.array(["run", "", "walk"])[np.arange(count) % 3]
    groups = draw.integers(0, 9, count)
    for name, values in (("x", x), ("y", labels), ("people", groups)):
        np.save(root / f"{name}.npy", values)
    return x, labels, groups


@pytest.mark.parametrize("dtype", [np.int16, np.float64, np.float32])
def test_arrays_are_read_as_they_are_and_every_example_is_in_one_split(tmp_path, dtype):
    x, labels, _ = write_arrays(tmp_path, dtype)
    source = Arrays(str(tmp_path / "x.npy"), str(tmp_path / "y.npy"))
    source.prepare()
    found = {split: source.load(split) for split in SPLITS}
    assert source.class_names == ["run", "walk"]
    assert np.array_equal(np.sort(np.concatenate([examples.rows for examples in found.values()])), np.arange(60))
    assert [len(found[split].rows) for split in SPLITS] == [42, 9, 9]
    for examples in found.values():
        values = everything(examples)
        assert values.dtype == np.float32
        assert np.array_equal(values, x[examples.rows])
        names = ["run", "walk", ""]
        assert [names[label] for label in examples.labels] == labels[examples.rows].tolist()
        assert np.array_equal(examples.read_train(np.array([2, 0]), 5, None), x[examples.rows[[2, 0]]])


def test_a_group_is_in_one_split(tmp_path):
    _, _, groups = write_arrays(tmp_path, count=300)
    source = Arrays(str(tmp_path / "x.npy"), None, str(tmp_path / "people.npy"))
    source.prepare()
    rows = {split: source.load(split).rows for split in SPLITS}
    people = {split: set(groups[own].tolist()) for split, own in rows.items()}
    assert sum(map(len, people.values())) == len(set(groups.tolist()))
    assert sum(map(len, rows.values())) == 300
    assert 0.55 < len(rows["train"]) / 300 < 0.8
    assert (source.load("train").labels == -1).all()


@pytest.mark.parametrize("count", [3, 4, 5, 7])
def test_few_groups_are_enough_for_three_splits(tmp_path, count):
    write_arrays(tmp_path)
    np.save(tmp_path / "people.npy", np.arange(60) % count)
    source = Arrays(str(tmp_path / "x.npy"), None, str(tmp_path / "people.npy"))
    people = [set((source.load(split).rows % count).tolist()) for split in SPLITS]
    assert all(people)
    assert sum(map(len, people)) == len(set.union(*people)) == count
    assert len(people[0]) >= len(people[1])


def test_whole_numbers_are_labels_and_less_than_zero_is_none(tmp_path):
    write_arrays(tmp_path)
    np.save(tmp_path / "y.npy", np.array([7, -1, 3, 3] * 15))
    source = Arrays(str(tmp_path / "x.npy"), str(tmp_path / "y.npy"))
    source.prepare()
    assert source.load("train").labels.max() == 1
    assert source.class_names == ["3", "7"]
    train = source.load("train")
    assert (train.labels == np.array([1, -1, 0, 0] * 15)[train.rows]).all()


def test_the_scaling_is_that_of_the_train_examples_or_a_saved_one(tmp_path):
    x, _, _ = write_arrays(tmp_path)
    x[:, 1] = 4  # a channel at rest
    np.save(tmp_path / "x.npy", x)
    source = Arrays(str(tmp_path / "x.npy"))
    source.prepare()
    train = x[source.load("train").rows].astype(np.float64)
    mean, std = train.mean(axis=(0, 2)), train.std(axis=(0, 2))
    assert source.scaling.mean == pytest.approx(mean, rel=1e-5)
    assert source.scaling.std == pytest.approx([std[0], 1, std[2]], rel=1e-5)
    saved = {"mean": [1.0, 2.0, 3.0], "std": [1.0, 1.0, 2.0]}
    (tmp_path / "scaling.json").write_text(json.dumps(saved))
    assert Arrays(str(tmp_path / "x.npy"), scaling=str(tmp_path / "scaling.json")).scaling._asdict() == saved
    source.adopt(tmp_path / "scaling.json")
    assert source.scaling._asdict() == saved
    views = SequenceViews([SequenceView()])
    datamodule = SequenceDataModule(source, views, 8, 20, 3)
    datamodule.setup()
    assert json.loads(datamodule.attachments()["scaling.json"]) == saved
    raw = datamodule.bank.__getitems__([0]).raw
    assert torch.allclose(views.plain(raw), (raw - torch.tensor([[1.0], [2], [3]])) / torch.tensor([[1.0], [1], [2]]))


# The watch


@pytest.fixture(scope="module")
def watch(tmp_path_factory):
    pytest.importorskip("seglearn")
    source = Watch(str(tmp_path_factory.mktemp("watch")), length=100, stride=70)
    source.prepare()
    return source


def test_no_person_is_in_two_splits_and_windows_are_pieces_of_their_recordings(watch):
    recordings, labels, people = read_recordings()
    starts = {}  # the bytes of a window -> recording
    for number, recording in enumerate(recordings):
        for start in range(0, len(recording) - 99, 70):
            starts[recording[start : start + 100].T.astype(np.float32).tobytes()] = number
    whose = {}
    for split in SPLITS:
        examples = watch.load(split)
        numbers = [starts[row.tobytes()] for row in everything(examples)]
        assert (labels[numbers] == examples.labels).all()
        whose[split] = set(people[numbers].tolist())
        assert len(set(examples.labels.tolist())) == 7
    assert sorted(person for split in SPLITS for person in whose[split]) == list(range(1, 11))
    assert [len(whose[split]) for split in SPLITS] == [6, 2, 2]
    assert len(starts) == sum(len(watch.load(split).labels) for split in SPLITS)


def test_the_watch_is_what_seglearn_gives_and_nothing_of_it_is_imported(watch):
    from seglearn.datasets import load_watch

    theirs = load_watch()
    recordings, labels, people = read_recordings()
    assert watch.class_names == list(theirs["y_labels"])
    assert all(np.array_equal(one, other) for one, other in zip(recordings, theirs["X"], strict=True))
    assert (labels == theirs["y"]).all()
    assert (people == theirs["subject"]).all()
    code = (
        "import sys; from kindred.data.sequences import watch; watch.read_recordings(); "
        "print([name for name in ('seglearn', 'sklearn', 'scipy', 'torch.nn.modules.conv') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "seglearn" not in found.stdout
    assert "sklearn" not in found.stdout


def test_without_seglearn_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"data=watch needs the package seglearn: .*kindred\[series\]"):
        read_recordings()


# Recordings


@pytest.fixture
def soundfile():
    return pytest.importorskip("soundfile")


def tone(seconds, frequency=440.0, rate=RATE, loud=0.5):
    return loud * np.sin(2 * np.pi * frequency * np.arange(round(seconds * rate)) / rate)


def small(root, **options):
    return AudioFolder(str(root), rate=RATE, length=LENGTH, **options)


def test_a_file_of_each_format_is_read_to_the_bit_it_was_written_with(soundfile, tmp_path):
    draw = np.random.default_rng(0)
    written = {}
    for number, (name, subtype) in enumerate((("a/1.wav", "FLOAT"), ("b/1.flac", "PCM_16"), ("b/2.wav", "PCM_16"))):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        samples = draw.integers(-32768, 32768, (LENGTH + number, 1 + number % 2)) / 32768
        soundfile.write(tmp_path / name, samples, RATE, subtype=subtype)
        written[name] = samples.mean(axis=1).astype(np.float32)  # mono
    (tmp_path / "b" / "3.ogg").write_bytes(b"")
    source = small(tmp_path, on_bad_file="skip")
    source.prepare()
    train = source.load("train")
    assert source.class_names == ["a", "b"]
    assert train.labels.tolist() == [0, 1, 1]
    for row, samples in enumerate(written.values()):
        start = (len(samples) - LENGTH) // 2
        assert np.array_equal(train.read(np.array([row]))[0, 0], samples[start : start + LENGTH])
    ((path, reason),) = source.skipped_files
    assert path == "b/3.ogg"
    assert reason.startswith("cannot be read")
    assert len(source.inventory("train").names) == 4


def test_ogg_is_read_within_what_its_compression_loses(soundfile, tmp_path):
    soundfile.write(tmp_path / "a.ogg", tone(0.5), RATE)
    source = small(tmp_path)
    source.prepare()
    read = source.load("train").read(np.array([0]))[0, 0]
    middle = tone(0.5)[1600:2400]
    assert abs(read - middle).max() < 0.05


@pytest.mark.parametrize("own", [16_000, 11_025, 4_000])
def test_a_resampled_sine_is_the_sine_at_the_new_rate(soundfile, tmp_path, own):
    soundfile.write(tmp_path / "a.wav", tone(1, 300.0, own), own, subtype="FLOAT")
    source = small(tmp_path)
    source.prepare()
    train = source.load("train")
    assert train.steps.tolist() == [RATE]
    read = train.read(np.array([0]))[0, 0]
    assert abs(read - tone(1, 300.0)[(RATE - LENGTH) // 2 :][:LENGTH]).max() < 2e-3


def test_what_the_new_rate_cannot_hold_is_filtered_out(soundfile, tmp_path):
    soundfile.write(
        tmp_path / "a.wav", tone(1, 6_000.0, 16_000) + tone(1, 300.0, 16_000, 0.25), 16_000, subtype="FLOAT"
    )
    source = small(tmp_path)
    source.prepare()
    read = source.load("train").read(np.array([0]))[0, 0]
    assert abs(read - tone(1, 300.0, loud=0.25)[(RATE - LENGTH) // 2 :][:LENGTH]).max() < 2e-3


def test_crops_are_functions_of_seed_epoch_index_and_view(soundfile, tmp_path):
    lengths = [LENGTH, LENGTH + 1, 3 * LENGTH, 4000]
    for number, count in enumerate(lengths):
        # What a sample is tells where it lies: 20,000 steps of 16 bits.
        soundfile.write(tmp_path / f"{number}.wav", (np.arange(count) + 5000 * number) / 32768, RATE, subtype="PCM_16")
    source = small(tmp_path)
    source.prepare()
    train, views = source.load("train"), SequenceViews([SequenceView(), SequenceView()], seed=3)
    positions = np.array([3, 0, 2, 1])
    crops = train.read_train(positions, 4, views)
    assert crops.shape == (4, 2, 1, LENGTH)
    for row, position in enumerate(positions):
        places = np.rint(crops[row] * 32768).astype(int) - 5000 * position
        assert (np.diff(places) == 1).all()
        starts = places[:, 0, 0]
        room = lengths[position] - LENGTH + 1
        index = torch.tensor([position])
        drawn = [views.crop_starts(view, index, 4, torch.tensor([lengths[position]]), LENGTH) for view in (0, 1)]
        assert starts.tolist() == [int(start) for start in drawn]
        assert (starts >= 0).all()
        assert (starts < room).all()
        alone = train.read_train(positions[row : row + 1], 4, views)
        assert np.array_equal(alone[0], crops[row])
    assert not np.array_equal(crops, train.read_train(positions, 5, views))
    assert not np.array_equal(crops[0, 0], crops[0, 1])
    # Every start there is, and the last one.
    many = views.crop_starts(0, torch.arange(3000), 0, torch.full((3000,), LENGTH + 9), LENGTH)
    assert set(many.tolist()) == set(range(10))


def test_a_changed_file_has_another_cache_and_a_label_file_will_do(soundfile, tmp_path):
    for name in "abc":
        soundfile.write(tmp_path / f"{name}.wav", tone(0.2), RATE)
    (tmp_path / "who.csv").write_text("path,label\na.wav,x\nb.wav,y\nc.wav,\n")
    source = small(tmp_path, labels="who.csv")
    source.prepare()
    assert source.load("train").labels.tolist() == [0, 1, -1]
    with pytest.raises(NoTestError, match=r"data\.source\.root: .* has no test recordings"):
        source.load("test")
    soundfile.write(tmp_path / "c.wav", tone(0.3), RATE)
    again = small(tmp_path, labels="who.csv")
    again.prepare()
    assert again.load("train").steps.tolist() == [1600, 1600, 2400]
    assert len(list((tmp_path / ".kindred").glob("train-*"))) == 2


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda sf, path: path.write_bytes(b""), r"a\.wav cannot be read \(.*\)"),
        (lambda sf, path: path.write_bytes(b"no sound" * 99), r"a\.wav cannot be read \(.*\)"),
        (lambda sf, path: sf.write(path, np.zeros(0), RATE), r"a\.wav has no samples"),
        (
            lambda sf, path: sf.write(path, tone(0.05), RATE),
            r"a\.wav has 400 samples at 8000 a second, and a crop is of data\.length=800",
        ),
        (
            lambda sf, path: sf.write(path, np.full(900, math.nan), RATE, subtype="FLOAT"),
            r"a\.wav has samples that are not finite",
        ),
    ],
)
def test_a_bad_file_is_named_or_skipped(soundfile, tmp_path, write, message):
    soundfile.write(tmp_path / "b.wav", tone(0.2), RATE)
    write(soundfile, tmp_path / "a.wav")
    with pytest.raises(ConfigError, match=rf"{message}; remove it, or set data\.source\.on_bad_file=skip") as caught:
        small(tmp_path).prepare()
    assert "\n" not in str(caught.value)
    source = small(tmp_path, on_bad_file="skip")
    source.prepare()
    assert len(source.load("train").labels) == source.skipped == 1
    (tmp_path / "b.wav").unlink()
    with pytest.raises(ConfigError, match=r"data\.source\.root: none of the 1 recordings in .* can be used; .*a\.wav"):
        small(tmp_path, on_bad_file="skip").prepare()


def test_without_soundfile_it_says_what_to_install(soundfile, tmp_path, monkeypatch):
    soundfile.write(tmp_path / "a.wav", tone(0.2), RATE)
    monkeypatch.setitem(sys.modules, "soundfile", None)
    with pytest.raises(ConfigError, match=r"data=audiofolder needs the package soundfile: .*kindred\[audio\]"):
        small(tmp_path, on_bad_file="skip").prepare()


# What is wrong


def not_finite(root):
    x, _, _ = write_arrays(root)
    x[17, 1, 3] = np.inf
    np.save(root / "x.npy", x)


WRONG = [
    ({"path": "none.npy"}, None, r"data\.source\.path: there is no file .*none\.npy; give a \.npy file"),
    ({"path": "text.npy"}, None, r"data\.source\.path: .*text\.npy is no \.npy file of numbers or names"),
    ({"path": "objects.npy"}, None, r"data\.source\.path: .*objects\.npy is no \.npy file of numbers or names"),
    ({"path": "people.npy"}, None, r"data\.source\.path: .* has shape \[60\] of int64: give numbers \[N, C, T\]"),
    ({"path": "complex.npy"}, None, r"data\.source\.path: .* has shape \[4, 3, 2\] of complex128: give numbers"),
    ({}, not_finite, r"data\.source\.path: example 17 of .*x\.npy has values that are not finite"),
    ({"labels": "none.npy"}, None, r"data\.source\.labels: there is no file .*none\.npy"),
    ({"labels": "short.npy"}, None, r"data\.source\.labels: .* has shape \[4\] of int64: .* \[60\], one for each"),
    ({"labels": "floats.npy"}, None, r"data\.source\.labels: .* has shape \[60\] of float64: give whole numbers"),
    ({"groups": "floats.npy"}, None, r"data\.source\.groups: .* has shape \[60\] of float64: give whole numbers"),
    ({"groups": "two.npy"}, None, r"there are too few groups in .*two\.npy to have test examples"),
    ({"scaling": "none.json"}, None, r"data\.source\.scaling: .*none\.json cannot be read .*; give a scaling\.json"),
    ({"scaling": "list.json"}, None, r"data\.source\.scaling: .*list\.json is no scaling\.json"),
    ({"scaling": "zero.json"}, None, r"data\.source\.scaling: .*zero\.json needs a finite mean and a std above 0"),
    ({"scaling": "one.json"}, None, r"data\.source\.scaling: .*one\.json is of 1 channels, but arrays has 3"),
]


@pytest.mark.parametrize(("given", "prepare", "message"), WRONG)
def test_what_is_wrong_with_arrays_is_one_line(tmp_path, given, prepare, message):
    write_arrays(tmp_path)
    (tmp_path / "text.npy").write_text("1,2,3")
    np.save(tmp_path / "objects.npy", np.array([{}, None], dtype=object))
    np.save(tmp_path / "complex.npy", np.zeros((4, 3, 2), dtype=complex))
    np.save(tmp_path / "short.npy", np.arange(4))
    np.save(tmp_path / "floats.npy", np.zeros(60))
    np.save(tmp_path / "two.npy", np.arange(60) % 2)
    for name, mean, std in (("zero", [0.0] * 3, [0.0] * 3), ("one", [0.0], [1.0])):
        (tmp_path / f"{name}.json").write_text(json.dumps({"mean": mean, "std": std}))
    (tmp_path / "list.json").write_text("[1]")
    if prepare is not None:
        prepare(tmp_path)
    options = {key: str(tmp_path / value) for key, value in ({"path": "x.npy"} | given).items()}
    with pytest.raises(ConfigError, match=message) as caught:
        SequenceDataModule(Arrays(**options), SequenceViews([SequenceView()]), 8, 20, 3).setup()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("length", "channels", "message"),
    [
        (21, 3, r"data\.length is 21, but arrays has 20: set it to that"),
        (20, 1, r"data\.channels is 1, but arrays has 3: set it to that"),
    ],
)
def test_declared_shapes_must_be_those_of_the_data(tmp_path, length, channels, message):
    write_arrays(tmp_path)
    datamodule = SequenceDataModule(
        Arrays(str(tmp_path / "x.npy")), SequenceViews([SequenceView()]), 8, length, channels
    )
    with pytest.raises(ConfigError, match=message):
        datamodule.setup()


def test_other_wrong_settings(tmp_path):
    pytest.importorskip("seglearn")
    with pytest.raises(ConfigError, match=r"data\.length is 5000: the shortest recording has 947 steps"):
        Watch(str(tmp_path), length=5000).prepare()
    with pytest.raises(ConfigError, match=r"data\.source\.labels is 'who': choose auto, none, or a file"):
        small(tmp_path, labels="who")
    with pytest.raises(ConfigError, match=r"data\.source\.root: there is no folder .*nowhere; expected .*<recording>"):
        small(tmp_path / "nowhere").prepare()
    (tmp_path / "empty" / "train").mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"train has no recordings \(\.wav, \.flac, \.ogg\)|has no class folders"):
        small(tmp_path / "empty").prepare()


def test_the_scaling_looks_at_examples_from_all_over():
    class Ramp:
        labels = np.zeros(5000, dtype=np.int64)

        def read(self, positions):
            return np.repeat(positions[:, None, None], 2, axis=2).astype(np.float32)

    found = scaling_of(Ramp())
    assert found.mean[0] == pytest.approx(2499.5, rel=1e-3)
    assert found.std[0] == pytest.approx(5000 / 12**0.5, rel=5e-3)
