"""The recipes of configs/experiment/: each composes as its header says, and trains a step as `train.py` would."""

import re
import shlex
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from helpers import compose, hold_images
from test_config import run_cli

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
    (tmp_path / "WEIGHTS").mkdir()


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
    wanted += " cifar10_fast cifar10_best tiny_imagenet tom_and_jerry finetune finetune_head linear_probe lora"
    wanted += " cpu cifar10_cpu caltech101_cpu"
    assert set(wanted.split()) <= {path.stem for path in RECIPES}


@EVERY_RECIPE
def test_the_command_in_the_header_composes_and_what_it_gave_is_told(path: Path) -> None:
    config = compose_command(path)
    header = header_of(path)
    assert re.search(r"^# Hardware, time, accuracy \(mean ± sd, n seeds\): \S", header, flags=re.MULTILINE)
    if path.stem not in ("cpu", "finetune", "finetune_head", "linear_probe", "lora"):
        assert path.stem.removeprefix("search_").startswith(config.dataset.name)
    assert config.dataset.flips or config.augmentation.horizontal_flip == 0


@EVERY_RECIPE
def test_a_recipe_can_be_tried_for_one_epoch(path: Path) -> None:
    assert compose_command(path, "training.epochs=1").scheduler.warmup_epochs == 0.1


@EVERY_RECIPE
def test_a_recipe_trains_a_step(path: Path) -> None:
    """With all of its settings, on four made images of its size and number of classes; two layers are enough."""
    config = compose_command(path, "model.num_layers=2", "training.batch_size=4")
    num_classes = NUM_CLASSES.get(config.dataset.name, 10)
    channels = config.dataset.channels or 3
    config = complete(config, 4, num_classes, channels, [0.5] * channels, [0.25] * channels)
    look = Preprocessing(config.model.image_size, "crop", "bicubic", channels, (0.5,) * channels, (0.25,) * channels)
    torch.manual_seed(0)
    model = VisionTransformer(**asdict(config.model))
    freeze(model, config.init.freeze)
    labels = torch.randint(num_classes, (4,))
    trainer = build_trainer(config, model, look, labels)
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


DATASETS = sorted({path.stem for path in (CONFIGS / "dataset").glob("*.yaml")} - {"csv", "kaggle", "digits"})


@pytest.mark.parametrize("name", DATASETS)
def test_the_recipe_for_a_cpu_fits_every_data_set(name: str) -> None:
    roots = {"image_folder": ["dataset.root=photos"], "imagenet": ["dataset.root=imagenet"]}
    config = compose("experiment=cpu", f"dataset={name}", *roots.get(name, []))
    channels = config.dataset.channels or 3
    config = complete(config, 1000, 10, channels, [0.3] * channels, [0.4] * channels)
    assert (config.optimizer.name, config.training.patch_dropout, config.training.max_minutes) == ("muon", 0.5, 150)
    assert config.dataset.flips or config.augmentation.horizontal_flip == 0
    assert 49 <= VisionTransformer(**asdict(config.model)).num_tokens <= 256


def sizes_of(config: TrainConfig) -> tuple[int, int, int]:
    return config.model.embedding_dim, config.model.num_layers, config.model.num_heads


@EVERY_RECIPE
def test_a_typed_model_has_its_sizes_with_every_recipe(path: Path) -> None:
    assert sizes_of(compose_command(path, "model=vit_tiny")) == (192, 12, 3)


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("experiment=digits model=vit_base", {"model.num_layers": 12, "model.dropout": 0.0, "model.patch_size": 2}),
        ("experiment=digits model=vit_base model.num_layers=3", {"model.num_layers": 3, "model.embedding_dim": 768}),
        ("experiment=cifar10_best model=vit_small", {"model.num_layers": 12, "model.pooling": "mean"}),
        ("experiment=finetune model=vit_base", {"model.image_size": (224, 224), "model.drop_path": 0.1}),
        ("experiment=digits optimizer=sgd", {"optimizer.lr": 0.1, "training.lr": 0.1, "optimizer.weight_decay": 1e-4}),
        ("experiment=digits optimizer=sgd training.lr=0.3", {"optimizer.lr": 0.3, "optimizer.weight_decay": 1e-4}),
        ("experiment=digits optimizer=sgd optimizer.lr=0.3", {"optimizer.lr": 0.3}),
        ("experiment=oxford_pets optimizer=adamw", {"optimizer.lr": 5e-4}),  # the recipe's own
        ("experiment=cifar10_best scheduler=linear", {"scheduler.min_lr": 1e-5, "scheduler.warmup_epochs": 10}),
        ("experiment=cifar10_best scheduler=constant", {"scheduler.min_lr": None, "scheduler.warmup_epochs": 10}),
        ("experiment=cifar10_best augmentation=none", {"augmentation.policy": None, "augmentation.mixup": 0.0}),
        ("experiment=gtsrb augmentation=light", {"augmentation.rotation": 0.0, "augmentation.pad_crop": 0.125}),
        ("experiment=tom_and_jerry dataset=cifar10", {"dataset.image_size": (32, 32)}),
        ("experiment=imagenet dataset=imagenet dataset.root=imagenet", {"dataset.image_size": (224, 224)}),
        ("experiment=digits model={num_layers:6}", {"model.num_layers": 6, "model.embedding_dim": 64}),
        ("experiment=null model=vit_tiny", {"model.num_layers": 12}),
    ],
)
def test_a_typed_option_wins_over_a_recipe_in_what_it_decides(typed: str, expected: dict[str, object]) -> None:
    config = compose(*typed.split())
    found = {key: getattr(getattr(config, key.split(".")[0]), key.split(".")[1]) for key in expected}
    assert found == expected


def test_a_sweep_over_models_with_a_recipe_trains_those_models_and_says_what_gave_way(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, empty_pictures: None
) -> None:
    code, calls = run_cli(monkeypatch, "--multirun", "experiment=digits", "model=vit_nano,vit_tiny")
    assert code == 0 and [sizes_of(config) for config, _ in calls] == [(64, 4, 4), (192, 12, 3)]
    assert [job.choices["model"] for _, job in calls] == ["vit_nano", "vit_tiny"]
    assert calls[1][1].overrides == ["experiment=digits", "model=vit_tiny"]
    lost = "experiment=digits, which has model.embedding_dim=64, model.num_layers=4, model.num_heads=4, model.dropout="
    assert f"note      model=vit_tiny wins over {lost}0.1\n" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["experiment=cifar10_best"], "vit_small, num_layers=9"),
        (["model.embedding_dim=32", "model.mlp_ratio=2"], "vit_nano, embedding_dim=32, mlp_ratio=2"),
        (["model.dropout=0", "training.epochs=3"], "vit_nano"),
    ],
)
def test_the_name_of_a_model_says_in_which_sizes_it_is_another(
    words: list[str], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, [(_, job)] = run_cli(monkeypatch, *words)
    assert job.choices["model"] == name
