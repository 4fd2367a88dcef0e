"""Steps, epochs and evaluation: exact for partial batches, repeatable from any step."""

import copy
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import compose, hold_images, pixels_of
from test_optim import make_model
from torch import nn

from src.augment.normalize import normalize
from src.augment.pipeline import Augmentation
from src.data.images import Preprocessing
from src.data.load import Split
from src.engine.epoch import StepWatch, summarize, train_steps
from src.engine.evaluation import count_gflops, evaluate
from src.engine.memory import fit_memory, halve_micro_batch, is_out_of_memory
from src.engine.trainer import Progress, Trainer, balanced_weights, weighted_cross_entropy
from src.machine.devices import choose_device
from src.machine.kernels import choose_precision
from src.model import VisionTransformer
from src.optim import ExponentialMovingAverage, build_optimizer

CPU = torch.device("cpu")
LOOK = Preprocessing((8, 8), "crop", "bicubic", 1, (0.5,), (0.25,))


def make_split(count: int, num_classes: int = 3) -> Split:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (count, 1, 8, 8), generator=generator, dtype=torch.uint8)
    return Split(hold_images(images), torch.randint(num_classes, (count,), generator=generator))


def make_trainer(model: VisionTransformer, pad_crop: float = 0.25, **options: Any) -> Trainer:
    augmentation = Augmentation(
        size=(8, 8), mean=LOOK.mean, std=LOOK.std, num_classes=model.num_classes, pad_crop=pad_crop, horizontal_flip=0.5
    )
    given = {"batch_size": 4, "micro_batch_size": 4, "total_steps": 100, "label_smoothing": 0.1, "clip_norm": 1.0}
    optimizer = options.pop("optimizer", None) or build_optimizer(model, compose().optimizer)
    return Trainer(
        model=model,
        network=model,
        optimizer=optimizer,
        learning_rate=lambda step: 1e-3,
        augmentation=augmentation,
        device=CPU,
        precision=torch.float32,
        seed=0,
        **(given | options),
    )


def train_epoch(trainer: Trainer, split: Split, progress: Progress) -> float:
    """Train what is left of an epoch and return its loss."""
    watch = StepWatch(trainer, split)
    for _ in train_steps(trainer, split, progress, watch):
        pass
    return summarize(trainer, progress, watch).loss


def train(trainer: Trainer, split: Split, epochs: range) -> list[float]:
    return [train_epoch(trainer, split, Progress.of_epoch(epoch, CPU)) for epoch in epochs]


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


@pytest.mark.parametrize("batch_size", [1, 7, 23, 64])
def test_the_prediction_for_each_image_is_that_of_its_place_in_the_split(batch_size: int) -> None:
    torch.manual_seed(0)
    model, split = make_model(num_classes=8).eval(), make_split(23, 8)
    with torch.no_grad():
        probabilities = model(normalize(pixels_of(split), LOOK.mean, LOOK.std)).softmax(1)
    result = evaluate(model, split, LOOK, batch_size, torch.float32, each_image=True)
    assert result.predictions is not None and result.confidences is not None
    assert len(result.predictions.unique()) > 1 and torch.equal(result.predictions, probabilities.argmax(1))
    torch.testing.assert_close(result.confidences, probabilities.amax(1))
    assert evaluate(model, split, LOOK, batch_size, torch.float32).predictions is None


@pytest.mark.parametrize("steps", [0, 1, 3, 4, 6], ids="after {} steps".format)
def test_training_continues_bit_for_bit_from_any_step(steps: int) -> None:
    """Of two epochs of three steps each: weights, averaged weights, optimizer, sums; dropout and mixing on."""
    split = make_split(10)

    def begin() -> Trainer:
        torch.manual_seed(0)
        model = make_model(dropout=0.2, drop_path=0.2)
        trainer = make_trainer(model, ema=ExponentialMovingAverage(model, 0.9))
        trainer.augmentation = replace(trainer.augmentation, mixup=0.8, erasing=0.5)
        return trainer

    def take(trainer: Trainer, progress: Progress, count: int) -> tuple[Progress, list[float]]:
        losses, watch = [], StepWatch(trainer, split)
        while count:
            for _ in train_steps(trainer, split, progress, watch):
                if (count := count - 1) == 0:
                    break
            if progress.step == 3:
                losses.append(summarize(trainer, progress, watch).loss)
                progress = Progress.of_epoch(progress.epoch + 1, CPU)
        return progress, losses

    whole = begin()
    end, losses = take(whole, Progress.of_epoch(1, CPU), 6)
    first = begin()
    progress, before = take(first, Progress.of_epoch(1, CPU), steps)
    state = copy.deepcopy(first.state_dict(progress))
    torch.rand(7)  # whatever was drawn elsewhere does not matter

    second = begin()
    again, after = take(second, second.load_state_dict(state), 6 - steps)
    assert before + after == losses
    expected, found = whole.state_dict(end), second.state_dict(again)
    assert equal(expected, found)


def equal(a: Any, b: Any) -> bool:
    """Tell whether two nested states are the same, bit for bit."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b


def test_an_epoch_takes_one_step_per_batch_the_partial_one_included_and_sees_every_sample() -> None:
    trainer, split, progress = make_trainer(make_model()), make_split(10), Progress.of_epoch(1, CPU)
    steps = [(progress.step, progress.seen) for _ in train_steps(trainer, split, progress, StepWatch(trainer, split))]
    assert steps == [(1, 4), (2, 8), (3, 10)]
    trainer, split, progress = make_trainer(make_model(), batch_size=64), make_split(3), Progress.of_epoch(2, CPU)
    steps = [(progress.step, progress.seen) for _ in train_steps(trainer, split, progress, StepWatch(trainer, split))]
    assert steps == [(1, 3)], "a set smaller than the batch trains as one batch"


def test_a_step_equals_the_textbook_step() -> None:
    torch.manual_seed(0)
    model, split = make_model(), make_split(4)
    reference = copy.deepcopy(model)
    trainer = make_trainer(model, clip_norm=0.01, pad_crop=0.0)
    trainer.augmentation.horizontal_flip = 0.0
    loss, _, norm = trainer.step(pixels_of(split), split.labels, None, step=0)
    optimizer = build_optimizer(reference, compose("training.lr=1e-3").optimizer)
    logits = reference(normalize(pixels_of(split), LOOK.mean, LOOK.std))
    expected = F.cross_entropy(logits, split.labels, label_smoothing=0.1)
    expected.backward()
    expected_norm = nn.utils.clip_grad_norm_(reference.parameters(), 0.01)
    optimizer.step()
    assert loss.item() == pytest.approx(expected.item())
    assert norm.item() == pytest.approx(expected_norm.item(), rel=1e-5) and norm > 0.01
    for a, b in zip(model.parameters(), reference.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-7)


def test_weighted_loss_is_the_mean_over_samples_each_weighted_by_its_own_class() -> None:
    torch.manual_seed(0)
    logits, labels, weights = torch.randn(6, 3), torch.tensor([0, 1, 1, 2, 2, 2]), torch.tensor([3.0, 1.5, 1.0])
    plain = weighted_cross_entropy(logits, labels, weights, 0.0)
    assert plain.item() == pytest.approx(F.cross_entropy(logits, labels, weights).item(), rel=1e-6)
    shares = F.one_hot(labels, 3).float()
    assert weighted_cross_entropy(logits, shares, weights, 0.0).item() == pytest.approx(plain.item(), rel=1e-6)
    for targets, own in ((labels, weights[labels]), (0.7 * shares + 0.3 * shares.flip(0), None)):
        own = targets @ weights if own is None else own
        losses = F.cross_entropy(logits, targets, label_smoothing=0.1, reduction="none")
        expected = ((losses * own).sum() / own.sum()).item()
        assert weighted_cross_entropy(logits, targets, weights, 0.1).item() == pytest.approx(expected, rel=1e-6)
    assert weighted_cross_entropy(logits, labels, None, 0.1) == F.cross_entropy(logits, labels, label_smoothing=0.1)


@pytest.mark.parametrize("mixed", [False, True])
def test_class_weights_do_not_move_the_best_prediction_for_an_image(mixed: bool) -> None:
    """With 19 common images to a rare one, a smoothed label of the common class used to be mostly the rare one."""
    weights = balanced_weights(torch.tensor([0] * 900 + [1] * 20), 2)
    target = torch.tensor([[0.7, 0.3]]) if mixed else torch.tensor([0])
    best = torch.tensor([[0.68, 0.32]]) if mixed else torch.tensor([[0.95, 0.05]])  # smoothed by 0.1
    logits = best.log().requires_grad_()
    weighted_cross_entropy(logits, target, weights, 0.1).backward()
    assert logits.grad is not None
    np.testing.assert_allclose(logits.grad, [[0, 0]], atol=1e-6)


def test_balanced_weights_give_each_class_the_same_total() -> None:
    labels = torch.tensor([0] * 6 + [2] * 3 + [3])
    weights = balanced_weights(labels, 4)
    totals = torch.bincount(labels, weights[labels].double(), minlength=4)
    assert totals.tolist() == pytest.approx([10 / 3, 0, 10 / 3, 10 / 3])


def test_mixing_ends_at_its_step_and_the_larger_share_counts_as_right() -> None:
    trainer = make_trainer(make_model(), batch_size=60, micro_batch_size=60, mix_until=1)
    trainer.augmentation = replace(trainer.augmentation, mixup=1.0)
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    def remember(logits: torch.Tensor, targets: torch.Tensor, *_: object) -> torch.Tensor:
        seen.append((logits.argmax(1), targets))
        return logits.sum()

    split = make_split(60)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("src.engine.trainer.weighted_cross_entropy", remember)
        rights = [trainer.step(pixels_of(split), split.labels, None, step)[1] for step in (0, 1)]
    (guesses, mixed), (later_guesses, labels) = seen
    assert mixed.shape == (60, 3) and torch.allclose(mixed.sum(1), torch.ones(60)) and (mixed.max(1)[0] < 1).any()
    assert rights[0] == (guesses == mixed.argmax(1)).sum() and not torch.equal(mixed.argmax(1), split.labels)
    assert torch.equal(labels, split.labels) and rights[1] == (later_guesses == labels).sum()


def test_patch_dropout_ends_at_its_step_and_is_tried_with_all_patches_too() -> None:
    torch.manual_seed(0)
    model, split = make_model(), make_split(4)
    trainer = make_trainer(model, patch_dropout=0.5, drop_patches_until=2)
    seen: list[int] = []
    model.blocks.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].shape[1]))
    whole = model.num_tokens
    part = whole - (whole - model.num_prefix_tokens) // 2
    fit_memory(trainer, split, LOOK)
    assert seen == [part, whole, whole, whole], "two training steps, two evaluations"
    seen.clear()
    model.train()
    for step in (0, 1, 2):
        trainer.step(pixels_of(split), split.labels, None, step)
    assert seen == [part, part, whole]


@pytest.mark.parametrize("named", [True, False], ids=["files", "one array"])
def test_a_loss_that_is_not_finite_stops_and_says_where(named: bool) -> None:
    """At the step where it began, though it is noticed later."""
    model, split = make_model(), make_split(12)
    if named:
        split.files = [Path(f"photos/{i}.png") for i in range(12)]
    trainer = make_trainer(model)
    order = trainer.order(split, epoch=2)
    take_step, taken = trainer.step, []

    def poisoned(*arguments: Any, **options: Any) -> Any:
        taken.append(arguments)
        if len(taken) == 2:
            nn.init.constant_(model.head.weight, math.nan)
        return take_step(*arguments, **options)

    trainer.step = poisoned  # type: ignore[method-assign]
    with pytest.raises(FloatingPointError) as caught:
        train(trainer, split, range(2, 3))
    text = str(caught.value)
    assert len(taken) == 3, "nobody asked the device in between"
    assert "the training loss became nan in epoch 2, step 2 of 3 (loss nan, gradient norm nan, learning rate 0" in text
    names = [f"photos/{i}.png" if named else f"number {i}" for i in order[4:8].tolist()]
    assert "; a smaller training.lr" in text and text.endswith(f"\nimages of this batch: {', '.join(names)}")


def test_a_gradient_that_is_not_finite_stops_too() -> None:
    model, split = make_model(), make_split(4)
    model.norm.weight.register_hook(lambda gradient: gradient * math.inf)
    with pytest.raises(FloatingPointError, match="the gradient norm became (nan|inf) in epoch 1, step 1 of 1"):
        train(make_trainer(model), split, range(1, 2))


@pytest.mark.parametrize("micro", [1, 3, 4, 7])
@pytest.mark.parametrize("mixup", [0.0, 0.8])
@pytest.mark.parametrize("weighted", [False, True])
def test_accumulated_gradients_equal_one_large_batch(micro: int, mixup: float, weighted: bool) -> None:
    """Over an epoch whose last batch is smaller: losses, accuracies, gradient norms and weights."""
    split = make_split(17)
    weights = torch.tensor([5.0, 1.0, 0.2]) if weighted else None
    results = []
    for size in (10, micro):
        torch.manual_seed(0)
        model = make_model()
        sgd = torch.optim.SGD(model.parameters())
        options: dict[str, Any] = {"batch_size": 10, "micro_batch_size": size, "clip_norm": 0.5, "optimizer": sgd}
        trainer = make_trainer(model, class_weights=weights, **options)
        trainer.augmentation = replace(trainer.augmentation, mixup=mixup)
        trainer.learning_rate = lambda step: 0.5
        progress = Progress.of_epoch(1, CPU)
        watch = StepWatch(trainer, split)
        norms = []
        for _ in train_steps(trainer, split, progress, (watch := StepWatch(trainer, split))):
            watch.read()
            norms.append(watch.norm)
        results.append((model, norms, summarize(trainer, progress, watch)))
    (large, norms, epoch), (small, small_norms, small_epoch) = results
    assert small_norms == pytest.approx(norms, rel=1e-4) and len(norms) == 2 and min(norms) > 0.5, "clipped"
    assert small_epoch.loss == pytest.approx(epoch.loss, rel=1e-5) and small_epoch.accuracy == epoch.accuracy
    for a, b in zip(large.parameters(), small.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-5)


def test_memory_that_is_too_small_halves_the_micro_batch_and_leaves_no_other_trace() -> None:
    torch.manual_seed(0)
    model, split = make_model(dropout=0.1), make_split(20)
    trainer = make_trainer(model, batch_size=16, micro_batch_size=16, ema=ExponentialMovingAverage(model, 0.9))
    sizes = refuse_batches_above(model, 5)
    before = copy.deepcopy(trainer.state_dict(Progress.of_epoch(1, CPU)))
    assert fit_memory(trainer, split, LOOK).first_seconds > 0
    assert sizes[:2] == [16, 8] and trainer.micro_batch_size == 4
    after = trainer.state_dict(Progress.of_epoch(1, CPU))
    assert equal(before | {"micro_batch_size": 4}, after)
    train(trainer, split, range(1, 2))
    assert sizes[-5:] == [4, 4, 4, 4, 4], "sixteen images are four times four, the last four once"


def refuse_batches_above(model: nn.Module, limit: int) -> list[int]:
    """Let a model run out of memory for more images than `limit`; return the list of what it was given."""
    sizes: list[int] = []

    def refuse(module: nn.Module, inputs: tuple[torch.Tensor]) -> None:
        sizes.append(len(inputs[0]))
        if len(inputs[0]) > limit:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    model.register_forward_pre_hook(refuse)
    return sizes


def test_a_single_image_that_does_not_fit_is_answered_with_what_helps() -> None:
    trainer = make_trainer(make_model())
    refuse_batches_above(trainer.model, 0)
    with pytest.raises(ValueError, match="out of memory with a single image at once; .*training.gradient_checkpoint"):
        fit_memory(trainer, make_split(8), LOOK)


def test_other_errors_are_not_taken_for_a_lack_of_memory() -> None:
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert is_out_of_memory(RuntimeError("MPS backend out of memory (MPS allocated: 5 GB)"))
    assert is_out_of_memory(RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"))
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not is_out_of_memory(ValueError("out of memory"))
    trainer = make_trainer(make_model(num_classes=3))
    trainer.model.norm.weight = nn.Parameter(torch.ones(7))
    with pytest.raises(RuntimeError, match="weight"):
        fit_memory(trainer, make_split(4), LOOK)
    assert trainer.micro_batch_size == 4
    halve_micro_batch(trainer)
    assert trainer.micro_batch_size == 2


def test_half_precision_scales_the_loss_but_not_what_is_clipped() -> None:
    torch.manual_seed(0)
    model, split = make_model(), make_split(4)
    twin = copy.deepcopy(model)
    exact = make_trainer(model)
    half = make_trainer(twin)
    half.precision = torch.float16
    half.__post_init__()
    assert exact.loss_scale() is None and half.loss_scale() == 2.0**16
    norms = [trainer.step(pixels_of(split), split.labels, None, 0)[2].item() for trainer in (exact, half)]
    assert norms[1] == pytest.approx(norms[0], rel=0.02) and norms[0] != norms[1]


def test_the_schedule_follows_the_time_where_that_ends_first() -> None:
    trainer = make_trainer(make_model(), total_steps=100)
    trainer.time_used = 0.3
    assert [trainer.scheduled_step(step) for step in (0, 29, 30, 31)] == [30, 30, 30, 31]
    trainer.time_used = 7.0
    assert trainer.scheduled_step(3) == 99, "and never beyond its end"
    trainer.time_used = 0.3
    trainer.learning_rate = lambda step: step / 100
    trainer.step(pixels_of(make_split(4)), make_split(4).labels, None, step=3)
    assert trainer.optimizer.param_groups[0]["lr"] == 0.3


def test_recomputed_activations_give_the_same_gradients() -> None:
    images = torch.randn(3, 1, 8, 8)
    gradients = []
    for recompute in (False, True):
        torch.manual_seed(0)
        model = make_model(dropout=0.3, drop_path=0.3).train()
        model.gradient_checkpointing = recompute
        torch.manual_seed(1)
        model(images).square().sum().backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    assert equal(*gradients)


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
    assert device.type == "cuda" and choose_precision("float32", device) == "float32"
    losses = []
    for where in (CPU, device):
        torch.manual_seed(0)
        trainer = make_trainer(make_model().to(where))
        trainer.device = where
        losses.append(train(trainer, make_split(10), range(1, 3)))
    assert np.allclose(losses[0], losses[1], rtol=1e-3)


def test_precision_without_a_trial_is_float32_on_the_cpu_and_bf16_by_key() -> None:
    assert choose_precision("auto", CPU) == "float32"
    assert choose_precision("bf16", CPU) == "bf16"
    model, split = make_model().eval(), make_split(8)
    exact, rounded = (evaluate(model, split, LOOK, 8, p).loss for p in (torch.float32, torch.bfloat16))
    assert exact != rounded and exact == pytest.approx(rounded, rel=0.02)


def test_gflops_count_attention_and_equal_the_formula() -> None:
    n, d, layers, hidden = 1 + 4, 16, 2, 64
    per_layer = 4 * n * d * d + 2 * n * d * hidden + 2 * n * n * d
    multiply_adds = 4 * 16 * d + layers * per_layer + d * 3
    assert count_gflops(make_model()) == pytest.approx(2 * multiply_adds / 1e9)
