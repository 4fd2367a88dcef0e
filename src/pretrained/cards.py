"""What published weights say about themselves in the files beside them: those of timm, Hugging Face and OpenCLIP.

Strangers write these files, so of each value only what it can be is taken.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..machine.disk import read_object
from ..machine.streams import printable_cell

CONFIG, PREPROCESSOR, README, OPENCLIP = "config.json", "preprocessor_config.json", "README.md", "open_clip_config.json"
CARD_FILES = (CONFIG, PREPROCESSOR, OPENCLIP, README)
RESAMPLING = {0: "nearest", 2: "bilinear", 3: "bicubic"}  # numbers of Pillow, in files of Hugging Face
# The kinds of models of Hugging Face whose names are known, with the layer_norm_eps that their files may leave out.
KINDS = {
    **{"vit": 1e-12, "deit": 1e-12, "vit_mae": 1e-12, "ijepa": 1e-12, "vit_msn": 1e-6, "dinov2": 1e-6},
    **{"dinov2_with_registers": 1e-6, "clip": 1e-5, "clip_vision_model": 1e-5},
}
LARGEST = 2**16  # numbers in a configuration, and characters of a README that are read
LICENSE = re.compile(r"^license(?:_name)?: *([\w.+ -]{1,60})$", re.MULTILINE)


@dataclass(frozen=True)
class Card:
    """model, look: keys of `model` and `dataset`; source: the file that says so; left: what is not taken over.

    sizes: keys of `model` that the tensors tell as well; where they differ, the card is another model's.
    """

    model: dict[str, Any] = field(default_factory=dict)
    look: dict[str, Any] = field(default_factory=dict)
    source: str = ""
    classes: list[str] | None = None
    license: str = ""
    left: tuple[str, ...] = ()
    sizes: dict[str, int] = field(default_factory=dict)


def read_card(folder: Path) -> Card:
    """Return what the files in a folder say. Raises ValueError, without the key, for a model that is no plain ViT."""
    config = read_object(folder / CONFIG)
    if "architecture" in config:
        return _read_timm(config, folder)
    if "model_type" in config:
        return _read_hugging_face(config, folder)
    if openclip := read_object(folder / OPENCLIP):
        return _read_openclip(openclip, folder)
    return Card(license=_read_license(folder))


def _read_timm(config: dict[str, Any], folder: Path) -> Card:
    name = str(config["architecture"])
    told = _as_object(config.get("pretrained_cfg")) or config  # older folders have one level
    if "quickgelu" in name.lower() or "quickgelu" in str(told.get("notes")).lower():
        raise ValueError(_refuse_activation(f"{name} (QuickGELU)"))
    arguments = _as_object(config.get("model_args"))
    size = arguments.get("img_size") or (_as_list(told.get("input_size")) or [None])[-2:]
    model = {"image_size": _as_size(size), **_ask_timm(name, arguments)}
    look = _describe_look(told.get("mean"), told.get("std"), told.get("interpolation"))
    left = []
    if (share := told.get("crop_pct")) not in (None, 1, 1.0):
        left.append(f"crop_pct={share} (here, images are cropped without a margin)")
    if config.get("global_pool") not in (None, "", "token", "avg"):
        left.append(f"global_pool={config['global_pool']}")
    names = config.get("label_names") or told.get("label_names") or config.get("labels")
    given = told.get("license")
    license_ = given if isinstance(given, str) and LICENSE.fullmatch(f"license: {given}") else _read_license(folder)
    sizes = _list_sizes(embedding_dim=arguments.get("embed_dim"), num_layers=arguments.get("depth"))
    return Card(_known(model), look, CONFIG, _as_names(names), license_, _show(left), sizes)


def _ask_timm(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Return what no tensor tells, the number of heads and the eps of norms, as timm builds it; {} without timm.

    One block is built, of the sizes given: no argument of a stranger opens files or fills the memory. Raises ValueError
    for another activation than GELU.
    """
    try:
        import timm
        import torch
        from torch import nn
    except ImportError:
        return {}
    if not timm.is_model(name):
        return {}
    sizes = {key: arguments[key] for key in ("embed_dim", "num_heads") if _is_count(arguments.get(key))}
    try:
        with torch.device("meta"):
            model: Any = timm.create_model(name, depth=1, **sizes)
        block = model.blocks[0]
        told = {"num_heads": int(block.attn.num_heads), "norm_eps": float(block.norm1.eps)}
        activation = getattr(block.mlp, "act", None)
    except Exception:  # of whatever an unknown architecture, or one that is no ViT, lacks
        return {}
    if not isinstance(activation, nn.GELU) or activation.approximate != "none":
        raise ValueError(_refuse_activation(f"{name} has {activation}"))
    return told


def _read_hugging_face(config: dict[str, Any], folder: Path) -> Card:
    kind = str(config["model_type"])
    if kind not in KINDS:
        raise ValueError(f"it is a model of the kind {kind[:40]}, which is not known here; known: {', '.join(KINDS)}")
    vision = _as_object(config.get("vision_config")) if kind == "clip" else config
    activation = vision.get("hidden_act", "quick_gelu" if kind.startswith("clip") else "gelu")
    if activation != "gelu":
        raise ValueError(_refuse_activation(f"hidden_act={activation}"))
    heads, eps = vision.get("num_attention_heads", 12), vision.get("layer_norm_eps", KINDS[kind])
    model = {
        "image_size": _as_size(vision.get("image_size", 224)),
        "num_heads": heads if _is_count(heads) else None,
        "norm_eps": eps if isinstance(eps, float) and 0 < eps < 1 else None,
    }
    told = read_object(folder / PREPROCESSOR)
    resample = told.get("resample")
    interpolation = RESAMPLING.get(resample) if isinstance(resample, int) else None
    look = _describe_look(told.get("image_mean"), told.get("image_std"), interpolation)
    if told.get("do_normalize") is False:
        look |= {"mean": [0.0] * 3, "std": [1.0] * 3}
    left = [f"{key}={told[key]}" for key in ("size", "crop_size") if told.get("do_center_crop") and key in told]
    if (factor := told.get("rescale_factor")) is not None and told.get("do_rescale") is not False:
        exact = isinstance(factor, float) and abs(factor * 255 - 1) < 1e-3
        left += [] if exact else [f"rescale_factor={factor} (here, pixels are from 0 to 1)"]
    sizes = _list_sizes(embedding_dim=vision.get("hidden_size"), num_layers=vision.get("num_hidden_layers"))
    labels = _as_object(config.get("id2label"))
    ordered = [labels.get(str(number)) for number in range(len(labels))]
    named = any(not re.fullmatch(r"LABEL_\d+", str(label)) for label in ordered)
    classes = _as_names(ordered) if named else None
    source = PREPROCESSOR if told else CONFIG
    return Card(_known(model), look, source, classes, _read_license(folder), _show(left), sizes)


def _read_openclip(config: dict[str, Any], folder: Path) -> Card:
    told, model = (_as_object(config.get(key)) for key in ("preprocess_cfg", "model_cfg"))
    if model.get("quick_gelu"):
        raise ValueError(_refuse_activation("quick_gelu=true"))
    look = _describe_look(told.get("mean"), told.get("std"), told.get("interpolation"))
    return Card({"norm_eps": 1e-5}, look, OPENCLIP, license=_read_license(folder))


def _refuse_activation(what: str) -> str:
    return f"its MLPs have another activation than GELU: {what}"


def _describe_look(mean: Any, std: Any, interpolation: Any) -> dict[str, Any]:
    look = {"mean": _as_statistics(mean), "std": _as_statistics(std)}
    known = interpolation if interpolation in RESAMPLING.values() else None
    return _known({**look, "interpolation": known})


def _read_license(folder: Path) -> str:
    """Return the license that the front matter of README.md names, "" if there is none."""
    try:
        with (folder / README).open(encoding="utf-8") as file:
            front = re.match(r"---\n(.*?)\n---", file.read(LARGEST), re.DOTALL)
    except (OSError, ValueError):
        return ""
    found = [match[1].strip() for match in LICENSE.finditer(front[1])] if front else []
    return next((name for name in reversed(found) if name != "other"), "other" if found else "")


def _as_object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _as_list(value: Any) -> list[Any] | None:
    return list(value) if isinstance(value, list | tuple) else None


def _as_names(value: Any) -> list[str] | None:
    """Return names of classes; None unless all are text."""
    names = _as_list(value) or []
    return names if names and all(isinstance(name, str) for name in names) else None


def _as_statistics(value: Any) -> list[float] | None:
    numbers = _as_list(value)
    given = numbers and all(isinstance(number, int | float) and not isinstance(number, bool) for number in numbers)
    return [float(number) for number in numbers] if numbers and given else None


def _as_size(value: Any) -> tuple[int, int] | None:
    """Return a size (height, width) that is given as one number or two."""
    sides = [value, value] if isinstance(value, int) else _as_list(value) or []
    return (sides[0], sides[1]) if len(sides) == 2 and all(map(_is_count, sides)) else None


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < LARGEST


def _list_sizes(**sizes: Any) -> dict[str, int]:
    return {key: value for key, value in sizes.items() if _is_count(value)}


def _known(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


def _show(facts: list[str]) -> tuple[str, ...]:
    return tuple(printable_cell(fact)[:120] for fact in facts)
