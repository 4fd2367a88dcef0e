"""Files that timm converts: the .npz of the original code (JAX), and CLIP as OpenCLIP stores it.

A model of timm with the sizes of the file is built, timm loads the file into it, and its tensors are those wanted.
Letters in shapes: P patch size, C channels, N tokens, D embedding dimension, h heads, K classes.
"""

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .hub import INSTALL


def convert_npz(path: Path) -> tuple[dict[str, Tensor], int]:
    """Return the tensors of an .npz file, and its number of heads. Raises ValueError if it is of no plain ViT."""
    with np.load(path, allow_pickle=False) as file:
        shapes = {name: file[name].shape for name in file.files}
    if any("conv_root" in name for name in shapes):
        raise ValueError("it has a convolutional network in front of the transformer (R50+ViT); models here have none")
    prefix = next((p for p in ("", "opt/target/", "params/") if f"{p}embedding/kernel" in shapes), None)
    if prefix is None:
        raise ValueError("it has no embedding/kernel, so it is not of the original code's Vision Transformer")
    if any("MAPHead" in name for name in shapes):
        raise ValueError("it pools by attention (MAPHead), as SigLIP has; models here take the class token or a mean")
    sizes = {name.removeprefix(prefix): size for name, size in shapes.items()}
    patch, _, channels, dim = sizes["embedding/kernel"]
    block = "Transformer/encoderblock_0/"
    query = next((size for name, size in sizes.items() if name.startswith(block) and "query/kernel" in name), None)
    hidden = next((size for name, size in sizes.items() if name.startswith(block) and "Dense_0/kernel" in name), None)
    positions = next((size for name, size in sizes.items() if name.endswith("pos_embedding")), None)
    if query is None or hidden is None or positions is None:
        raise ValueError(f"it has no {block}…, so it is not of the original code's Vision Transformer")
    token = int("cls" in sizes)
    model = _build(
        patch=patch,
        channels=channels,
        dim=dim,
        depth=len({match[1] for name in sizes if (match := re.match(r"Transformer/encoderblock_(\d+)/", name))}),
        heads=query[1],
        hidden=hidden[1],
        side=math.isqrt(positions[1] - token),
        classes=sizes.get("head/bias", (0,))[0],
        **({} if token else {"class_token": False, "global_pool": "avg", "fc_norm": False}),
    )
    model.load_pretrained(str(path))
    weights = dict(model.state_dict())
    if "pre_logits/kernel" in sizes:  # a layer before the head, without which the head means nothing
        weights = {name: tensor for name, tensor in weights.items() if not name.startswith("head.")}
    return weights, int(query[1])


def convert_openclip(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the image tower under `prefix` of a CLIP of OpenCLIP; its projection is the head."""
    from_timm = _import_timm()
    tower = {f"visual.{name.removeprefix(prefix)}": value for name, value in weights.items() if name.startswith(prefix)}
    dim, channels, patch, _ = tower["visual.conv1.weight"].shape
    projection = tower.get("visual.proj")
    model = _build(
        patch=patch,
        channels=channels,
        dim=dim,
        depth=len({match[1] for name in tower if (match := re.search(r"resblocks\.(\d+)\.", name))}),
        heads=1,  # only names are converted
        hidden=len(tower["visual.transformer.resblocks.0.mlp.c_fc.bias"]),
        side=math.isqrt(len(tower["visual.positional_embedding"]) - 1),
        classes=0 if projection is None else projection.shape[1],
        pre_norm=True,
    )
    return dict(from_timm.checkpoint_filter_fn(tower, model))


def _build(
    patch: int, channels: int, dim: int, depth: int, heads: int, hidden: int, side: int, classes: int, **options: Any
) -> Any:
    sizes = {"img_size": side * patch, "patch_size": patch, "in_chans": channels, "num_classes": classes}
    shape = {"embed_dim": dim, "depth": depth, "num_heads": heads, "mlp_ratio": hidden / dim}
    with torch.random.fork_rng(devices=[]):  # timm draws initial weights
        return _import_timm().VisionTransformer(**sizes, **shape, **options)


def _import_timm() -> Any:
    try:
        from timm.models import vision_transformer
    except ImportError as error:
        raise ValueError(f"timm converts this kind of file: {INSTALL}") from error
    return vision_transformer
