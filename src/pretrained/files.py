"""Files of weights: their tensors, however they are nested, under the names of timm, as in `model.py`."""

import pickle
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..config.resolve import WEIGHT_SUFFIXES

# Keys under which files nest their weights: averaged ones first, as in timm, then those of our last.pt, DeiT and MAE,
# timm, torchvision, Lightning, DINO. The first that has tensors is used.
AVERAGED = ("state_dict_ema", "model_ema", "ema_state_dict", "ema", "teacher")
NESTS = (*AVERAGED, "trainer", "model", "state_dict", "model_state_dict", "module", "student")
# Prefixes that wrappers add to names: DDP, torch.compile, Lightning, DINO.
PREFIXES = re.compile(r"^(module\.|_orig_mod\.|model\.|backbone\.)+")
# Other names of registers. The distillation token of DeiT is one: a token more between class token and patches.
SYNONYMS = {"dist_token": "reg_token", "register_tokens": "reg_token", "storage_tokens": "reg_token"}


def read_weights(path: Path) -> tuple[dict[str, Tensor], str]:
    """Read the tensors of a file to the CPU without executing anything in the file; return them and where they are.

    Where: the keys, as in `trainer.ema`, and the prefix of the names, as in `backbone.*`; "" at the top level.
    Raises FileNotFoundError, OSError or ValueError, with the key init.weights.
    """
    allowed = ", ".join(WEIGHT_SUFFIXES)
    if not path.is_file():
        raise FileNotFoundError(f"init.weights={path} is not a file; allowed: a run's folder, or a file ({allowed})")
    if path.suffix.lower() not in WEIGHT_SUFFIXES:
        raise ValueError(f"init.weights={path} is not a weights file; allowed: {allowed}")
    try:
        content = _read(path)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
        problem = f"contains objects ({found[1]}), which could run code" if found else "is damaged"
        advice = "save only the state_dict(), preferably as .safetensors"
        raise ValueError(f"init.weights={path} {problem}; {advice}") from error
    except OSError as error:
        raise OSError(f"init.weights={path} cannot be read: {error}") from error
    except Exception as error:  # torch, zipfile and safetensors each raise their own for a damaged file
        reason = re.split(r"\n|\. ", f"{type(error).__name__}: {error}")[0]
        raise ValueError(f"init.weights={path} is damaged or not a {path.suffix} file: {reason}") from error
    weights, nest = _unwrap(content, depth=3)
    if not weights:
        raise ValueError(f"init.weights={path} contains no named tensors, at the top level or in {', '.join(NESTS)}")
    weights, prefix = _take_off_prefix(weights)
    for name, ours in SYNONYMS.items():
        if name in weights and ours not in weights:
            weights[ours] = weights.pop(name)
    return weights, " ".join(part for part in (nest, f"{prefix}*" if prefix else "") if part)


def _read(path: Path) -> Any:
    if path.suffix.lower() == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    return torch.load(path, map_location="cpu", weights_only=True)


def _unwrap(content: Any, depth: int) -> tuple[dict[str, Tensor], str]:
    """Return the tensors of the innermost nested dict and the keys that lead there.

    At most `depth` levels down: a dict may contain itself.
    """
    if not isinstance(content, dict):
        return {}, ""
    for key in NESTS if depth else ():
        inner, path = _unwrap(content.get(key), depth - 1)
        if inner:
            return inner, f"{key}.{path}" if path else key
    return {name: value for name, value in content.items() if isinstance(name, str) and isinstance(value, Tensor)}, ""


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
