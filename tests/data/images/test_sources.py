"""The built-in sources: what their images are, that no image is in two splits, and downloads that cannot happen."""

import gzip
import io
import os
import pickle
import subprocess
import sys
import tarfile
import urllib.error

import numpy as np
import pytest
from torchvision import datasets

from kindred.data.images import embedded as sources
from kindred.data.images import torchvision_sources
from kindred.data.images.embedded import Digits, Photos
from kindred.data.images.torchvision_sources import CIFAR10, CIFAR100, MNIST, STL10, SVHN, FashionMNIST

SPLITS = ("train", "val", "test")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    source = Photos(str(tmp_path_factory.mktemp("photos")))
    source.prepare()
    return source


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    source = Digits(str(tmp_path_factory.mktemp("digits")))
    source.prepare()
    return source


# Photos


def test_photos_counts(photos):
    arrays = {split: photos.load(split) for split in SPLITS}
    assert {split: len(array.labels) for split, array in arrays.items()} == {"train": 5526, "val": 1224, "test": 1224}
    for images, labels in arrays.values():
        assert images.shape == (len(labels), 3, 32, 32)
        assert (images.dtype, labels.dtype) == (np.uint8, np.int64)
        assert np.bincount(labels).min() >= 36
        assert set(labels) == set(range(len(photos.class_names)))
    assert photos.load("bank") is None


def test_no_pixel_of_a_photo_is_in_two_splits():
    """Put each split's patches back: cut an image whose pixels are their own coordinates."""
    rows, columns = np.meshgrid(np.arange(300), np.arange(451), indexing="ij")
    photograph = np.stack([rows, columns, rows], axis=-1)
    for seed in range(3):
        seen = {
            split: {tuple(pixel) for pixel in patches[:, :2].transpose(0, 2, 3, 1).reshape(-1, 2).tolist()}
            for split, patches in sources._cut(photograph, seed).items()
        }
        assert sum(map(len, seen.values())) == len(set().union(*seen.values())) == 4 * 7 * 64 * 64
        blocks = {split: {(y // 64, x // 64) for y, x in pixels} for split, pixels in seen.items()}
        assert {split: len(found) for split, found in blocks.items()} == {"train": 20, "val": 4, "test": 4}


def test_whole_blocks_are_in_the_split_of_their_patches(photos, tmp_path):
    source = Photos(str(tmp_path), patch=64)
    source.prepare()
    for split in SPLITS:
        (blocks, labels), (patches, of_patches) = (
            (found.array, found.labels) for found in (each.load(split) for each in (source, photos))
        )
        assert blocks.shape == (len(patches) // 9, 3, 64, 64)
        assert np.array_equal(labels, of_patches[::9])
        for number, (y, x) in enumerate((y, x) for y in (0, 16, 32) for x in (0, 16, 32)):
            assert np.array_equal(blocks[:, :, y : y + 32, x : x + 32], patches[number::9])
    # Neither is taken for the other where both are kept in one place.
    assert Photos(photos.root, patch=64).folder != photos.folder


def test_photo_patches_lie_in_the_photographs(photos):
    """Independently of how they were cut: every patch of one photograph is found in it, at a multiple of 16."""
    label = photos.class_names.index("chelsea")
    import skimage.data

    cat = skimage.data.chelsea()
    places = {
        cat[y : y + 32, x : x + 32].transpose(2, 0, 1).tobytes(): (y // 64, x // 64)
        for y in range(0, 300 - 31, 16)
        for x in range(0, 451 - 31, 16)
    }
    blocks = {}
    for split in SPLITS:
        images, labels = photos.load(split)
        blocks[split] = {places[image.tobytes()] for image in images[labels == label]}
    assert len(blocks["train"] | blocks["val"] | blocks["test"]) == 28
    assert sum(map(len, blocks.values())) == 28


@pytest.mark.parametrize("name", ["photos", "digits"])
def test_mean_and_deviation_are_the_train_splits(name, request):
    source = request.getfixturevalue(name)
    pixels = source.load("train").array / 255
    assert pixels.mean((0, 2, 3)) == pytest.approx(source.mean, abs=1e-3)
    assert pixels.std((0, 2, 3)) == pytest.approx(source.std, abs=1e-3)


def test_second_start_imports_neither_scikit(photos, digits):
    code = (
        "import sys; from kindred.data.images.embedded import Photos, Digits\n"
        "for source, root in ((Photos, sys.argv[1]), (Digits, sys.argv[2])):\n"
        "    source = source(root); source.prepare(); source.load('train')\n"
        "assert not {'skimage', 'sklearn', 'scipy', 'torch', 'PIL'} & set(sys.modules), 'imported'"
    )
    subprocess.run([sys.executable, "-c", code, photos.root, digits.root], check=True)


def test_cache_of_another_version_is_not_used(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(
        Digits, "_decode", lambda self: {s: sources.ArrayExamples(np.zeros(1), np.zeros(1)) for s in SPLITS}
    )
    Digits(str(tmp_path)).prepare()
    monkeypatch.undo()
    monkeypatch.setattr(Digits, "version", Digits.version + 1)
    source = Digits(str(tmp_path))
    source.prepare()
    assert len(source.load("train").labels) > 1


def test_unwritable_root(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match=r"data\.source\.root: cannot write to"):
        Digits(str(tmp_path / "file")).prepare()


# Digits


def test_digits_are_scikit_learns(digits):
    from sklearn.datasets import load_digits

    bunch = load_digits()
    per_class = np.bincount(bunch.target)
    found = []
    for split, share in (("train", 0.6), ("val", 0.2), ("test", 0.2)):
        images, labels = digits.load(split)
        assert images.shape[1:] == (1, 8, 8)
        assert np.abs(np.bincount(labels) - share * per_class).max() < 2
        found += [(*image.ravel().tolist(), label) for image, label in zip(images, labels.tolist(), strict=True)]
    scaled = np.round(bunch.images * 255 / 16).astype(int)
    expected = [(*image.ravel().tolist(), label) for image, label in zip(scaled, bunch.target.tolist(), strict=True)]
    assert sorted(found) == sorted(expected)


def test_digits_in_three_channels_are_the_same_grey(digits):
    coloured = Digits(digits.root, channels=3)
    (grey, labels), (colours, same) = digits.load("val"), coloured.load("val")
    assert colours.shape == (len(grey), 3, 8, 8)
    assert all((colours[:, channel] == grey[:, 0]).all() for channel in range(3))
    assert (same == labels).all()
    assert (coloured.mean, coloured.std) == (digits.mean * 3, digits.std * 3)
    assert coloured.load("bank") is None


# torchvision's data sets, from archives in their real format


def images_of(count, shape=(3, 32, 32), seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, *shape)).astype(np.uint8)


def tar(path, members):
    with tarfile.open(path, "w:gz") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def no_md5(monkeypatch):
    """torchvision compares archives' checksums with the real ones'; that the file is there must do."""

    def exists(path, md5=None):
        return os.path.isfile(path)

    for module in ("cifar", "mnist", "svhn", "stl10", "utils"):
        monkeypatch.setattr(f"torchvision.datasets.{module}.check_integrity", exists, raising=False)


def no_network(monkeypatch):
    def refuse(*_, **__):
        raise urllib.error.URLError("no network in tests")

    monkeypatch.setattr("urllib.request.urlopen", refuse)


def write_cifar10(root):
    images, labels = images_of(6), [3, 1, 4, 1, 5, 9]
    batches = {f"data_batch_{i + 1}": ([i], images[i : i + 1]) for i in range(5)} | {"test_batch": ([5], images[5:])}
    members = {
        f"cifar-10-batches-py/{name}": pickle.dumps({"data": part.reshape(1, -1), "labels": [labels[rows[0]]]})
        for name, (rows, part) in batches.items()
    }
    members["cifar-10-batches-py/batches.meta"] = pickle.dumps({"label_names": [f"c{i}" for i in range(10)]})
    tar(root / "cifar-10-python.tar.gz", members)
    return images, labels


def test_cifar10_from_an_archive_put_there_by_hand(tmp_path, monkeypatch):
    no_md5(monkeypatch), no_network(monkeypatch)
    images, labels = write_cifar10(tmp_path)
    source = CIFAR10(str(tmp_path))
    source.prepare()
    for other in (source, CIFAR10(str(tmp_path))):  # the second: a rank that did not prepare
        train, test = other.load("train"), other.load("test")
        assert (train.array == images[:5]).all()
        assert train.array.flags.c_contiguous
        assert train.labels.tolist() == labels[:5]
        assert (test.array == images[5:]).all()
        assert other.class_names[3] == "c3"
        assert other.load("val") is None
        assert other.load("bank") is None


def test_cifar100(tmp_path, monkeypatch):
    no_md5(monkeypatch), no_network(monkeypatch)
    images = images_of(3)
    part = {"data": images.reshape(3, -1), "fine_labels": [7, 99, 0]}
    members = {f"cifar-100-python/{split}": pickle.dumps(part) for split in ("train", "test")}
    members["cifar-100-python/meta"] = pickle.dumps({"fine_label_names": [f"c{i}" for i in range(100)]})
    tar(tmp_path / "cifar-100-python.tar.gz", members)
    source = CIFAR100(str(tmp_path))
    source.prepare()
    assert source.load("train").labels.tolist() == [7, 99, 0]
    assert (source.load("train").array == images).all()
    assert len(source.class_names) == 100


def idx(array):
    """The IDX format: magic number with type and dimensions, big-endian sizes, bytes."""
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes() + array.tobytes()


@pytest.mark.parametrize(("kind", "folder"), [(MNIST, "MNIST"), (FashionMNIST, "FashionMNIST")])
def test_mnist_and_its_like(tmp_path, monkeypatch, kind, folder):
    no_md5(monkeypatch), no_network(monkeypatch)
    raw = tmp_path / folder / "raw"
    raw.mkdir(parents=True)
    images = images_of(5, (28, 28))
    for prefix in ("train", "t10k"):
        for name, array in (("images-idx3", images), ("labels-idx1", np.arange(5, dtype=np.uint8))):
            (raw / f"{prefix}-{name}-ubyte.gz").write_bytes(gzip.compress(idx(array)))
    source = kind(str(tmp_path))
    source.prepare()
    train = source.load("train")
    assert (train.array == images[:, None]).all()
    assert (train.array.dtype, train.labels.dtype) == (np.uint8, np.int64)
    assert train.labels.tolist() == list(range(5))
    assert len(source.class_names) == 10


def test_svhn(tmp_path, monkeypatch):
    from scipy.io import savemat

    no_md5(monkeypatch), no_network(monkeypatch)
    images = images_of(4)
    for split in ("train", "test"):  # height, width, channel, image; the digit 0 is written as 10
        savemat(tmp_path / f"{split}_32x32.mat", {"X": images.transpose(2, 3, 1, 0), "y": [[1], [10], [9], [2]]})
    source = SVHN(str(tmp_path))
    source.prepare()
    assert (source.load("train").array == images).all()
    assert source.load("train").labels.tolist() == [1, 0, 9, 2]


def test_stl10(tmp_path, monkeypatch):
    no_md5(monkeypatch), no_network(monkeypatch)
    images = images_of(3, (3, 96, 96))
    column_major = images.transpose(0, 1, 3, 2).tobytes()
    names = "\n".join(f"c{i}" for i in range(10)).encode()
    members = {f"stl10_binary/{part}_X.bin": column_major for part in ("train", "test", "unlabeled")}
    members |= {f"stl10_binary/{part}_y.bin": bytes([1, 10, 5]) for part in ("train", "test")}
    members |= {"stl10_binary/class_names.txt": names, "stl10_binary/fold_indices.txt": b""}
    tar(tmp_path / "stl10_binary.tar.gz", members)
    source = STL10(str(tmp_path))
    source.prepare()
    assert source.load("train").labels.tolist() == [-1, -1, -1]
    assert source.load("bank").labels.tolist() == [0, 9, 4]
    assert (source.load("bank").array == images).all()
    assert source.load("train").array.shape == (3, 3, 96, 96)
    assert source.load("val") is None
    assert len(source.class_names) == 10


@pytest.mark.parametrize("kind", [CIFAR10, CIFAR100, MNIST, FashionMNIST, SVHN, STL10])
def test_a_download_that_cannot_happen_says_what_to_do(tmp_path, monkeypatch, kind):
    no_network(monkeypatch)
    with pytest.raises(RuntimeError, match=r"cannot be downloaded") as error:
        kind(str(tmp_path)).prepare()
    for part in (kind.files, str(tmp_path), "data.source.root", "DATA=photos", kind.url):
        assert part in str(error.value)


def test_a_damaged_archive_says_what_to_do(tmp_path, monkeypatch):
    no_network(monkeypatch)
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(b"half of it")
    with pytest.raises(RuntimeError, match=r"cifar10 is not complete in data\.source\.root="):
        CIFAR10(str(tmp_path)).prepare()


def test_constructors_do_no_work():
    code = (
        "import sys, kindred.data.images.torchvision_sources as t\n"
        "[kind('/nowhere') for kind in (t.MNIST, t.CIFAR10, t.SVHN, t.STL10)]\n"
        "assert not {'torchvision', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_each_set_has_its_own_statistics():
    kinds = (
        Photos,
        Digits,
        *(getattr(torchvision_sources, n) for n in ("MNIST", "FashionMNIST", "CIFAR10", "CIFAR100", "SVHN", "STL10")),
    )
    assert len({(kind.mean, kind.std) for kind in kinds}) == len(kinds)
    assert len({kind.name for kind in kinds}) == len(kinds)


READ = {  # what torchvision itself says it reads of each split
    torchvision_sources.CIFAR10: lambda of: {
        split: [f"{of.base_folder}/{name}" for name, _ in listed]
        for split, listed in (("train", of.train_list), ("test", of.test_list))
    },
    torchvision_sources.MNIST: lambda of: {
        split: [f"{of.__name__}/raw/{name.removesuffix('.gz')}" for name, _ in of.resources if name.startswith(start)]
        for split, start in (("train", "train"), ("test", "t10k"))
    },
    torchvision_sources.SVHN: lambda of: {split: [of.split_list[split][1]] for split in ("train", "test")},
    torchvision_sources.STL10: lambda of: {
        "train": [f"{of.base_folder}/{of.train_list[2][0]}"],
        "bank": [f"{of.base_folder}/{name}" for name, _ in of.train_list[:2]],
        "test": [f"{of.base_folder}/{name}" for name, _ in of.test_list],
    },
}
READ[torchvision_sources.CIFAR100] = READ[torchvision_sources.CIFAR10]
READ[torchvision_sources.FashionMNIST] = READ[torchvision_sources.MNIST]


@pytest.mark.parametrize("source", READ, ids=lambda source: source.__name__)
def test_the_inventory_is_of_the_files_that_torchvision_reads(source, tmp_path):
    expected = READ[source](getattr(datasets, source.__name__))
    for number, name in enumerate(name for names in expected.values() for name in names):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x" * number)
        (tmp_path / f"{name}.gz").touch()  # what it was unpacked from does not count
    found = {split: source(str(tmp_path)).inventory(split) for split in ("train", "val", "test", "bank")}
    names = {split: [name.decode() for name in files.names] for split, files in found.items() if files is not None}
    assert names == {split: sorted(listed) for split, listed in expected.items()}
    for files in filter(None, found.values()):
        assert files.sizes.tolist() == [(tmp_path / name.decode()).stat().st_size for name in files.names]
