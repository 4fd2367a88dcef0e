"""States of models and optimizers in files: unsharded plain tensors, whichever strategy trained them."""

from typing import TYPE_CHECKING, Any, TypeGuard

import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor


def is_sharded(value: object) -> "TypeGuard[DTensor]":
    """Return whether this is a DTensor; with a single process, its slow module is not imported."""
    if not (isinstance(value, Tensor) and dist.is_available() and dist.is_initialized()):
        return False
    from torch.distributed.tensor import DTensor

    return isinstance(value, DTensor)


def gather_state(value: Any) -> Any:
    """Return a state (nested dicts, lists, tuples) with sharded tensors gathered on the CPU of rank 0; collective.

    The other processes get None in place of such a tensor, although each device briefly holds all of it. Everything
    else is passed through, in every process.
    """
    if isinstance(value, dict):
        return {key: gather_state(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(gather_state(item) for item in value)
    if not is_sharded(value):
        return value
    whole = value.full_tensor()
    return whole.cpu() if value.device_mesh.get_rank() == 0 else None


def shard_model_state(model: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return a state for `model.load_state_dict`, from a state of unsharded tensors that every process has."""
    own = model.state_dict()
    return {name: _shard_like(own.get(name), tensor) for name, tensor in state.items()}


def shard_optimizer_state(optimizer: Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    """Return a state for `optimizer.load_state_dict`, from a state of unsharded tensors that every process has.

    Tensors of a parameter's shape are sharded like it; others, the step counts, are unchanged. Raises ValueError for
    Muon with sharded parameters.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    if not any(is_sharded(parameter) for parameter in parameters):
        return state
    if "state" not in state:
        raise ValueError("training.strategy=fsdp cannot be used with optimizer=muon; use training.strategy=ddp")
    # torch numbers the parameters across all groups, in this order.
    sharded = {
        number: {name: _shard_like(parameters[number], value) for name, value in values.items()}
        for number, values in state["state"].items()
    }
    return {**state, "state": sharded}


def _shard_like(own: Tensor | None, value: Any) -> Any:
    """Return this process's shard of an unsharded tensor, sharded like `own`; without communication."""
    if not is_sharded(own) or not isinstance(value, Tensor) or value.shape != own.shape:
        return value
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value, own.device_mesh, own.placements, src_data_rank=None)
