"""A frozen backbone: features are computed once, and training on them is training on the images."""

import os
import signal
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import compose, hold_images, make_folder, photo_overrides
from safetensors.torch import load_file
from test_continue import assert_equal_runs, at_call, begin, read_rows, resume

from src import build, terminal
from src.config.augmentation import AugmentationConfig
from src.config.features import DETAILS, describe_changing, list_random
from src.data.images import Preprocessing
from src.data.load import Data, Split
from src.distributed.world import World
from src.engine import features
from src.engine.features import replace_images
from src.engine.trainer import Trainer
from src.model import VisionTransformer
from src.signals import Interrupted

pytestmark = pytest.mark.usefixtures("quick_pictures")

PLAIN = ["augmentation=none", "model.dropout=0", "init.freeze=backbone"]
HEAD = {"head.weight", "head.bias"}


@pytest.fixture(scope="module")
def overrides(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A probe with all that has a state: averaged weights, balanced sampling, micro-batches of a part of the batch."""
    root = make_folder(tmp_path_factory.mktemp("data") / "photos", per_class=8)
    common = [*photo_overrides(root), "training.tensorboard=false", "training.batch_size=6"]
    weights = tmp_path_factory.mktemp("runs") / "pretrained"
    begin(weights, [*common, "training.epochs=1"])
    settings = ["training.ema=0.9", "training.sampler=balanced", "training.micro_batch_size=4", "training.epochs=2"]
    return [*common, *settings, f"init.weights='{weights}'", *PLAIN]


@pytest.fixture(scope="module")
def whole(overrides: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "whole"
    begin(folder, overrides)
    return folder


def rows_of(folder: Path) -> list[dict[str, float]]:
    return [{key: float(text) for key, text in row.items()} for row in read_rows(folder)]


def log_of(folder: Path) -> str:
    return (folder / "train.log").read_text(encoding="utf-8")


def assert_alike(a: Path, b: Path, tolerance: float = 1e-5) -> None:
    """Assert that two runs on the same backbone have the same rows and heads, up to rounding."""
    for row, other in zip(rows_of(a), rows_of(b), strict=True):
        assert row == pytest.approx(other, abs=tolerance)
    mine, theirs = (load_file(folder / "checkpoints" / "best.safetensors") for folder in (a, b))
    assert mine.keys() == theirs.keys()
    for name in mine:
        difference = (mine[name] - theirs[name]).abs().max()
        assert difference <= (tolerance if name in HEAD else 0), name


@pytest.mark.parametrize("given", [[], ["training.precision=bf16"], ["training.class_weights=balanced"]], ids=str)
def test_training_on_stored_features_is_training_on_images(
    given: list[str], overrides: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "training.class_weights=balanced" in given:
        given = [*given, "training.sampler=shuffled"]
    stored, anew = tmp_path / "stored", tmp_path / "anew"
    assert begin(stored, [*overrides, *given]).status == "finished"
    monkeypatch.setattr(build, "cache_features", lambda trainer, config, data, *rest: data)
    begin(anew, [*overrides, *given])
    assert_alike(stored, anew, 2e-3 if "bf16" in str(given) else 1e-5)
    assert "computed once" in log_of(stored) and "features" not in log_of(anew)


def test_each_image_passes_the_backbone_once(
    overrides: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    original: Callable[..., torch.Tensor] = VisionTransformer.forward_features

    def count(model: VisionTransformer, images: torch.Tensor) -> torch.Tensor:
        seen.append(len(images))
        return original(model, images)

    monkeypatch.setattr(VisionTransformer, "forward_features", count)
    monkeypatch.setattr(build, "count_gflops", lambda model: 0.0)
    with at_call(features, "_compute", 1, seen.clear), at_call(build, "gather_model", 1, lambda: counted.extend(seen)):
        counted: list[int] = []
        begin(tmp_path / "run", overrides)
    assert sum(counted) == 24  # training, validation and test
    assert "18 + 3 images × 16 numbers (1.3 KiB in memory)" in log_of(tmp_path / "run")


def test_where_something_random_stands_before_the_head_only_validation_is_stored(
    overrides: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = ["augmentation.horizontal_flip=0.5", "model.dropout=0.1"]
    begin(tmp_path / "stored", [*overrides, *given])
    monkeypatch.setattr(build, "cache_features", lambda trainer, config, data, *rest: data)
    begin(tmp_path / "anew", [*overrides, *given])
    assert_alike(tmp_path / "stored", tmp_path / "anew")
    log = log_of(tmp_path / "stored")
    assert "features  of validation: 3 images × 16 numbers" in log
    assert (
        "features  of training: computed anew in each epoch, as augmentation.horizontal_flip=0.5, model.dropout=0.1 "
        "change them; with augmentation=none model.dropout=0 they are computed once"
    ) in log


# The first step only tries the memory; an epoch has three.
MOMENTS: dict[str, tuple[Any, str, int]] = {
    "the features": (features, "_compute", 2),
    "the first epoch": (Trainer, "step", 3),
    "the second epoch": (Trainer, "step", 6),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_stopped_probe_continues_to_the_bits_of_one_left_alone(
    moment: str, overrides: list[str], whole: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    with (
        at_call(*MOMENTS[moment], lambda: os.kill(os.getpid(), signal.SIGINT)),
        pytest.raises(Interrupted),
    ):
        begin(folder, overrides)
    assert "stopped by Ctrl-C" in log_of(folder)
    assert resume(folder).status == "finished"
    assert_equal_runs(whole, folder)
    assert "frozen at random values" not in log_of(folder)


def test_only_what_changes_images_or_features_is_random() -> None:
    assert list_random(compose("augmentation=none", "model=vit_base")) == []
    assert {field.name for field in fields(AugmentationConfig)} >= DETAILS
    config = compose("augmentation=none", "model=vit_base", "training.patch_dropout=0.25", "model.drop_path=0.1")
    assert list_random(config) == ["model.drop_path=0.1", "training.patch_dropout=0.25"]
    one = replace(config, augmentation=replace(config.augmentation, policy="trivialaugment", erasing=0.5))
    assert describe_changing(list_random(one)) == (
        "augmentation.policy=trivialaugment, augmentation.erasing=0.5, model.drop_path=0.1, 1 more change them; "
        "with augmentation=none model.drop_path=0 training.patch_dropout=0 they are computed once"
    )
    assert describe_changing([]) == ""


def make_probe(num_train: int = 5) -> tuple[Trainer, Data]:
    words = ["dataset=digits", "model.embedding_dim=8", "model.num_layers=1", "model.num_heads=1", "training.epochs=1"]
    config = compose(*words, *PLAIN, "training.batch_size=2", "training.precision=float32")
    config = replace(config, model=replace(config.model, num_classes=3, in_channels=1))
    look = Preprocessing((8, 8), "crop", "bicubic", 1, (0.5,), (0.25,))

    def split(count: int) -> Split:
        pixels = torch.randint(256, (count, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(count))
        return Split(hold_images(pixels), torch.arange(count) % 3)

    data = Data(split(num_train), split(4), split(3), ["a", "b", "c"], look, [])
    model = build.build_model(config, torch.device("cpu"))
    return build.build_trainer(config, model, look, data.train.labels), data


def test_images_stay_where_features_fit_neither_memory_nor_time(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer, data = make_probe()
    same, lines = replace_images(trainer, data, "", 10.0, 80.0, terminal.track)
    assert same is data and lines == [
        "computed anew in each epoch, as all at once they take 1.5 min, more than training.max_minutes leaves"
    ]
    monkeypatch.setattr(features, "choose_place", lambda wanted, num_bytes, device: ("disk", ""))
    same, lines = replace_images(trainer, data, "", 0.0, 80.0, terminal.track)
    assert same is data and lines == ["computed anew in each epoch, as 288 B do not fit into memory"]
    assert trainer.network is trainer.model


def test_processes_share_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    alone, data = make_probe()
    expected = replace_images(alone, data, "", 0.0, 1.0, terminal.track)[0].val.images.take(torch.arange(4))
    assert alone.network is not alone.model and alone.augmentation.size == (1, 1)
    monkeypatch.setattr(World, "sum", lambda world, *tensors: None)
    monkeypatch.setattr(World, "max", lambda world, value: value)
    parts = []
    for rank in range(2):
        trainer, data = make_probe()
        trainer.world = World(rank, rank, 2)
        changed, lines = replace_images(trainer, data, "", 0.0, 1.0, terminal.track)
        assert lines[1] == "of training: computed anew in each epoch, as there are several processes"
        assert changed.train is data.train
        parts.append(changed.val.images.take(torch.arange(4)))
    assert torch.allclose(sum(parts[1:], parts[0]), expected, atol=1e-6)
    assert all((part == 0).any() for part in parts)
