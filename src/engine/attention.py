"""Where a model looks. Letters: n images, L layers, N tokens."""

import torch
from torch import Tensor

from ..model import VisionTransformer


@torch.no_grad()
def attention_to_patches(model: VisionTransformer, images: Tensor, layers: list[int]) -> Tensor:
    """Return the attention to the patches in the given layers, averaged over heads: (n, L, rows, columns), on the CPU.

    It is that of the class token or, with mean pooling, the average over all patches.
    """
    first = model.num_prefix_tokens
    maps = model.attention_maps(images)
    chosen = torch.stack([maps[layer].mean(1) for layer in layers], dim=1)  # (n, L, N, N)
    queries = chosen[:, :, 0] if model.pooling == "cls" else chosen[:, :, first:].mean(2)
    return queries[..., first:].unflatten(-1, model.grid_size).float().cpu()
