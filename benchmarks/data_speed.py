"""Images per second from files to normalized batches: this repository against a standard loader, in the same process.

    python benchmarks/data_speed.py [--device cuda] [--images 600] [--rounds 5]

The standard loader decodes with PIL and augments with torchvision's v2 transforms, image by image, in a DataLoader with
0 and 2 persistent workers. The images are crops of scikit-learn's two sample photographs: JPEG files of 500x375 px for
224 px, and an array of 32 px images. In each round, all loaders run once; the table has the medians and their ratios.
First epochs include starting the workers, or decoding all images into the cache.
"""

import argparse
import logging
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from src.augment.pipeline import Augmentation
from src.config.compose import compose_config
from src.config.dataset import DatasetConfig
from src.data.batches import iterate_batches, shuffled_order
from src.data.load import Split, load_data
from src.data.storage import Images
from src.machine.memory import keep_freed_memory
from src.seeding import generator_for

BATCH, SMALL_BATCH = 64, 256
WORKERS = (0, 2)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
Epoch = Callable[[int], int]  # epoch -> number of images loaded


class UsualDataset(Dataset[tuple[torch.Tensor, int]]):
    """As in torchvision's data sets: open a file, or convert an array, then transform."""

    def __init__(self, items: list[Path] | np.ndarray, transform: v2.Transform) -> None:
        self.items, self.transform = items, transform

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, position: int) -> tuple[torch.Tensor, int]:
        item = self.items[position]
        image = Image.fromarray(item) if isinstance(item, np.ndarray) else Image.open(item).convert("RGB")
        return self.transform(image), 0


def cut_photographs(count: int, width: int, height: int) -> Iterator[np.ndarray]:
    """Yield crops (height,width,3) of two photographs, not resized if they are larger than 100 px."""
    from sklearn.datasets import load_sample_images

    photographs = [Image.fromarray(image) for image in load_sample_images().images]
    random = np.random.default_rng(0)
    for number in range(count):
        photograph = photographs[number % 2]
        scale = 1.0 if width > 100 else random.uniform(1, 8)
        left = random.uniform(0, photograph.width - scale * width)
        top = random.uniform(0, photograph.height - scale * height)
        box = (left, top, left + scale * width, top + scale * height)
        yield np.asarray(photograph.resize((width, height), Image.Resampling.BICUBIC, box=box))


def usual(items: list[Path] | np.ndarray, first: list[v2.Transform], policy: str, workers: int, batch: int) -> Epoch:
    """Return an epoch of the standard loader."""
    policies = {"": [], "trivialaugment": [v2.TrivialAugmentWide()], "randaugment": [v2.RandAugment(2, 9)]}
    transform = v2.Compose(
        [*first, *policies[policy], v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]
    )
    dataset = UsualDataset(items, transform)
    loader = DataLoader(dataset, batch, shuffle=True, num_workers=workers, persistent_workers=workers > 0)
    return lambda epoch: sum(len(images) for images, _ in loader)


def ours(split: Split, augmentation: Augmentation, batch: int, device: torch.device) -> Epoch:
    """Return an epoch of this repository over a decoded split."""

    def run(epoch: int) -> int:
        count = 0
        order = shuffled_order(len(split), 0, epoch)
        batches = iterate_batches(split, order.split(batch), device)
        for step, (images, positions) in enumerate(batches):
            labels = split.labels[positions].to(device, non_blocking=True)
            ratios = None if split.ratios is None else split.ratios[positions]
            images, _ = augmentation(images, labels, generator_for("augment", 0, epoch, step), ratios)
            count += len(images)
        if device.type == "cuda":
            torch.cuda.synchronize()
        return count

    return run


def measure(epochs: dict[str, Epoch], rounds: int, warm: bool = True) -> dict[str, float]:
    """Return the median images/s of each; warm: do not measure the first round."""
    rates: dict[str, list[float]] = {name: [] for name in epochs}
    for number in range(rounds + warm):
        for name, epoch in epochs.items():
            started = time.perf_counter()
            count = epoch(number)
            if number >= warm:
                rates[name].append(count / (time.perf_counter() - started))
    return {name: statistics.median(values) for name, values in rates.items()}


def print_row(title: str, rates: dict[str, float]) -> None:
    usual_rates, own = [rates[f"{workers} workers"] for workers in WORKERS], rates["ours"]
    cells = [f"{rate:,.0f}" for rate in (*usual_rates, own)] + [f"{own / rate:.1f}×" for rate in usual_rates]
    print(f"| {title} | {' | '.join(cells)} |", flush=True)


def save_photographs(folder: Path, count: int) -> list[Path]:
    files = []
    for number, pixels in enumerate(cut_photographs(count, 500, 375)):
        path = folder / f"class {number % 4}" / f"{number:05d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path, quality=90)
        files.append(path)
    return files


def compare_photographs(files: list[Path], folder: Path, policy: str, rounds: int, device: torch.device) -> None:
    """Print the rows for JPEG files of 500x375 px at 224 px, with an augmentation policy."""
    augmentation = Augmentation(
        size=(224, 224), mean=MEAN, std=STD, num_classes=4, random_resized_crop=0.08, horizontal_flip=0.5,
        policy=policy or None,
    )  # fmt: skip
    root = files[0].parents[1]
    configs = [configure(root, folder / f"cache {policy} {number}") for number in range(rounds)]

    def begin(number: int) -> int:
        """Decode all images into a new cache, then load the training split."""
        data = load_data(configs[number], (224, 224), no_bar, device, augmentation.stored_size)
        ours(data.train, augmentation, BATCH, device)(0)
        return sum(len(split) for split in data.splits().values())

    def begin_usual(workers: int) -> Epoch:
        return lambda _: usual(files, crop, policy, workers, BATCH)(0)

    crop: list[v2.Transform] = [v2.RandomResizedCrop(224), v2.RandomHorizontalFlip()]
    name = f"224 px: random-resized crop, flip{', TrivialAugment' if policy else ''}"
    first = {f"{workers} workers": begin_usual(workers) for workers in WORKERS}
    print_row(f"{name}; first epoch, from files", measure(first | {"ours": begin}, rounds, warm=False))
    train = load_data(configs[0], (224, 224), no_bar, device, augmentation.stored_size).train
    epochs = {f"{workers} workers": usual(files, crop, policy, workers, BATCH) for workers in WORKERS}
    print_row(f"{name}; later epochs", measure(epochs | {"ours": ours(train, augmentation, BATCH, device)}, rounds))


def configure(root: Path, cache_dir: Path) -> DatasetConfig:
    """Return the configuration of a folder of images, almost all of them for training."""
    overrides = ["dataset=image_folder", f"dataset.root='{root}'", f"dataset.cache_dir='{cache_dir}'"]
    return compose_config(*overrides, "dataset.val_share=0.01", "dataset.test_share=0.01").dataset


def no_bar(items: Iterable[Any], total: int, description: str) -> Iterator[Any]:
    return iter(items)


def compare_small(count: int, rounds: int, device: torch.device) -> None:
    """Print the rows for 32 px images."""
    pixels = np.stack(list(cut_photographs(count, 32, 32)))
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous().to(device)
    split = Split(Images(images), torch.zeros(count, dtype=torch.long))
    for policy, title in (
        ("", "normalize"),
        ("trivialaugment", "TrivialAugment"),
        ("randaugment", "RandAugment(2, 9)"),
    ):
        augmentation = Augmentation(
            size=(32, 32), mean=MEAN, std=STD, num_classes=10, pad_crop=0.125, horizontal_flip=0.5,
            policy=policy or None,
        )  # fmt: skip
        first = [v2.RandomCrop(32, padding=4, padding_mode="reflect"), v2.RandomHorizontalFlip()]
        epochs = {f"{workers} workers": usual(pixels, first, policy, workers, SMALL_BATCH) for workers in WORKERS}
        print_row(
            f"32 px: shift, flip, {title}",
            measure(epochs | {"ours": ours(split, augmentation, SMALL_BATCH, device)}, rounds),
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--images", type=int, default=600, help="JPEG files; ten times as many 32 px images")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    device = torch.device(arguments.device)
    keep_freed_memory()  # as in train.py; also for the standard loader
    torch.set_num_threads(1)  # common with DataLoader workers; our thread pool uses all cores
    versions = f"torch {torch.__version__}, torchvision {torchvision.__version__}, Python {platform.python_version()}"
    print(f"{versions}, {device}")
    print("\n| images/s | standard, 0 workers | 2 workers | ours | ratio to 0 | to 2 |\n|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        files = save_photographs(Path(folder, "photos"), arguments.images)
        for policy in ("", "trivialaugment"):
            compare_photographs(files, Path(folder), policy, arguments.rounds, device)
    compare_small(10 * arguments.images, arguments.rounds, device)


if __name__ == "__main__":
    main()
