"""The folder that timm loads, and transformers through timm: config.json and model.safetensors.

Letters: C channels, n images, K classes.
"""

import math
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from ..augment.normalize import normalize
from ..machine.disk import format_portable_json, read_json, write_text
from ..model import VisionTransformer
from .bundle import Bundle
from .color import count_channels, feed, list_statistics, open_in_color
from .parity import predict_parts
from .weights import absorb_bias, collect_weights, scale_for_eps, write_weights

CONFIG, WEIGHTS = "config.json", "model.safetensors"
ARCHITECTURE = "vit_base_patch16_224"  # a name that timm knows; `model_args` replace all of its sizes
EPS = 1e-6  # of timm's LayerNorm, which is not among its `model_args`


def explain_timm(bundle: Bundle) -> str:
    stem = bundle.config.model.stem
    return "" if stem == "patch" else f"timm's VisionTransformer cannot express model.stem={stem}"


def write_timm(bundle: Bundle, folder: Path) -> list[str]:
    """Write what `timm.create_model("local-dir:FOLDER", pretrained=True)` reads."""
    weights = collect_weights(bundle)
    scale_for_eps(weights, math.sqrt(EPS / bundle.config.model.norm_eps))
    if bundle.config.model.pre_norm:  # as in CLIP, whose projection has no bias
        absorb_bias(weights, bundle.model)
    write_weights(folder / WEIGHTS, weights)
    write_text(folder / CONFIG, format_portable_json(_describe(bundle)))
    return [CONFIG, WEIGHTS]


def _describe(bundle: Bundle) -> dict[str, Any]:
    pooling = {"cls": "token", "mean": "avg"}[bundle.config.model.pooling]
    return {
        "architecture": ARCHITECTURE,
        "num_classes": len(bundle.classes),
        "num_features": bundle.config.model.embedding_dim,
        "global_pool": pooling,
        "label_names": bundle.classes,
        "model_args": _list_arguments(bundle, pooling),
        "pretrained_cfg": _describe_inputs(bundle),
    }


def _list_arguments(bundle: Bundle, pooling: str) -> dict[str, Any]:
    """Return the arguments of timm's VisionTransformer."""
    model = bundle.config.model
    scaled = {} if model.layer_scale is None else {"init_values": model.layer_scale}
    return {
        "img_size": list(bundle.preprocessing.size),
        "patch_size": model.patch_size,
        "in_chans": count_channels(bundle.preprocessing),
        "embed_dim": model.embedding_dim,
        "depth": model.num_layers,
        "num_heads": model.num_heads,
        "mlp_ratio": model.mlp_ratio,
        "qkv_bias": model.qkv_bias,
        "class_token": model.pooling == "cls",
        "global_pool": pooling,
        "fc_norm": False,
        "reg_tokens": model.num_registers,
        "qk_norm": model.qk_norm,
        "pre_norm": model.pre_norm,
        **scaled,
    }


def _describe_inputs(bundle: Bundle) -> dict[str, Any]:
    """Return timm's description of a picture's way into the model."""
    look = bundle.preprocessing
    mean, std = list_statistics(look)
    return {
        "input_size": [count_channels(look), *look.size],
        "fixed_input_size": True,
        "interpolation": look.interpolation,
        "crop_pct": 1.0,
        "crop_mode": {"crop": "center", "squash": "squash"}[look.resize],
        "mean": mean,
        "std": std,
        "num_classes": len(bundle.classes),
        "first_conv": "patch_embed.proj",
        "classifier": "head",
    }


def predict_timm(bundle: Bundle, folder: Path) -> Tensor:
    """Predict with timm, or, where it is not installed, with our model from the same two files."""
    described = read_json(folder / CONFIG)["pretrained_cfg"]
    model = open_with_timm(folder) if find_spec("timm") else read_back(folder)

    def predict(images: Tensor) -> Tensor:
        return model(normalize(feed(images), described["mean"], described["std"])).softmax(1)

    return predict_parts(predict, bundle.samples.inputs)


def open_with_timm(folder: Path) -> torch.nn.Module:
    import timm

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return timm.create_model(f"local-dir:{folder}", pretrained=True).eval()


def read_back(folder: Path) -> torch.nn.Module:
    """Return our model from timm's folder."""
    described = read_json(folder / CONFIG)
    arguments = described["model_args"]
    model = VisionTransformer(
        image_size=tuple(arguments["img_size"]),
        patch_size=arguments["patch_size"],
        in_channels=arguments["in_chans"],
        num_classes=described["num_classes"],
        embedding_dim=arguments["embed_dim"],
        num_layers=arguments["depth"],
        num_heads=arguments["num_heads"],
        mlp_ratio=arguments["mlp_ratio"],
        qkv_bias=arguments["qkv_bias"],
        pooling={"token": "cls", "avg": "mean"}[arguments["global_pool"]],
        num_registers=arguments["reg_tokens"],
        layer_scale=arguments.get("init_values"),
        qk_norm=arguments["qk_norm"],
        pre_norm=arguments["pre_norm"],
    )
    weights = load_file(folder / WEIGHTS)
    weights.setdefault("patch_embed.proj.bias", torch.zeros(arguments["embed_dim"]))
    model.load_state_dict(weights)
    return model.eval()


def preprocess_with_timm(bundle: Bundle, folder: Path) -> Tensor | None:
    """Predict the pictures as timm resizes and crops them; None if it cannot: it takes gray and color only."""
    if bundle.preprocessing.channels not in (1, 3):
        return None
    from timm.data import create_transform, resolve_data_config

    model = open_with_timm(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        transform = create_transform(**resolve_data_config({}, model=model), is_training=False)
        images = torch.stack([transform(open_in_color(picture)) for picture in bundle.samples.pictures])
    return predict_parts(lambda part: model(part).softmax(1), images)
