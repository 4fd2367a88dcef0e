"""What a finished run is judged by: the test split, once, with the best weights, and pictures of what it learned."""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import metrics, plots
from . import run as files
from .augment import Augmentation, normalize
from .data import Data
from .engine import Evaluation
from .model import VisionTransformer

NUM_PREDICTIONS, NUM_ATTENTION, NUM_AUGMENTED = 24, 6, 32


def write_test(folder: Path, result: Evaluation, data: Data, root: str | None) -> dict[str, float]:
    """Write `test/`: metrics (fractions from 0 to 1), a row per class and per image, the confusion matrix.

    root: the folder that the images' paths are written relative to. Returns the metrics.
    """
    classes = data.classes
    precision, recall, f1 = metrics.macro(result.confusion)
    summary = {"loss": result.loss, "accuracy": result.accuracy}
    if result.top5_accuracy is not None:
        summary["top5_accuracy"] = result.top5_accuracy
    # The mean accuracy per class, which Caltech-101 and other uneven sets are compared by, is the macro recall.
    summary |= {"mean_class_accuracy": recall, "macro_precision": precision, "macro_recall": recall, "macro_f1": f1}
    files.write_json(folder / files.TEST_METRICS, summary)
    columns = [values.tolist() for values in metrics.per_class(result.confusion)]
    support = result.confusion.sum(1).tolist()
    rows = [
        {"class": name, "precision": p, "recall": r, "f1": f, "support": n}
        for name, p, r, f, n in zip(classes, *columns, support, strict=True)
    ]
    files.write_csv(folder / files.PER_CLASS, rows)
    files.write_csv(folder / files.TEST_PREDICTIONS, _list_predictions(result, data, root))
    plots.plot_confusion_matrix(result.confusion.numpy(), classes, folder / files.CONFUSION)
    return summary


def _list_predictions(result: Evaluation, data: Data, root: str | None) -> list[dict[str, str | int]]:
    """Return a row per test image; one of a data set that comes in one file is named by its position in the split."""
    assert result.predictions is not None and result.confidences is not None
    names = [_name_image(path, root) for path in data.test.files] or [str(i) for i in range(len(data.test))]
    columns = names, data.test.labels.tolist(), result.predictions.tolist(), result.confidences.tolist()
    return [
        {
            "image": name,
            "class": data.classes[label],
            "predicted": data.classes[predicted],
            "confidence": f"{confidence:.6f}",
            "correct": int(label == predicted),
        }
        for name, label, predicted, confidence in zip(*columns, strict=True)
    ]


def _name_image(path: Path, root: str | None) -> str:
    return path.relative_to(root).as_posix() if root and path.is_relative_to(root) else path.as_posix()


@torch.no_grad()
def write_figures(folder: Path, model: VisionTransformer, data: Data, device: torch.device, batch_size: int) -> None:
    """Write `figures/`: predictions and attention over test images, position embeddings, patch filters.

    batch_size: images that the device takes at once.
    """
    model.eval()
    (folder / files.PREDICTIONS).parent.mkdir(exist_ok=True)
    chosen, labels = _spread(data.test.labels, NUM_PREDICTIONS)
    taken = data.test.images.take(chosen)
    pictures = taken.permute(0, 2, 3, 1).cpu().numpy()
    images = normalize(taken.to(device), data.preprocessing.mean, data.preprocessing.std)
    confidences, predicted = torch.cat([model(part) for part in images.split(batch_size)]).softmax(1).max(1)
    plots.plot_predictions(
        pictures,
        [data.classes[label] for label in labels.tolist()],
        [data.classes[label] for label in predicted.tolist()],
        confidences.tolist(),
        folder / files.PREDICTIONS,
    )
    layers = sorted({0, len(model.blocks) // 2, len(model.blocks) - 1})
    shown = torch.linspace(0, len(labels) - 1, min(NUM_ATTENTION, len(labels))).round().long()
    parts = images[shown.to(device)].split(batch_size)
    maps = np.concatenate([attention_to_patches(model, part, layers) for part in parts])
    names = [f"layer {layer + 1}" for layer in layers]
    plots.plot_attention(pictures[shown.numpy()], maps, names, folder / files.ATTENTION)
    plots.plot_position_embeddings(*position_similarity(model), folder / files.POSITION_EMBEDDINGS)
    plots.plot_patch_filters(principal_filters(model), folder / files.PATCH_FILTERS)


def write_augmentations(
    folder: Path, augmentation: Augmentation, data: Data, batch: Tensor, generator: torch.Generator, mix: bool
) -> None:
    """Write a picture of the first training images as the model will see them; batch: the positions (B,) of theirs."""
    ratios = None if data.train.ratios is None else data.train.ratios[batch]
    stored, labels = data.train.images.take(batch), data.train.labels[batch]
    # All of the batch, as the draws of an image are those of its place in it.
    images, targets = augmentation(stored, labels.to(stored.device), generator, ratios, mix)
    images, targets = images[:NUM_AUGMENTED].cpu(), targets[:NUM_AUGMENTED].cpu()
    shape = (1, -1, 1, 1)
    mean, std = (torch.tensor(values).view(shape) for values in (data.preprocessing.mean, data.preprocessing.std))
    pictures = ((images * std + mean) * 255).round().clamp(0, 255).byte().permute(0, 2, 3, 1)
    captions = [_describe_target(target, data.classes) for target in targets]
    (folder / files.AUGMENTATIONS).parent.mkdir(exist_ok=True)
    plots.plot_augmentations(pictures.numpy(), captions, folder / files.AUGMENTATIONS)


def _describe_target(target: Tensor, classes: list[str]) -> list[tuple[str, float]]:
    """Return the classes of a label (0-d), or of shares (K,), with their shares, the largest first."""
    if target.ndim == 0:
        return [(classes[int(target)], 1.0)]
    shares, labels = target.topk(min(2, len(target)))
    pairs = zip(labels.tolist(), shares.tolist(), strict=True)
    return [(classes[label], share) for label, share in pairs if share > 0]


def _spread(labels: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return up to `count` positions and their labels, evenly spaced over labels (N,) sorted: all classes show."""
    order = torch.argsort(labels, stable=True)
    chosen = order[torch.linspace(0, len(labels) - 1, min(count, len(labels))).round().long()]
    return chosen, labels[chosen]


def attention_to_patches(model: VisionTransformer, images: Tensor, layers: list[int]) -> np.ndarray:
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
    """Return the principal components (n, a, a, C), n up to 28, of the filters of a x a pixels that see the image.

    They are those of the patch projection (arXiv 2010.11929, Fig. 7), or of a convolutional stem's first layer.
    """
    stem = model.patch_embed.stem
    first = stem[0] if len(stem) else model.patch_embed.proj
    assert isinstance(first, nn.Conv2d)
    weight = first.weight.detach().float().cpu()  # (D, C, a, a)
    components = torch.linalg.svd(weight.flatten(1), full_matrices=False).Vh[:28]
    return components.unflatten(1, weight.shape[1:]).permute(0, 2, 3, 1).numpy()
