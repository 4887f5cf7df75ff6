"""What a run says of its data, and whether these are still the same: of real folders, changed in every way."""

import os
import shutil

import numpy as np
import pytest
from children import resume, start
from image_folders import noisy_classes

import kindred
from kindred.data.datamodule import DataModule
from kindred.data.images.embedded import Digits
from kindred.data.images.folder import ImageFolder
from kindred.data.inventory import look_up
from kindred.data.source import ArrayExamples
from kindred.runs.fingerprint import SAMPLE, changes, check_unchanged, read_record, record, same, short, write_record

PER_CLASS = 40


@pytest.fixture
def root(tmp_path):
    return noisy_classes(tmp_path / "images", PER_CLASS, {"test": 3})


def datamodule(root, **settings):
    """Of a folder as it is now, set up; nothing is decoded."""
    found = DataModule(ImageFolder(str(root), 8, stream=True), None, 8, **settings)
    found.setup()
    return found


@pytest.fixture
def run(root, tmp_path):
    """A run directory that knows its data."""
    directory = tmp_path / "run"
    directory.mkdir()
    write_record(directory, datamodule(root))
    return directory


def later(path):
    """Another time of modification, as an edit leaves it."""
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1_000_000_000))


def test_the_record_is_of_names_sizes_times_and_labels(root, run):
    paths = sorted((root / "train").glob("*/*"))
    train, test = (read_record(run)["splits"][name] for name in ("train", "test"))
    assert (train["files"], train["bytes"]) == (3 * PER_CLASS, sum(path.stat().st_size for path in paths))
    assert (train["examples"], test["files"], "labels" in test) == (3 * PER_CLASS, 9, False)
    with np.load(run / "data.npz") as listing:
        assert [name.decode() for name in listing["train/names"]] == [f"{p.parent.name}/{p.name}" for p in paths]
        assert listing["train/sizes"].tolist() == [path.stat().st_size for path in paths]
        assert listing["train/times"].tolist() == [path.stat().st_mtime_ns for path in paths]


def test_what_has_not_changed_is_the_same(root, run, capfd):
    assert changes(run, datamodule(root)) is None
    check_unchanged(run, datamodule(root))
    assert capfd.readouterr().err == ""


def add(root):
    shutil.copy(root / "train" / "class1" / "1.png", root / "train" / "class1" / "new.png")


def remove(root):
    for number in range(5):
        (root / "train" / "class0" / f"{number}.png").unlink()


def move(root):
    (root / "train" / "class0" / "7.png").rename(root / "train" / "class2" / "x.png")


def edit(root):
    path = root / "train" / "class2" / "5.png"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    later(path)


def grow(root):
    path = root / "train" / "class2" / "5.png"
    status = path.stat()
    path.write_bytes(path.read_bytes() + b"?")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def copy_and_grow(root):
    grow(root)
    for path in root.rglob("*.png"):
        later(path)


def write_anew(root):
    """Each file with another content of the same size."""
    for path in (root / "train").rglob("*.png"):
        path.write_bytes(path.read_bytes()[:-1] + b"?")
        later(path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (add, "train (120 files, now 121): 1 added (class1/new.png)"),
        (remove, "train (120 files, now 115): 5 removed (class0/0.png, class0/1.png, class0/2.png, ...)"),
        (move, "train: 1 added (class2/x.png), 1 removed (class0/7.png)"),
        (edit, "train: 1 changed (class2/5.png)"),
        (grow, "train: 1 changed (class2/5.png)"),
        (copy_and_grow, "train: 1 changed (class2/5.png)"),
        (write_anew, "train: 120 changed (class0/0.png, class0/1.png, class0/10.png, ...)"),
    ],
)
def test_a_change_is_told_by_its_files(root, run, change, said):
    before = read_record(run)
    change(root)
    now = datamodule(root)
    assert changes(run, now) == said
    assert not same(before, record(now))
    assert short(before) != short(record(now))
    with pytest.raises(ValueError, match=r"data are not those that the run began with: train.*init_from="):
        check_unchanged(run, now)


def test_a_val_split_that_came_is_a_change_and_a_test_split_is_none(root, run):
    shutil.rmtree(root / "test")
    assert changes(run, datamodule(root)) is None
    shutil.copytree(root / "train", root / "val")
    assert changes(run, datamodule(root)) == "val is new"


def test_other_test_images_are_a_change_for_an_evaluation_only(root, run):
    (root / "test" / "class0" / "0.png").unlink()
    assert changes(run, datamodule(root)) == "test (9 files, now 8): 1 removed (class0/0.png)"
    check_unchanged(run, datamodule(root))
    with pytest.raises(ValueError, match=r"test \(9 files, now 8\)"):
        check_unchanged(run, datamodule(root, val_size=0))  # which looks at them all the time


def test_a_copy_is_the_same_and_is_said_to_be_taken_for_that(root, run, tmp_path, capfd):
    shutil.copytree(root, tmp_path / "copy", copy_function=shutil.copyfile)
    for path in (tmp_path / "copy").rglob("*.png"):
        later(path)
    assert changes(run, datamodule(tmp_path / "copy")) is None
    assert f"the bytes of {SAMPLE} files a split are the same, so they are taken for a copy" in capfd.readouterr().err
    shutil.copytree(root, tmp_path / "times too")
    assert changes(run, datamodule(tmp_path / "times too")) is None
    assert capfd.readouterr().err == ""


def test_without_the_listing_or_the_record_there_is_less_to_say(root, run):
    add(root)
    (run / "data.npz").write_bytes(b"PK torn")
    assert changes(run, datamodule(root)) == "train (120 files, now 121): other labels or names"
    for content in ("", "[1]", '{"splits": 3}', '{"splits": {"train": 3}}'):
        (run / "data.json").write_text(content)
        assert read_record(run) is None
        assert changes(run, datamodule(root)) is None  # of an older run nothing is known


def test_what_the_run_began_with_is_not_overwritten(root, run):
    before = (run / "data.json").read_bytes(), (run / "data.npz").read_bytes()
    add(root)
    write_record(run, datamodule(root))
    assert ((run / "data.json").read_bytes(), (run / "data.npz").read_bytes()) == before


class Numbers:
    """A source that knows no files."""

    name, class_names, skipped = "numbers", ["even", "odd"], 0

    def __init__(self, count):
        self.count = count

    def prepare(self):
        pass

    def load(self, split):
        return ArrayExamples(np.arange(self.count), np.arange(self.count) % 2) if split == "train" else None


def test_a_source_without_files_is_known_by_its_labels(tmp_path, capfd):
    found = [DataModule(Numbers(count), None, 4, val_size=4) for count in (20, 20, 22)]
    for each in found:
        each.setup()
    write_record(tmp_path, found[0])
    assert [path.name for path in tmp_path.iterdir()] == ["data.json"]
    assert changes(tmp_path, found[1]) is None
    assert changes(tmp_path, found[2]) == "train (20 files, now 22): other labels or names"
    found[1].source.inventory = lambda split: look_up(tmp_path, ["data.json"]) if split == "train" else None
    assert "names" in record(found[1])["splits"]["train"]
    assert changes(tmp_path, found[1]) is None  # a run of before the source knew its files goes on
    assert capfd.readouterr().err == ""


@pytest.mark.slow
def test_a_cache_that_was_built_anew_is_the_same(tmp_path):
    """Times are those of the build: the bytes tell."""
    sources = [Digits(str(tmp_path / name)) for name in ("one", "two")]
    found = [DataModule(source, None, 4) for source in sources]
    for each in found:
        each.setup()
    records = [record(each) for each in found]
    assert records[0]["splits"]["train"]["times"] != records[1]["splits"]["train"]["times"]
    assert same(*records)
    assert {*records[0]["splits"]} == {"train", "val", "test"}


def test_files_that_are_gone_are_not_in_the_inventory(tmp_path):
    (tmp_path / "a").write_bytes(b"123")
    found = look_up(tmp_path, ["a", "gone"])
    assert (found.names.tolist(), found.sizes.tolist()) == ([b"a"], [3])
    assert len(look_up(tmp_path, []).names) == 0


def test_names_of_any_kind(tmp_path):
    """Blanks, other scripts, and bytes that are no text."""
    root = noisy_classes(tmp_path / "images", 4)
    folder, source = os.fsencode(root / "train" / "class1"), root / "train" / "class0" / "0.png"
    for name in (b"a b.png", "中文.png".encode(), b"\xff.png"):
        shutil.copy(source, folder + b"/" + name)
    write_record(tmp_path, datamodule(root))
    os.unlink(folder + b"/\xff.png")
    os.unlink(folder + b"/a b.png")
    said = changes(tmp_path, datamodule(root))
    assert said == "train (15 files, now 13): 2 removed (class1/a b.png, class1/\\udcff.png)"


@pytest.mark.slow
def test_a_resume_on_other_data_is_one_line_and_changes_nothing(root, tmp_path, capfd):
    folder = ["data=imagefolder", f"data.source.root={root}", "encoder=convnet", "data.image_size=8", "views=small"]
    assert start(tmp_path / "trained", [*folder, "data.batch_size=16", "trainer.max_epochs=1"]) == 0
    assert kindred.load_run(tmp_path / "trained").data["splits"]["train"]["files"] == 3 * PER_CLASS
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "trained").rglob("*")}
    remove(root)
    capfd.readouterr()
    assert resume(tmp_path / "trained", ["trainer.max_epochs=2"]) == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(f"error: {tmp_path / 'trained'}: the data are not those that the run began with: train (120")
    left = {path: path.stat().st_mtime_ns for path in (tmp_path / "trained").rglob("*")}
    assert {path for path in left | files if left.get(path) != files.get(path)} <= {tmp_path / "trained"}
