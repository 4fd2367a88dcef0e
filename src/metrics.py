"""Exact classification metrics from counts. Letters: N samples, K classes; results are fractions from 0 to 1."""

import torch
from torch import Tensor


def count_confusion(labels: Tensor, predictions: Tensor, num_classes: int) -> Tensor:
    """Return the (K,K) int64 confusion matrix of labels and predictions (N,): true rows, predicted columns."""
    pairs = labels * num_classes + predictions
    return torch.bincount(pairs, minlength=num_classes**2).view(num_classes, num_classes)


def count_top_k(logits: Tensor, labels: Tensor, k: int) -> Tensor:
    """Return the number of samples whose label is among the k largest of logits (N,K), as a 0-d tensor."""
    return (logits.topk(k, dim=1).indices == labels.view(-1, 1)).any(1).sum()


def accuracy(confusion: Tensor) -> float:
    return confusion.diagonal().sum().item() / confusion.sum().item()


def per_class(confusion: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return precision, recall and F1 (K,) in float64; 0 where a ratio is 0/0, as in scikit-learn."""
    confusion = confusion.double()
    hits = confusion.diagonal()
    precision = hits / confusion.sum(0).clamp(min=1)
    recall = hits / confusion.sum(1).clamp(min=1)
    f1 = 2 * hits / (confusion.sum(0) + confusion.sum(1)).clamp(min=1)
    return precision, recall, f1


def macro(confusion: Tensor) -> tuple[float, float, float]:
    """Return macro precision, recall and F1 over the classes that occur as label or prediction."""
    occurs = (confusion.sum(0) + confusion.sum(1)) > 0
    precision, recall, f1 = (values[occurs].mean().item() for values in per_class(confusion))
    return precision, recall, f1
