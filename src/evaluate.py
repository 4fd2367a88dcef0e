"""Files for people: the report of a check of the images; of a run, its first images, its test results and figures."""

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import metrics
from .augment.normalize import normalize
from .augment.pipeline import Augmentation
from .config.schema import TrainConfig
from .data.batches import epoch_order
from .data.load import Data
from .data.report import Report, read_originals
from .engine.attention import attention_to_patches
from .engine.evaluation import Evaluation
from .engine.trainer import Trainer
from .machine.disk import short_path, write_csv, write_json
from .model import VisionTransformer
from .plots.images import plot_attention, plot_augmentations, plot_predictions, plot_samples
from .plots.matrix import plot_confusion_matrix
from .plots.model import plot_patch_filters, plot_position_embeddings
from .run import files
from .seeding import generator_for
from .tables import wilson

NUM_PREDICTIONS, NUM_ATTENTION, NUM_AUGMENTED, NUM_SAMPLES = 24, 6, 32, 32
SAMPLE_SIDE = 256  # pixels, about as many as a sample takes in its picture


def write_test(folder: Path, result: Evaluation, data: Data, root: str | None) -> dict[str, float]:
    """Write `test/`: metrics (fractions from 0 to 1), tables per class and per image, the confusion matrix.

    accuracy_low and accuracy_high are the ends of its 95 % interval.
    root: image paths are written relative to this folder. Returns the metrics.
    """
    classes = data.classes
    precision, recall, f1 = metrics.macro(result.confusion)
    count = int(result.confusion.sum())
    low, high = wilson(result.accuracy, count)
    summary = {"loss": result.loss, "accuracy": result.accuracy, "accuracy_low": low, "accuracy_high": high}
    summary["images"] = count
    if result.top5_accuracy is not None:
        summary["top5_accuracy"] = result.top5_accuracy
    # The mean accuracy per class, the usual metric of Caltech-101 and other imbalanced sets, is the macro recall.
    summary |= {"mean_class_accuracy": recall, "macro_precision": precision, "macro_recall": recall, "macro_f1": f1}
    write_json(folder / files.TEST_METRICS, summary)
    columns = [values.tolist() for values in metrics.per_class(result.confusion)]
    support = result.confusion.sum(1).tolist()
    rows = [
        {"class": name, "precision": p, "recall": r, "f1": f, "support": n}
        for name, p, r, f, n in zip(classes, *columns, support, strict=True)
    ]
    write_csv(folder / files.PER_CLASS, rows)
    write_csv(folder / files.TEST_PREDICTIONS, _list_predictions(result, data, root))
    plot_confusion_matrix(result.confusion.numpy(), classes, folder / files.CONFUSION)
    return summary


def _list_predictions(result: Evaluation, data: Data, root: str | None) -> list[dict[str, str | int]]:
    """Return a row per test image, named by its file, or by its position in the split if it has no file.

    image: the same wherever the data set is; file: the path to open, as seen from the working directory.
    """
    assert result.predictions is not None and result.confidences is not None
    names = [_name_image(path, root) for path in data.test.files] or [str(i) for i in range(len(data.test))]
    paths = [short_path(path) for path in data.test.files] or [""] * len(data.test)
    columns = names, paths, data.test.labels.tolist(), result.predictions.tolist(), result.confidences.tolist()
    return [
        {
            "image": name,
            **({"file": path} if path else {}),
            "class": data.classes[label],
            "predicted": data.classes[predicted],
            "confidence": f"{confidence:.6f}",
            "correct": int(label == predicted),
        }
        for name, path, label, predicted, confidence in zip(*columns, strict=True)
    ]


def _name_image(path: Path, root: str | None) -> str:
    return path.relative_to(root).as_posix() if root and path.is_relative_to(root) else path.as_posix()


@torch.no_grad()
def write_figures(folder: Path, model: VisionTransformer, data: Data, batch_size: int) -> None:
    """Write `figures/`: predictions and attention for test images, position embeddings, patch filters.

    batch_size: images on the device at once.
    """
    model.eval()
    device = model.head.weight.device
    (folder / files.PREDICTIONS).parent.mkdir(exist_ok=True)
    chosen, labels = _spread(data.test.labels, NUM_PREDICTIONS)
    taken = data.test.images.take(chosen)
    pictures = taken.permute(0, 2, 3, 1).cpu().numpy()
    images = normalize(taken.to(device), data.preprocessing.mean, data.preprocessing.std)
    confidences, predicted = torch.cat([model(part) for part in images.split(batch_size)]).softmax(1).max(1)
    plot_predictions(
        pictures,
        [data.classes[label] for label in labels.tolist()],
        [data.classes[label] for label in predicted.tolist()],
        confidences.tolist(),
        folder / files.PREDICTIONS,
    )
    layers = sorted({0, len(model.blocks) // 2, len(model.blocks) - 1})
    shown = torch.linspace(0, len(labels) - 1, min(NUM_ATTENTION, len(labels))).round().long()
    parts = images[shown.to(device)].split(batch_size)
    maps = torch.cat([attention_to_patches(model, part, layers) for part in parts]).numpy()
    names = [f"layer {layer + 1}" for layer in layers]
    outcomes = [(data.classes[labels[i]], data.classes[predicted[i]]) for i in shown.tolist()]
    plot_attention(pictures[shown.numpy()], maps * model.num_tokens, names, outcomes, folder / files.ATTENTION)
    plot_position_embeddings(*position_similarity(model), folder / files.POSITION_EMBEDDINGS)
    plot_patch_filters(principal_filters(model), folder / files.PATCH_FILTERS)


def write_check(report: Report, config: TrainConfig, data: Data, augmentation: Augmentation) -> Path:
    """Write the report of a check, and pictures of training images, into the folder `config.check`; return it.

    A picture that cannot be made is left out, and the report says why.
    """
    folder = Path(str(config.check))
    folder.mkdir(exist_ok=True)
    samples, augmentations = folder / files.SAMPLES, folder / Path(files.AUGMENTATIONS).name
    problems = {
        samples: _try_drawing(data, lambda: _write_samples(samples, data)),
        augmentations: _try_drawing(data, lambda: _write_augmentations(augmentations, config, data, augmentation)),
    }
    left_out = {path.name: problem for path, problem in problems.items() if problem}
    for name in left_out:
        (folder / name).unlink(missing_ok=True)  # of an earlier check
    pictures = [path.name for path in problems if path.name not in left_out]
    write_json(folder / files.REPORT, {**report.to_json(), "pictures": pictures, "left_out": left_out})
    return folder


def _try_drawing(data: Data, draw: Callable[[], None]) -> str:
    """Draw training images; return why that is not possible, "" if it is."""
    if not len(data.train):
        return "there is no readable training image"
    try:
        draw()
    except OSError as error:  # a file can no longer be read
        return str(error)
    return ""


def _write_samples(path: Path, data: Data) -> None:
    chosen, labels = _spread(data.train.labels, NUM_SAMPLES)
    plot_samples(read_originals(data, chosen, SAMPLE_SIDE), [data.classes[label] for label in labels.tolist()], path)


def write_augmentations(folder: Path, config: TrainConfig, data: Data, trainer: Trainer) -> float:
    """Write a figure of the first training images as the model will see them; return the seconds that it took."""
    started = time.monotonic()
    if trainer.world.main:
        _write_augmentations(folder / files.AUGMENTATIONS, config, data, trainer.augmentation)
    return time.monotonic() - started


def _write_augmentations(path: Path, config: TrainConfig, data: Data, augmentation: Augmentation) -> None:
    """Draw the first batch of the run that a complete configuration describes."""
    training, batch_size = config.training, config.training.batch_size
    assert batch_size is not None and training.epochs is not None
    total_steps = training.epochs * -(-len(data.train) // batch_size)
    balanced, repeats = training.sampler == "balanced", config.augmentation.repeats
    batch = epoch_order(data.train.labels, config.seed, 1, balanced, repeats)[:batch_size]
    draws, mix = generator_for("augment", config.seed, 0), config.augmentation.mix_until(total_steps) > 0
    ratios = None if data.train.ratios is None else data.train.ratios[batch]
    stored, labels = data.train.images.take(batch), data.train.labels[batch]
    # Augment the whole batch, because an image's draws depend on its position in it.
    images, targets = augmentation(stored, labels.to(stored.device), draws, ratios, mix)
    images, targets = images[:NUM_AUGMENTED].cpu(), targets[:NUM_AUGMENTED].cpu()
    shape = (1, -1, 1, 1)
    mean, std = (torch.tensor(values).view(shape) for values in (data.preprocessing.mean, data.preprocessing.std))
    pictures = ((images * std + mean) * 255).round().clamp(0, 255).byte().permute(0, 2, 3, 1)
    captions = [_describe_target(target, data.classes) for target in targets]
    path.parent.mkdir(exist_ok=True)
    plot_augmentations(pictures.numpy(), captions, path)


def _describe_target(target: Tensor, classes: list[str]) -> list[tuple[str, float]]:
    """Return the classes of a label (0-d), or of a mixed target (K,), with their shares, largest first."""
    if target.ndim == 0:
        return [(classes[int(target)], 1.0)]
    shares, labels = target.topk(min(2, len(target)))
    pairs = zip(labels.tolist(), shares.tolist(), strict=True)
    return [(classes[label], share) for label, share in pairs if share > 0]


def _spread(labels: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return up to `count` positions and their labels, sorted by label, of labels (N,).

    Each class has equally many if it has enough images; of more than `count` classes, evenly spaced ones have one.
    """
    classes = labels.unique()
    shown = classes[torch.linspace(0, len(classes) - 1, min(count, len(classes))).round().long()]
    order = torch.randperm(len(labels), generator=generator_for("spread"))  # neighbors often look alike
    order = order[torch.isin(labels[order], shown)]
    order = order[labels[order].argsort(stable=True)]
    ordered = labels[order]
    turns = torch.arange(len(order)) - torch.searchsorted(ordered, ordered)  # 0, 1, 2 … in each class
    chosen = order[turns.argsort(stable=True)[:count].sort().values]
    return chosen, labels[chosen]


def position_similarity(model: VisionTransformer) -> tuple[np.ndarray, np.ndarray]:
    """Return the cosine similarities (rows*columns, rows, columns) of the position embeddings, and their norms."""
    patches = model.pos_embed[0, model.num_prefix_tokens :].detach().float().cpu()
    unit = F.normalize(patches, dim=1)
    similarity = (unit @ unit.T).unflatten(1, model.grid_size)
    return similarity.numpy(), patches.norm(dim=1).unflatten(0, model.grid_size).numpy()


def principal_filters(model: VisionTransformer) -> np.ndarray:
    """Return the principal components (n, a, a, C), n up to 28, of the first layer's filters of a x a pixels.

    That is the patch projection (arXiv 2010.11929, Fig. 7), or the first layer of a convolutional stem.
    """
    stem = model.patch_embed.stem
    first = stem[0] if len(stem) else model.patch_embed.proj
    assert isinstance(first, nn.Conv2d)
    weight = first.weight.detach().float().cpu()  # (D, C, a, a)
    components = torch.linalg.svd(weight.flatten(1), full_matrices=False).Vh[:28]
    return components.unflatten(1, weight.shape[1:]).permute(0, 2, 3, 1).numpy()
