"""What published weights say about themselves in the files beside them: those of timm and of Hugging Face."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ..machine.disk import read_object

CONFIG, PREPROCESSOR, README = "config.json", "preprocessor_config.json", "README.md"
RESAMPLING = {0: "nearest", 2: "bilinear", 3: "bicubic"}  # numbers of Pillow, in files of Hugging Face
# The kinds of models of Hugging Face whose names are known, with the layer_norm_eps that their files may leave out.
KINDS = {
    **{"vit": 1e-12, "deit": 1e-12, "vit_mae": 1e-12, "dinov2": 1e-6, "dinov2_with_registers": 1e-6},
    **{"clip": 1e-5, "clip_vision_model": 1e-5},
}


@dataclass(frozen=True)
class Card:
    """model, look: keys of `model` and `dataset`; source: the file that says so; left: what is not taken over."""

    model: dict[str, Any] = field(default_factory=dict)
    look: dict[str, Any] = field(default_factory=dict)
    source: str = ""
    classes: list[str] | None = None
    license: str = ""
    left: tuple[str, ...] = ()


def read_card(folder: Path) -> Card:
    """Return what the files in a folder say. Raises ValueError, without the key, for a model that is no plain ViT."""
    config = read_object(folder / CONFIG)
    if "architecture" in config:
        return _read_timm(config)
    if "model_type" in config:
        return _read_hugging_face(config, folder)
    return Card(license=_read_license(folder))


def _read_timm(config: dict[str, Any]) -> Card:
    name, told = str(config["architecture"]), _as_object(config.get("pretrained_cfg"))
    if "quickgelu" in name:
        raise ValueError(_refuse_activation(f"{name} (QuickGELU)"))
    arguments = _as_object(config.get("model_args"))
    size = arguments.get("img_size") or (_as_list(told.get("input_size")) or [None])[-2:]
    model = {"image_size": _as_size(size), **_build_with_timm(name, arguments)}
    look: dict[str, Any] = {"mean": _as_list(told.get("mean")), "std": _as_list(told.get("std"))}
    if told.get("interpolation") in RESAMPLING.values():
        look["interpolation"] = told["interpolation"]
    left = []
    if (share := told.get("crop_pct")) not in (None, 1, 1.0):
        left.append(f"crop_pct={share} (of each image, all of its middle is used here)")
    if config.get("global_pool") not in (None, "", "token", "avg"):
        left.append(f"global_pool={config['global_pool']}")
    classes = _as_list(config.get("label_names") or told.get("label_names"))
    return Card(_known(model), _known(look), CONFIG, classes, str(told.get("license") or ""), tuple(left))


def _build_with_timm(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Return what no tensor tells, the number of heads and the eps of norms, as timm builds it; {} without timm."""
    try:
        import timm
        import torch
    except ImportError:
        return {}
    try:
        with torch.device("meta"):
            model: Any = timm.create_model(name, **arguments)
        return {"num_heads": int(model.blocks[0].attn.num_heads), "norm_eps": float(model.blocks[0].norm1.eps)}
    except Exception:  # of whatever an unknown architecture, or one that is no ViT, lacks
        return {}


def _read_hugging_face(config: dict[str, Any], folder: Path) -> Card:
    kind = str(config["model_type"])
    if kind not in KINDS:
        raise ValueError(f"it is a model of the kind {kind}, no plain Vision Transformer; known: {', '.join(KINDS)}")
    vision = _as_object(config.get("vision_config")) if kind == "clip" else config
    activation = vision.get("hidden_act", "quick_gelu" if kind.startswith("clip") else "gelu")
    if activation != "gelu":
        raise ValueError(_refuse_activation(f"hidden_act={activation}"))
    model = {
        "image_size": _as_size(vision.get("image_size", 224)),
        "num_heads": int(vision.get("num_attention_heads", 12)),
        "norm_eps": float(vision.get("layer_norm_eps", KINDS[kind])),
    }
    told = read_object(folder / PREPROCESSOR)
    look: dict[str, Any] = {"mean": _as_list(told.get("image_mean")), "std": _as_list(told.get("image_std"))}
    if told.get("do_normalize") is False:
        look = {"mean": [0.0] * 3, "std": [1.0] * 3}
    if told.get("resample") in RESAMPLING:
        look["interpolation"] = RESAMPLING[told["resample"]]
    names = _as_object(config.get("id2label"))
    classes = [str(names[key]) for key in sorted(names, key=int)] if all(key.isdigit() for key in names) else []
    named = classes and not all(re.fullmatch(r"LABEL_\d+", label) for label in classes)
    source = PREPROCESSOR if told else CONFIG
    return Card(_known(model), _known(look), source, classes if named else None, _read_license(folder))


def _refuse_activation(what: str) -> str:
    return f"its MLPs have another activation than GELU: {what}, as OpenAI's CLIP has"


def _read_license(folder: Path) -> str:
    """Return the license that the front matter of README.md names, "" if there is none."""
    try:
        text = (folder / README).read_text(encoding="utf-8")[: 2**16]
        front = re.match(r"---\n(.*?)\n---", text, re.DOTALL)
        told = _as_object(yaml.safe_load(front[1])) if front else {}
        return str(told.get("license_name") or told.get("license") or "")
    except (OSError, ValueError, yaml.YAMLError):
        return ""


def _as_object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _as_list(value: Any) -> list[Any] | None:
    return list(value) if isinstance(value, list | tuple) else None


def _as_size(value: Any) -> tuple[int, int] | None:
    """Return a size (height, width) that is given as one number or two."""
    sides = [value, value] if isinstance(value, int) else _as_list(value) or []
    return (int(sides[0]), int(sides[1])) if len(sides) == 2 and all(isinstance(s, int) for s in sides) else None


def _known(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}
