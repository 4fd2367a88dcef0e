"""How long it takes to predict a folder of JPEG files: inference.py against a plain script with timm, whole processes.

    python benchmarks/predict_speed.py [--images 2000] [--size 224] [--model vit_tiny] [--rounds 5]
                                       [--precision float32 bf16]

The photos are crops of 500x375 pixels of the two that come with scikit-learn, saved as JPEG; a short training tells the
two apart. The script is what one writes with timm: Image.open, Resize and CenterCrop, a DataLoader with two workers,
`torch.inference_mode`. It loads the same weights and writes the same table. In each round both run once, in turn; the
table has the medians, the median of the ratios, and for how many images the predicted class is the same.
"""

import argparse
import csv
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import date
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from src.machine.kernels import has_bf16
from src.machine.processor import describe_processor

ROOT = Path(__file__).resolve().parents[1]
WIDTH, HEIGHT = 500, 375
PLAIN = """
import csv, json, sys
from pathlib import Path

import timm, torch
from PIL import Image
from safetensors.torch import load_file
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

run, folder, output, name, size = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4], int(sys.argv[5])
classes, look = (json.loads((run / file).read_text()) for file in ("classes.json", "preprocessing.json"))
transform = transforms.Compose([
    transforms.Resize(size, transforms.InterpolationMode.BICUBIC),
    transforms.CenterCrop(size),
    transforms.ToTensor(),
    transforms.Normalize(look["mean"], look["std"]),
])

class Photos(Dataset):
    def __init__(self, files):
        self.files = files

    def __len__(self):
        return len(self.files)

    def __getitem__(self, index):
        return transform(Image.open(self.files[index]).convert("RGB"))

model = timm.create_model(name, img_size=size, num_classes=len(classes))
model.load_state_dict(load_file(run / "checkpoints" / "best.safetensors"))
model.eval()
files = sorted(folder.glob("*.jpg"))
with open(output, "w", newline="") as file, torch.inference_mode():
    writer = csv.writer(file)
    writer.writerow(["file", "class", "confidence"])
    loader = DataLoader(Photos(files), batch_size=64, num_workers=2)
    position = 0
    for images in loader:
        for confidence, index in zip(*(values.tolist() for values in model(images).softmax(1).max(1))):
            writer.writerow([files[position], classes[index], confidence])
            position += 1
"""
TIMM = {"vit_tiny": "vit_tiny_patch16_224", "vit_small": "vit_small_patch16_224", "vit_base": "vit_base_patch16_224"}


def save_photos(folder: Path, count: int, prefix: str) -> None:
    """Save crops of each photo into a folder of its name, in turn."""
    from sklearn.datasets import load_sample_images

    generator = np.random.default_rng(len(prefix))
    samples = load_sample_images()
    photos = [
        (Path(name).stem, Image.fromarray(photo)) for name, photo in zip(samples.filenames, samples.images, strict=True)
    ]
    for number in range(count):
        name, photo = photos[number % len(photos)]
        width = int(generator.integers(320, photo.width + 1))
        height = min(photo.height, width * HEIGHT // WIDTH)
        left, top = (int(generator.integers(0, room + 1)) for room in (photo.width - width, photo.height - height))
        crop = photo.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC, (left, top, left + width, top + height))
        place = folder / (name if prefix == "train" else "")
        place.mkdir(parents=True, exist_ok=True)
        crop.save(place / f"{number:05d}.jpg", quality=90)


def train(root: Path, run: Path, model: str, size: int) -> None:
    command = [sys.executable, str(ROOT / "train.py"), "dataset=image_folder", f"dataset.root={root}", f"model={model}"]
    command += [f"dataset.image_size={size}", "model.patch_size=16", "training.epochs=3", "training.batch_size=16"]
    command += ["training.tensorboard=false", f"dataset.cache_dir={run.parent / 'cache'}", f"hydra.run.dir={run}"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def measure(command: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def read_classes(table: Path) -> dict[str, str]:
    with table.open(newline="") as file:
        return {Path(row["file"]).name: row["class"] for row in csv.DictReader(file)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--size", type=int, default=224, help="of the model's images, in pixels")
    parser.add_argument("--model", choices=TIMM, default="vit_tiny")
    help_text = "of inference.py, by default float32 and, where it is native, bf16; the script computes in float32"
    parser.add_argument("--precision", nargs="+", help=help_text)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    precisions = given.precision or ["float32", "bf16"][: 1 + has_bf16(torch.device("cpu"))]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_photos(folder / "photos", 96, "train")
        save_photos(folder / "new", given.images, "new")
        train(folder / "photos", folder / "run", given.model, given.size)
        (folder / "plain.py").write_text(PLAIN)
        script = [str(folder / "plain.py"), str(folder / "run"), str(folder / "new"), str(folder / "plain.csv")]
        commands = {"plain script, timm": [sys.executable, *script, TIMM[given.model], str(given.size)]}
        for precision in precisions:
            words = [f"run={folder / 'run'}", f"input={folder / 'new'}", f"output={folder / precision}.csv", "topk=1"]
            command = [sys.executable, str(ROOT / "inference.py"), *words, f"precision={precision}"]
            commands[f"inference.py, {precision}"] = command
        seconds: dict[str, list[float]] = {row: [] for row in commands}
        for number in range(given.rounds):
            for row in list(commands)[:: -1 if number % 2 else 1]:
                seconds[row].append(measure(commands[row]))
        expected, same = read_classes(folder / "plain.csv"), {}
        for precision in precisions:
            table = read_classes(folder / f"{precision}.csv")
            same[precision] = sum(expected[file] == name for file, name in table.items())

    print(f"python {os.path.relpath(sys.argv[0])} {' '.join(sys.argv[1:])}".rstrip())
    print(f"torch {version('torch')}, timm {version('timm')}, Python {platform.python_version()}, {date.today()}")
    print(f"{describe_processor()}, {os.cpu_count()} cores, medians of {given.rounds} rounds\n")
    print(f"| {given.images:,} JPEGs of {WIDTH}x{HEIGHT}, {given.model}/16 at {given.size} px | s | images/s | ratio |")
    print("|---|---|---|---|")
    base = seconds["plain script, timm"]
    for row, taken in seconds.items():
        ratios = [theirs / mine for theirs, mine in zip(base, taken, strict=True)]
        ratio = f"{statistics.median(ratios):.2f}× ({min(ratios):.2f}–{max(ratios):.2f})"
        middle = statistics.median(taken)
        print(f"| {row} | {middle:.1f} | {given.images / middle:.0f} | {ratio} |")
    shown = ", ".join(f"{count:,} ({precision})" for precision, count in same.items())
    print(f"\nThe same class as by the script for {shown} of {given.images:,} images.")


if __name__ == "__main__":
    main()
