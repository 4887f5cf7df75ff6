"""InstDisc against the paper's equations in loops, its bank row by row, and kNN with a bank that is not stale."""

import math

import pytest
import torch
from children import in_child, start
from drive import attach_trainer, random_batches, small, train, view_batch
from torch.nn.functional import cross_entropy, normalize

import kindred
from kindred.config import ConfigError
from kindred.evaluation.accuracy import top_k_accuracies
from kindred.evaluation.knn import knn_classify
from kindred.losses import noise_contrast
from kindred.memory import MemoryBank
from kindred.models.instdisc import InstDisc
from kindred.tracking.metrics_csv import read_metrics

IMAGES = 12  # of drive.small's bank


def embedded(module, views):
    return [normalize(module.projector(module.encoder(view)), dim=1) for view in views]


def paper_loss(module, views, first, samples, proximal, partition):
    """Equations 5 to 7 and 9 for one anchor after the other: h = P / (P + m P_n), P = exp(v . f / tau) / Z, P_n = 1 / n."""
    tau, rows = module.temperature, module.bank.features
    noise = rows[module.bank.sample(samples, module.seed, module.global_step)]
    terms = []
    for view in embedded(module, views):
        for place, anchor in enumerate(view, start=first):
            h = [
                p / (p + samples / IMAGES)
                for p in torch.exp(torch.cat([rows[place][None], noise]) @ anchor / tau) / partition
            ]
            pull = (anchor - rows[place]).square().sum()
            terms.append(-h[0].log() - sum((1 - each).log() for each in h[1:]) + proximal * pull)
    return sum(terms) / len(terms)


def assert_same_loss_and_gradients(module, ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=0)
    parameters = list(module.parameters())
    for a, e in zip(*(torch.autograd.grad(loss, parameters) for loss in (ours, theirs)), strict=True):
        torch.testing.assert_close(a, e, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize(("tau", "samples", "proximal"), [(0.07, 5, 30.0), (1.0, 40, 0.0)])
def test_the_loss_is_the_papers(tau, samples, proximal, count):
    module = small(InstDisc, temperature=tau, noise_samples=samples, proximal=proximal)
    attach_trainer(module, 3, global_step=2)
    module.log_partition.fill_(math.log(3.5))  # Z = 3.5 n
    views, labels = random_batches(1, views=count)[0]
    ours, _ = module.contrast(view_batch(views, labels, first=4))
    assert_same_loss_and_gradients(module, ours, paper_loss(module, views, 4, samples, proximal, 3.5 * IMAGES))


def test_over_the_whole_bank_it_is_a_softmax_whose_classes_are_images():
    module = small(InstDisc, loss="contrastive", proximal=0.0, temperature=0.2)
    views, labels = random_batches(1, views=1)[0]
    ours, _ = module.contrast(view_batch(views, labels, first=4))
    logits = embedded(module, views)[0] @ module.bank.features.T / 0.2
    assert_same_loss_and_gradients(module, ours, cross_entropy(logits, torch.arange(4, 10)))


def test_nce_is_sigmoids_that_do_not_overflow():
    rows = torch.eye(4)
    loss = noise_contrast(rows, -rows, rows, 1e-3, log_partition=2.0)
    assert loss.item() == pytest.approx(
        1000 + 2 + math.log(4) + 1000 - 2 - math.log(4) + 3 * math.log1p(math.exp(-2) / 4), rel=1e-4
    )


def test_z_is_estimated_in_the_first_step_and_stays():
    module = small(InstDisc, noise_samples=7)
    views, _ = batches = random_batches(3, views=1)[0]
    noise = module.bank.features[module.bank.sample(7, 0, 0)]
    expected = torch.exp(embedded(module, views)[0] @ noise.T / 0.07).mean().log()  # Z / n
    train(module, [batches, *random_batches(3, views=1)[1:]], last=1)
    torch.testing.assert_close(module.log_partition, expected)
    train(module, random_batches(3, views=1), first=1)
    torch.testing.assert_close(module.log_partition, expected, rtol=0, atol=1e-12)


def test_z_as_a_moving_average_is_of_all_steps():
    module = small(InstDisc, noise_samples=7, partition_momentum=0.75)
    batches, expected = random_batches(3, views=1), None
    for step, (views, _) in enumerate(batches):
        noise = module.bank.features[module.bank.sample(7, 0, step)]
        now = torch.exp(embedded(module, views)[0] @ noise.T / 0.07).mean()  # Z / n
        expected = now if expected is None else 0.75 * expected + 0.25 * now
        train(module, batches, first=step, last=step + 1)
        torch.testing.assert_close(module.log_partition, expected.log())


def test_rows_move_after_backward_by_the_momentum_and_stay_on_the_sphere():
    module = small(InstDisc, momentum=0.3)
    views, labels = random_batches(1)[0]
    before = module.bank.features.clone()
    module.contrast(view_batch(views, labels, first=4))[0].backward()
    assert torch.equal(module.bank.features, before)
    entering = normalize(sum(embedded(module, views)), dim=1)
    module.on_after_backward()
    before[4:10] = normalize(0.3 * before[4:10] + 0.7 * entering.detach(), dim=1)
    torch.testing.assert_close(module.bank.features, before, rtol=1e-12, atol=1e-14)


def filled(positions, dim=16, seed=0):
    bank = MemoryBank(dim, 0.5)
    bank.fill(torch.tensor(positions), seed)
    return bank


def test_first_rows_are_unit_vectors_of_any_direction_and_functions_of_seed_and_position():
    bank = filled(range(4000))
    torch.testing.assert_close(bank.features.norm(dim=1), torch.ones(4000))
    assert bank.features.mean(dim=0).norm() < 0.05
    covariance = bank.features.T @ bank.features / 4000
    torch.testing.assert_close(covariance, torch.eye(16) / 16, rtol=0, atol=0.01)
    torch.manual_seed(3)  # of no consequence
    assert torch.equal(filled([5, 70, 71]).features, bank.features[[5, 70, 71]])
    assert not torch.equal(filled([5, 70, 71], seed=1).features, bank.features[[5, 70, 71]])
    assert filled([5, 70, 71]).places(torch.tensor([71, 5])).tolist() == [2, 0]


def test_noise_is_uniform_and_a_function_of_seed_and_step_alone():
    bank, state = filled(range(10)), torch.get_rng_state()
    drawn = bank.sample(20_000, 3, 5)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(bank.sample(20_000, 3, 5), drawn)
    assert not torch.equal(bank.sample(20_000, 3, 6), drawn)
    assert not torch.equal(bank.sample(20_000, 4, 5), drawn)
    counts = drawn.bincount()
    assert len(counts) == 10
    assert (counts - 2000).abs().max() < 5 * math.sqrt(20_000 * 0.1 * 0.9)


def test_a_bank_of_other_images_is_refused_and_an_empty_one_takes_what_was_saved():
    saved = torch.nn.ModuleDict({"bank": filled([1, 4, 9])}).state_dict()
    empty = torch.nn.ModuleDict({"bank": MemoryBank(16, 0.5)})
    empty.load_state_dict(saved)
    assert torch.equal(empty["bank"].features, saved["bank.features"])
    assert torch.equal(empty["bank"].positions, saved["bank.positions"])
    with pytest.raises(ConfigError, match=r"is of 3 train images, and the data have 2: give the data that it was"):
        torch.nn.ModuleDict({"bank": filled([1, 4])}).load_state_dict(saved)
    with pytest.raises(ConfigError, match="is of 3 train images, and the data have 3 others: give"):
        torch.nn.ModuleDict({"bank": filled([1, 4, 8])}).load_state_dict(saved)


# 1,079 digits are 13 batches of 83: each row is of this epoch. Unaugmented, without momentum, with weights that stand still
# and an encoder without batch norm, no row is stale.
FRESH = [
    *("model=instdisc", "data.batch_size=83", "model.momentum=0", "model.optimizer.lr=0", "trainer.max_epochs=1"),
    *(
        "encoder._target_=rank_helpers.PlainConvNet",
        "views.views=[{_target_: kindred.data.images.views.View, crop_scale: null, flip: 0}]",
    ),
    *("~callbacks.linear_probe", "~callbacks.figures", "model.hidden_dim=0"),
]


def test_knn_with_a_bank_that_is_not_stale_is_knn_with_what_the_encoder_gives(tmp_path):
    assert start(tmp_path / "run", FRESH) == 0
    run = kindred.load_run(tmp_path / "run", trust=["rank_helpers.PlainConvNet"])

    def compare():
        datamodule = run.datamodule()
        datamodule.setup()
        bank, query = (
            run.module.projector(
                run.module(datamodule.views.plain(torch.from_numpy(part.examples.read(part.positions))))
            )
            for part in (datamodule.train, datamodule.query)
        )
        torch.testing.assert_close(run.module.bank.features, normalize(bank, dim=1), rtol=0, atol=1e-5)
        labels, query_labels = (torch.from_numpy(part.labels) for part in (datamodule.train, datamodule.query))
        scores = knn_classify(bank, labels, query, k=20, temperature=0.1, num_classes=10)
        expected = top_k_accuracies("val/bank_knn", scores, query_labels)
        assert expected["val/bank_knn_top1"] > 0.5
        for name, value in expected.items():
            assert abs(run.summary[name] - float(value)) <= 1.01 / len(query_labels), name

    with torch.inference_mode():
        assert in_child(compare) == 0
    rows = read_metrics(tmp_path / "run" / "metrics.csv")
    assert not any("val/bank_knn_top1" in row for row in rows if row["step"] == 0)  # then the bank is noise
