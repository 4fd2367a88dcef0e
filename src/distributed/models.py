"""Models over several processes, and their gradients.

"ddp": every process holds the whole model; gradients are averaged (Li et al., arXiv 2006.15704).
"fsdp": every process holds a shard of each tensor, its gradient and its optimizer state, and all of one block at a time
(Zhao et al., arXiv 2304.11277; here torch's FSDP2, in which parameters are DTensors).
"""

import contextlib
import inspect
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from .states import is_sharded
from .world import World

# Constant buffers need no broadcast before each forward pass. torch 2.13 renamed the option and warns of the old name.
_NAMES = inspect.signature(DistributedDataParallel).parameters
CONSTANT_BUFFERS: dict[str, Any] = {
    "forward_sync_buffers" if "forward_sync_buffers" in _NAMES else "broadcast_buffers": False
}


def wrap_model(model: nn.Module, world: World, strategy: str, device: torch.device) -> nn.Module:
    """Return the module to call in training, for `training.strategy=ddp|fsdp`; all processes get rank 0's weights.

    Both average gradients over processes, however many samples each has: a loss summed over the process's samples,
    divided by the size of the whole batch and multiplied by `world.size`, gives the gradients of the whole batch.
    A process without samples takes part with a loss of weight 0. fsdp changes the model itself, makes every call of it
    collective, and needs optimizers to be built afterward.
    """
    return model if world.size == 1 else STRATEGIES[strategy](model, device)


def _replicate(model: nn.Module, device: torch.device) -> nn.Module:
    # Tokens of shape (1, 1, D) get gradients with other strides in the dimensions of size 1, which has no effect.
    warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
    return DistributedDataParallel(
        model,
        device_ids=[device] if device.type == "cuda" else None,
        gradient_as_bucket_view=True,  # no static_graph: it fails if the first backward pass is inside no_sync
        **CONSTANT_BUFFERS,
    )


def _shard(model: nn.Module, device: torch.device) -> nn.Module:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    for tensor in (*model.parameters(), *model.buffers()):
        dist.broadcast(tensor.detach(), src=0)
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    # Reshard the root too after each forward pass; by default torch keeps it unsharded for a backward pass, which an
    # evaluation does not have.
    for module in (*model.get_submodule("blocks").children(), model):
        fully_shard(module, mesh=mesh, reshard_after_forward=True)
    return model


STRATEGIES: dict[str, Callable[[nn.Module, torch.device], nn.Module]] = {"ddp": _replicate, "fsdp": _shard}


@contextlib.contextmanager
def no_sync(network: nn.Module, last: bool) -> Iterator[None]:
    """Accumulate gradients locally in the enclosed forward and backward passes, except for the last micro-batch.

    network: as returned by `wrap_model`. With fsdp, gradients stay unsharded on every process until the last one.
    """
    require_sync: Callable | None = getattr(network, "set_requires_gradient_sync", None)  # a method of FSDP modules
    if last:
        yield
    elif isinstance(network, DistributedDataParallel):
        with network.no_sync():
            yield
    elif require_sync is not None:
        require_sync(False)
        try:
            yield
        finally:
            require_sync(True)
    else:
        yield


def grad_norm(parameters: Iterable[nn.Parameter]) -> Tensor:
    """Return the Euclidean norm of all gradients, 0-d, on their device; the host does not wait.

    Collective if they are sharded.
    """
    norm = nn.utils.get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])
    return norm.full_tensor() if is_sharded(norm) else norm


def clip_gradients(parameters: Iterable[nn.Parameter], norm: Tensor, max_norm: float) -> None:
    """Scale gradients with this norm, see `grad_norm`, down to max_norm, in place, if it is larger."""
    nn.utils.clip_grads_with_norm_(parameters, max_norm, norm)
