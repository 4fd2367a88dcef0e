"""Metrics are counts; scikit-learn is the judge."""

import numpy as np
import pytest
import torch
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support, top_k_accuracy_score

from src import metrics


@pytest.mark.parametrize("absent", [(), (3,), (0, 5)])
def test_confusion_precision_recall_and_f1_equal_scikit_learn(absent: tuple[int, ...]) -> None:
    random = np.random.default_rng(0)
    present = [c for c in range(6) if c not in absent]
    labels, predictions = random.choice(present, 500), random.choice(present, 500)
    confusion = metrics.count_confusion(torch.tensor(labels), torch.tensor(predictions), 6)
    assert np.array_equal(confusion, confusion_matrix(labels, predictions, labels=range(6)))
    per_class = precision_recall_fscore_support(labels, predictions, labels=range(6), zero_division=0)[:3]
    assert np.allclose(metrics.per_class(confusion), per_class)
    macro = precision_recall_fscore_support(labels, predictions, average="macro", zero_division=0)[:3]
    assert np.allclose(metrics.macro(confusion), macro)
    assert metrics.accuracy(confusion) == pytest.approx((labels == predictions).mean())


def test_a_class_never_predicted_has_precision_zero_not_nan() -> None:
    confusion = metrics.count_confusion(torch.tensor([0, 1]), torch.tensor([0, 0]), 2)
    assert metrics.macro(confusion) == (0.25, 0.5, pytest.approx(1 / 3))


def test_top_k_equals_scikit_learn() -> None:
    logits, labels = torch.randn(200, 8, generator=torch.Generator().manual_seed(0)), torch.arange(200) % 8
    expected = top_k_accuracy_score(labels, logits, k=5, normalize=False)
    assert metrics.count_top_k(logits, labels, 5).item() == expected
