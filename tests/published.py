"""Published weights with random values: models of timm, and how others store the same tensors."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer as TimmVisionTransformer
from torch import Tensor, nn

from src.model import VisionTransformer
from src.pretrained.files import read_weights
from src.pretrained.load import load_weights
from src.pretrained.published import Published, find_published


def randomize(module: nn.Module, spread: float = 0.1) -> Any:
    """Add random values to all parameters: biases are 0 and norms 1 as initialized, so that copies would not show."""
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter) * spread)
    return module.eval()


def make_timm(**options: Any) -> Any:
    sizes = {"img_size": 16, "patch_size": 4, "embed_dim": 64, "depth": 2, "num_heads": 4, "num_classes": 3}
    return randomize(TimmVisionTransformer(**{**sizes, **options}))


def save_timm(folder: Path, patch_size: int = 4, **facts: Any) -> Any:
    """Write a folder as timm does for the Hub, of a model of 4 x 4 patches; return the model."""
    arguments: dict[str, Any] = {
        "img_size": 4 * patch_size,
        "patch_size": patch_size,
        "embed_dim": 192,
        "depth": 2,
        "num_heads": 3,
    }
    theirs = randomize(timm.create_model("vit_tiny_patch16_224", num_classes=3, **arguments))
    told = {
        "input_size": [3, 4 * patch_size, 4 * patch_size],
        "mean": [0.5] * 3,
        "std": [0.25] * 3,
        "interpolation": "bilinear",
    }
    config = {"architecture": "vit_tiny_patch16_224", "num_classes": 3, "model_args": arguments}
    config |= {"pretrained_cfg": told | {"crop_pct": 0.9, "license": "apache-2.0"}} | facts
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    save_file(theirs.state_dict(), folder / "model.safetensors")
    return theirs


def as_openclip(timm_model: Any) -> dict[str, Tensor]:
    """Return the tensors of a CLIP of timm as OpenCLIP calls them."""
    swaps = {
        "patch_embed.proj": "conv1",
        "norm_pre": "ln_pre",
        "blocks.": "transformer.resblocks.",
        "norm1": "ln_1",
        "norm2": "ln_2",
        "attn.qkv.": "attn.in_proj_",
        "attn.proj": "attn.out_proj",
        "mlp.fc1": "mlp.c_fc",
        "mlp.fc2": "mlp.c_proj",
    }
    weights: dict[str, Tensor] = {"logit_scale": torch.ones(())}
    for name, tensor in timm_model.state_dict().items():
        for ours, theirs in swaps.items():
            name = name.replace(ours, theirs)
        weights["visual." + re.sub(r"^norm\.", "ln_post.", name)] = tensor
    weights["visual.class_embedding"] = weights.pop("visual.cls_token")[0, 0]
    weights["visual.positional_embedding"] = weights.pop("visual.pos_embed")[0]
    weights["visual.proj"] = weights.pop("visual.head.weight").T
    del weights["visual.head.bias"]
    return weights


def as_npz(theirs: Any) -> dict[str, Any]:
    """Return the tensors of a model of timm as the original code in JAX stores them."""
    weights = {name: tensor.detach().numpy() for name, tensor in theirs.state_dict().items()}
    heads, dim = theirs.blocks[0].attn.num_heads, theirs.embed_dim
    arrays = {
        "cls": weights["cls_token"],
        "embedding/kernel": weights["patch_embed.proj.weight"].transpose(2, 3, 1, 0),
        "embedding/bias": weights["patch_embed.proj.bias"],
        "Transformer/posembed_input/pos_embedding": weights["pos_embed"],
        "Transformer/encoder_norm/scale": weights["norm.weight"],
        "Transformer/encoder_norm/bias": weights["norm.bias"],
        "head/kernel": weights["head.weight"].T,
        "head/bias": weights["head.bias"],
    }
    for layer in range(len(theirs.blocks)):
        block, ours = f"Transformer/encoderblock_{layer}/", f"blocks.{layer}."
        for part, rows in zip(("query", "key", "value"), np.split(weights[f"{ours}attn.qkv.weight"], 3), strict=True):
            arrays[f"{block}MultiHeadDotProductAttention_1/{part}/kernel"] = rows.T.reshape(dim, heads, -1)
        for part, rows in zip(("query", "key", "value"), np.split(weights[f"{ours}attn.qkv.bias"], 3), strict=True):
            arrays[f"{block}MultiHeadDotProductAttention_1/{part}/bias"] = rows.reshape(heads, -1)
        out = f"{block}MultiHeadDotProductAttention_1/out/"
        arrays[f"{out}kernel"] = weights[f"{ours}attn.proj.weight"].T.reshape(heads, -1, dim)
        arrays[f"{out}bias"] = weights[f"{ours}attn.proj.bias"]
        for number, norm in ((0, "norm1"), (2, "norm2")):
            arrays[f"{block}LayerNorm_{number}/scale"] = weights[f"{ours}{norm}.weight"]
            arrays[f"{block}LayerNorm_{number}/bias"] = weights[f"{ours}{norm}.bias"]
        for number, linear in ((0, "fc1"), (1, "fc2")):
            arrays[f"{block}MlpBlock_3/Dense_{number}/kernel"] = weights[f"{ours}mlp.{linear}.weight"].T
            arrays[f"{block}MlpBlock_3/Dense_{number}/bias"] = weights[f"{ours}mlp.{linear}.bias"]
    return arrays


def load(path: Path, **typed: Any) -> tuple[VisionTransformer, Published]:
    """Build the model that a file tells about, and load the file into it; typed: what it does not tell."""
    found = find_published(str(path))
    weights = read_weights(found.path).tensors
    head = weights.get("head.weight")
    options = found.origin.model | {"num_classes": 2 if head is None else len(head)} | typed
    model = VisionTransformer(**options).eval()
    report = load_weights(model, weights, "", found.origin.grid)
    assert [name for name in report.initialized if not name.startswith("head.")] == []
    return model, found
