"""Published weights, from a file, a folder or the Hugging Face Hub: which model they are of, and for which images."""

import contextlib
import functools
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open

from ..config.initial import FACTS, HUB, WEIGHT_SUFFIXES, Origin
from ..config.overrides import show_value
from ..config.schema import TrainConfig
from ..machine.disk import short_path
from .architecture import infer_model
from .cards import CARD_FILES, Card, read_card
from .files import Weights, read_weights
from .hub import WEIGHTS, fetch_model, list_parts
from .names import explain_others

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLIP = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
HALF = (0.5,) * 3, (0.5,) * 3
# What a plain ViT has, which the log leaves out.
PLAIN = {
    **{"pooling": "cls", "position_embedding": "learned", "stem": "patch", "num_registers": 0, "qkv_bias": True},
    **{"qk_norm": False, "pre_norm": False, "layer_scale": None, "mlp_ratio": 4.0, "norm_eps": 1e-6},
}
LARGE = 300  # pixels, from which on training takes long
# Tensors that only the training of these leaves in a file: DINO, DINOv2 and MAE; DeiT. All of them used ImageNet's.
TRAINED_WITH_IMAGENET = re.compile(r"mask_token|decoder_.*|head_dist\..*|teacher|student")
RELEASED = re.compile(r"(mae|dino|dinov2|deit|ibot)[_-]", re.IGNORECASE)  # how names of their files begin
OWN = {"num_heads": int, "patch_size": int, "stem": str, "norm_eps": float}  # of a run's file, what no tensor tells


@dataclass(frozen=True)
class Published:
    """A file of weights and what is known about them; reason: why the mean and std are these, "" if unknown."""

    path: Path
    origin: Origin
    card: Card
    reason: str = ""

    def lines(self, config: TrainConfig) -> list[str]:
        """Return what was taken over into the configuration and what was not, line by line."""
        origin = self.origin
        model = {key: value for key, value in origin.model.items() if getattr(config.model, key) == value}
        taken = " ".join(f"model.{key}={show_value(value)}" for key, value in model.items() if value != PLAIN.get(key))
        where = f"{self.card.source} and the shapes" if self.card.model else "the shapes of its tensors"
        lines = [f"model from {where}: {taken}" if taken else f"model: nothing is known from {where}"]
        if "num_heads" in origin.assumed and "num_heads" in model:
            lines.append(
                f"model.num_heads={model['num_heads']} is assumed: published models of this width have that many"
            )
        if origin.model.get("pre_norm") and not self.card.model:
            lines.append(
                "GELU is assumed in its MLPs, as in OpenCLIP's; OpenAI's CLIP has QuickGELU, which is not supported"
            )
        size = config.model.image_size
        if size == origin.model.get("image_size") and max(size) > LARGE:
            lines.append(f"model.image_size={max(size)} is that of the weights; dataset.image_size=224 is much faster")
        if left := [f"model.{key}={show_value(value)}" for key, value in origin.model.items() if key not in model]:
            lines.append(f"not taken over, as others were typed: {' '.join(left)}")
        lines += [f"not taken over: {what}" for what in self.card.left]
        return lines + ([f"license: {self.card.license}"] if self.card.license else [])

    def describe_statistics(self, config: TrainConfig) -> tuple[str, bool]:
        """Return how the new images are normalized and why, and whether that is known to be right for the weights."""
        mean, std = config.dataset.mean, config.dataset.std
        shown = f"normalization: dataset.mean={show_value(mean)} dataset.std={show_value(std)}"
        theirs = self.origin.dataset.get("mean"), self.origin.dataset.get("std")
        if not self.reason:
            return (
                f"{shown}: the file does not say which mean and std it was trained with; type them if you know others, "
                "often [0.5,0.5,0.5] for both (augreg), or ImageNet's [0.485,0.456,0.406] and [0.229,0.224,0.225]"
            ), False
        if (mean, std) == theirs:
            return f"{shown} ({self.reason})", not self.reason.startswith("assumed")
        return f"{shown}, but the weights were trained with {show_value(theirs[0])} and {show_value(theirs[1])}", False


def read_origin(config: TrainConfig) -> Origin | None:
    """Return what published weights tell about themselves, None if they are of no ViT, which loading will say.

    Raises FileNotFoundError, OSError or ValueError, with the key init.weights.
    """
    assert config.init.weights is not None
    origin = find_published(config.init.weights, config.init.strict).origin
    return origin if origin.model else None


def find_published(wanted: str, strict: bool = True) -> Published:
    """Return the weights for `init.weights=<folder | file | timm:MODEL | hf-hub:OWNER/NAME>`.

    strict: refuse models that are no plain ViT, by what tells it. Raises as `read_origin`.
    """
    path = _find_file(fetch_model(wanted) if HUB.match(wanted) else Path(wanted), wanted)
    beside = (path.with_name(name) for name in CARD_FILES)
    parts = [path]
    with contextlib.suppress(ValueError):  # of a damaged index, which reading explains
        parts = list_parts(path)
    stats = [file.stat() for file in (*parts, *beside) if file.is_file()]
    return _describe(path, wanted, tuple((stat.st_mtime_ns, stat.st_size, stat.st_ino) for stat in stats), strict)


def _find_file(path: Path, wanted: str) -> Path:
    """Return the file of weights in a folder, or the file itself."""
    if path.is_file():
        return path
    named = [path / name for name in WEIGHTS if (path / name).is_file()]
    found = named or sorted(file for file in path.glob("*") if file.name.lower().endswith(WEIGHT_SUFFIXES))
    if not found:
        raise FileNotFoundError(f"init.weights={wanted} has no weights: no run's, and none of {', '.join(WEIGHTS)}")
    if len(found) > 1 and not named:
        names = ", ".join(file.name for file in found[:4])
        raise ValueError(f"init.weights={wanted} has {len(found)} files of weights; type one of them: {names}")
    return found[0]


@functools.lru_cache(maxsize=8)
def _describe(path: Path, wanted: str, changed: tuple[tuple[int, ...], ...], strict: bool) -> Published:
    """Describe a file; changed: when it and those beside it were, so that they are read again."""
    try:
        card = read_card(path.parent)
    except ValueError as error:
        if strict:
            raise ValueError(f"init.weights={wanted}: {error}") from error
        card = Card()
    weights, own = read_weights(path), _read_own(path)
    if own.source:
        card = own
    if strict and (other := explain_others(list(weights.tensors))):
        raise ValueError(
            f"init.weights={wanted} is of another architecture than model.*: it has {other}; init.strict=false loads "
            "what fits and leaves the rest random"
        )
    model = infer_model(weights.tensors)
    if any(model.get(key, value) != value for key, value in card.sizes.items()):
        card = Card(left=(f"{card.source}, which is of another model",))
    if model:
        model |= card.model | _prefer_positions(model, card) | _count_heads(weights, model)
    assumed = () if "num_heads" in card.model or weights.num_heads else ("num_heads",)
    look, reason = _choose_look(weights, card, model, path.name)
    return Published(
        path, Origin(wanted if HUB.match(wanted) else short_path(path), model, look, assumed), card, reason
    )


def _read_own(path: Path) -> Card:
    """Return what the file of a run says about itself, nothing if it is of none."""
    with contextlib.suppress(Exception):  # of other files, or damaged
        if path.suffix.lower() == ".safetensors":
            with safe_open(path, "np") as file:
                facts = json.loads((file.metadata() or {})[FACTS])
            model = {key: facts["model"][key] for key, kind in OWN.items() if isinstance(facts["model"][key], kind)}
            model["image_size"] = tuple(int(side) for side in facts["model"]["image_size"])
            look = {key: facts["dataset"][key] for key in ("mean", "std", "interpolation") if key in facts["dataset"]}
            return Card(model, look, "its metadata")
    return Card()


def _prefer_positions(model: dict[str, Any], card: Card) -> dict[str, Any]:
    """Return the image size that fits the positions, where a card has the usual one of an architecture."""
    told = card.model.get("image_size")
    square = told is not None and told[0] == told[1]
    return {"image_size": model["image_size"]} if square and "image_size" in model else {}


def _count_heads(weights: Weights, model: dict[str, Any]) -> dict[str, Any]:
    """Return the number of heads where the file tells it: JAX's by a shape, MoCo v3's ViT-S, with 12, by its name."""
    moco = "base_encoder" in weights.prefix or "momentum_encoder" in weights.prefix
    number = 12 if moco and model["embedding_dim"] == 384 else weights.num_heads
    return {"num_heads": number} if number else {}


def _choose_look(weights: Weights, card: Card, model: dict[str, Any], name: str) -> tuple[dict[str, Any], str]:
    """Return the keys of `dataset` that the weights were trained with, and why; unknown statistics are left out."""
    if not model:
        return {}, ""
    first = "patch_embed.stem.0.weight" if model["stem"] == "conv" else "patch_embed.proj.weight"
    channels = weights.tensors[first].shape[1]
    look = {**card.look, "channels": channels}
    if {"mean", "std"} <= look.keys() and len(look["mean"]) == len(look["std"]) == channels:
        return look, f"{card.source} says so"
    known = _guess_statistics(weights, name)
    if known is None or channels != 3:
        return {key: value for key, value in look.items() if key not in ("mean", "std")}, ""
    (mean, std), reason = known
    return look | {"mean": list(mean), "std": list(std)}, reason


def _guess_statistics(weights: Weights, name: str) -> tuple[tuple[tuple[float, ...], tuple[float, ...]], str] | None:
    """Return mean and std of weights without a card, and why; what is only likely begins with "assumed"."""
    if weights.library == "torchvision":
        return IMAGENET, "all of torchvision's weights were trained with it"
    if weights.library == "JAX":
        return HALF, "the original code trained with it"
    if "norm_pre.weight" in weights.tensors:
        return CLIP, "assumed, as most CLIPs were trained with it"
    names = [*weights.tensors, *weights.keys, weights.prefix]
    told = weights.library in ("DeiT", "DINOv2") or any(TRAINED_WITH_IMAGENET.match(part) for part in names)
    if told or RELEASED.match(name):
        return IMAGENET, "assumed, as DINO, DINOv2, MAE and DeiT were trained with it"
    return None
