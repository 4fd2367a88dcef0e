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
    r"(heads?|head_\w+|\w+_head|fc|classifier|decoder|decoder_\w+|projector|predictor|pooler|mask_token|n_averaged)(\.|$)"
)
HEAD_DIM = 64  # of published ViTs, but for these:
NUM_HEADS = {1152: 16, 1280: 16, 1408: 16, 1664: 16}  # SoViT-400m, ViT-H, ViT-g, ViT-G by their embedding dimension
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
        "mlp_ratio": f"{hidden[0] / max(dim[0], 1):g}",
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

    The number of heads is that of published models of the width. image_size: where the positions are a square.
    """
    sizes = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    if "blocks.0.norm1.weight" not in sizes or PATCHES not in sizes:
        return {}
    dim, told = sizes["blocks.0.norm1.weight"][0], read_architecture(weights)
    model: dict[str, Any] = {key: told[key] for key in ("pooling", "position_embedding", "stem")}
    model |= {key: int(told[key]) for key in ("embedding_dim", "num_layers", "num_registers")}
    model |= {key: told[key] == "true" for key in ("qkv_bias", "qk_norm", "pre_norm")}
    model |= {"mlp_ratio": sizes["blocks.0.mlp.fc1.weight"][0] / dim if "blocks.0.mlp.fc1.weight" in sizes else 4.0}
    model |= {"layer_scale": None if told["layer_scale"] == "null" else 1e-5}
    model |= {"patch_size": int(told["patch_size"].split(" ")[0])}
    if model["pre_norm"]:
        model["norm_eps"] = 1e-5  # of CLIP, the only one that has it
    if heads := NUM_HEADS.get(dim, dim // HEAD_DIM if dim % HEAD_DIM == 0 else None):
        model["num_heads"] = heads
    if POSITIONS in sizes and len(sizes[POSITIONS]) == 3:
        num_class, num_registers = int(CLASS in sizes), model["num_registers"]
        prefixes = (num_class + num_registers, num_class, 0)
        sides = [math.isqrt(max(0, sizes[POSITIONS][1] - prefix)) for prefix in prefixes]
        fitting = [s for s, prefix in zip(sides, prefixes, strict=True) if s and s * s + prefix == sizes[POSITIONS][1]]
        if fitting:
            model["image_size"] = (fitting[0] * model["patch_size"],) * 2
    return model


def _read_patches(sizes: dict[str, tuple[int, ...]]) -> dict[str, str]:
    """Return `stem` and `patch_size`; windows of 2P - 1 pixels are shown as both kinds of patches that have them."""
    convolutions = [name for name, size in sizes.items() if name.startswith("patch_embed.stem.") and len(size) == 4]
    if convolutions:  # each halves the image
        return {"stem": "conv", "patch_size": str(2 ** len(convolutions))}
    window = sizes.get("patch_embed.proj.weight", (0,))[-1]
    overlap = f" (or model.stem=overlap model.patch_size={(window + 1) // 2})" if window % 2 and window > 1 else ""
    return {"stem": "patch", "patch_size": f"{window}{overlap}"}
