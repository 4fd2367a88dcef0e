"""Which model weights are of, told by the names and shapes of their tensors."""

import math
import re
from typing import Any

from torch import Tensor

from ..config.overrides import show_value

POSITIONS, CLASS, REGISTERS = "pos_embed", "cls_token", "reg_token"
PATCHES = "patch_embed.proj.weight"
# All names that tensors of a `VisionTransformer` can have, whatever its options.
NAMES = re.compile(
    r"cls_token|pos_embed|reg_token|patch_embed\.(proj|stem\.\d+)\.(weight|bias)|(norm_pre|norm|head)\.(weight|bias)"
    r"|blocks\.\d+\.((norm[12]|attn\.(qkv|proj|[qk]_norm)|mlp\.fc[12])\.(weight|bias)|ls[12]\.gamma)"
)
# Tensors that images do not pass on their way to the tokens: heads, decoders, and what only training needs.
ASIDE = re.compile(
    r"(heads?|head_\w+|\w+_head|fc|classifier|decoder|decoder_\w+|projector|predictor|pooler|pre_logits|masked_embed|mask_token|n_averaged)(\.|$)"
)
# Of published ViTs by their embedding dimension: Ti, S, B, L, SoViT-400m, H, g, G.
NUM_HEADS = {192: 3, 384: 6, 768: 12, 1024: 16, 1152: 16, 1280: 16, 1408: 16, 1664: 16}
LEAST_SHARE = 0.5  # of the model's tensors; a file with fewer is never of this model


def read_architecture(weights: dict[str, Tensor]) -> dict[str, Any]:
    """Return the keys of `model` with the values that names and shapes of weights tell.

    Not among them is the number of heads, which no tensor tells; that layer_scale is 1e-5 only means that there is one.
    patch_size: the side of the windows, which are not the patches if the stem is overlap.
    """
    sizes = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    layers = {int(found[1]) for name in sizes if (found := re.match(r"blocks\.(\d+)\.", name))}
    dim = (sizes.get("norm.weight") or sizes.get("blocks.0.norm1.weight") or (0,))[0]
    hidden = sizes.get("blocks.0.mlp.fc1.bias", (0,))[0]
    convolutions = [name for name, size in sizes.items() if name.startswith("patch_embed.stem.") and len(size) == 4]
    return {
        "embedding_dim": dim,
        "num_layers": len(layers),
        "mlp_ratio": _read_ratio(hidden, max(dim, 1)),
        "stem": "conv" if convolutions else "patch",
        "patch_size": 2 ** len(convolutions) if convolutions else sizes.get(PATCHES, (0,))[-1],  # each halves the image
        "pooling": "cls" if CLASS in sizes else "mean",
        "position_embedding": "learned" if POSITIONS in sizes else "sincos2d",
        "num_registers": sizes[REGISTERS][1] if REGISTERS in sizes else 0,
        "qkv_bias": "blocks.0.attn.qkv.bias" in sizes,
        "qk_norm": "blocks.0.attn.q_norm.weight" in sizes,
        "pre_norm": "norm_pre.weight" in sizes,
        "layer_scale": 1e-5 if "blocks.0.ls1.gamma" in sizes else None,
    }


def describe_key(key: str, value: Any) -> str:
    """Return a value of `read_architecture` as it is typed; windows of 2P - 1 pixels as both kinds of patches."""
    if isinstance(value, float):
        return f"{value:.12g}".replace("e-0", "e-")
    overlapping = key == "patch_size" and value % 2 and value > 1
    return show_value(value) + (f" (or model.stem=overlap model.patch_size={(value + 1) // 2})" if overlapping else "")


def infer_model(weights: dict[str, Tensor]) -> dict[str, Any]:
    """Return the keys of `model` that weights tell, with those that are usual for them; {} if they are of no ViT.

    The number of heads is that of published models of the width; of others it is left out. image_size: where the
    positions are a square.
    """
    if "blocks.0.norm1.weight" not in weights or PATCHES not in weights:
        return {}
    model = read_architecture(weights)
    if model["pre_norm"]:
        model["norm_eps"] = 1e-5  # of CLIP, the only one that has it
    if model["embedding_dim"] in NUM_HEADS:
        model["num_heads"] = NUM_HEADS[model["embedding_dim"]]
    if POSITIONS in weights and weights[POSITIONS].ndim == 3:
        squares = list_squares(weights[POSITIONS].shape[1], int(CLASS in weights), model["num_registers"])
        if squares:
            model["image_size"] = (squares[0][0] * model["patch_size"],) * 2
    return model


def list_squares(num_positions: int, num_class: int, num_registers: int) -> list[tuple[int, int]]:
    """Return the side of a square of patches, and the number of positions before it, for each way to have these.

    All of the class tokens and registers may have a position, only the class token, or none (`no_embed_class` of timm).
    """
    found = [
        (math.isqrt(max(0, num_positions - prefix)), prefix) for prefix in (num_class + num_registers, num_class, 0)
    ]
    return [(side, prefix) for side, prefix in found if side and side * side + prefix == num_positions]


def _read_ratio(hidden: int, dim: int) -> float:
    """Return the ratio of the MLP's width to the tokens' that gives exactly this width."""
    ratio = hidden / dim
    return ratio if int(dim * ratio) == hidden else (hidden + 0.5) / dim  # it is rounded down
