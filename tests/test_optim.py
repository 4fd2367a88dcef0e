"""Optimizers and learning rates: what is decayed, what steps, and how the rate moves."""

import copy
import io

import pytest
import torch
from helpers import TINY, compose
from torch import nn

from src.config.options import list_options
from src.model import VisionTransformer
from src.optim import (
    OPTIMIZERS,
    SCHEDULERS,
    ExponentialMovingAverage,
    LearningRate,
    build_optimizer,
    parameter_groups,
    set_learning_rate,
)


def make_model(**options: object) -> VisionTransformer:
    sizes = {"image_size": 8, "patch_size": 4, "in_channels": 1, "num_classes": 3}
    return VisionTransformer(**{**sizes, "embedding_dim": 16, "num_layers": 2, "num_heads": 2, **options})  # type: ignore[arg-type]


def save_and_load(state: dict) -> dict:
    """Take a state through a file that may hold nothing but tensors, numbers, strings and their containers."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def test_only_weight_matrices_decay() -> None:
    model = make_model(num_registers=2, layer_scale=0.1, qk_norm=True)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decayed, rest = ([names[id(p)] for p in group["params"]] for group in parameter_groups(model, 0.05))
    matrices = {"patch_embed.proj.weight", "head.weight"}
    matrices |= {
        f"blocks.{i}.{layer}.weight" for i in (0, 1) for layer in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
    }
    assert set(decayed) == matrices
    assert set(rest) == set(names.values()) - matrices and {"cls_token", "reg_token", "pos_embed"} <= set(rest)


def test_layer_decay_gives_every_layer_its_share_of_the_rate() -> None:
    model = make_model(num_registers=2)
    groups = parameter_groups(model, 0.05, layer_decay=0.5)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    scales = [(names[id(p)], group["lr_scale"]) for group in groups for p in group["params"]]
    assert len(scales) == len(dict(scales)) == len(names), "each parameter is in one group"
    expected = {"embedding": 0.125, "blocks.0": 0.25, "blocks.1": 0.5, "norm": 1.0, "head": 1.0}
    for name, scale in scales:
        part = ".".join(name.split(".")[: 2 if name.startswith("blocks") else 1])
        assert scale == expected.get(part, expected["embedding"]), name
    decayed = {names[id(p)] for group in groups if group["weight_decay"] for p in group["params"]}
    assert decayed == {names[id(p)] for p in parameter_groups(model, 0.05)[0]["params"]}


def test_no_layer_decay_is_two_groups_as_saved_states_have_them() -> None:
    for layer_decay in (None, 1, 1.0):
        groups = parameter_groups(make_model(), 0.05, layer_decay)
        assert [sorted(group) for group in groups] == [["params", "weight_decay"]] * 2


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_scales_the_rate_of_every_layer(name: str) -> None:
    model = make_model()
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    optimizer = build_optimizer(model, compose(f"optimizer={name}", "optimizer.lr=0.5", *TINY).optimizer, 0.5)

    def rates_of(optimizer: torch.optim.Optimizer) -> dict[str, float]:
        parts = getattr(optimizer, "parts", [optimizer])
        return {names[id(p)]: group["lr"] for part in parts for group in part.param_groups for p in group["params"]}

    assert rates_of(optimizer)["pos_embed"] == 0.5**4, "before any rate was set"
    set_learning_rate(optimizer, 0.25)
    rates = rates_of(optimizer)
    assert rates.keys() == set(names.values())
    assert rates["patch_embed.proj.weight"] == rates["cls_token"] == 0.25 / 8
    assert rates["blocks.0.attn.qkv.weight"] == rates["blocks.0.norm1.bias"] == 0.25 / 4
    assert rates["blocks.1.mlp.fc1.weight"] == 0.25 / 2 and rates["head.weight"] == rates["norm.bias"] == 0.25


def test_each_registered_option_has_a_file_and_each_file_is_registered() -> None:
    assert sorted([*OPTIMIZERS, "auto"]) == list_options("optimizer")
    assert sorted(SCHEDULERS) == list_options("scheduler")


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_moves_every_parameter_and_follows_the_rate(name: str) -> None:
    model = make_model()
    optimizer = build_optimizer(model, compose(f"optimizer={name}", *TINY).optimizer)
    images, labels = torch.randn(8, 1, 8, 8), torch.arange(8) % 3

    def moved(rate: float) -> dict[str, bool]:
        set_learning_rate(optimizer, rate)
        before = {key: value.clone() for key, value in model.state_dict().items()}
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
        return {key: not torch.equal(before[key], value) for key, value in model.state_dict().items()}

    assert not any(moved(0.0).values()), "a rate set to 0 reaches every part of the optimizer"
    assert all(moved(0.01).values())


@pytest.mark.parametrize("layer_decay", [None, 0.8])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_learns_a_batch_and_continues_from_its_state(name: str, layer_decay: float | None) -> None:
    config = compose(f"optimizer={name}", *TINY).optimizer
    images, labels = torch.randn(12, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(12) % 3
    torch.manual_seed(0)
    model = make_model()
    optimizer = build_optimizer(model, config, layer_decay)

    def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> float:
        loss = nn.functional.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    losses = [step(model, optimizer) for _ in range(60)]
    assert losses[-1] < 0.9 * losses[0]
    twin = make_model()
    twin.load_state_dict(model.state_dict())
    twin_optimizer = build_optimizer(twin, config, layer_decay)
    twin_optimizer.load_state_dict(save_and_load(optimizer.state_dict()))
    for pair in ((model, optimizer), (twin, twin_optimizer)):
        set_learning_rate(pair[1], 0.01)
        step(*pair)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))


def test_muon_takes_the_matrices_of_the_blocks_and_adamw_the_rest() -> None:
    model = make_model()
    optimizer = build_optimizer(model, compose("optimizer=muon", *TINY).optimizer)
    muon, adamw = optimizer.parts  # type: ignore[attr-defined]
    in_muon = {id(p) for group in muon.param_groups for p in group["params"]}
    assert in_muon == {id(p) for p in model.blocks.parameters() if p.ndim == 2}
    in_adamw = {id(p) for group in adamw.param_groups for p in group["params"]}
    assert in_adamw == {id(p) for p in model.parameters()} - in_muon


def rates(name: str, *overrides: str) -> list[float]:
    config = compose(f"scheduler={name}", "scheduler.warmup_epochs=2", *overrides).scheduler
    rate = LearningRate(config, peak=1.0, steps_per_epoch=5, epochs=10)
    return [rate(step) for step in range(51)]


@pytest.mark.parametrize("name", SCHEDULERS)
def test_the_warm_up_rises_linearly_to_the_peak(name: str) -> None:
    assert rates(name)[:11] == pytest.approx([i / 10 for i in range(1, 11)] + [1.0])


def test_schedules_reach_their_floor_after_the_last_step_in_their_own_ways() -> None:
    cosine, linear = rates("cosine", "scheduler.min_lr=0.0001"), rates("linear")
    wsd, constant = rates("wsd"), rates("constant")
    assert cosine[50] == pytest.approx(0.0001) and cosine[30] == pytest.approx((1 + 0.0001) / 2)
    assert linear[50] == 0 and linear[30] == pytest.approx(0.5)
    assert wsd[42] == pytest.approx(1.0) and wsd[43] < 0.99 and wsd[46] == pytest.approx(1 - 0.5**0.5) and wsd[50] == 0
    assert constant[10:] == [1.0] * 41
    for decaying in (cosine, linear, wsd):
        assert all(a >= b for a, b in zip(decaying[10:], decaying[11:], strict=False))


def drift(model: nn.Module, step: int) -> None:
    """Change all weights that train by a random step, and the buffers."""
    generator = torch.Generator().manual_seed(step)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator))
        for buffer in model.buffers():
            buffer.add_(1)


def test_the_average_follows_the_textbook_step_by_step() -> None:
    model = make_model()
    average = ExponentialMovingAverage(model, decay=0.6)
    expected = [parameter.detach().double() for parameter in model.parameters()]
    decays = []
    for step in range(12):
        drift(model, step)
        average.update(model, step)
        decays.append(min(0.6, (1 + step) / (10 + step)))
        pairs = zip(expected, model.parameters(), strict=True)
        expected = [decays[-1] * old + (1 - decays[-1]) * new.detach().double() for old, new in pairs]
        for ours, textbook in zip(average.model.parameters(), expected, strict=True):
            torch.testing.assert_close(ours.double(), textbook, rtol=1e-5, atol=1e-5)
    assert decays[0] == 0.1 and decays[-1] == (1 + 11) / (10 + 11) < 0.6
    average.update(model, 10_000)
    last = [0.6 * old + 0.4 * new.detach().double() for old, new in zip(expected, model.parameters(), strict=True)]
    torch.testing.assert_close(next(average.model.parameters()).double(), last[0], rtol=1e-5, atol=1e-5)


def test_the_average_is_close_to_the_weights_after_few_steps() -> None:
    """Nine tenths of the way after one step, where a decay of 0.9999 without warm-up has gone a ten-thousandth."""
    model = make_model()
    start = model.head.weight.detach().clone()
    average = ExponentialMovingAverage(model, decay=0.9999)
    drift(model, 0)
    average.update(model, 0)
    torch.testing.assert_close(average.model.head.weight - start, 0.9 * (model.head.weight - start))


def test_weights_that_do_not_change_keep_their_bits_in_the_average() -> None:
    model = make_model()
    model.patch_embed.requires_grad_(False)
    average = ExponentialMovingAverage(model, decay=0.999)
    for step in range(5000):
        average.update(model, step)
    assert all(torch.equal(a, b) for a, b in zip(average.model.parameters(), model.parameters(), strict=True))
    drift(model, 0)
    average.update(model, 5000)
    assert torch.equal(average.model.patch_embed.proj.weight, model.patch_embed.proj.weight), "it is frozen"
    assert not torch.equal(average.model.head.weight, model.head.weight)


def test_the_average_is_a_model_of_its_own_ready_for_evaluation() -> None:
    model = make_model(position_embedding="sincos2d", dropout=0.5).train()
    average = ExponentialMovingAverage(model, decay=0.9)
    assert model.training and all(parameter.requires_grad for parameter in model.parameters())
    assert not any(module.training for module in average.model.modules())
    assert not any(parameter.requires_grad for parameter in average.model.parameters())
    before = copy.deepcopy(model.state_dict())
    drift(average.model.requires_grad_(True), 0)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    average.update(model, 0)
    assert torch.equal(average.model.pos_embed, model.pos_embed), "buffers are copied"


def test_the_average_continues_from_its_state_bit_for_bit() -> None:
    model = make_model()
    straight = ExponentialMovingAverage(model, decay=0.9)
    for step in range(20):
        drift(model, step)
        straight.update(model, step)
        if step == 9:
            saved = save_and_load({"model": model.state_dict(), "average": straight.state_dict()})
    twin = make_model()
    continued = ExponentialMovingAverage(twin, decay=0.9)
    twin.load_state_dict(saved["model"])
    continued.load_state_dict(saved["average"])
    for step in range(10, 20):
        drift(twin, step)
        continued.update(twin, step)
    assert all(torch.equal(value, straight.state_dict()[name]) for name, value in continued.state_dict().items())
