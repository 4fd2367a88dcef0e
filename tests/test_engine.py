"""Steps, epochs and evaluation: exact for partial batches, repeatable from any step."""

import copy
import math
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import compose, hold_images, pixels_of
from test_optim import make_model
from torch import nn

from src.augment import Augmentation, normalize
from src.config import complete
from src.config.compose import CONFIGS
from src.data import Preprocessing, Split
from src.engine import (
    Trainer,
    balanced_weights,
    choose_device,
    choose_precision,
    count_gflops,
    evaluate,
    train_epoch,
    weighted_cross_entropy,
)
from src.model import VisionTransformer
from src.optim import LearningRate, build_optimizer

CPU = torch.device("cpu")
LOOK = Preprocessing((8, 8), "crop", "bicubic", 1, (0.5,), (0.25,))


def make_split(count: int, num_classes: int = 3) -> Split:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (count, 1, 8, 8), generator=generator, dtype=torch.uint8)
    return Split(hold_images(images), torch.randint(num_classes, (count,), generator=generator))


def make_trainer(model: VisionTransformer, clip_norm: float | None = 1.0, pad_crop: float = 0.25) -> Trainer:
    optimizer = build_optimizer(model, compose().optimizer)
    augmentation = Augmentation(
        size=(8, 8), mean=LOOK.mean, std=LOOK.std, num_classes=model.num_classes, pad_crop=pad_crop, horizontal_flip=0.5
    )
    return Trainer(model, optimizer, lambda step: 1e-3, augmentation, CPU, torch.float32, 0, 0.1, clip_norm)


def train(trainer: Trainer, split: Split, epochs: range, batch_size: int = 4) -> list[float]:
    return [train_epoch(trainer, split, batch_size, epoch, lambda *_: None).loss for epoch in epochs]


@pytest.mark.parametrize("batch_size", [1, 7, 23, 64])
@pytest.mark.parametrize("num_classes", [3, 8])
def test_evaluation_is_exact_for_any_batch_size(batch_size: int, num_classes: int) -> None:
    torch.manual_seed(0)
    model, split = make_model(num_classes=num_classes).eval(), make_split(23, num_classes)
    with torch.no_grad():
        logits = model(normalize(pixels_of(split), LOOK.mean, LOOK.std))
    result = evaluate(model, split, LOOK, batch_size, torch.float32)
    assert result.loss == pytest.approx(F.cross_entropy(logits, split.labels).item(), rel=1e-5)
    assert result.accuracy == pytest.approx((logits.argmax(1) == split.labels).float().mean().item())
    assert result.confusion.sum() == 23
    if num_classes > 5:
        right = (logits.topk(5).indices == split.labels[:, None]).any(1)
        assert result.top5_accuracy == pytest.approx(right.float().mean().item())
    else:
        assert result.top5_accuracy is None


def test_training_continues_bit_for_bit_from_a_saved_epoch() -> None:
    torch.manual_seed(0)
    model, split = make_model(dropout=0.2, drop_path=0.2), make_split(10)
    trainer = make_trainer(model)
    train(trainer, split, range(1, 3))
    state = copy.deepcopy(trainer.state_dict(2))
    torch.rand(7)  # whatever was drawn elsewhere does not matter
    losses = train(trainer, split, range(3, 5))

    twin = make_model(dropout=0.2, drop_path=0.2)
    twin.load_state_dict(state["model"])
    again = make_trainer(twin)
    again.optimizer.load_state_dict(state["optimizer"])
    assert train(again, split, range(3, 5)) == losses
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))


def test_an_epoch_takes_one_step_per_batch_the_partial_one_included_and_sees_every_sample() -> None:
    trainer, steps = make_trainer(make_model()), []
    train_epoch(trainer, make_split(10), 4, 1, lambda step, loss, seen: steps.append((step, seen)))
    assert steps == [(1, 4), (2, 8), (3, 10)]
    steps.clear()
    train_epoch(trainer, make_split(3), 64, 2, lambda step, loss, seen: steps.append((step, seen)))
    assert steps == [(1, 3)], "a set smaller than the batch trains as one batch"


def test_a_step_equals_the_textbook_step() -> None:
    torch.manual_seed(0)
    model, split = make_model(), make_split(4)
    reference = copy.deepcopy(model)
    trainer = make_trainer(model, clip_norm=0.01, pad_crop=0.0)
    trainer.augmentation.horizontal_flip = 0.0
    loss, _ = trainer.step(pixels_of(split), split.labels, None, step=0)
    optimizer = build_optimizer(reference, compose("training.lr=1e-3").optimizer)
    logits = reference(normalize(pixels_of(split), LOOK.mean, LOOK.std))
    expected = F.cross_entropy(logits, split.labels, label_smoothing=0.1)
    expected.backward()
    nn.utils.clip_grad_norm_(reference.parameters(), 0.01)
    optimizer.step()
    assert loss.item() == pytest.approx(expected.item())
    for a, b in zip(model.parameters(), reference.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-7)


def test_weighted_loss_equals_torch_and_counts_shares_by_the_weight_they_carry() -> None:
    torch.manual_seed(0)
    logits, labels, weights = torch.randn(6, 3), torch.tensor([0, 1, 1, 2, 2, 2]), torch.tensor([3.0, 1.5, 1.0])
    assert weighted_cross_entropy(logits, labels, weights, 0.0) == F.cross_entropy(logits, labels, weights)
    shares = F.one_hot(labels, 3).float()
    assert torch.allclose(
        weighted_cross_entropy(logits, shares, weights, 0.0), F.cross_entropy(logits, labels, weights)
    )
    mixed = 0.7 * shares + 0.3 * shares.flip(0)
    expected = -(mixed * weights * logits.log_softmax(1)).sum() / (mixed * weights).sum()
    assert weighted_cross_entropy(logits, mixed, weights, 0.0).item() == pytest.approx(expected.item(), rel=1e-6)
    assert weighted_cross_entropy(logits, labels, None, 0.1) == F.cross_entropy(logits, labels, label_smoothing=0.1)


def test_balanced_weights_give_each_class_the_same_total() -> None:
    labels = torch.tensor([0] * 6 + [2] * 3 + [3])
    weights = balanced_weights(labels, 4)
    totals = torch.bincount(labels, weights[labels].double(), minlength=4)
    assert totals.tolist() == pytest.approx([10 / 3, 0, 10 / 3, 10 / 3])


def test_mixing_ends_at_its_step_and_the_larger_share_counts_as_right() -> None:
    trainer = make_trainer(make_model())
    trainer.augmentation = replace(trainer.augmentation, mixup=1.0)
    trainer.mix_until = 1
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    def remember(logits: torch.Tensor, targets: torch.Tensor, *_: object) -> torch.Tensor:
        seen.append((logits.argmax(1), targets))
        return logits.sum()

    split = make_split(60)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("src.engine.weighted_cross_entropy", remember)
        rights = [trainer.step(pixels_of(split), split.labels, None, step)[1] for step in (0, 1)]
    (guesses, mixed), (later_guesses, labels) = seen
    assert mixed.shape == (60, 3) and torch.allclose(mixed.sum(1), torch.ones(60)) and (mixed.max(1)[0] < 1).any()
    assert rights[0] == (guesses == mixed.argmax(1)).sum() and not torch.equal(mixed.argmax(1), split.labels)
    assert torch.equal(labels, split.labels) and rights[1] == (later_guesses == labels).sum()


def test_a_loss_that_is_not_finite_stops_with_advice() -> None:
    model = make_model()
    nn.init.constant_(model.head.weight, math.nan)
    with pytest.raises(FloatingPointError, match="became nan in epoch 1; a smaller training.lr"):
        train(make_trainer(model), make_split(8), range(1, 2))


def test_a_model_memorises_a_small_set() -> None:
    torch.manual_seed(0)
    model, split = make_model(), make_split(8)
    trainer = make_trainer(model, pad_crop=0.0)
    trainer.augmentation.horizontal_flip = 0.0
    trainer.learning_rate = lambda step: 5e-3
    train(trainer, split, range(1, 60))
    assert evaluate(model, split, LOOK, 8, torch.float32).accuracy == 1.0


def test_devices_that_are_not_there_are_refused_by_key() -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    with pytest.raises(ValueError, match="device=cuda, but torch sees 0 CUDA device"):
        choose_device("cuda")
    device, reason = choose_device("auto")
    assert device.type in ("cpu", "mps") and "CUDA" in reason


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_cuda_device_is_chosen_and_trains_like_the_cpu() -> None:
    device, _ = choose_device("auto")
    assert device.type == "cuda" and choose_precision("float32", device) == torch.float32
    losses = []
    for where in (CPU, device):
        torch.manual_seed(0)
        trainer = make_trainer(make_model().to(where))
        trainer.device = where
        losses.append(train(trainer, make_split(10), range(1, 3)))
    assert np.allclose(losses[0], losses[1], rtol=1e-3)


def test_automatic_precision_is_float32_on_the_cpu_and_bf16_by_key() -> None:
    assert choose_precision("auto", CPU) == torch.float32
    assert choose_precision("bf16", CPU) == torch.bfloat16
    model, split = make_model().eval(), make_split(8)
    exact, rounded = (evaluate(model, split, LOOK, 8, p).loss for p in (torch.float32, torch.bfloat16))
    assert exact != rounded and exact == pytest.approx(rounded, rel=0.02)


def test_gflops_count_attention_and_equal_the_formula() -> None:
    n, d, layers, hidden = 1 + 4, 16, 2, 64
    per_layer = 4 * n * d * d + 2 * n * d * hidden + 2 * n * n * d
    multiply_adds = 4 * 16 * d + layers * per_layer + d * 3
    assert count_gflops(make_model()) == pytest.approx(2 * multiply_adds / 1e9)


@pytest.mark.parametrize("path", sorted((CONFIGS / "experiment").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_experiment_trains_a_step(path: Path) -> None:
    """With its own model, optimizer, schedule and augmentation, on four made images of its size."""
    config = compose(f"experiment={path.stem}")
    channels = config.dataset.channels or 3
    config = complete(config, 100, 10, channels, [0.5] * channels, [0.25] * channels)
    model = VisionTransformer(**asdict(config.model))
    before = model.head.weight.detach().clone()
    parts = asdict(config.augmentation)
    del parts["mix_off_share"], parts["repeats"]
    look = {"size": config.model.image_size, "mean": [0.5] * channels, "std": [0.25] * channels}
    augmentation = Augmentation(**look, **parts, num_classes=10)
    rate = LearningRate(config.scheduler, config.optimizer.lr, 10, config.training.epochs)
    optimizer = build_optimizer(model, config.optimizer)
    trainer = Trainer(model, optimizer, rate, augmentation, CPU, torch.float32, 0, 0.1, config.training.clip_norm)
    images = torch.randint(256, (4, channels, *config.model.image_size), dtype=torch.uint8)
    loss, _ = trainer.step(images, torch.arange(4), None, step=0)
    assert math.isfinite(loss.item()) and not torch.equal(before, model.head.weight)
