"""Several processes give what one gives. Two are started once; both run `checks` below and report what they saw."""

import copy
import json
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from src.data.images import Preprocessing
from src.data.load import Split
from src.data.storage import Images
from src.distributed.models import clip_gradients, grad_norm, no_sync, wrap_model
from src.distributed.states import gather_state, shard_model_state, shard_optimizer_state
from src.distributed.world import World, join_world, local_device
from src.engine.evaluation import evaluate
from src.model import VisionTransformer

ROOT = Path(__file__).resolve().parents[1]
CPU = torch.device("cpu")
STRATEGIES = ["ddp", "fsdp"]

# What both processes run.


def make_model(seed: int = 0) -> VisionTransformer:
    """Make a model with a frozen tensor, and with tensors that two processes cannot halve."""
    torch.manual_seed(seed)
    size: dict[str, Any] = {"image_size": 8, "patch_size": 4, "in_channels": 1, "num_classes": 3, "embedding_dim": 12}
    model = VisionTransformer(**size, num_layers=2, num_heads=2)
    model.pos_embed.requires_grad_(False)
    return model


def make_batch(count: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(count)
    return torch.randn(count, 1, 8, 8, generator=generator), torch.arange(count) % 3


def make_optimizer(model: nn.Module) -> torch.optim.Optimizer:
    """Make an AdamW whose eps drowns gradients that are zero but for rounding, as those of the keys' biases."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return torch.optim.AdamW(trained, 1e-2, eps=1e-4, fused=True)


def backward(network: nn.Module, world: World, count: int) -> None:
    """Add the gradients of this process's part of a batch; a dummy stands in where that is empty."""
    images, labels = make_batch(count)
    part = world.share(count)
    images, labels = images[part], labels[part]
    weight = float(len(labels) > 0)
    if not len(labels):
        images, labels = torch.zeros(1, 1, 8, 8), torch.zeros(1, dtype=torch.long)
    loss = nn.functional.cross_entropy(network(images), labels, reduction="sum") * weight
    (loss * world.size / count).backward()


def gradients(model: nn.Module) -> list[Tensor]:
    """Return all gradients, whole, on every process."""
    found = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    return [getattr(gradient, "full_tensor", gradient.clone)() for gradient in found]


def difference(some: list[Tensor], others: list[Tensor]) -> float:
    assert len(some) == len(others)
    return max(float((a - b).abs().max()) for a, b in zip(some, others, strict=True))


def train(model: nn.Module, network: nn.Module, optimizer: torch.optim.Optimizer, world: World, steps: range) -> None:
    for step in steps:
        optimizer.zero_grad()
        backward(network, world, 5 + step)
        clip_gradients(model.parameters(), grad_norm(model.parameters()), 1.0)
        optimizer.step()


def trained_alone(steps: int) -> tuple[VisionTransformer, torch.optim.Optimizer]:
    model = make_model()
    optimizer = make_optimizer(model)
    train(model, model, optimizer, World(0, 0, 1), range(steps))
    return model, optimizer


def check_talk(world: World) -> dict[str, Any]:
    sums = [torch.tensor([1.5, world.rank], dtype=torch.float64), torch.tensor(world.rank + 1)]
    world.sum(*sums)
    agreement = world.agreement(2)
    agreed = [agreement([step + world.rank, -step]) for step in range(3)]
    return {
        "rank": [world.rank, world.local_rank, world.size, world.main],
        "again": join_world(CPU) is world,
        "sum": [tensor.tolist() for tensor in sums],
        "max": [world.max(7 - world.rank), world.max(0.25 * world.rank)],
        "broadcast": world.broadcast({"folder": f"runs/{world.rank}", "x": torch.tensor(world.rank)})["folder"],
        "agreed": [*agreed, agreement([0, 0]), agreement([0, 0])],
    }


def check_gradients(world: World, strategy: str) -> dict[str, Any]:
    """Compare gradients with those of one process, for uneven parts and for micro-batches, and clip them."""
    alone, model = make_model(), make_model(seed=world.rank)  # rank 0's weights are to be taken
    network = wrap_model(model, world, strategy, CPU)
    found: dict[str, Any] = {}
    for count in (5, 4, 1):
        backward(alone, World(0, 0, 1), count)
        with no_sync(network, last=count == 1):
            backward(network, world, count)
        if count == 4:
            found["before the last"] = None if model.head.bias.grad is None else model.head.bias.grad.tolist()
    found["accumulated"] = difference(gradients(model), gradients(alone))
    norm, wanted = grad_norm(model.parameters()), nn.utils.clip_grad_norm_(alone.parameters(), 0.1)
    clip_gradients(model.parameters(), norm, 0.1)
    found["norm"] = [norm.item(), wanted.item()]
    found["clipped"] = difference(gradients(model), gradients(alone))
    for count in (5, 1):
        alone.zero_grad()
        model.zero_grad()
        backward(alone, World(0, 0, 1), count)
        backward(network, world, count)
        found[f"of {count}"] = difference(gradients(model), gradients(alone))
    return found


def check_states(world: World, strategy: str, folder: Path) -> dict[str, Any]:
    """Train three steps, then load what one process has saved after three, and train on."""
    alone, optimizer_alone = trained_alone(3)
    model = make_model()
    network = wrap_model(model, world, strategy, CPU)
    optimizer = make_optimizer(model)
    train(model, network, optimizer, world, range(3))
    state = gather_state({"model": model.state_dict(), "optimizer": optimizer.state_dict()})
    found: dict[str, Any] = {"model": None}
    if world.main:
        found["model"] = difference(list(state["model"].values()), list(alone.state_dict().values()))
        torch.save(state, folder / f"{strategy}.pt")
    else:
        found["elsewhere"] = sorted({type(tensor).__name__ for tensor in state["model"].values()})

    saved = copy.deepcopy({"model": alone.state_dict(), "optimizer": optimizer_alone.state_dict()})
    model.load_state_dict(shard_model_state(model, saved["model"]))
    optimizer.load_state_dict(shard_optimizer_state(optimizer, saved["optimizer"]))
    found["loaded"] = sorted({type(value).__name__ for value in optimizer.state_dict()["state"][2].values()})
    state = gather_state({"model": model.state_dict(), "optimizer": optimizer.state_dict()})
    found["equal"] = equal(state, saved) if world.main else None
    train(model, network, optimizer, world, range(3, 5))
    train(alone, alone, optimizer_alone, World(0, 0, 1), range(3, 5))
    weights = gather_state(model.state_dict())
    found["later"] = difference(list(weights.values()), list(alone.state_dict().values())) if world.main else 0.0
    return found


def equal(one: Any, other: Any) -> bool:
    """Tell whether two states are the same to the bit, in keys, types and numbers."""
    if isinstance(one, dict):
        return list(one) == list(other) and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(equal, one, other))
    if isinstance(one, Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    return type(one) is type(other) and one == other


def check_evaluation(world: World) -> list[str]:
    """Return the kinds of parameters after a pass without gradients."""
    model = wrap_model(make_model(), world, "fsdp", CPU)
    with torch.no_grad():
        model.eval()(make_batch(2)[0])
    return sorted({type(parameter).__name__ for parameter in model.parameters()})


def check_predictions(world: World, count: int) -> dict[str, Any]:
    """Return the predictions for images in batches of two, with those of one process."""
    pixels = torch.randint(256, (count, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    split = Split(Images(pixels), torch.arange(count) % 3)
    look = Preprocessing((8, 8), "crop", "bilinear", 1, (0.5,), (0.1,))
    model, alone = make_model(), make_model()
    wrap_model(model, world, "fsdp", CPU)
    results = [
        evaluate(network, split, look, 2, torch.float32, processes, each_image=True)
        for network, processes in ((model, world), (alone, World(0, 0, 1)))
    ]
    found: dict[str, Any] = {"accuracy": [result.accuracy for result in results]}
    for name in ("predictions", "confidences"):
        found[name] = [getattr(result, name).tolist() for result in results]
    return found


def check_refusals(world: World) -> list[str]:
    optimizer = make_optimizer(wrap_model(make_model(), world, "fsdp", CPU))
    messages = []
    for refused in (
        lambda: shard_optimizer_state(optimizer, {"parts": []}),
        lambda: join_world(torch.device("cuda")),
    ):
        with pytest.raises(ValueError) as caught:
            refused()
        messages.append(str(caught.value))
    return messages


def checks(folder: Path) -> None:
    world = join_world(CPU)
    report: dict[str, Any] = {
        "talk": check_talk(world),
        "refusals": check_refusals(world),
        "kinds": check_evaluation(world),
    }
    report["predictions"] = [check_predictions(world, count) for count in (1, 5, 8, 9)]
    for strategy in STRATEGIES:
        report[strategy] = check_gradients(world, strategy) | check_states(world, strategy, folder)
    (folder / f"{world.rank}.json").write_text(json.dumps(report))


def fail_in_one(folder: Path) -> None:
    world = join_world(CPU)
    world.agreement(1)([0.0])
    if world.rank == 1:
        raise RuntimeError("process 1 fails, and process 0 waits")
    world.max(0)


if __name__ == "__main__":
    warnings.simplefilter("error")
    torch.set_num_threads(1)
    {"checks": checks, "fail_in_one": fail_in_one}[sys.argv[1]](Path(sys.argv[2]))


# What pytest runs.


def launch(name: str, folder: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*command, __file__, name, str(folder)], env=environment, capture_output=True, text=True, timeout=120
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("two")


@pytest.fixture(scope="module")
def reports(folder: Path) -> list[dict[str, Any]]:
    """What each of two processes saw, after they ended without a warning."""
    result = launch("checks", folder)
    assert result.returncode == 0 and "Warning" not in result.stderr, result.stderr
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


def test_processes_know_their_places_and_join_once(reports: list[dict[str, Any]]) -> None:
    assert [report["talk"]["rank"] for report in reports] == [[0, 0, 2, True], [1, 1, 2, False]]
    assert all(report["talk"]["again"] for report in reports)


def test_sums_maxima_and_broadcasts_are_the_same_everywhere(reports: list[dict[str, Any]]) -> None:
    for report in reports:
        assert report["talk"]["sum"] == [[3.0, 1.0], 3]
        assert report["talk"]["max"] == [7, 0.25]
        assert report["talk"]["broadcast"] == "runs/0"


def test_an_agreement_is_about_the_call_before_and_the_same_everywhere(reports: list[dict[str, Any]]) -> None:
    for report in reports:
        assert report["talk"]["agreed"] == [[0, 0], [1, 0], [2, -1], [3, -2], [0, 0]]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_gradients_of_uneven_and_empty_parts_are_those_of_one_process(
    reports: list[dict[str, Any]], strategy: str
) -> None:
    for report in reports:
        assert report[strategy]["of 5"] < 1e-6 and report[strategy]["of 1"] < 1e-6


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_accumulated_gradients_are_those_of_one_process_and_sent_once(
    reports: list[dict[str, Any]], strategy: str
) -> None:
    assert reports[0][strategy]["accumulated"] < 2e-6 and reports[1][strategy]["accumulated"] < 2e-6
    mine, others = (report[strategy]["before the last"] for report in reports)
    if strategy == "ddp":
        assert mine != others
    else:  # gradients reach the sharded parameters with the last one
        assert mine is None and others is None


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_clipping_sees_the_norm_of_the_whole_gradient(reports: list[dict[str, Any]], strategy: str) -> None:
    for report in reports:
        assert report[strategy]["norm"][0] == pytest.approx(report[strategy]["norm"][1], rel=1e-6)
        assert report[strategy]["norm"][0] > 1 and report[strategy]["clipped"] < 1e-7


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_three_steps_of_two_processes_are_three_steps_of_one(reports: list[dict[str, Any]], strategy: str) -> None:
    assert reports[0][strategy]["model"] < 2e-6 and reports[0][strategy]["later"] < 2e-6
    assert reports[1]["fsdp"]["elsewhere"] == ["NoneType"]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_state_of_one_process_is_loaded_and_gathered_bit_for_bit(
    reports: list[dict[str, Any]], strategy: str
) -> None:
    assert reports[0][strategy]["equal"]
    assert reports[1][strategy]["loaded"] == (["DTensor", "Tensor"] if strategy == "fsdp" else ["Tensor"])


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_file_of_two_processes_is_loaded_by_one(reports: list[dict[str, Any]], folder: Path, strategy: str) -> None:
    alone, optimizer_alone = trained_alone(3)
    state = torch.load(folder / f"{strategy}.pt", weights_only=True)
    model = make_model(seed=1)
    optimizer = make_optimizer(model)
    model.load_state_dict(shard_model_state(model, state["model"]))
    optimizer.load_state_dict(shard_optimizer_state(optimizer, state["optimizer"]))
    assert list(state["model"]) == list(alone.state_dict())
    for one, two in ((alone, model), (optimizer_alone, optimizer)):
        assert tensors_of(one.state_dict()).keys() == tensors_of(two.state_dict()).keys()
        for key, tensor in tensors_of(one.state_dict()).items():
            assert torch.allclose(tensor, tensors_of(two.state_dict())[key], atol=2e-6), key


def tensors_of(state: Any, key: str = "") -> dict[str, Tensor]:
    if isinstance(state, Tensor):
        return {key: state}
    items = state.items() if isinstance(state, dict) else enumerate(state) if isinstance(state, list) else ()
    return {name: tensor for k, item in items for name, tensor in tensors_of(item, f"{key}.{k}").items()}


def test_parameters_are_parts_again_after_an_evaluation(reports: list[dict[str, Any]]) -> None:
    assert [report["kinds"] for report in reports] == [["DTensor"], ["DTensor"]]


def test_each_image_has_the_prediction_that_one_process_makes_of_it(reports: list[dict[str, Any]]) -> None:
    """For images that leave a process without one in the last round, too."""
    for report in reports:
        for found in report["predictions"]:
            ours, alone = found["predictions"]
            assert ours == alone and found["accuracy"][0] == found["accuracy"][1]
            assert found["confidences"][0] == pytest.approx(found["confidences"][1], abs=1e-6)
        assert len(set(report["predictions"][3]["predictions"][1])) > 1 and len(ours) == 9


def test_what_sharded_parameters_and_joined_processes_cannot_do_is_refused(reports: list[dict[str, Any]]) -> None:
    muon, other_device = reports[1]["refusals"]
    assert muon == "training.strategy=fsdp cannot be used with optimizer=muon; use training.strategy=ddp"
    assert other_device.startswith("device=cuda after a job on another device")


def test_a_process_that_fails_ends_all_and_says_why(tmp_path: Path) -> None:
    result = launch("fail_in_one", tmp_path)
    assert result.returncode == 1 and "RuntimeError: process 1 fails, and process 0 waits" in result.stderr


@pytest.mark.parametrize("size", [1, 2, 3, 8])
@pytest.mark.parametrize("count", [0, 1, 5, 7, 8, 1000])
def test_shares_cover_all_in_order_and_differ_by_one_at_most(count: int, size: int) -> None:
    shares = [list(range(count))[World(rank, rank, size).share(count)] for rank in range(size)]
    assert sum(shares, []) == list(range(count))
    lengths = [len(share) for share in shares]
    assert max(lengths) - min(lengths) <= 1 and lengths[0] == max(lengths)


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def set_variables(**variables: int) -> None:
        for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, str(value))

    set_variables()
    return set_variables


@pytest.mark.parametrize("variables", [{}, {"WORLD_SIZE": 1, "RANK": 0, "LOCAL_RANK": 0}])
def test_a_world_of_one_needs_no_others(environment: Callable[..., None], variables: dict[str, int]) -> None:
    environment(**variables)
    world = join_world(torch.device("mps"))
    model, tensor, agreement = make_model(), torch.tensor([1.0, 2.0]), world.agreement(2)
    world.sum(tensor)
    assert world == World(0, 0, 1) and world.main and not torch.distributed.is_initialized()
    assert tensor.tolist() == [1.0, 2.0] and world.max(3) == 3 and world.broadcast(model) is model
    assert agreement([1, 2]) == [1, 2] and agreement([0, 0]) == [0, 0]
    assert wrap_model(model, world, "fsdp", CPU) is model
    with no_sync(model, last=False):
        backward(model, world, 2)
    state = gather_state(model.state_dict())
    assert all(state[name] is tensor for name, tensor in shard_model_state(model, state).items())
    assert local_device(torch.device("cuda:1")) == torch.device("cuda:1")


def test_each_process_takes_the_device_of_its_number(
    environment: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    environment(WORLD_SIZE=4, RANK=3, LOCAL_RANK=1)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert local_device(torch.device("cuda")) == torch.device("cuda:1") and local_device(CPU) == CPU
    with pytest.raises(ValueError, match="device=cuda:1 with 4 processes: leave the number out"):
        local_device(torch.device("cuda:1"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ValueError, match=r"process 1 of this machine has no device, torch sees 1; .*per-node=1"):
        local_device(torch.device("cuda"))


def test_several_processes_that_cannot_work_together_are_refused(environment: Callable[..., None]) -> None:
    environment(WORLD_SIZE=2, RANK=0, LOCAL_RANK=0)
    with pytest.raises(ValueError, match="device=mps with 2 processes; allowed: device=cpu or cuda"):
        join_world(torch.device("mps"))
    environment(WORLD_SIZE=2, LOCAL_RANK=0)
    with pytest.raises(ValueError, match="WORLD_SIZE=2 is in the environment, but no RANK; start with torchrun"):
        join_world(CPU)


@pytest.mark.parametrize("max_norm", [0.1, 1e6])
def test_clipping_in_one_process_is_torchs_own_bit_for_bit(max_norm: float) -> None:
    ours, theirs = make_model(), make_model()
    for model in (ours, theirs):
        backward(model, World(0, 0, 1), 4)
    norm = grad_norm(ours.parameters())
    clip_gradients(ours.parameters(), norm, max_norm)
    assert torch.equal(norm, nn.utils.clip_grad_norm_(theirs.parameters(), max_norm))
    assert all(map(torch.equal, gradients(ours), gradients(theirs)))
