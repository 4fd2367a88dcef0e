"""Which model weights are of, told by the names and shapes of their tensors."""

import math
import re
from typing import Any

from torch import Tensor

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


def read_architecture(weights: dict[str, Tensor]) -> dict[str, str]:
    """Return the keys of `model` that names and shapes of weights tell, as they are typed.

    Not among them is the number of heads, which no tensor tells.
    """
    sizes = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    layers = {int(found[1]) for name in sizes if (found := re.match(r"blocks\.(\d+)\.", name))}
    dim = sizes.get("norm.weight") or sizes.get("blocks.0.norm1.weight") or (0,)
    hidden = sizes.get("blocks.0.mlp.fc1.bias", (0,))
    return {
        "embedding_dim": str(dim[0]),
        "num_layers": str(len(layers)),
        "mlp_ratio": f"{_read_ratio(hidden[0], max(dim[0], 1)):.12g}",
        **_read_patches(sizes),
        "pooling": "cls" if CLASS in sizes else "mean",
        "position_embedding": "learned" if POSITIONS in sizes else "sincos2d",
        "num_registers": str(sizes[REGISTERS][1] if REGISTERS in sizes else 0),
        "qkv_bias": str("blocks.0.attn.qkv.bias" in sizes).lower(),
        "qk_norm": str("blocks.0.attn.q_norm.weight" in sizes).lower(),
        "pre_norm": str("norm_pre.weight" in sizes).lower(),
        "layer_scale": "1e-5" if "blocks.0.ls1.gamma" in sizes else "null",
    }


def infer_model(weights: dict[str, Tensor]) -> dict[str, Any]:
    """Return the keys of `model` with the values that names and shapes of weights tell; {} if they are of no ViT.

    The number of heads is that of published models of the width; of others it is left out. image_size: where the
    positions are a square.
    """
    sizes = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    if "blocks.0.norm1.weight" not in sizes or PATCHES not in sizes:
        return {}
    dim, told = sizes["blocks.0.norm1.weight"][0], read_architecture(weights)
    model: dict[str, Any] = {key: told[key] for key in ("pooling", "position_embedding", "stem")}
    model |= {key: int(told[key]) for key in ("embedding_dim", "num_layers", "num_registers")}
    model |= {key: told[key] == "true" for key in ("qkv_bias", "qk_norm", "pre_norm")}
    model |= {"mlp_ratio": _read_ratio(sizes.get("blocks.0.mlp.fc1.weight", (4 * dim,))[0], dim)}
    model |= {"layer_scale": None if told["layer_scale"] == "null" else 1e-5}
    model |= {"patch_size": int(told["patch_size"].split(" ")[0])}
    if model["pre_norm"]:
        model["norm_eps"] = 1e-5  # of CLIP, the only one that has it
    if dim in NUM_HEADS:
        model["num_heads"] = NUM_HEADS[dim]
    if POSITIONS in sizes and len(sizes[POSITIONS]) == 3:
        num_class, num_registers = int(CLASS in sizes), model["num_registers"]
        prefixes = (num_class + num_registers, num_class, 0)
        sides = [math.isqrt(max(0, sizes[POSITIONS][1] - prefix)) for prefix in prefixes]
        fitting = [s for s, prefix in zip(sides, prefixes, strict=True) if s and s * s + prefix == sizes[POSITIONS][1]]
        if fitting:
            model["image_size"] = (fitting[0] * model["patch_size"],) * 2
    return model


def _read_ratio(hidden: int, dim: int) -> float:
    """Return the ratio of the MLP's width to the tokens' that gives exactly this width."""
    ratio = hidden / dim
    return ratio if int(dim * ratio) == hidden else (hidden + 0.5) / dim  # it is rounded down


def _read_patches(sizes: dict[str, tuple[int, ...]]) -> dict[str, str]:
    """Return `stem` and `patch_size`; windows of 2P - 1 pixels are shown as both kinds of patches that have them."""
    convolutions = [name for name, size in sizes.items() if name.startswith("patch_embed.stem.") and len(size) == 4]
    if convolutions:  # each halves the image
        return {"stem": "conv", "patch_size": str(2 ** len(convolutions))}
    window = sizes.get("patch_embed.proj.weight", (0,))[-1]
    overlap = f" (or model.stem=overlap model.patch_size={(window + 1) // 2})" if window % 2 and window > 1 else ""
    return {"stem": "patch", "patch_size": f"{window}{overlap}"}
