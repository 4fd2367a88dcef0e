"""Training in several processes, started by torchrun; with one process everything here does nothing."""

from .models import clip_gradients, grad_norm, no_sync, wrap_model
from .states import gather_state, shard_model_state, shard_optimizer_state
from .world import Agreement, World, join_world, local_device

__all__ = [
    "Agreement",
    "World",
    "clip_gradients",
    "gather_state",
    "grad_norm",
    "join_world",
    "local_device",
    "no_sync",
    "shard_model_state",
    "shard_optimizer_state",
    "wrap_model",
]
