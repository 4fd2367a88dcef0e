"""Optimizers over named parameters, and learning rates as functions of the step."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from .config import OptimizerConfig, SchedulerConfig

# Vectors by nature whatever their shape: decay would pull tokens and positions to zero for nothing.
NO_DECAY = {"cls_token", "reg_token", "pos_embed"}


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Return two groups for torch.optim: weight matrices, decayed, and norms, biases, tokens, positions, not."""
    decayed: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            matrix = parameter.ndim >= 2 and name.rsplit(".", 1)[-1] not in NO_DECAY
            (decayed if matrix else rest).append(parameter)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": rest, "weight_decay": 0.0}]


def build_adamw(model: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    return torch.optim.AdamW(
        parameter_groups(model, config.weight_decay), config.lr, _pair(config), config.eps or 1e-8, fused=True
    )


def build_adam(model: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    return torch.optim.Adam(
        parameter_groups(model, config.weight_decay), config.lr, _pair(config), config.eps or 1e-8, fused=True
    )


def build_sgd(model: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    groups = parameter_groups(model, config.weight_decay)
    return torch.optim.SGD(groups, config.lr, config.momentum or 0.0, nesterov=bool(config.nesterov))


def build_lion(model: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    from lion_pytorch import Lion

    return Lion(parameter_groups(model, config.weight_decay), config.lr, _pair(config))


def build_muon(model: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    return MuonWithAdamW(model, config)


def _pair(config: OptimizerConfig) -> tuple[float, float]:
    assert config.betas is not None  # the schema sees to it for the optimizers that have them
    return config.betas[0], config.betas[1]


class MuonWithAdamW(torch.optim.Optimizer):
    """Muon on the matrices of the blocks, AdamW on all else, as Muon is meant to be used (arXiv 2502.16982).

    Muon's updates are scaled to AdamW's root mean square (there, section 2.2), so one learning rate and one
    weight decay serve both.
    """

    def __init__(self, model: nn.Module, config: OptimizerConfig) -> None:
        blocks = {parameter for parameter in model.get_submodule("blocks").parameters() if parameter.ndim == 2}
        adamw_groups = parameter_groups(model, config.weight_decay)
        for group in adamw_groups:
            group["params"] = [parameter for parameter in group["params"] if parameter not in blocks]
        self.parts: list[torch.optim.Optimizer] = [
            torch.optim.Muon(
                [parameter for parameter in model.parameters() if parameter in blocks and parameter.requires_grad],
                config.lr,
                config.weight_decay,
                momentum=config.momentum or 0.0,
                nesterov=bool(config.nesterov),
                adjust_lr_fn="match_rms_adamw",
            ),
            torch.optim.AdamW(adamw_groups, config.lr, _pair(config), config.eps or 1e-8, fused=True),
        ]
        super().__init__([{"params": group["params"]} for part in self.parts for group in part.param_groups], {})
        # The very dicts of the parts: a learning rate set here is the one that they use.
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


OPTIMIZERS: dict[str, Callable[[nn.Module, OptimizerConfig], torch.optim.Optimizer]] = {
    "adamw": build_adamw,
    "adam": build_adam,
    "sgd": build_sgd,
    "lion": build_lion,
    "muon": build_muon,
}


def build_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    return OPTIMIZERS[config.name](model, config)


# What is left of the learning rate after the warm-up: share of the way (0 to 1) -> share of the peak (1 to 0).
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
    """The learning rate of a step, counted from 0 over the whole run; a function, so there is nothing to save.

    The warm-up rises linearly and reaches `peak` at its last step; the schedule reaches min_lr one step after
    the end.
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
