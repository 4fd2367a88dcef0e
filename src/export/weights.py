"""Weights for programs that know timm's ViT: all positions are written out, and grayscale gets three channels.

Letters: D embedding dimension, P patch size.
"""

from pathlib import Path

from torch import Tensor
from torch.nn.functional import pad

from ..machine.disk import write_bytes
from ..model import VisionTransformer
from .bundle import Bundle
from .color import LUMA

LAST_OF_BRANCHES = ("attn.proj.weight", "attn.proj.bias", "mlp.fc2.weight", "mlp.fc2.bias")


def collect_weights(bundle: Bundle) -> dict[str, Tensor]:
    """Return copies of the weights by timm's names, float32, with fixed positions, too, and for images in color."""
    weights = {name: tensor.detach().float().clone() for name, tensor in bundle.model.state_dict().items()}
    weights["pos_embed"] = bundle.model.pos_embed.detach().float().clone()
    if bundle.preprocessing.channels == 1:
        gray = weights["patch_embed.proj.weight"].double()  # (D,1,P,P)
        weights["patch_embed.proj.weight"] = (gray * LUMA.view(1, 3, 1, 1)).float()
    return weights


def scale_for_eps(weights: dict[str, Tensor], factor: float) -> None:
    """Scale what enters each LayerNorm, in place, for a program whose eps is factor² times as large.

    norm(f x, f² eps) is norm(x, eps). The norms undo the scale; so all that is added up between them has to have it.
    """
    if factor == 1:
        return
    starts = ("cls_token", "reg_token", "pos_embed", "patch_embed.proj.", "norm_pre.")
    ends = (".gamma",) if "blocks.0.ls1.gamma" in weights else LAST_OF_BRANCHES
    for name, tensor in weights.items():
        if name.startswith(starts) or name.endswith(ends):
            tensor.mul_(factor)
        elif "attn.qkv." in name and "blocks.0.attn.q_norm.weight" in weights:
            tensor[: len(tensor) // 3 * 2].mul_(factor)  # queries and keys, which have norms of their own


def absorb_bias(weights: dict[str, Tensor], model: VisionTransformer) -> None:
    """Move the bias of the patch projection into the positions of the patches, in place."""
    bias = weights.pop("patch_embed.proj.bias")
    patches = bias.expand(model.num_tokens - model.num_prefix_tokens, -1)
    weights["pos_embed"] += pad(patches, (0, 0, model.num_prefix_tokens, 0))


def write_weights(path: Path, weights: dict[str, Tensor]) -> None:
    """Write a .safetensors file; transformers 4 reads none that does not name its framework."""
    from safetensors.torch import save

    write_bytes(path, save({name: tensor.contiguous() for name, tensor in weights.items()}, {"format": "pt"}))
