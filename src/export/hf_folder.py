"""The folder `hf`, which transformers loads without timm: ViTForImageClassification and its image processor.

The modules have the names of transformers 4, which 5 maps to its own. Letters: D embedding dimension, n images,
K classes.
"""

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
from .weights import collect_weights, write_weights

FOLDER = "hf"
CONFIG, WEIGHTS, PROCESSOR = "config.json", "model.safetensors", "preprocessor_config.json"
RESAMPLING = {"nearest": 0, "bilinear": 2, "bicubic": 3}  # Pillow's numbers

# Timm's names and those of transformers, first of the whole model, then of a block.
OUTER = {
    "cls_token": "vit.embeddings.cls_token",
    "pos_embed": "vit.embeddings.position_embeddings",
    "patch_embed.proj.": "vit.embeddings.patch_embeddings.projection.",
    "norm.": "vit.layernorm.",
    "head.": "classifier.",
}
INNER = {
    "norm1.": "layernorm_before.",
    "attn.proj.": "attention.output.dense.",
    "norm2.": "layernorm_after.",
    "mlp.fc1.": "intermediate.dense.",
    "mlp.fc2.": "output.dense.",
}
PARTS = ("query", "key", "value")  # of what is one matrix in timm


def explain_hf(bundle: Bundle) -> str:
    """Return which settings Hugging Face's ViT cannot express, by their keys; "" if it can express all."""
    model, channels = bundle.config.model, bundle.preprocessing.channels
    if channels not in (1, 3):
        return f"Hugging Face's image processors make three channels of a picture, and this model takes {channels}"
    height, width = bundle.preprocessing.size
    if bundle.preprocessing.resize == "crop" and height != width:
        return (
            "Hugging Face's image processors cannot crop a picture to a shape that is not square "
            f"(dataset.resize=crop, dataset.image_size=[{height},{width}])"
        )
    found = {
        f"model.pooling={model.pooling}": model.pooling != "cls",
        f"model.num_registers={model.num_registers}": model.num_registers > 0,
        f"model.layer_scale={model.layer_scale}": model.layer_scale is not None,
        "model.qk_norm=true": model.qk_norm,
        "model.pre_norm=true": model.pre_norm,
        f"model.stem={model.stem}": model.stem != "patch",
    }
    lacking = [name for name, lacks in found.items() if lacks]
    return f"Hugging Face's ViTForImageClassification cannot express {', '.join(lacking)}" if lacking else ""


def write_hf(bundle: Bundle, folder: Path) -> list[str]:
    """Write what `ViTForImageClassification.from_pretrained` and a pipeline read."""
    (folder / FOLDER).mkdir(exist_ok=True)
    files = {CONFIG: _describe(bundle), PROCESSOR: _describe_inputs(bundle)}
    for name, content in files.items():
        write_text(folder / FOLDER / name, format_portable_json(content))
    write_weights(folder / FOLDER / WEIGHTS, rename(collect_weights(bundle)))
    return [f"{FOLDER}/{name}" for name in (*files, WEIGHTS)]


def rename(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return weights of timm's names by those of transformers; queries, keys and values become three tensors."""
    renamed: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        if not name.startswith("blocks."):
            renamed[_replace(name, OUTER)] = tensor
            continue
        _, number, inner = name.split(".", 2)
        layer = f"vit.encoder.layer.{number}."
        if inner.startswith("attn.qkv."):
            kind = inner.rpartition(".")[2]
            for part, piece in zip(PARTS, tensor.chunk(3), strict=True):
                renamed[f"{layer}attention.attention.{part}.{kind}"] = piece
        else:
            renamed[layer + _replace(inner, INNER)] = tensor
    return renamed


def _restore(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return weights of the names of transformers by timm's."""
    outer, inner = ({theirs: ours for ours, theirs in names.items()} for names in (OUTER, INNER))
    restored: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        if not name.startswith("vit.encoder.layer."):
            restored[_replace(name, outer)] = tensor
            continue
        number, rest = name.removeprefix("vit.encoder.layer.").split(".", 1)
        if rest.startswith("attention.attention.query."):
            kind = rest.rpartition(".")[2]
            pieces = [weights[name.replace(".query.", f".{part}.")] for part in PARTS]
            restored[f"blocks.{number}.attn.qkv.{kind}"] = torch.cat(pieces)
        elif not rest.startswith("attention.attention."):
            restored[f"blocks.{number}.{_replace(rest, inner)}"] = tensor
    return restored


def _replace(name: str, names: dict[str, str]) -> str:
    """Return a name whose beginning is replaced by the one in `names`."""
    start = next(start for start in names if name.startswith(start))
    return names[start] + name.removeprefix(start)


def _describe(bundle: Bundle) -> dict[str, Any]:
    model, size = bundle.config.model, bundle.preprocessing.size
    return {
        "architectures": ["ViTForImageClassification"],
        "model_type": "vit",
        "hidden_size": model.embedding_dim,
        "num_hidden_layers": model.num_layers,
        "num_attention_heads": model.num_heads,
        "intermediate_size": int(model.embedding_dim * model.mlp_ratio),
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "layer_norm_eps": model.norm_eps,
        "image_size": size[0] if size[0] == size[1] else list(size),
        "patch_size": model.patch_size,
        "num_channels": count_channels(bundle.preprocessing),
        "qkv_bias": model.qkv_bias,
        "id2label": {str(number): name for number, name in enumerate(bundle.classes)},
        "label2id": {name: number for number, name in enumerate(bundle.classes)},
        "torch_dtype": "float32",
    }


def _describe_inputs(bundle: Bundle) -> dict[str, Any]:
    """Return how an image processor makes inputs of pictures."""
    look = bundle.preprocessing
    (height, width), (mean, std) = look.size, list_statistics(look)
    size = {"height": height, "width": width}
    crops = look.resize == "crop"  # to a square, see `explain_hf`
    cropping = {"size": {"shortest_edge": height}, "do_center_crop": True, "crop_size": size}
    return {
        # CLIP's keeps the aspect ratio and crops; ViT's own, in transformers 4, can do neither.
        "image_processor_type": "CLIPImageProcessor" if crops else "ViTImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        **(cropping if crops else {"size": size}),
        "resample": RESAMPLING[look.interpolation],
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": mean,
        "image_std": std,
    }


def predict_hf(bundle: Bundle, folder: Path) -> Tensor:
    """Predict with transformers, or, where it is not installed, with our model from the same files."""
    described = read_json(folder / FOLDER / PROCESSOR)
    model = open_with_transformers(folder) if find_spec("transformers") else read_back(folder)

    def predict(images: Tensor) -> Tensor:
        outputs = model(normalize(feed(images), described["image_mean"], described["image_std"]))
        return (outputs if isinstance(outputs, Tensor) else outputs.logits).softmax(1)

    return predict_parts(predict, bundle.samples.inputs)


def open_with_transformers(folder: Path) -> torch.nn.Module:
    from transformers import ViTForImageClassification
    from transformers.utils import logging

    logging.disable_progress_bar()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ViTForImageClassification.from_pretrained(folder / FOLDER, local_files_only=True).eval()


def read_back(folder: Path) -> torch.nn.Module:
    """Return our model from the folder of transformers."""
    described = read_json(folder / FOLDER / CONFIG)
    size = described["image_size"]
    model = VisionTransformer(
        image_size=tuple(size) if isinstance(size, list) else size,
        patch_size=described["patch_size"],
        in_channels=described["num_channels"],
        num_classes=len(described["id2label"]),
        embedding_dim=described["hidden_size"],
        num_layers=described["num_hidden_layers"],
        num_heads=described["num_attention_heads"],
        mlp_ratio=(described["intermediate_size"] + 0.5) / described["hidden_size"],  # rounded down to whole ones
        qkv_bias=described["qkv_bias"],
        norm_eps=described["layer_norm_eps"],
    )
    model.load_state_dict(_restore(load_file(folder / FOLDER / WEIGHTS)))
    return model.eval()


def preprocess_with_transformers(bundle: Bundle, folder: Path) -> Tensor | None:
    """Predict the pictures as an image processor resizes and crops them."""
    from transformers import AutoImageProcessor

    model = open_with_transformers(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        process = AutoImageProcessor.from_pretrained(folder / FOLDER, local_files_only=True)
        pictures = [open_in_color(picture) for picture in bundle.samples.pictures]
        images = torch.cat([process(picture, return_tensors="pt")["pixel_values"] for picture in pictures])
    return predict_parts(lambda part: model(part).logits.softmax(1), images)
