"""Optimizers and learning rates: what is decayed, what steps, and how the rate moves."""

import copy

import pytest
import torch
from conftest import TINY, compose
from torch import nn

from src.config.schema import OPTIMIZER_KEYS, SCHEDULER_KEYS
from src.model import VisionTransformer
from src.optim import OPTIMIZERS, SCHEDULERS, LearningRate, build_optimizer, parameter_groups


def make_model(**options: object) -> VisionTransformer:
    sizes = {"image_size": 8, "patch_size": 4, "in_channels": 1, "num_classes": 3}
    return VisionTransformer(**{**sizes, "embedding_dim": 16, "num_layers": 2, "num_heads": 2, **options})  # type: ignore[arg-type]


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


def test_registries_and_schema_name_the_same_options() -> None:
    assert set(OPTIMIZERS) == set(OPTIMIZER_KEYS) and set(SCHEDULERS) == set(SCHEDULER_KEYS)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_moves_every_parameter_and_follows_the_rate(name: str) -> None:
    model = make_model()
    optimizer = build_optimizer(model, compose(f"optimizer={name}", *TINY).optimizer)
    images, labels = torch.randn(8, 1, 8, 8), torch.arange(8) % 3

    def moved(rate: float) -> dict[str, bool]:
        for group in optimizer.param_groups:
            group["lr"] = rate
        before = {key: value.clone() for key, value in model.state_dict().items()}
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
        return {key: not torch.equal(before[key], value) for key, value in model.state_dict().items()}

    assert not any(moved(0.0).values()), "a rate set to 0 reaches every part of the optimizer"
    assert all(moved(0.01).values())


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_learns_a_batch_and_continues_from_its_state(name: str) -> None:
    config = compose(f"optimizer={name}", *TINY).optimizer
    images, labels = torch.randn(12, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(12) % 3
    torch.manual_seed(0)
    model = make_model()
    optimizer = build_optimizer(model, config)

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
    twin_optimizer = build_optimizer(twin, config)
    twin_optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    step(model, optimizer), step(twin, twin_optimizer)
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
