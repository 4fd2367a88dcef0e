"""Files of weights: their tensors, however they are nested, under the names of timm, as in `model.py`."""

import argparse
import pickle
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..config.initial import WEIGHT_SUFFIXES
from .convert import convert_npz, convert_openclip
from .hub import list_parts
from .names import OPENCLIP, rename, use_layer_scale, use_synonyms

# Keys under which files nest their weights: averaged ones first, as in timm, then those of our last.pt, DeiT and MAE,
# timm, torchvision, Lightning, DINO, I-JEPA. The first that has tensors is used.
AVERAGED = ("state_dict_ema", "model_ema", "ema_state_dict", "ema", "teacher")
RAW = ("trainer", "model", "state_dict", "model_state_dict", "module", "student", "target_encoder", "encoder")
NESTS = (*AVERAGED, *RAW)
# Prefixes that wrappers add to names: DDP, torch.compile, Lightning, DINO.
PREFIXES = re.compile(r"^(module\.|_orig_mod\.|model\.|backbone\.|encoder\.)+")


@dataclass(frozen=True)
class Weights:
    """The tensors of a file, under the names of timm.

    keys: of the nested dicts that they were in; prefix: what was before each name, such as "backbone."; library: whose
    names they had, if others; num_heads: if the file tells it.
    """

    tensors: dict[str, Tensor]
    keys: tuple[str, ...] = ()
    prefix: str = ""
    library: str = ""
    num_heads: int | None = None

    @property
    def place(self) -> str:
        """Where they are in the file, for people: `trainer.ema`, `teacher backbone.*`; "" at the top level."""
        return " ".join(filter(None, [".".join(self.keys), f"{self.prefix}*" if self.prefix else ""]))


def read_weights(path: Path) -> Weights:
    """Read the tensors of a file to the CPU without executing anything in the file.

    Raises FileNotFoundError, OSError or ValueError, with the key init.weights.
    """
    allowed = ", ".join(WEIGHT_SUFFIXES)
    if not path.is_file():
        raise FileNotFoundError(f"init.weights={path} is not a file; allowed: a run's folder, or a file ({allowed})")
    if not path.name.lower().endswith(WEIGHT_SUFFIXES):
        raise ValueError(f"init.weights={path} is not a weights file; allowed: {allowed}")
    try:
        content = _read(path)
        if isinstance(content, Weights):
            return content
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
        problem = f"contains objects ({found[1]}), which could run code" if found else "is damaged"
        advice = "save only the state_dict(), preferably as .safetensors"
        raise ValueError(f"init.weights={path} {problem}; {advice}") from error
    except OSError as error:
        raise OSError(f"init.weights={path} cannot be read: {error}") from error
    except Exception as error:  # torch, zipfile and safetensors each raise their own for a damaged file
        if isinstance(error, ValueError) and path.suffix.lower() in (".npz", ".json"):
            raise ValueError(f"init.weights={path}: {error}") from error
        if "TorchScript" in str(error):
            raise ValueError(
                f"init.weights={path} is TorchScript, a program, as OpenAI's CLIP is; save its state_dict() alone"
            ) from error
        reason = re.split(r"\n|\. ", f"{type(error).__name__}: {error}")[0]
        raise ValueError(f"init.weights={path} is damaged or not a {path.suffix} file: {reason}") from error
    weights, keys = _unwrap(content, depth=3)
    if not weights:
        raise ValueError(f"init.weights={path} contains no named tensors, at the top level or in {', '.join(NESTS)}")
    try:
        return _give_names(weights, keys)
    except (ValueError, KeyError) as error:
        raise ValueError(f"init.weights={path}: {error}") from error


def _read(path: Path) -> Any:
    name = path.name.lower()
    if name.endswith(".npz"):
        tensors, num_heads = convert_npz(path)
        return Weights(tensors, library="JAX", num_heads=num_heads)
    if name.endswith(".index.json"):
        return {name: tensor for part in list_parts(path)[1:] for name, tensor in _read(part).items()}
    if name.endswith(".safetensors"):
        from safetensors.torch import load_file

        return load_file(path)
    # Checkpoints of DINO, MAE and timm hold the arguments of their training, a plain record.
    with torch.serialization.safe_globals([argparse.Namespace]):
        return torch.load(path, map_location="cpu", weights_only=True)


def _give_names(weights: dict[str, Tensor], keys: tuple[str, ...]) -> Weights:
    openclip = [match[1] for name in weights if (match := OPENCLIP.fullmatch(name)) and "visual" in match[1]]
    prefix = ""
    if openclip:
        weights, library = convert_openclip(weights, openclip[0]), "OpenCLIP"
    else:
        weights, library = rename(weights)
    if not library:
        weights, prefix = _take_off_prefix(weights)
        weights, library = use_synonyms(use_layer_scale(weights))
    if "norm_pre.weight" in weights:  # a norm follows, so there is no bias in the files; here, it may be learned
        weights.setdefault("patch_embed.proj.bias", torch.zeros_like(weights["norm_pre.bias"]))
    return Weights(weights, keys, prefix, library)


def _unwrap(content: Any, depth: int) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Return the tensors of the innermost nested dict and the keys that lead there.

    At most `depth` levels down: a dict may contain itself.
    """
    if not isinstance(content, dict):
        return {}, ()
    for key in NESTS if depth else ():
        inner, keys = _unwrap(content.get(key), depth - 1)
        if inner:
            return inner, (key, *keys)
    return {name: value for name, value in content.items() if isinstance(name, str) and isinstance(value, Tensor)}, ()


def _take_off_prefix(weights: dict[str, Tensor]) -> tuple[dict[str, Tensor], str]:
    """Return the tensors under their names without the prefix of the transformer, and the prefix.

    If there are several transformers, an averaged one is taken, or else the one with the shortest prefix, and no
    decoder. Of what is outside it, only a head is kept.
    """
    first = "blocks.0.attn.qkv.weight"
    found = [name.removesuffix(first) for name in weights if name.endswith(first)]
    found = [prefix for prefix in found if prefix == "" or prefix.endswith(".")]
    if not found:
        return {PREFIXES.sub("", name): tensor for name, tensor in weights.items()}, ""
    prefix = min(found, key=_rank_prefix)
    inside = {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}
    outside = {PREFIXES.sub("", name): tensor for name, tensor in weights.items() if not name.startswith(prefix)}
    heads = {name: tensor for name, tensor in outside.items() if name.startswith("head.") and name not in inside}
    return inside | heads, prefix


def _rank_prefix(prefix: str) -> tuple[bool, bool, int]:
    return "decoder" in prefix, not re.search(r"ema|teacher", prefix), len(prefix)
