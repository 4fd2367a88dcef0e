"""A standard training loop to compare this repository with: timm, torchvision's v2 transforms, a DataLoader.

    python benchmarks/rival.py --data FOLDER [--epochs 10] [--minutes M] [--augment medium] [--log FILE.jsonl]
    python benchmarks/rival.py --data FOLDER --model resnet18 --image-size 128 --minutes 60 --test-every 10

FOLDER has train/<class>/ and test/<class>/. The program uses nothing of this repository and follows current practice:
persistent workers, pinned memory, bf16 on a GPU, no synchronization with the device within an epoch. Small images are
decoded once, like torchvision's CIFAR10, which is an array in memory. Each epoch prints a line of JSON; its `seconds`
count from the start of the process.
"""

import time

STARTED = time.perf_counter()  # before torch is imported, which is part of the time that a user waits

import argparse  # noqa: E402
import json  # noqa: E402
import math  # noqa: E402
from collections.abc import Callable  # noqa: E402
from concurrent.futures import ThreadPoolExecutor  # noqa: E402
from dataclasses import dataclass  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import timm  # noqa: E402
import timm.optim  # noqa: E402
import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from PIL import Image  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from torch.utils.data import DataLoader, Dataset  # noqa: E402
from torchvision.datasets import ImageFolder  # noqa: E402
from torchvision.models import resnet18  # noqa: E402
from torchvision.transforms import v2  # noqa: E402

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
LABEL_SMOOTHING, CLIP_NORM, WEIGHT_DECAY = 0.1, 1.0, 0.05
LARGEST_IN_MEMORY = 64  # pixels


class ImagesInMemory(Dataset[tuple[Tensor, int]]):
    """The images of a folder, decoded once."""

    def __init__(self, folder: Path, transform: v2.Transform) -> None:
        files = ImageFolder(folder)
        self.classes, self.transform = files.classes, transform
        with ThreadPoolExecutor() as pool:  # PIL releases the GIL while decoding
            self.images = list(pool.map(files.loader, (path for path, _ in files.samples)))
        self.labels = files.targets

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, position: int) -> tuple[Tensor, int]:
        return self.transform(self.images[position]), self.labels[position]


def train_transform(size: int, augment: str) -> v2.Transform:
    crop: list[v2.Transform]
    if size >= 64:
        crop = [v2.RandomResizedCrop(size, scale=(0.35, 1))]
    else:
        crop = [FitTo(size), v2.RandomCrop(size, padding=size // 8, padding_mode="reflect")]
    medium = augment == "medium"
    policy: list[v2.Transform] = [v2.TrivialAugmentWide()] if medium else []
    erasing: list[v2.Transform] = [v2.RandomErasing(0.1)] if medium else []
    return v2.Compose([*crop, v2.RandomHorizontalFlip(), *policy, *to_tensor(), *erasing])


def test_transform(size: int) -> v2.Transform:
    return v2.Compose([FitTo(size), *to_tensor()])


def to_tensor() -> list[v2.Transform]:
    return [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]


class FitTo(v2.Transform):
    """Resize the shorter side to `size` and crop the center; an image of that size is unchanged."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self.fit = v2.Compose([v2.Resize(size, v2.InterpolationMode.BICUBIC), v2.CenterCrop(size)])

    def forward(self, image: Image.Image) -> Image.Image:
        return image if image.size == (self.size, self.size) else self.fit(image)


def make_loader(folder: Path, transform: v2.Transform, options: argparse.Namespace, shuffle: bool) -> DataLoader:
    in_memory = options.image_size <= LARGEST_IN_MEMORY if options.in_memory is None else options.in_memory
    dataset: Any = ImagesInMemory(folder, transform) if in_memory else ImageFolder(folder, transform)
    return DataLoader(
        dataset,
        options.batch_size,
        shuffle=shuffle,
        num_workers=options.workers,
        persistent_workers=options.workers > 0,
        pin_memory=options.device.type == "cuda",
    )


def build_model(options: argparse.Namespace, num_classes: int) -> nn.Module:
    if options.model == "resnet18":
        return resnet18(num_classes=num_classes)
    return timm.models.VisionTransformer(
        img_size=options.image_size,
        patch_size=options.patch_size,
        embed_dim=options.dim,
        depth=options.depth,
        num_heads=options.heads,
        num_classes=num_classes,
        class_token=options.pool == "token",
        global_pool=options.pool,
        drop_path_rate=options.drop_path,
    )


def build_optimizer(model: nn.Module, lr: float) -> torch.optim.Optimizer:
    """Return AdamW with weight decay only on matrices, not on vectors, tokens and position embeddings.

    A ResNet gets SGD, as in the paper and in torchvision's reference.
    """
    if not isinstance(model, timm.models.VisionTransformer):
        return torch.optim.SGD(model.parameters(), lr, momentum=0.9, nesterov=True, weight_decay=5e-4)
    skipped = model.no_weight_decay()
    groups = timm.optim.param_groups_weight_decay(model, WEIGHT_DECAY, skipped)
    return torch.optim.AdamW(groups, lr)


def take_step(model: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor, bf16: bool) -> Tensor:
    """Take an optimizer step; return the loss, which stays on the device."""
    with torch.autocast(images.device.type, torch.bfloat16, enabled=bf16):
        loss = F.cross_entropy(model(images), labels, label_smoothing=LABEL_SMOOTHING)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
    optimizer.step()
    return loss.detach()


@dataclass
class Schedule:
    """Warm-up, then cosine decay to 0, over all steps or the available time, whichever ends first."""

    lr: float
    steps: int
    warmup_share: float  # fraction of the run

    def rate(self, step: int, time_share: float) -> float:
        share = max((step + 1) / self.steps, min(1.0, time_share))
        if share < self.warmup_share:
            return self.lr * share / self.warmup_share
        rest = (share - self.warmup_share) / max(1e-9, 1 - self.warmup_share)
        return self.lr * 0.5 * (1 + math.cos(math.pi * rest))


class Clock:
    """The time for training, with some reserved for the last evaluation."""

    def __init__(self, minutes: float | None) -> None:
        self.minutes, self.reserved = minutes, 0.0

    def share(self) -> float:
        """Return the fraction of the time that has passed: 1 or more ends training, 0 without a limit."""
        if self.minutes is None:
            return 0.0
        return seconds() / max(1e-9, 60 * self.minutes - self.reserved)


def seconds() -> float:
    return time.perf_counter() - STARTED


def train_epoch(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loader: DataLoader,
    first_step: int,
    schedule: Schedule,
    clock: Clock,
    options: argparse.Namespace,
) -> dict[str, float]:
    """Train until the epoch ends, or the time is up."""
    model.train()
    loss_sum = torch.zeros((), device=options.device)
    seen, step, waited, began = 0, first_step, 0.0, time.perf_counter()
    batches = iter(loader)
    while True:
        asked = time.perf_counter()
        batch = next(batches, None)
        waited += time.perf_counter() - asked
        if batch is None:
            break
        images, labels = (tensor.to(options.device, non_blocking=True) for tensor in batch)
        for group in optimizer.param_groups:
            group["lr"] = schedule.rate(step, clock.share())
        loss_sum += take_step(model, optimizer, images, labels, options.precision == "bf16") * len(images)
        seen, step = seen + len(images), step + 1
        if clock.share() >= 1:
            break
    loss = loss_sum.item() / seen  # waits for the device, so that its time is included
    taken = time.perf_counter() - began
    return {"images_per_second": seen / taken, "wait_share": waited / taken, "train_loss": loss}


@torch.no_grad()
def evaluate(model: nn.Module, loader: DataLoader, options: argparse.Namespace) -> dict[str, float]:
    model.eval()
    loss_sum = torch.zeros((), device=options.device)
    num_right = torch.zeros((), device=options.device, dtype=torch.long)
    count = 0
    for batch in loader:
        images, labels = (tensor.to(options.device, non_blocking=True) for tensor in batch)
        with torch.autocast(options.device.type, torch.bfloat16, enabled=options.precision == "bf16"):
            logits = model(images).float()
        loss_sum += F.cross_entropy(logits, labels, reduction="sum")
        num_right += (logits.argmax(1) == labels).sum()
        count += len(images)
    return {"test_acc": num_right.item() / count, "test_loss": loss_sum.item() / count}


@torch.no_grad()
def estimate_evaluation(model: nn.Module, loader: DataLoader, options: argparse.Namespace) -> float:
    """Estimate the seconds of an evaluation with a batch of noise, because the time may end in the first epoch."""
    model.eval()
    noise = torch.randn(options.batch_size, 3, options.image_size, options.image_size, device=options.device)

    def run() -> float:
        began = time.perf_counter()
        with torch.autocast(options.device.type, torch.bfloat16, enabled=options.precision == "bf16"):
            model(noise).sum().item()
        return time.perf_counter() - began

    run()
    return run() * len(loader)


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with train/<class>/ and test/<class>/")
    parser.add_argument("--model", choices=("vit", "resnet18"), default="vit")
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--patch-size", type=int, default=4)
    parser.add_argument("--dim", type=int, default=192)
    parser.add_argument("--depth", type=int, default=9)
    parser.add_argument("--heads", type=int, default=3)
    parser.add_argument("--pool", choices=("token", "avg"), default="token")
    parser.add_argument("--drop-path", type=float, default=0.0)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--minutes", type=float, help="time limit, to which the schedule is scaled")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--lr", type=float, help="default: 1e-3, for resnet18 0.05")
    parser.add_argument("--warmup-epochs", type=float, help="default: a tenth of the epochs")
    parser.add_argument("--augment", choices=("light", "medium"), default="light")
    parser.add_argument("--in-memory", action=argparse.BooleanOptionalAction, help="default: up to 64 px")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--threads", type=int, default=0, help="of torch; 0: its default")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--precision", choices=("auto", "float32", "bf16"), default="auto", help="auto: bf16 on cuda")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--evaluate", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--test-every", type=int, default=1, help="epochs between evaluations; the last has one anyway")
    parser.add_argument("--log", type=Path, help="file for the JSON lines, overwritten")
    return resolve(parser.parse_args())


def resolve(options: argparse.Namespace) -> argparse.Namespace:
    """Fill in defaults that depend on other options and on the device."""
    if options.lr is None:
        options.lr = 0.05 if options.model == "resnet18" else 1e-3
    if options.device == "auto":
        options.device = "cuda" if torch.cuda.is_available() else "cpu"
    options.device = torch.device(options.device)
    if options.precision == "auto":
        options.precision = "bf16" if options.device.type == "cuda" else "float32"
    return options


def prepare(options: argparse.Namespace) -> None:
    """Set common options of torch for the device."""
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.device.type == "cuda":
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.benchmark = True
    torch.manual_seed(options.seed)


def main() -> None:
    options = parse_options()
    prepare(options)
    size = options.image_size
    train_loader = make_loader(options.data / "train", train_transform(size, options.augment), options, shuffle=True)
    test_loader = make_loader(options.data / "test", test_transform(size), options, shuffle=False)
    model = build_model(options, len(train_loader.dataset.classes)).to(options.device)  # type: ignore[attr-defined]
    optimizer = build_optimizer(model, options.lr)
    if options.compile:
        model.compile()
    clock = Clock(options.minutes)
    if options.evaluate and options.minutes is not None:
        clock.reserved = estimate_evaluation(model, test_loader, options)
    warmup = 0.1 * options.epochs if options.warmup_epochs is None else options.warmup_epochs
    schedule = Schedule(options.lr, options.epochs * len(train_loader), min(1.0, warmup / options.epochs))
    write = open_log(options.log)
    for epoch in range(1, options.epochs + 1):
        first_step = (epoch - 1) * len(train_loader)
        trained = train_epoch(model, optimizer, train_loader, first_step, schedule, clock, options)
        tested: dict[str, float | None] = {"test_acc": None, "test_loss": None}
        last = epoch == options.epochs or clock.share() >= 1
        if options.evaluate and (last or epoch % options.test_every == 0):
            began = time.perf_counter()
            tested |= evaluate(model, test_loader, options)
            clock.reserved = 1.1 * (time.perf_counter() - began)
        write({"epoch": epoch, "seconds": seconds(), **trained, **tested})
        if last or (tested["test_acc"] is not None and clock.share() >= 1):
            break


def open_log(path: Path | None) -> Callable[[dict[str, Any]], None]:
    """Return a function that prints a row, and appends it to the file if there is one."""
    if path is not None:
        path.write_text("")

    def write(row: dict[str, Any]) -> None:
        line = json.dumps({key: round(value, 6) if isinstance(value, float) else value for key, value in row.items()})
        print(line, flush=True)
        if path is not None:
            with path.open("a") as file:
                file.write(line + "\n")

    return write


if __name__ == "__main__":
    main()
