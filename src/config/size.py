"""How large a configured model is, told before it is built."""

from typing import Any


def estimate_parameters(model: Any) -> int:
    """Return the number of parameters of a model's configuration, but for a few thousand, before it is built."""
    dim, hidden = model.embedding_dim, int(model.embedding_dim * model.mlp_ratio)
    height, width = model.image_size
    tokens = (height // model.patch_size) * (width // model.patch_size)
    positions = tokens * dim if model.position_embedding == "learned" else 0
    patches = (model.in_channels or 1) * model.patch_size**2
    return model.num_layers * (4 * dim**2 + 2 * dim * hidden) + positions + dim * (patches + (model.num_classes or 1))
