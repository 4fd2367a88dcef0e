"""How large a configured model is, told before it is built."""

from .schema import ModelConfig


def estimate_parameters(model: ModelConfig) -> int:
    """Return the number of parameters of a configured model, but for a few thousand."""
    dim, hidden = model.embedding_dim, int(model.embedding_dim * model.mlp_ratio)
    assert model.image_size is not None and model.patch_size is not None  # of a resolved configuration
    height, width = model.image_size
    tokens = (height // model.patch_size) * (width // model.patch_size)
    positions = tokens * dim if model.position_embedding == "learned" else 0
    patches = (model.in_channels or 1) * model.patch_size**2
    return model.num_layers * (4 * dim**2 + 2 * dim * hidden) + positions + dim * (patches + (model.num_classes or 1))
