"""What several tests need: configurations, pictures, runs."""

import copy
import functools
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import hydra
import numpy as np
import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from PIL import Image

from src import evaluate
from src.config.compose import CONFIGS, compose_config, to_config
from src.config.inference import InferenceConfig
from src.config.schema import TrainConfig
from src.data.load import Split
from src.data.storage import Images
from src.plots import curves, search, sweeps
from src.run.job import Job
from src.run.saved import SavedRun, read_run
from train import train

TINY = ["model.embedding_dim=16", "model.num_layers=2", "model.num_heads=2", "training.epochs=2"]
# Debian's, or another one.
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
COLORS = {"blue": (30, 60, 220), "green": (40, 200, 60), "red": (220, 40, 30)}


CACHE = tempfile.TemporaryDirectory()  # goes away with the process


def compose(*overrides: str) -> TrainConfig:
    """Compose and check a training configuration as the command line does, with a cache of its own."""
    return copy.deepcopy(_compose(os.getcwd(), *overrides))


@functools.cache
def _compose(here: str, *overrides: str) -> TrainConfig:
    return compose_config(f"dataset.cache_dir='{CACHE.name}'", *overrides)


def compose_inference(*overrides: str) -> InferenceConfig:
    """Compose and check a configuration of inference.py as the command line does."""
    return copy.deepcopy(_compose_inference(*overrides))


@functools.cache
def _compose_inference(*overrides: str) -> InferenceConfig:
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3", job_name="compose"):
        return to_config(InferenceConfig, hydra.compose("inference", list(overrides)), list(overrides))


def replace_pictures(patch: pytest.MonkeyPatch) -> None:
    """Make empty files of pictures, which take most of the time of a small run."""

    def touch(*arguments: Any, **options: Any) -> None:
        next(argument for argument in arguments if isinstance(argument, Path)).touch()

    for module in (evaluate, curves, sweeps, search):
        for name in (name for name in vars(module) if name.startswith("plot_")):
            patch.setattr(module, name, touch)


def hold_images(images: torch.Tensor) -> Images:
    """Hold uint8 images (N,C,H,W) as the data path does in memory."""
    return Images(images)


def pixels_of(split: Split) -> torch.Tensor:
    """Return all images (N,C,H,W) of a split."""
    return split.images.take(torch.arange(len(split)))


def make_picture(color: tuple[int, int, int], seed: int, size: tuple[int, int] = (20, 16)) -> Image.Image:
    """Return a noisy picture (width, height) of about a color; so noisy that a model errs now and then."""
    random = np.random.default_rng([seed, *color])
    pixels = np.array(color) + random.normal(0, 110, 3) + random.normal(0, 40, (size[1], size[0], 3))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def make_folder(root: Path, per_class: int = 12) -> Path:
    """Make class folders of noisy pictures, with things that are no images among them."""
    for name, color in COLORS.items():
        (root / name).mkdir(parents=True)
        for i in range(per_class):
            make_picture(color, seed=i).save(root / name / f"{i:02d}.png")
    (root / "red" / "notes.txt").write_text("not an image")
    (root / "red" / "._00.png").write_bytes(b"resource fork")
    (root / ".hidden").mkdir()
    make_picture((0, 0, 0), 0).save(root / ".hidden" / "x.png")
    return root


def train_run(folder: Path, *overrides: str) -> SavedRun:
    folder.mkdir(parents=True)
    train(compose(*overrides), Job(folder, list(overrides), {"model": "vit_nano"}))
    return read_run(folder)


def photo_overrides(root: Path | str) -> list[str]:
    """Settings for a few quick steps on the pictures of `make_folder`, enough to learn something but not all."""
    learning = ["training.batch_size=4", "training.lr=0.005", "training.patch_dropout=0.0", "model.patch_size=4"]
    options = ["dataset=image_folder", "model=vit_nano", "optimizer=adamw", "augmentation=light"]
    return [*options, f"dataset.root='{root}'", "dataset.image_size=16", *TINY, *learning]
