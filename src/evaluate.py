"""What a finished run is judged by: the test split, once, with the best weights, and pictures of what it learned."""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from . import metrics, plots
from . import run as files
from .augment import normalize
from .data import Data, Split
from .engine import Evaluation
from .model import VisionTransformer

NUM_PREDICTIONS, NUM_ATTENTION = 24, 6


def write_test(folder: Path, result: Evaluation, classes: list[str]) -> dict[str, float]:
    """Write `test/`: metrics (fractions from 0 to 1), a row per class, the confusion matrix. Return the metrics."""
    precision, recall, f1 = metrics.macro(result.confusion)
    summary = {"loss": result.loss, "accuracy": result.accuracy}
    if result.top5_accuracy is not None:
        summary["top5_accuracy"] = result.top5_accuracy
    summary |= {"macro_precision": precision, "macro_recall": recall, "macro_f1": f1}
    files.write_json(folder / files.TEST_METRICS, summary)
    columns = [values.tolist() for values in metrics.per_class(result.confusion)]
    support = result.confusion.sum(1).tolist()
    rows = [
        {"class": name, "precision": p, "recall": r, "f1": f, "support": n}
        for name, p, r, f, n in zip(classes, *columns, support, strict=True)
    ]
    files.write_csv(folder / files.PER_CLASS, rows)
    plots.plot_confusion_matrix(result.confusion.numpy(), classes, folder / files.CONFUSION)
    return summary


@torch.no_grad()
def write_figures(folder: Path, model: VisionTransformer, data: Data, device: torch.device) -> None:
    """Write `figures/`: predictions and attention over test images, position embeddings, patch filters."""
    model.eval()
    (folder / files.PREDICTIONS).parent.mkdir(exist_ok=True)
    sample = _spread(data.test, NUM_PREDICTIONS)
    pictures = sample.images.permute(0, 2, 3, 1).numpy()
    images = normalize(sample.images.to(device), data.preprocessing.mean, data.preprocessing.std)
    confidences, predicted = model(images).softmax(1).max(1)
    plots.plot_predictions(
        pictures,
        [data.classes[label] for label in sample.labels.tolist()],
        [data.classes[label] for label in predicted.tolist()],
        confidences.tolist(),
        folder / files.PREDICTIONS,
    )
    layers = sorted({0, len(model.blocks) // 2, len(model.blocks) - 1})
    shown = torch.linspace(0, len(sample) - 1, min(NUM_ATTENTION, len(sample))).round().long()
    maps = attention_to_patches(model, images[shown.to(device)], layers)
    names = [f"layer {layer + 1}" for layer in layers]
    plots.plot_attention(pictures[shown.numpy()], maps, names, folder / files.ATTENTION)
    plots.plot_position_embeddings(*position_similarity(model), folder / files.POSITION_EMBEDDINGS)
    plots.plot_patch_filters(principal_filters(model), folder / files.PATCH_FILTERS)


def _spread(split: Split, count: int) -> Split:
    """Return up to `count` samples, evenly spaced over the split sorted by class, so that all classes show."""
    order = torch.argsort(split.labels, stable=True)
    chosen = order[torch.linspace(0, len(split) - 1, min(count, len(split))).round().long()]
    return Split(split.images[chosen], split.labels[chosen])


def attention_to_patches(model: VisionTransformer, images: torch.Tensor, layers: list[int]) -> np.ndarray:
    """Return the attention that patches get, mean over heads: (n, L, rows, columns) for the layers named.

    From the class token; with mean pooling, which has none, from all patches alike.
    """
    first = model.num_prefix_tokens
    maps = model.attention_maps(images)
    chosen = torch.stack([maps[layer].mean(1) for layer in layers], dim=1)  # (n, L, N, N)
    queries = chosen[:, :, 0] if model.pooling == "cls" else chosen[:, :, first:].mean(2)
    return queries[..., first:].unflatten(-1, model.grid_size).float().cpu().numpy()


def position_similarity(model: VisionTransformer) -> tuple[np.ndarray, np.ndarray]:
    """Return the cosine similarities (rows*columns, rows, columns) of the patches' position embeddings, and norms."""
    patches = model.pos_embed[0, model.num_prefix_tokens :].detach().float().cpu()
    unit = F.normalize(patches, dim=1)
    similarity = (unit @ unit.T).unflatten(1, model.grid_size)
    return similarity.numpy(), patches.norm(dim=1).unflatten(0, model.grid_size).numpy()


def principal_filters(model: VisionTransformer) -> np.ndarray:
    """Return the principal components (n, P, P, C), n up to 28, of the filters that see the pixels.

    They are those of the patch projection (arXiv 2010.11929, Fig. 7), or of a convolutional stem's first layer.
    """
    stem = model.patch_embed.stem
    first = stem[0] if len(stem) else model.patch_embed.proj
    assert isinstance(first, nn.Conv2d)
    weight = first.weight.detach().float().cpu()  # (D, C, P, P)
    components = torch.linalg.svd(weight.flatten(1), full_matrices=False).Vh[:28]
    return components.unflatten(1, weight.shape[1:]).permute(0, 2, 3, 1).numpy()
