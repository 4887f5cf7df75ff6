"""The DataModule: which images, in which order, on which rank, and that a resumed run sees what it would have seen."""

import contextlib

import lightning
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.pytorch.callbacks import Callback
from PIL import Image
from torch.nn import functional as F

from kindred.data.images.datamodule import ImageDataModule
from kindred.data.images.folder import ImageFolder
from kindred.data.images.views import MultiView, View
from kindred.data.loading import DealtBatches, GlobalBatches, Subset
from kindred.data.order import permutation, stratified_order
from kindred.data.source import ArrayExamples


class Squares:
    """A source made up: image i of a split is filled with i % 251."""

    name = "squares"
    class_names = ["a", "b", "c"]
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)
    skipped = 0

    def __init__(self, train=50, val=None, test=20, bank=None, size=8, labelled=True):
        self.sizes = {"train": train, "val": val, "test": test, "bank": bank}
        self.size, self.labelled = size, labelled
        self.loaded = []

    def prepare(self):
        pass

    def load(self, split):
        self.loaded.append(split)
        if (count := self.sizes[split]) is None:
            return None
        values = (np.arange(count) % 251).astype(np.uint8)
        images = np.broadcast_to(values[:, None, None, None], (count, 3, self.size, self.size)).copy()
        labels = np.arange(count) % 3 if self.labelled or split != "train" else np.full(count, -1)
        return ArrayExamples(images, labels.astype(np.int64))


def crops(size=None, count=2):
    return MultiView([View(size=size, crop_scale=(0.2, 1.0))] * count, seed=0)


def data(source=None, views=None, **changes):
    arguments = {"batch_size": 8, "image_size": 8, "channels": 3} | changes
    return ImageDataModule(source or Squares(), views or crops(), **arguments)


def indices(dataset):
    return dataset.positions.tolist()


# Order


@settings(deadline=None)
@given(st.integers(1, 300), st.integers(), st.integers(0, 1000))
def test_permutation_is_one_and_depends_on_its_key_alone(size, seed, epoch):
    order = permutation(size, seed, epoch)
    assert sorted(order) == list(range(size))
    assert (order == permutation(size, seed, epoch)).all()


def test_permutation_never_changes():
    # Written down once: another order would silently change every published run.
    assert permutation(8, 0, 0).tolist() == PERMUTATION_0_0
    assert permutation(8, 0, 1).tolist() == PERMUTATION_0_1


PERMUTATION_0_0 = [4, 0, 1, 7, 6, 2, 5, 3]
PERMUTATION_0_1 = [4, 0, 1, 5, 7, 3, 2, 6]


def test_permutations_are_uniform():
    places = np.stack([permutation(5, seed, 0) for seed in range(5000)])
    counts = np.stack([(places == value).sum(0) for value in range(5)])
    assert np.abs(counts - 1000).max() < 150  # 5 standard deviations


@settings(deadline=None)
@given(st.integers(1, 4), st.integers(1, 6), st.integers(0, 60), st.integers(0, 9), st.integers(0, 5))
def test_ranks_together_read_the_global_batch(ranks, share, extra, seed, epoch):
    batch_size = ranks * share
    size = batch_size + extra
    order = permutation(size, seed, epoch)
    samplers = [GlobalBatches(size, batch_size, seed, rank, ranks) for rank in range(ranks)]
    for sampler in samplers:
        sampler.set_epoch(epoch)
    batches = [np.concatenate([part.items for part in parts]) for parts in zip(*samplers, strict=True)]
    assert len(batches) == len(samplers[0]) == size // batch_size
    assert (np.concatenate(batches) == order[: len(batches) * batch_size]).all()


@settings(deadline=None)
@given(st.integers(1, 100), st.integers(1, 5), st.integers(1, 20))
def test_evaluation_deals_every_image_once(size, ranks, batch_size):
    dealt = [list(DealtBatches(size, batch_size, rank, ranks)) for rank in range(ranks)]
    for rank, batches in enumerate(dealt):
        items = np.concatenate(batches or [np.array([], int)])
        assert (items == rank + np.arange(len(items)) * ranks).all()
        assert len(batches) == len(DealtBatches(size, batch_size, rank, ranks))
    assert sorted(i for batches in dealt for batch in batches for i in batch) == list(range(size))


@settings(deadline=None)
@given(st.lists(st.integers(0, 4), min_size=2, max_size=80), st.data())
def test_stratified_parts_are_exact(labels, draw):
    labels = np.array(labels)
    size = draw.draw(st.integers(1, len(labels) - 1))
    part, rest = stratified_order(labels, [size])
    assert len(part) == size
    assert sorted([*part, *rest]) == list(range(len(labels)))
    for label in set(labels.tolist()):
        share = size * (labels == label).sum() / len(labels)
        assert abs((labels[part] == label).sum() - share) < 1


def test_stratified_parts_of_balanced_classes_are_balanced():
    labels = np.repeat(np.arange(10), 100)
    first, second, rest = stratified_order(labels, [150, 250])
    for part, count in ((first, 15), (second, 25), (rest, 60)):
        assert (np.bincount(labels[part]) == count).all()


# Splits


def test_val_is_cut_from_train_by_a_fixed_stratified_permutation():
    one, other = data(seed=0, val_size=11), data(seed=1, val_size=11)
    one.setup(), other.setup()
    assert indices(one.query) == indices(other.query)
    assert len(one.query) == 11
    assert sorted(indices(one.query) + indices(one.train)) == list(range(50))
    assert indices(one.bank) == indices(one.train)
    assert np.bincount(one.query.labels).tolist() in ([4, 4, 3], [4, 3, 4], [3, 4, 4])
    assert (one.num_classes, one.class_names, one.monitor) == (3, ["a", "b", "c"], "val")
    assert one.train_is_labelled


def test_val_share_and_default():
    half, default = data(val_size=0.5), data()
    half.setup(), default.setup()
    assert (len(half.query), len(default.query)) == (25, 5)


def test_test_images_are_left_alone_unless_monitored():
    dm = data()
    dm.setup()
    assert "test" not in dm.source.loaded
    assert len(dm.test_dataset()) == 20
    dm = data(val_size=0)
    dm.setup()
    assert dm.monitor == "test"
    assert len(dm.query) == 20
    assert indices(dm.train) == list(range(50))


def test_own_val_split():
    dm = data(Squares(val=7))
    dm.setup()
    assert len(dm.query) == 7
    assert len(dm.train) == 50
    with pytest.raises(ValueError, match=r"data\.val_size is 5, but squares has a val split of its own \(7 examples\)"):
        data(Squares(val=7), val_size=5).setup()


def test_unlabelled_train_with_a_labelled_bank():
    dm = data(Squares(train=60, bank=30, labelled=False), train_size=40)
    dm.setup()
    assert not dm.train_is_labelled
    assert len(dm.train) == 40
    assert (len(dm.bank), len(dm.query)) == (27, 3)
    assert not set(indices(dm.bank)) & set(indices(dm.query))
    assert (dm.train.labels == -1).all()
    assert (dm.bank.labels >= 0).all()


def test_train_size_is_a_stratified_subset_and_the_bank_too():
    dm = data(train_size=21, seed=3)
    dm.setup()
    assert indices(dm.train) == indices(dm.bank)
    assert np.bincount(dm.train.labels).tolist() == [7, 7, 7]
    assert not set(indices(dm.train)) & set(indices(dm.query))


def test_a_subset_copies_no_images():
    array = Squares().load("train")
    assert Subset(array, np.arange(10), crops()).examples.array is array.array


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 46}, r"data\.batch_size is 46, but there are only 45 train examples"),
        ({"batch_size": 0}, r"data\.batch_size is 0"),
        ({"channels": 1}, r"data\.channels is 1, but squares images have 3"),
        ({"image_size": 16}, r"data\.image_size is 16, but squares images are 8x8 .* set data\.image_size=8"),
        ({"val_size": 50}, r"data\.val_size is 50: that is 50 of the 50"),
        ({"val_size": 0.001}, r"data\.val_size is 0\.001: that is 0 of the 50"),
        ({"train_size": 46}, r"data\.train_size is 46: squares has 45 examples"),
        ({"train_size": 0}, r"data\.train_size is 0"),
    ],
)
def test_settings_that_do_not_fit_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        data(**changes).setup()


def test_bad_arguments_are_named_at_once():
    for size in (1.0, -1, -0.1):
        with pytest.raises(ValueError, match=r"data\.val_size is"):
            data(val_size=size)


def test_statistics_must_have_the_channels():
    source = Squares()
    source.mean = (0.5,)
    with pytest.raises(ValueError, match=r"data\.source\.mean and std have 1 and 3 values"):
        data(source).setup()


# Ranks


def on_ranks(dm, rank, ranks):
    class Attached:
        global_rank, world_size, training, current_epoch = rank, ranks, True, 0
        strategy = type("Strategy", (), {"root_device": torch.device("cpu")})

    dm.trainer = Attached
    return dm


def test_a_batch_that_cannot_be_dealt():
    with pytest.raises(ValueError, match=r"data\.batch_size is 8, .* 3 device\(s\); 6 or 9 can"):
        on_ranks(data(), 0, 3).prepare_data()
    with pytest.raises(ValueError, match=r"data\.batch_size is 2, .* 3 device\(s\); 3 can"):
        on_ranks(data(batch_size=2), 0, 3).setup()


def test_fewer_query_images_than_ranks():
    dm = on_ranks(data(val_size=1), 0, 2)
    dm.setup()
    with pytest.raises(ValueError, match=r"there are 1 query examples for 2 devices"):
        dm.val_dataloader()


@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_see_the_single_process_batches_and_views(ranks):
    alone = on_ranks(data(), 0, 1)
    alone.setup()
    parts = [on_ranks(data(), rank, ranks) for rank in range(ranks)]
    for part in parts:
        part.setup()
    for whole, *shares in zip(alone.train_dataloader(), *(p.train_dataloader() for p in parts), strict=True):
        expected = alone.on_after_batch_transfer(whole, 0)
        got = [p.on_after_batch_transfer(share, 0) for p, share in zip(parts, shares, strict=True)]
        assert torch.equal(torch.cat([g.index for g in got]), expected.index)
        for view in range(2):
            assert torch.equal(torch.cat([g.views[view] for g in got]), expected.views[view])


# Batches


def test_without_a_trainer():
    dm = data()
    dm.setup()
    seen = [batch.index.tolist() for batch in dm.train_dataloader()]
    train = np.array(indices(dm.train))
    assert seen == train[permutation(45, 0, 0)][:40].reshape(5, 8).tolist()
    bank, query = dm.val_dataloader()
    assert torch.cat([batch.index for batch in bank]).tolist() == indices(dm.bank)
    assert torch.cat([batch.index for batch in query]).tolist() == indices(dm.query)
    batch = next(iter(bank))
    assert batch.raw.dtype == torch.uint8
    assert (batch.raw[:, 0, 0, 0] == batch.index).all()
    assert (batch.labels == batch.index % 3).all()


def test_epochs_differ_and_repeat():
    dm = data()
    dm.setup()
    loader = dm.train_dataloader()
    first = [batch.index.tolist() for batch in loader]
    loader.set_epoch(1)
    assert [batch.index.tolist() for batch in loader] != first
    loader.set_epoch(0)
    assert [batch.index.tolist() for batch in loader] == first


def test_evaluation_batch_is_one_normalised_view():
    dm = data()
    dm.setup()
    batch = next(iter(dm.val_dataloader()[1]))
    (view,), labels, index = dm.on_after_batch_transfer(batch, 0)
    mean, std = (torch.tensor(part).view(3, 1, 1) for part in (dm.source.mean, dm.source.std))
    assert torch.allclose(view * std + mean, batch.raw / 255, atol=1e-6)
    assert torch.equal(labels, batch.labels)
    assert torch.equal(index, batch.index)


def test_training_batch_is_the_normalised_views():
    dm = on_ranks(data(), 0, 1)
    dm.setup()
    dm.trainer.current_epoch = 4
    batch = next(iter(dm.train_dataloader()))
    for got, expected in zip(
        dm.on_after_batch_transfer(batch, 0).views, dm.views(batch.raw, batch.index, 4), strict=True
    ):
        assert torch.equal(got, dm.views.normalize(expected))


def test_other_image_sizes_are_resized_for_evaluation():
    dm = data(views=crops(size=4), image_size=4)
    dm.setup()
    batch = next(iter(dm.val_dataloader()[0]))
    (view,), *_ = dm.on_after_batch_transfer(batch, 0)
    expected = F.interpolate(batch.raw / 255, size=4, mode="bilinear", antialias=True)
    assert torch.allclose(view, dm.views.normalize(expected), atol=1e-6)


def test_reading_draws_nothing_from_the_global_stream():
    dm = data()
    dm.setup()
    before = torch.random.get_rng_state()
    for loader in (dm.train_dataloader(), *dm.val_dataloader()):
        list(loader)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_making_views_does_not_wait_for_the_gpu():
    dm = on_ranks(data(), 0, 1)
    dm.setup()
    batch = next(iter(dm.train_dataloader()))
    on_gpu = type(batch)(*(part.cuda() for part in batch))
    dm.on_after_batch_transfer(on_gpu, 0)  # copies mean and deviation, once
    torch.cuda.set_sync_debug_mode("error")
    try:
        views = dm.on_after_batch_transfer(on_gpu, 0).views
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.allclose(views[0].cpu(), dm.on_after_batch_transfer(batch, 0).views[0], atol=1e-5)


# Resume, with a real Trainer


class Recorder(lightning.LightningModule):
    """Remembers what it is trained on."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen = []

    def training_step(self, batch, batch_idx):
        assert len(batch.views) == 2
        self.seen.append((self.current_epoch, batch_idx, batch.index.tolist(), batch.views[0].sum().item()))
        return self.weight * batch.views[0].mean()

    def validation_step(self, batch, batch_idx, dataloader_idx):
        assert len(batch.views) == 1

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Save(Callback):
    """Writes a checkpoint in a given hook after `steps` steps, and may stop the run there as a killed one would."""

    def __init__(self, path, steps, hook="on_train_batch_end", stop=True):
        self.path, self.steps, self.stop = path, steps, stop
        setattr(self, hook, self.save)

    def save(self, trainer, *_):
        if trainer.global_step == self.steps:
            trainer.save_checkpoint(self.path)
            if self.stop:
                raise KeyboardInterrupt


def fit(dm, callbacks=(), ckpt_path=None, epochs=3, **options):
    module = Recorder()
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        callbacks=list(callbacks),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        **options,
    )
    with contextlib.suppress(KeyboardInterrupt, SystemExit):
        trainer.fit(module, datamodule=dm, ckpt_path=ckpt_path)
    return module.seen


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("hook", "steps", "workers"),
    [
        ("on_train_batch_end", 1, 0),
        ("on_train_batch_end", 4, 0),
        ("on_train_batch_end", 5, 0),  # the epoch's last batch
        ("on_train_batch_end", 8, 0),
        ("on_validation_end", 5, 0),
        ("on_train_epoch_end", 10, 0),
        ("on_train_batch_end", 3, 2),  # batches that workers have prefetched do not count
        ("on_train_batch_end", 5, 2),
    ],
)
def test_a_resumed_run_sees_what_it_would_have_seen(tmp_path, hook, steps, workers):
    path = tmp_path / "stopped.ckpt"
    whole = fit(data(num_workers=workers))
    assert [(epoch, batch) for epoch, batch, *_ in whole] == [(e, b) for e in range(3) for b in range(5)]
    first = fit(data(num_workers=workers), [Save(path, steps, hook)])
    assert first == whole[:steps]
    assert fit(data(num_workers=workers), ckpt_path=path) == whole[steps:]


@pytest.mark.filterwarnings("ignore")
def test_resume_with_limited_batches(tmp_path):
    path = tmp_path / "stopped.ckpt"
    whole = fit(data(), limit_train_batches=3)
    assert len(whole) == 9
    assert fit(data(), [Save(path, 5)], limit_train_batches=3) == whole[:5]
    assert fit(data(), ckpt_path=path, limit_train_batches=3) == whole[5:]


# Streaming


@pytest.fixture
def photographs(tmp_path):
    """Six noisy gradients per class, of different sizes, as JPEG."""
    generator = np.random.default_rng(0)
    for label, name in enumerate(("left", "right")):
        folder = tmp_path / "images" / "train" / name
        folder.mkdir(parents=True)
        for i in range(6):
            height, width = generator.integers(50, 90, 2)
            ramp = np.linspace(0, 200, width)[:: 1 - 2 * label]
            pixels = ramp[None, :, None] + generator.integers(0, 50, (height, width, 3))
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i}.jpg", quality=95)
    return tmp_path / "images"


def streamed(root, workers=0, views=None):
    dm = data(
        ImageFolder(str(root), image_size=24, stream=True),
        views or crops(size=24),
        batch_size=4,
        image_size=24,
        val_size=2,
        num_workers=workers,
    )
    dm.setup()
    return dm


def test_streamed_crops_are_the_crops_of_the_decoded_image(photographs):
    dm = streamed(photographs)
    loader = dm.train_dataloader()
    loader.set_epoch(3)
    for batch in loader:
        assert batch.raw.shape == (4, 2, 3, 24, 24)
        for row, index in enumerate(batch.index):
            whole = np.asarray(Image.open(dm.train.examples.path(index)))
            whole = torch.from_numpy(whole.copy()).permute(2, 0, 1)[None]
            views = dm.views(whole, index[None], 3)
            half = dm.views(batch.raw[row][None], index[None], 3)
            for expected, got in zip(views, half, strict=True):
                assert (expected - got).abs().max() < 1.5 / 255


def test_streaming_does_not_depend_on_the_workers(photographs):
    runs = []
    for workers in (0, 1, 2):
        loader = streamed(photographs, workers).train_dataloader()
        runs.append([])
        for epoch in range(2):
            loader.set_epoch(epoch)
            runs[-1] += [(batch.index.tolist(), batch.raw) for batch in loader]
    for other in runs[1:]:
        for (index, images), (other_index, other_images) in zip(runs[0], other, strict=True):
            assert index == other_index
            assert torch.equal(images, other_images)
    assert not torch.equal(runs[0][0][1], runs[0][2][1])  # another epoch


def test_streamed_evaluation_is_the_central_crop(photographs):
    from torchvision.transforms import v2

    dm = streamed(photographs)
    expected = v2.Compose([v2.Resize(27), v2.CenterCrop(24)])  # 24 * 256 / 224
    for batch in dm.val_dataloader()[0]:
        for image, index in zip(batch.raw, batch.index, strict=True):
            reference = np.asarray(expected(Image.open(dm.bank.examples.path(index)))).transpose(2, 0, 1)
            assert (image.numpy() == reference).all()


def test_streamed_views_of_two_sizes(photographs):
    views = MultiView([View(size=24), View(size=16)], seed=0)
    with pytest.raises(ValueError, match=r"views\.views have sizes \[16, 24\]"):
        streamed(photographs, views=views)


@pytest.mark.parametrize("kept", [0, 0.1, 0.9])
def test_streaming_names_the_file_that_cannot_be_decoded(photographs, kept):
    bad = photographs / "train" / "left" / "3.jpg"
    content = bad.read_bytes()
    bad.write_bytes(content[: int(len(content) * kept)])
    dm = streamed(photographs)
    position = next(i for i in range(12) if dm.train.examples.path(i) == str(bad))
    for dataset in (dm.bank, dm.query):
        if position in dataset.positions:
            with pytest.raises(ValueError, match=r"left/3\.jpg cannot be decoded .*on_bad_image=skip"):
                dataset.__getitems__(np.flatnonzero(dataset.positions == position))


def test_streaming_reads_other_formats_and_modes(photographs):
    image = Image.open(photographs / "train" / "left" / "0.jpg")
    for mode, name in (("RGB", "a.png"), ("L", "b.jpg"), ("CMYK", "c.jpg"), ("P", "d.gif"), ("RGBA", "e.webp")):
        image.convert(mode).save(photographs / "train" / "left" / name)
    dm = streamed(photographs)
    assert sum(len(batch.index) for batch in dm.train_dataloader()) == 12  # 17 images, 2 of them val, batches of 4
    assert sum(len(batch.index) for loader in dm.val_dataloader() for batch in loader) == 17
