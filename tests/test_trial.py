"""How a device computes: what is tried, what is chosen, and that trying changes nothing else."""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import TINY, compose, make_folder, photo_overrides, train_run

from src.build import choose_computing
from src.config.compose import load_config
from src.config.resolve import complete
from src.distributed.world import World
from src.engine import trial
from src.engine.trial import Work, choose_kernels
from src.machine import kernels as machine
from src.machine.kernels import Kernels, Wanted, list_kernels
from src.model import VisionTransformer

CPU = torch.device("cpu")
LARGE = Work(num_images=64, total=10**9, training=True)


@pytest.fixture(autouse=True)
def no_kernels_are_left() -> Iterator[None]:
    """Each test may choose kernels for the whole process."""
    threads = torch.get_num_threads()
    yield
    Kernels("float32", "torch", "fused", threads).use()


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Kernels]]:
    """Let a trial find these seconds for each way, 1 for others; returns the ways as they are tried."""

    def replace_clock(bf16: bool = True, **seconds: float) -> list[Kernels]:
        order: list[Kernels] = []

        def time(step: object, kernels: Kernels) -> float:
            order.append(kernels)
            names = (kernels.precision, kernels.kernels, kernels.attention)
            return seconds.get("_".join(names), 1.0) * seconds.get(f"threads_{kernels.threads}", 1.0)

        monkeypatch.setattr(trial, "_time", time)
        monkeypatch.setattr(machine, "has_bf16", lambda device: bf16)
        monkeypatch.setattr(machine, "onednn_multiplies_in_float32", lambda: True)
        monkeypatch.setattr(machine, "_NUM_THREADS", 2)
        monkeypatch.setattr(trial, "SMALL_STEP", 0.0)
        monkeypatch.setattr(trial, "COMPILE_FROM", math.inf)
        return order

    return replace_clock


def make_model(**options: Any) -> VisionTransformer:
    sizes = {"image_size": 16, "patch_size": 4, "num_classes": 3, "embedding_dim": 32, "num_layers": 3, "num_heads": 2}
    return VisionTransformer(**(sizes | options))


def names(ways: list[Kernels]) -> list[str]:
    return [f"{way.precision} {way.kernels} {way.attention}" for way in ways]


def test_a_processor_with_bf16_has_five_ways_to_try_and_another_one_three(tried: Callable[..., list[Kernels]]) -> None:
    float32 = ["float32 torch fused", "float32 torch whole", "float32 onednn whole"]
    tried()
    assert names(list_kernels(Wanted(), CPU, 65)) == [*float32, "bf16 torch fused", "bf16 torch whole"]
    tried(bf16=False)
    assert names(list_kernels(Wanted(), CPU, 65)) == float32
    assert names(list_kernels(Wanted(), CPU, 1000)) == float32[:1], "the whole matrix of so many tokens is too large"


def test_what_is_wanted_is_not_tried(tried: Callable[..., list[Kernels]]) -> None:
    tried()
    assert names(list_kernels(Wanted("float32"), CPU, 65))[1:] == ["float32 torch whole", "float32 onednn whole"]
    assert names(list_kernels(Wanted("bf16", attention="whole"), CPU, 65)) == ["bf16 torch whole"]
    assert names(list_kernels(Wanted("float32", "onednn", "fused"), CPU, 65)) == ["float32 onednn fused"]
    assert all(way.threads == 7 for way in list_kernels(Wanted(threads=7), CPU, 65))


def test_kernels_that_would_compute_in_bf16_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "onednn_multiplies_in_float32", lambda: False)
    assert "onednn" not in " ".join(names(list_kernels(Wanted("float32"), CPU, 65)))
    with pytest.raises(ValueError, match="kernels=onednn would multiply float32 matrices in bf16 on this processor"):
        list_kernels(Wanted(kernels="onednn"), CPU, 65)


def test_all_float32_ways_give_float32_results() -> None:
    left, right = torch.randn(2, 256, 256)
    true = left.double() @ right.double()
    for way in list_kernels(Wanted("float32"), CPU, 65):
        way.use()
        torch.testing.assert_close((left @ right).double(), true, rtol=0, atol=1e-4)


def test_the_fastest_way_is_chosen_and_the_reason_given(tried: Callable[..., list[Kernels]]) -> None:
    tried(float32_onednn_whole=0.9, bf16_torch_whole=0.5)
    model = make_model()
    found = choose_kernels(model, LARGE, Wanted())
    assert found.chosen == Kernels("bf16", "torch", "whole", 2)
    assert found.describe().startswith(
        "bf16, whole attention, 2 threads: 2.00 times as fast as torch's default, float32, fused attention, 2 threads; "
    )
    assert [block.get_submodule("attn").fused for block in model.blocks] == [False] * 3


def test_noise_does_not_choose(tried: Callable[..., list[Kernels]]) -> None:
    tried(float32_torch_whole=0.97)
    found = choose_kernels(make_model(), LARGE, Wanted())
    assert found.chosen == Kernels("float32", "torch", "fused", 2) and "none of" in found.why


def test_training_and_inference_are_tried_apart(
    tried: Callable[..., list[Kernels]], monkeypatch: pytest.MonkeyPatch
) -> None:
    tried()
    model, seen, make_step = make_model(), list[bool](), trial._make_step

    def make_and_note(model: VisionTransformer, count: int, training: bool) -> object:
        seen.extend((training, model.training))
        return make_step(model, count, training)

    monkeypatch.setattr(trial, "_make_step", make_and_note)
    for training in (True, False):
        choose_kernels(model, Work(64, 10**9, training), Wanted())
    assert seen == [True, True, False, False]


def test_fewer_threads_are_tried_for_small_steps_alone(tried: Callable[..., list[Kernels]]) -> None:
    tried(threads_1=0.5)
    assert choose_kernels(make_model(), LARGE, Wanted()).chosen.threads == 1
    assert choose_kernels(make_model(), LARGE, Wanted(threads=2)).chosen.threads == 2
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trial, "LARGE_STEP", 0.0)
        assert choose_kernels(make_model(), LARGE, Wanted()).chosen.threads == 2


@pytest.mark.parametrize(
    ("work", "allowed", "reason", "threads"),
    [
        (Work(1, 10**9, True), True, "torch's defaults for small steps", 1),
        (Work(10**3, 10**4, True), True, "torch's defaults for a short run", 2),
        (Work(10**6, 10**9, True), False, "torch's defaults for deterministic runs", 2),
    ],
)
def test_nothing_is_tried_where_it_would_not_pay(
    work: Work, allowed: bool, reason: str, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "_NUM_THREADS", 2)
    monkeypatch.setattr(trial, "_race", lambda *given: pytest.fail("tried"))
    found = choose_kernels(make_model(), work, Wanted(), allowed)
    assert found.why == reason and found.chosen == Kernels("float32", "torch", "fused", threads) and not found.rates


def test_a_trial_changes_neither_the_model_nor_random_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "SMALL_STEP", 0.0)
    model = make_model(dropout=0.1).eval()
    before, blocks = {name: value.clone() for name, value in model.state_dict().items()}, list(model.blocks)
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    found = choose_kernels(model, Work(8, 10**9, True, patch_dropout=0.5), Wanted())
    assert len(found.rates) >= 2 and found.seconds > 0 and all(rate > 0 for rate in found.rates.values())
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert list(model.blocks) == blocks and not model.training and model.patch_dropout == 0
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.fixture
def long_run(tried: Callable[..., list[Kernels]], monkeypatch: pytest.MonkeyPatch) -> VisionTransformer:
    """A model whose training takes long enough to be compiled, on a machine with a compiler."""
    tried()
    monkeypatch.setattr(trial, "COMPILE_FROM", 1800.0)
    monkeypatch.setattr(trial.shutil, "which", lambda name: "/usr/bin/c++")
    return make_model()


def test_a_long_run_is_compiled_if_that_is_faster(long_run: VisionTransformer, monkeypatch: pytest.MonkeyPatch) -> None:
    everything_else = Wanted("bf16", "torch", "whole", 2)
    for gain, wanted in ((1.2, Wanted()), (1.0, Wanted()), (1.2, everything_else)):
        monkeypatch.setattr(trial, "_time_compiled", lambda *given, gain=gain: gain)
        found = choose_kernels(long_run, LARGE, wanted)
        assert found.chosen.compile == (gain > 1.1) and f"a compiled step is {gain:.2f} times as fast" in found.why
    assert found.why.startswith("as configured; ")


def test_nothing_is_compiled_where_it_would_not_pay(
    long_run: VisionTransformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial, "_time_compiled", lambda *given: pytest.fail("compiled"))
    short = Work(64, 10**9, True, limit=600.0)
    for work, wanted in ((short, Wanted()), (LARGE, Wanted(compile=False)), (LARGE, Wanted(compile=True))):
        assert choose_kernels(long_run, work, wanted).chosen.compile is (wanted.compile is True)
    monkeypatch.setattr(trial.shutil, "which", lambda name: None)
    assert "there is no C++ compiler" in choose_kernels(long_run, LARGE, Wanted()).why


def test_compiled_blocks_are_those_of_the_trial_alone(long_run: VisionTransformer) -> None:
    """By a compiler that changes nothing."""
    blocks, compile_any = list(long_run.blocks), torch.compile
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "compile", lambda block: compile_any(block, backend="eager"))
        assert "a compiled step is 1.00 times as fast" in choose_kernels(long_run, LARGE, Wanted()).why
    assert list(long_run.blocks) == blocks


def test_a_compiler_that_fails_is_not_used(long_run: VisionTransformer, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*given: object) -> VisionTransformer:
        raise RuntimeError("C++ compile error\nmore")

    monkeypatch.setattr(torch, "compile", fail)
    found = choose_kernels(long_run, LARGE, Wanted())
    assert not found.chosen.compile and "not compiled, which failed: C++ compile error" in found.why


def test_a_run_keeps_what_was_chosen(tried: Callable[..., list[Kernels]], tmp_path: Path) -> None:
    """The trial is made once; a run that is continued has all of it in its configuration."""
    order = tried(float32_onednn_whole=0.5)
    root = make_folder(tmp_path / "photos")
    run = train_run(tmp_path / "run", *photo_overrides(root), "training.epochs=400000", "training.max_minutes=0.05")
    saved = load_config(run.folder / "config.yaml").training
    assert (saved.precision, saved.kernels, saved.attention, saved.threads) == ("float32", "onednn", "whole", 2)
    assert saved.compile is False
    assert (
        "compute   float32 by oneDNN, whole attention, 2 threads: 2.00 times" in (run.folder / "train.log").read_text()
    )
    order.clear()
    config = replace(load_config(run.folder / "config.yaml"), resume=str(run.folder))
    assert choose_computing(config, make_model(), 30, World(0, 0, 1)) == config and not order


def test_the_precision_of_a_run_of_an_earlier_version_is_not_tried(tried: Callable[..., list[Kernels]]) -> None:
    tried(bf16_torch_whole=0.5)
    config = compose(*TINY, "training.epochs=100000")
    config = complete(config, 30, num_classes=10, in_channels=1, mean=[0.5], std=[0.25])
    assert choose_computing(config, make_model(), 30, World(0, 0, 1)).training.precision == "bf16"
    config = replace(config, resume="outputs/earlier")
    assert choose_computing(config, make_model(), 30, World(0, 0, 1)).training.precision == "float32"
