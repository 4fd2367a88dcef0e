"""Low-rank adapters: what is trained, what is saved, and that both are the same model."""

import copy
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import TINY, compose, make_folder, photo_overrides
from safetensors.torch import load_file
from test_continue import assert_equal_runs, at_call, begin, resume
from torch import Tensor, nn

from src.engine.memory import estimate_memory
from src.engine.trainer import Trainer, separate_state
from src.model import VisionTransformer
from src.optim import OPTIMIZERS, build_optimizer, parameter_groups
from src.pretrained.freeze import freeze
from src.pretrained.lora import AdaptedLinear, add_adapters
from src.run.files import BEST, LAST

pytestmark = pytest.mark.usefixtures("quick_pictures")

HEAD = {"head.weight", "head.bias"}
ADAPTED = {f"blocks.{i}.attn.{name}.weight" for i in (0, 1) for name in ("qkv", "proj")}


def make_model() -> VisionTransformer:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"embedding_dim": 16, "num_layers": 2, "num_heads": 2}
    return VisionTransformer(image_size=8, patch_size=4, in_channels=3, num_classes=3, **sizes)


def adapt(model: VisionTransformer, rank: int = 2, seed: int = 1) -> VisionTransformer:
    """Return a copy with adapters, frozen but for them and the head."""
    adapted = copy.deepcopy(model)
    freeze(adapted, "backbone")
    assert add_adapters(adapted, rank, torch.Generator().manual_seed(seed)) == rank * 2 * (4 + 2) * 16
    return adapted


def train_adapters(model: VisionTransformer) -> None:
    """Give the adapters the values of some training."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora" in name:
                parameter.normal_(generator=torch.Generator().manual_seed(len(name)))


def take_step(model: VisionTransformer, optimizer: torch.optim.Optimizer) -> None:
    images = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    nn.functional.cross_entropy(model(images), torch.arange(6) % 3).backward()
    optimizer.step()


def test_training_starts_at_the_pretrained_model() -> None:
    model, images = make_model(), torch.randn(4, 3, 8, 8)
    assert torch.equal(adapt(model)(images), model(images))
    a, b, other = (adapt(model, seed=seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(a[name], b[name]) and torch.equal(a[name], other[name]) for name in model.state_dict())
    drawn = [separate_state(adapt(model, seed=seed))["blocks.0.attn.qkv.lora_a"] for seed in (1, 1, 2)]
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_only_adapters_and_head_are_trained(name: str) -> None:
    model = adapt(make_model())
    config = compose(f"optimizer={name}", "optimizer.weight_decay=0.5", "optimizer.lr=0.1", *TINY).optimizer
    optimizer = build_optimizer(model, config)
    before = {key: value.clone() for key, value in separate_state(model).items()}
    for _ in range(2):  # in the first step B is 0, so A has no gradient, and only its weight decay moves it
        take_step(model, optimizer)
    changed = {key for key, value in separate_state(model).items() if not torch.equal(value, before[key])}
    assert changed == HEAD | {key for key in before if "lora" in key} and len(changed) == 2 + 8


def test_the_state_dict_is_that_of_a_plain_vit_which_computes_the_same() -> None:
    model, images = adapt(make_model()), torch.randn(4, 3, 8, 8)
    train_adapters(model)
    plain = make_model()
    before = plain.state_dict()
    merged = model.state_dict()
    assert list(merged) == list(before)
    assert {name for name in merged if not torch.equal(merged[name], before[name])} == ADAPTED
    plain.load_state_dict(merged)
    assert not torch.allclose(plain(images), make_model()(images), atol=0.1), "the adapters do something"
    assert torch.allclose(plain(images), model(images), atol=1e-5)


def test_merged_weights_leave_the_adapters_at_zero_and_separate_ones_come_back_as_they_were() -> None:
    model, images = adapt(make_model()), torch.randn(4, 3, 8, 8)
    train_adapters(model)
    merged, separate, expected = model.state_dict(), separate_state(model), model(images)
    kept = {name: value.clone() for name, value in separate.items()}
    other = adapt(make_model(), seed=5)
    other.load_state_dict(merged)
    assert torch.allclose(other(images), expected, atol=1e-5)
    assert all(not value.any() for name, value in separate_state(other).items() if name.endswith("lora_b"))
    other.load_state_dict(kept)
    assert torch.equal(other(images), expected)
    with pytest.raises(RuntimeError, match="Missing key.*qkv.weight"):
        other.load_state_dict({name: value for name, value in merged.items() if "qkv.weight" not in name})


def test_layers_decay_and_weight_decay_hold_for_adapters() -> None:
    model = adapt(make_model())
    names = {parameter: name for name, parameter in model.named_parameters()}
    groups = parameter_groups(model, 0.1, layer_decay=0.5)
    found = {names[p]: (group["lr_scale"], group["weight_decay"]) for group in groups for p in group["params"]}
    assert found["blocks.0.attn.qkv.lora_a"] == (0.25, 0.1) and found["blocks.1.attn.proj.lora_b"] == (0.5, 0.1)
    assert found["head.weight"] == (1, 0.1) and len(found) == 10


def test_gradient_checkpointing_gives_the_same_gradients() -> None:
    gradients: list[dict[str, Tensor]] = []
    for checkpointing in (False, True):
        model = adapt(make_model())
        train_adapters(model)
        model.gradient_checkpointing = checkpointing
        model.train()(torch.ones(2, 3, 8, 8)).sum().backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys() and len(gradients[0]) == 10
    assert all(torch.equal(gradients[0][name], gradients[1][name]) for name in gradients[0])


def test_contradictions_are_refused_with_the_keys_to_change() -> None:
    here = "init.weights=."
    for words, message in {
        ("init.lora_rank=4",): "init.lora_rank=4 adapts trained weights, but there are none; .* init.weights=RUN",
        ("init.lora_rank=4", "init.freeze=2", here): "leave init.freeze out, or write init.freeze=null",
        ("init.lora_rank=0", here): "init.lora_rank=0 must be at least 1; null: no adapters",
    }.items():
        with pytest.raises(ValueError, match=message):
            compose(*words)
    with pytest.raises(ValueError, match="init.lora_rank=16 is not below model.embedding_dim=16; usual ranks"):
        add_adapters(make_model(), 16, torch.Generator())


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A run of a few steps, and what it was started with."""
    root = make_folder(tmp_path_factory.mktemp("data") / "photos", per_class=8)
    common = [*photo_overrides(root), "training.tensorboard=false", "training.batch_size=6"]
    folder = tmp_path_factory.mktemp("runs") / "pretrained"
    begin(folder, [*common, "training.epochs=1"])
    return folder, common


def test_a_stopped_run_continues_to_the_bits_of_one_left_alone_and_others_start_from_it(
    pretrained: tuple[Path, list[str]], tmp_path: Path
) -> None:
    weights, common = pretrained
    overrides = [*common, f"init.weights='{weights}'", "init.lora_rank=2", "training.ema=0.9", "model.dropout=0.1"]
    whole, stopped, third = tmp_path / "whole", tmp_path / "stopped", tmp_path / "third"
    run = begin(whole, overrides)
    with at_call(Trainer, "step", 6, lambda: os.kill(os.getpid(), signal.SIGTERM)), pytest.raises(KeyboardInterrupt):
        begin(stopped, overrides)
    assert resume(stopped).status == "finished"
    assert_equal_runs(whole, stopped)
    saved = torch.load(whole / LAST, weights_only=True)["trainer"]
    assert all(saved[kind]["blocks.1.attn.proj.lora_b"].any() for kind in ("model", "ema"))
    before, after = load_file(weights / BEST), load_file(whole / BEST)
    assert before.keys() == after.keys()
    assert {name for name in after if not torch.equal(before[name], after[name])} == ADAPTED | HEAD
    assert "384 of adapters of rank 2 and 51 of the head are trained; 7,664 parameters are frozen" in log_of(whole)
    assert run.facts["parameters"] == sum(tensor.numel() for tensor in after.values())
    begin(third, [*common, f"init.weights='{whole}'", "training.epochs=1"])
    assert "32 of 32 tensors" in log_of(third)


def log_of(folder: Path) -> str:
    return (folder / "train.log").read_text(encoding="utf-8")


def test_memory_is_estimated_without_moments_of_frozen_weights() -> None:
    full = compose("dataset=cifar10", "model=vit_base", "init.weights=.")
    lora = compose("dataset=cifar10", "model=vit_base", "init.weights=.", "init.lora_rank=8")
    frozen = compose("dataset=cifar10", "model=vit_base", "init.weights=.", "init.freeze=backbone")
    assert estimate_memory(frozen, 1) < estimate_memory(lora, 1) < estimate_memory(full, 1)


def test_an_adapted_layer_without_a_bias_is_saved_without_one() -> None:
    layer = AdaptedLinear(nn.Linear(3, 2, bias=False), 1, torch.Generator())
    assert list(layer.state_dict()) == ["weight"]
