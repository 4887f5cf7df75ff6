"""The probe against scikit-learn, on one process and several, labelled and not."""

import torch
from ranks import run_ranks
from sklearn.linear_model import LogisticRegression
from torch import nn

from kindred.callbacks.linear_probe import LinearProbeCallback


def probe(features: int, classes: int, lr: float = 3e-3) -> LinearProbeCallback:
    callback = LinearProbeCallback(lr=lr)
    callback.build(features, classes)
    return callback


def blobs(count: int = 600, classes: int = 4, features: int = 8):
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(classes, (count,), generator=generator)
    centres = torch.randn(classes, features, generator=generator)
    return centres[labels] + torch.randn(count, features, generator=generator), labels


def test_it_finds_what_logistic_regression_finds():
    features, labels = blobs()
    callback = probe(8, 4, lr=0.05)
    for _ in range(400):
        callback.step(features, labels, decay=1.0)
    reference = LogisticRegression(C=1e6, max_iter=2000).fit(features.numpy(), labels.numpy())
    agreement = callback.probe(features).argmax(dim=1).numpy() == reference.predict(features.numpy())
    assert agreement.mean() > 0.99


def test_its_steps_are_those_of_adam_on_the_mean_cross_entropy():
    features, labels = blobs(50)
    callback = probe(8, 4)
    reference = nn.Linear(8, 4)
    for parameter in reference.parameters():
        nn.init.zeros_(parameter)
    optimizer = torch.optim.Adam(reference.parameters(), lr=3e-3 * 0.5)
    for _ in range(5):
        optimizer.zero_grad()
        nn.functional.cross_entropy(reference(features), labels).backward()
        optimizer.step()
        callback.step(features, labels, decay=0.5)
    torch.testing.assert_close(callback.probe.weight, reference.weight)
    torch.testing.assert_close(callback.probe.bias, reference.bias)


def test_unlabelled_images_count_for_nothing():
    features, labels = blobs(40)
    with_strangers, without = probe(8, 4), probe(8, 4)
    strange = torch.cat([features, 100 * torch.ones(5, 8)])
    with_strangers.step(strange, torch.cat([labels, torch.full((5,), -1)]), decay=1.0)
    without.step(features, labels, decay=1.0)
    torch.testing.assert_close(with_strangers.probe.weight, without.probe.weight)
    nobody = probe(8, 4)
    nobody.step(features, torch.full((40,), -1), decay=1.0)
    assert torch.equal(nobody.probe.weight, torch.zeros(4, 8))


def _steps(rank_shares):
    from kindred.distributed import rank

    features, labels = blobs(120)
    labels[::7] = -1  # so that the ranks have different numbers of labels
    callback = probe(8, 4)
    for _ in range(3):
        rows = rank_shares[rank()]
        callback.step(features[rows], labels[rows], decay=1.0)
    return callback.probe.weight.detach()


def test_on_several_ranks_its_gradient_is_that_of_the_global_batch():
    whole = _steps([slice(None)])
    for shares in ([slice(0, 60), slice(60, 120)], [slice(0, 40), slice(40, 80), slice(80, 120)]):
        for weight in run_ranks(_steps, len(shares), shares):
            torch.testing.assert_close(weight, whole, rtol=1e-5, atol=1e-7)


def test_it_draws_no_random_numbers():
    before = torch.get_rng_state()
    callback = probe(8, 4)
    callback.step(*blobs(20), decay=1.0)
    assert torch.equal(torch.get_rng_state(), before)
