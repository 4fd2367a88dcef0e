"""Images per second from files to normalised batches: this repository against the usual loader, in the same run.

    python benchmarks/data_speed.py [--device cuda] [--images 600] [--rounds 5]

The usual loader decodes with PIL and augments with torchvision's v2 transforms, image by image, in a DataLoader with 0
and 2 persistent workers. The images are cut out of scikit-learn's two sample photographs: JPEG files of 500x375 px
for 224 px, an array of 32 px images for the other half. Rounds take turns; the table shows medians, and their ratio to
the better of the two usual loaders.
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

from src.augment import Augmentation
from src.config import DatasetConfig, compose_config
from src.data import Images, Split, iterate_batches, load_data, shuffled_order
from src.seeding import generator_for

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
Epoch = Callable[[int], int]  # epoch -> number of images gone through


class UsualDataset(Dataset[tuple[torch.Tensor, int]]):
    """What a torchvision data set does: open a file, or wrap an array, then transform."""

    def __init__(self, items: list[Path] | np.ndarray, transform: v2.Transform) -> None:
        self.items, self.transform = items, transform

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, position: int) -> tuple[torch.Tensor, int]:
        item = self.items[position]
        image = Image.fromarray(item) if isinstance(item, np.ndarray) else Image.open(item).convert("RGB")
        return self.transform(image), 0


def cut_photographs(count: int, width: int, height: int) -> Iterator[np.ndarray]:
    """Yield pieces (height,width,3) of two photographs, at their full detail where they are large enough to crop."""
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
    """Return the usual loader's epoch."""
    policies = {"": [], "trivialaugment": [v2.TrivialAugmentWide()], "randaugment": [v2.RandAugment(2, 9)]}
    transform = v2.Compose(
        [*first, *policies[policy], v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]
    )
    dataset = UsualDataset(items, transform)
    loader = DataLoader(dataset, batch, shuffle=True, num_workers=workers, persistent_workers=workers > 0)
    return lambda epoch: sum(len(images) for images, _ in loader)


def ours(split: Split, augmentation: Augmentation, batch: int, device: torch.device) -> Epoch:
    """Return this repository's epoch over a split that is decoded already."""

    def run(epoch: int) -> int:
        count = 0
        order = shuffled_order(len(split), 0, epoch)
        for step, (images, labels, ratios) in enumerate(iterate_batches(split, batch, device, order)):
            images, _ = augmentation(images, labels, generator_for("augment", 0, epoch, step), ratios)
            count += len(images)
        if device.type == "cuda":
            torch.cuda.synchronize()
        return count

    return run


def measure(epochs: dict[str, Epoch], rounds: int) -> dict[str, float]:
    """Return the median images/s of each, after one round to warm up; rounds take turns."""
    rates: dict[str, list[float]] = {name: [] for name in epochs}
    for number in range(rounds + 1):
        for name, epoch in epochs.items():
            started = time.perf_counter()
            count = epoch(number)
            if number:
                rates[name].append(count / (time.perf_counter() - started))
    return {name: statistics.median(values) for name, values in rates.items()}


def print_row(title: str, rates: dict[str, float]) -> None:
    best = max(rates["0 workers"], rates["2 workers"])
    cells = [f"{rates[name]:,.0f}" for name in ("0 workers", "2 workers", "ours")]
    print(f"| {title} | {' | '.join(cells)} | {rates['ours'] / best:.1f}× |", flush=True)


def compare_photographs(folder: Path, count: int, rounds: int, device: torch.device) -> None:
    """Print the rows for JPEG files of 500x375 px at 224 px."""
    files = []
    for number, pixels in enumerate(cut_photographs(count, 500, 375)):
        path = folder / "photos" / f"class {number % 4}" / f"{number:05d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path, quality=90)
        files.append(path)
    crop: list[v2.Transform] = [v2.RandomResizedCrop(224), v2.RandomHorizontalFlip()]
    for policy in ("", "trivialaugment"):
        name = f"224 px, random-resized crop, flip{', TrivialAugment' if policy else ''}"
        augmentation = Augmentation(
            size=(224, 224), mean=MEAN, std=STD, num_classes=4, random_resized_crop=0.08, horizontal_flip=0.5,
            policy=policy or None,
        )  # fmt: skip
        first = []
        for number in range(3):
            config = configure(folder / "photos", folder / f"cache {policy} {number}")
            started = time.perf_counter()
            split = load_data(config, (224, 224), no_bar, device, augmentation.stored_size).train
            decoding = (time.perf_counter() - started) / count  # of all splits, which together are all images
            epoch = ours(split, augmentation, 64, device)
            started = time.perf_counter()
            seen = epoch(0)
            first.append(1 / (decoding + (time.perf_counter() - started) / seen))
        epochs = {f"{workers} workers": usual(files, crop, policy, workers, 64) for workers in (0, 2)}
        rates = measure(epochs | {"ours": epoch}, rounds)
        print_row(name, rates)
        print_row("… first epoch, decoding included", rates | {"ours": statistics.median(first)})


def configure(root: Path, cache_dir: Path) -> DatasetConfig:
    """Return the configuration of a folder of images, nearly all of them for training."""
    overrides = ["dataset=image_folder", f"dataset.root='{root}'", f"dataset.cache_dir='{cache_dir}'"]
    return compose_config(*overrides, "dataset.val_share=0.01", "dataset.test_share=0.01").dataset


def no_bar(items: Iterable[Any], total: int, description: str) -> Iterator[Any]:
    return iter(items)


def compare_small(count: int, rounds: int, device: torch.device) -> None:
    """Print the rows for 32 px images."""
    pixels = np.stack(list(cut_photographs(count, 32, 32)))
    held = torch.from_numpy(pixels).to(device)
    split = Split(Images(held), torch.zeros(count, dtype=torch.long))
    for policy, title in (
        ("", "normalise"),
        ("trivialaugment", "TrivialAugment"),
        ("randaugment", "RandAugment(2, 9)"),
    ):
        augmentation = Augmentation(
            size=(32, 32), mean=MEAN, std=STD, num_classes=10, pad_crop=0.125, horizontal_flip=0.5,
            policy=policy or None,
        )  # fmt: skip
        first = [v2.RandomCrop(32, padding=4, padding_mode="reflect"), v2.RandomHorizontalFlip()]
        epochs = {f"{workers} workers": usual(pixels, first, policy, workers, 128) for workers in (0, 2)}
        print_row(
            f"32 px, crop, flip, {title}", measure(epochs | {"ours": ours(split, augmentation, 128, device)}, rounds)
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--images", type=int, default=600, help="JPEG files; ten times as many 32 px images")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    device = torch.device(arguments.device)
    torch.set_num_threads(1)  # the usual setting beside DataLoader workers; our pool uses all cores
    versions = f"torch {torch.__version__}, torchvision {torchvision.__version__}, Python {platform.python_version()}"
    print(f"{versions}, {device}")
    print("\n| images/s | usual, 0 workers | usual, 2 workers | ours | ratio |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        compare_photographs(Path(folder), arguments.images, arguments.rounds, device)
    compare_small(10 * arguments.images, arguments.rounds, device)


if __name__ == "__main__":
    main()
