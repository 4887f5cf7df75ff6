"""Accuracies against counting by hand."""

import torch

from kindred.evaluation.accuracy import top_k_accuracies


def test_top_1_and_top_5_are_shares_of_the_labelled_images():
    generator = torch.Generator().manual_seed(0)
    scores = torch.rand(200, 9, generator=generator)
    labels = torch.randint(-1, 9, (200,), generator=generator)
    order = scores.argsort(dim=1, descending=True).tolist()
    judged = [(ranked, label) for ranked, label in zip(order, labels.tolist(), strict=True) if label >= 0]
    found = top_k_accuracies("val/knn", scores, labels)
    assert found.keys() == {"val/knn_top1", "val/knn_top5"}
    for k in (1, 5):
        expected = sum(label in ranked[:k] for ranked, label in judged) / len(judged)
        assert abs(found[f"val/knn_top{k}"] - expected) < 1e-6


def test_top_5_of_five_classes_says_nothing_and_is_left_out():
    assert top_k_accuracies("x", torch.rand(10, 5), torch.zeros(10, dtype=torch.long)).keys() == {"x_top1"}
