"""The recipes of configs/experiment/: each composes as its header says, and trains a step as `train.py` would."""

import re
import shlex
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from helpers import compose, hold_images

from src.build import build_trainer
from src.config.compose import CONFIGS
from src.config.resolve import complete
from src.config.schema import TrainConfig
from src.data.images import Preprocessing
from src.data.load import Split
from src.engine.epoch import StepWatch, summarize, train_steps
from src.engine.trainer import Progress
from src.model import VisionTransformer
from src.pretrained.freeze import freeze

CPU = torch.device("cpu")
RECIPES = sorted((CONFIGS / "experiment").glob("*.yaml"))
EVERY_RECIPE = pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
# Official numbers of classes, where they are not ten.
NUM_CLASSES = {
    **{"cifar100": 100, "gtsrb": 43, "caltech101": 101, "oxford_pets": 37, "flowers102": 102, "tom_and_jerry": 4},
    **{"tiny_imagenet": 200, "imagenet": 1000},
}


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the files and folders that the commands name; what they hold is not looked at yet."""
    monkeypatch.chdir(tmp_path)
    for folder in ("photos", "imagenet"):
        (tmp_path / folder).mkdir()
    (tmp_path / "vit.pt").touch()


def header_of(path: Path) -> str:
    return "\n".join(line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#"))


def compose_command(path: Path, *overrides: str) -> TrainConfig:
    """Compose what the command in a recipe's header says."""
    command = re.search(r"^# Command: +python train\.py (.*)$", header_of(path), flags=re.MULTILINE)
    assert command is not None, f"{path.name} has no line '# Command:   python train.py ...'"
    typed = [word for word in shlex.split(command[1]) if word != "--multirun"]
    assert f"experiment={path.stem}" in typed
    return compose(*typed, *overrides)


def test_there_is_a_recipe_for_each_of_these_and_fine_tuning() -> None:
    wanted = "caltech101 cifar100 digits fashion_mnist flowers102 gtsrb imagenet imagenette mnist oxford_pets svhn"
    wanted += " cifar10_fast cifar10_best tiny_imagenet tom_and_jerry finetune finetune_head"
    assert set(wanted.split()) <= {path.stem for path in RECIPES}


@EVERY_RECIPE
def test_the_command_in_the_header_composes_and_what_it_gave_is_told(path: Path) -> None:
    config = compose_command(path)
    header = header_of(path)
    assert re.search(r"^# Hardware, time, accuracy \(mean ± sd, n seeds\): \S", header, flags=re.MULTILINE)
    if path.stem not in ("finetune", "finetune_head"):
        assert path.stem.removeprefix("search_").startswith(config.dataset.name)
    assert config.dataset.flips or config.augmentation.horizontal_flip == 0


@EVERY_RECIPE
def test_a_recipe_can_be_tried_for_one_epoch(path: Path) -> None:
    assert compose_command(path, "training.epochs=1").scheduler.warmup_epochs == 0.1


def test_the_recipe_for_the_digits_writes_out_the_defaults() -> None:
    written, defaults = (complete(compose(*typed), 1169, 10, 1, [0.3], [0.4]) for typed in (["experiment=digits"], []))
    assert written == defaults


@EVERY_RECIPE
def test_a_recipe_trains_a_step(path: Path) -> None:
    """With all of its settings, on four made images of its size and number of classes; two layers are enough."""
    num_classes = NUM_CLASSES.get(path.stem, 10)
    config = compose_command(path, "model.num_layers=2", "training.batch_size=4")
    channels = config.dataset.channels or 3
    config = complete(config, 4, num_classes, channels, [0.5] * channels, [0.25] * channels)
    look = Preprocessing(config.model.image_size, "crop", "bicubic", channels, (0.5,) * channels, (0.25,) * channels)
    torch.manual_seed(0)
    model = VisionTransformer(**asdict(config.model))
    freeze(model, config.init.freeze)
    labels = torch.randint(num_classes, (4,))
    trainer = build_trainer(config, model, look, labels, torch.float32)
    images = torch.randint(256, (4, channels, *trainer.augmentation.stored_size), dtype=torch.uint8)
    split = Split(hold_images(images), labels)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    progress = Progress.of_epoch(1, CPU)
    watch = StepWatch(trainer, split)
    assert len(list(train_steps(trainer, split, progress, watch))) == 1
    summarize(trainer, progress, watch)  # raises where the loss or a gradient is not finite
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    head = {"head.weight", "head.bias"}
    assert changed == head if config.init.freeze == "backbone" else changed >= head
    assert all(value.isfinite().all() for value in model.state_dict().values())
