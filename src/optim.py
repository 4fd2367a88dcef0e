"""Optimizers over named parameters, learning rate schedules, and the exponential moving average of weights."""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import nn

from .config.schema import OptimizerConfig, SchedulerConfig

# Vectors, whatever their shape: weight decay would pull tokens and positions to zero for no benefit.
NO_DECAY = {"cls_token", "reg_token", "pos_embed"}
EMBEDDING = {"patch_embed", "norm_pre", *NO_DECAY}  # everything before the first block


def parameter_groups(model: nn.Module, weight_decay: float, layer_decay: float | None = None) -> list[dict]:
    """Return two groups for torch.optim: weight matrices with decay; norms, biases, tokens and positions without.

    With `layer_decay`, there are two groups per layer, without the empty ones. Their entry `lr_scale`, read by
    `set_learning_rate`, is layer_decay to the power of the number of layers above, as in fine-tuning BEiT (Bao et al.,
    arXiv 2106.08254). Frozen parameters are in no group.
    """
    trained = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    if layer_decay is None or layer_decay == 1:
        return _decayed_and_not(trained, weight_decay)
    head = len(list(model.get_submodule("blocks").children())) + 1
    groups = []
    for layer in range(head + 1):
        members = [(name, parameter) for name, parameter in trained if layer_of(name, head) == layer]
        extra = {"lr_scale": layer_decay ** (head - layer)}
        groups += [group | extra for group in _decayed_and_not(members, weight_decay)]
    return _nonempty(groups)


def layer_of(name: str, head: int) -> int:
    """Return a parameter's layer: 0 for the embedding, i + 1 for block i, `head` for the last norm and the head."""
    if name.startswith("blocks."):
        return int(name.split(".")[1]) + 1
    return 0 if name.split(".")[0] in EMBEDDING else head


def _decayed_and_not(named: list[tuple[str, nn.Parameter]], weight_decay: float) -> list[dict]:
    decayed: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for name, parameter in named:
        matrix = parameter.ndim >= 2 and name.rsplit(".", 1)[-1] not in NO_DECAY
        (decayed if matrix else rest).append(parameter)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": rest, "weight_decay": 0.0}]


def _nonempty(groups: list[dict]) -> list[dict]:
    """Drop groups without parameters, but keep one if all are empty: torch requires a group."""
    return [group for group in groups if group["params"]] or groups[:1]


def build_adamw(model: nn.Module, config: OptimizerConfig, layer_decay: float | None) -> torch.optim.Optimizer:
    groups = parameter_groups(model, config.weight_decay, layer_decay)
    return torch.optim.AdamW(groups, config.lr, _pair(config), config.eps or 1e-8, fused=True)


def build_adam(model: nn.Module, config: OptimizerConfig, layer_decay: float | None) -> torch.optim.Optimizer:
    groups = parameter_groups(model, config.weight_decay, layer_decay)
    return torch.optim.Adam(groups, config.lr, _pair(config), config.eps or 1e-8, fused=True)


def build_sgd(model: nn.Module, config: OptimizerConfig, layer_decay: float | None) -> torch.optim.Optimizer:
    groups = parameter_groups(model, config.weight_decay, layer_decay)
    return torch.optim.SGD(groups, config.lr, config.momentum or 0.0, nesterov=bool(config.nesterov))


def build_lion(model: nn.Module, config: OptimizerConfig, layer_decay: float | None) -> torch.optim.Optimizer:
    from lion_pytorch import Lion

    return Lion(parameter_groups(model, config.weight_decay, layer_decay), config.lr, _pair(config))


def build_muon(model: nn.Module, config: OptimizerConfig, layer_decay: float | None) -> torch.optim.Optimizer:
    return MuonWithAdamW(model, config, layer_decay)


def _pair(config: OptimizerConfig) -> tuple[float, float]:
    assert config.betas is not None  # the schema guarantees it for the optimizers that have betas
    return config.betas[0], config.betas[1]


class MuonWithAdamW(torch.optim.Optimizer):
    """Muon for the matrices of the blocks, AdamW for everything else, as Muon is meant to be used (arXiv 2502.16982).

    Muon's updates are scaled to the root mean square of AdamW's (section 2.2), so both share one learning rate and one
    weight decay.
    """

    def __init__(self, model: nn.Module, config: OptimizerConfig, layer_decay: float | None = None) -> None:
        blocks = {parameter for parameter in model.get_submodule("blocks").parameters() if parameter.ndim == 2}
        groups = parameter_groups(model, config.weight_decay, layer_decay)
        in_blocks, others = (
            [group | {"params": [p for p in group["params"] if (p in blocks) == wanted]} for group in groups]
            for wanted in (True, False)
        )
        self.parts: list[torch.optim.Optimizer] = [
            torch.optim.Muon(
                _nonempty(in_blocks),
                config.lr,
                config.weight_decay,
                momentum=config.momentum or 0.0,
                nesterov=bool(config.nesterov),
                adjust_lr_fn="match_rms_adamw",
            ),
            torch.optim.AdamW(_nonempty(others), config.lr, _pair(config), config.eps or 1e-8, fused=True),
        ]
        super().__init__([{"params": group["params"]} for part in self.parts for group in part.param_groups], {})
        # The same dicts as in the parts, so that they use a learning rate set here.
        self.param_groups = [group for part in self.parts for group in part.param_groups]

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for part in self.parts:
            part.step()

    def state_dict(self) -> dict:
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict) -> None:
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self.param_groups = [group for part in self.parts for group in part.param_groups]


OPTIMIZERS: dict[str, Callable[[nn.Module, OptimizerConfig, float | None], torch.optim.Optimizer]] = {
    "adamw": build_adamw,
    "adam": build_adam,
    "sgd": build_sgd,
    "lion": build_lion,
    "muon": build_muon,
}


def build_optimizer(
    model: nn.Module, config: OptimizerConfig, layer_decay: float | None = None
) -> torch.optim.Optimizer:
    """Build the optimizer `config.name` for the trainable parameters; `parameter_groups` explains `layer_decay`."""
    optimizer = OPTIMIZERS[config.name](model, config, layer_decay)
    set_learning_rate(optimizer, config.lr)
    return optimizer


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of every group, times its `lr_scale` if it has one."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("lr_scale", 1.0)


# Schedules after the warm-up: progress (0 to 1) -> fraction of the peak learning rate (1 to 0).
def _cosine(progress: float, config: SchedulerConfig) -> float:
    return (1 + math.cos(math.pi * progress)) / 2


def _linear(progress: float, config: SchedulerConfig) -> float:
    return 1 - progress


def _wsd(progress: float, config: SchedulerConfig) -> float:
    assert config.decay_share is not None
    return 1 - math.sqrt(max(0.0, 1 - (1 - progress) / config.decay_share))


def _constant(progress: float, config: SchedulerConfig) -> float:
    return 1.0


SCHEDULERS: dict[str, Callable[[float, SchedulerConfig], float]] = {
    "cosine": _cosine,
    "linear": _linear,
    "wsd": _wsd,
    "constant": _constant,
}


@dataclass(frozen=True)
class LearningRate:
    """The learning rate as a function of the step, counted from 0 over the whole run, so there is nothing to save.

    The warm-up is linear and reaches `peak` in its last step; the schedule reaches min_lr one step after the end.
    """

    config: SchedulerConfig
    peak: float
    steps_per_epoch: int
    epochs: int

    def __call__(self, step: int) -> float:
        warmup = round((self.config.warmup_epochs or 0.0) * self.steps_per_epoch)
        if step < warmup:
            return self.peak * (step + 1) / warmup
        floor = self.config.min_lr or 0.0
        progress = (step - warmup) / max(1, self.epochs * self.steps_per_epoch - warmup)
        return floor + (self.peak - floor) * SCHEDULERS[self.config.name](progress, self.config)


AnyModule = TypeVar("AnyModule", bound=nn.Module)


class ExponentialMovingAverage(Generic[AnyModule]):
    """An exponential moving average of the weights over all steps, in `model`.

    Its decay warms up with the number of steps, like that of TensorFlow's class of this name with `num_updates`, so the
    average never lags behind at the initial weights. Build it before the model is sharded, because sharded modules
    cannot be copied, then shard `model` in the same way.
    """

    def __init__(self, model: AnyModule, decay: float) -> None:
        self.decay = decay
        self.model = copy.deepcopy(model).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Move toward the weights after optimizer step number `step`, counted from 0 over the whole run."""
        decay = min(self.decay, (1 + step) / (10 + step))
        # Frozen weights are those of the average already.
        pairs = zip(self.model.parameters(), model.parameters(), strict=True)
        averages, weights = zip(*(pair for pair in pairs if pair[1].requires_grad), strict=True)
        # lerp, not a sum of two products: a weight that does not change keeps its bits.
        torch._foreach_lerp_(averages, weights, 1 - decay)
        for averaged, buffer in zip(self.model.buffers(), model.buffers(), strict=True):
            averaged.copy_(buffer)

    def state_dict(self) -> dict[str, Any]:
        return self.model.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.model.load_state_dict(state_dict)
