"""Pretrained weights: read a file, copy what fits into the model, freeze parameters.

Names are timm's, as in `model.py`. Letters in shapes: N tokens, D embedding dimension, P patch size, C channels.
"""

import math
import pickle
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config.resolve import WEIGHT_SUFFIXES
from .model import VisionTransformer, resize_position_embedding
from .optim import layer_of

# Keys under which files nest their weights: our last.pt, DeiT and MAE, timm, torchvision, DINO. The first that has
# tensors is used.
NESTS = ("trainer", "model", "state_dict", "model_ema", "teacher")
# Prefixes that wrappers add to names: DDP, torch.compile, Lightning, DINO.
PREFIXES = re.compile(r"^(module\.|_orig_mod\.|model\.|backbone\.)+")
POSITIONS, CLASS, REGISTERS = "pos_embed", "cls_token", "reg_token"


@dataclass
class LoadReport:
    """Which tensors were loaded from `source`; lists are in the order of the model, `unused` in that of the file."""

    source: str
    loaded: list[str] = field(default_factory=list)
    resized: dict[str, str] = field(default_factory=dict)  # a part of loaded: name -> what was changed
    initialized: dict[str, str] = field(default_factory=dict)  # name -> why it was not loaded
    unused: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """Return one to four lines for the log; long lists of names are shortened."""
        reasons: dict[str, list[str]] = {}
        for name, why in self.initialized.items():
            reasons.setdefault(why, []).append(name)
        parts = {
            "resized": [f"{name} {change}" for name, change in self.resized.items()],
            "newly initialized": [f"{_shorten(names)} ({why})" for why, names in reasons.items()],
            "not used": self.unused,
        }
        first = f"{len(self.loaded)} of {len(self.loaded) + len(self.initialized)} tensors from {self.source}"
        return [first, *(f"{title}: {_shorten(items)}" for title, items in parts.items() if items)]


def _shorten(items: list[str], limit: int = 4) -> str:
    more = [f"and {len(items) - limit} more"] if len(items) > limit else []
    return ", ".join([*items[:limit], *more])


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a file to the CPU, however they are nested, without executing anything in the file.

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
    weights = _unwrap(content, depth=3)
    if not weights:
        raise ValueError(f"init.weights={path} contains no named tensors, at the top level or in {', '.join(NESTS)}")
    return weights


def _read(path: Path) -> Any:
    if path.suffix.lower() == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    return torch.load(path, map_location="cpu", weights_only=True)


def _unwrap(content: Any, depth: int) -> dict[str, Tensor]:
    """Return the tensors of the innermost nested dict, at most `depth` levels down: a dict may contain itself."""
    if not isinstance(content, dict):
        return {}
    for key in NESTS if depth else ():
        if inner := _unwrap(content.get(key), depth - 1):
            return inner
    return {name: value for name, value in content.items() if isinstance(name, str) and isinstance(value, Tensor)}


@torch.no_grad()
def load_weights(
    model: VisionTransformer, weights: dict[str, Tensor], source: str, grid: tuple[int, int] | None = None
) -> LoadReport:
    """Copy what fits into the model, in place, and leave the rest as initialized.

    Position embeddings are resized to the model's grid, the first convolution is adapted to its channels. `grid`: the
    rows and columns of patches that the weights were trained with; None assumes a square, or the model's grid if their
    number is not a square.

    Raises ValueError if nothing but the head fits, or if the grid of the position embeddings is unknown.
    """
    weights = {PREFIXES.sub("", name): tensor for name, tensor in weights.items()}
    state = model.state_dict()
    report = LoadReport(source, unused=[name for name in weights if name not in state])
    fitting: dict[str, Tensor] = {}
    for name, target in state.items():
        if name not in weights:
            report.initialized[name] = "not in the file"
            continue
        value, change = _adapt(model, name, target, weights, source, grid)
        if value.shape != target.shape:
            report.initialized[name] = _compare_shapes(name, target, value)
            continue
        report.loaded.append(name)
        fitting[name] = value
        if change:
            report.resized[name] = change
    if all(name.startswith("head.") for name in fitting):
        raise ValueError(
            f"init.weights={source} does not fit this model{_architecture_hint(state, weights)}"
            f"\n  in the file: {_show(weights)}\n  in the model: {_show(state)}"
        )
    for name, value in fitting.items():
        state[name].copy_(value)
    return report


def _adapt(
    model: VisionTransformer,
    name: str,
    target: Tensor,
    weights: dict[str, Tensor],
    source: str,
    grid: tuple[int, int] | None,
) -> tuple[Tensor, str]:
    """Return a tensor of the file, adapted to the model if possible, and what was changed."""
    value = weights[name]
    if name == POSITIONS and value.ndim == 3 and value.shape[::2] == target.shape[::2]:
        return _adapt_positions(model, weights, source, grid)
    first = "patch_embed.stem.0.weight" if len(model.patch_embed.stem) else "patch_embed.proj.weight"
    if name == first and value.ndim == 4 and value.shape[1] != target.shape[1]:
        return _adapt_channels(value, target.shape[1]), f"{value.shape[1]} -> {target.shape[1]} channels"
    return value, ""


def _adapt_channels(weight: Tensor, channels: int) -> Tensor:
    """Change the input channels of a convolution (D, C, a, a) to their mean: the output for gray images stays the same.

    As in timm between one channel and three; for four, timm repeats the first.
    """
    mean = weight.float().mean(dim=1, keepdim=True)
    return (mean * (weight.shape[1] / channels)).expand(-1, channels, -1, -1)


def _adapt_positions(
    model: VisionTransformer, weights: dict[str, Tensor], source: str, grid: tuple[int, int] | None
) -> tuple[Tensor, str]:
    """Return the position embeddings (1, N, D) for the model's grid and prefix tokens, and what was changed."""
    given = weights[POSITIONS]
    # The numbers of class tokens and registers.
    in_file = int(CLASS in weights), weights[REGISTERS].shape[:-1].numel() if REGISTERS in weights else 0
    in_model = int(model.cls_token is not None), 0 if model.reg_token is None else model.reg_token.shape[1]
    grid, num_prefix = _find_grid(given.shape[1], in_file, grid, model.grid_size, source)
    prefix = _adapt_prefix(model.pos_embed[:, : sum(in_model)], given[:, :num_prefix], in_model, in_file)
    patches = resize_position_embedding(given[:, num_prefix:], grid, model.grid_size, 0)
    changes = []
    if grid != model.grid_size:
        changes.append(f"{grid[0]} x {grid[1]} -> {model.grid_size[0]} x {model.grid_size[1]}")
    if num_prefix != sum(in_model):
        changes.append(f"{num_prefix} -> {sum(in_model)} prefix positions")
    return torch.cat([prefix, patches.to(prefix)], dim=1), " and ".join(changes)


def _find_grid(
    num_positions: int,
    num_tokens: tuple[int, int],
    grid: tuple[int, int] | None,
    own_grid: tuple[int, int],
    source: str,
) -> tuple[tuple[int, int], int]:
    """Return the rows and columns of patches, and the number of prefix positions.

    num_tokens: the numbers of class tokens and registers in the file. All of them may have a position, only the class
    token, or none (timm's `no_embed_class`).
    """
    prefixes = [sum(num_tokens), num_tokens[0], 0]
    sides = [(prefix, math.isqrt(max(0, num_positions - prefix))) for prefix in prefixes]
    squares = [((side, side), prefix) for prefix, side in sides]
    own = [(own_grid, prefix) for prefix in prefixes]
    for candidate, prefix in [*squares, *own] if grid is None else [(grid, prefix) for prefix in prefixes]:
        if candidate[0] and candidate[0] * candidate[1] + prefix == num_positions:
            return candidate, prefix
    if grid is not None:
        raise ValueError(
            f"init.weights={source}: its {POSITIONS} has {num_positions} positions, "
            f"which do not match its {grid[0]} x {grid[1]} patches"
        )
    raise ValueError(
        f"init.weights={source}: its {POSITIONS} has {num_positions} positions, which are not a square of patches, so "
        "their rows and columns are unknown; use the folder of the run, which has them, instead of a file"
    )


def _adapt_prefix(own: Tensor, given: Tensor, in_model: tuple[int, int], in_file: tuple[int, int]) -> Tensor:
    """Return the model's positions (1, n, D) of class token and registers, replaced for tokens that the file has.

    Tokens of the file without a position get zeros, which add nothing.
    """
    given = F.pad(given, (0, 0, 0, sum(in_file) - given.shape[1]))
    own_kinds, given_kinds = own.split(in_model, dim=1), given.split(in_file, dim=1)
    pairs = zip(own_kinds, given_kinds, strict=True)
    return torch.cat([torch.cat([b[:, : a.shape[1]].to(a), a[:, b.shape[1] :]], dim=1) for a, b in pairs], dim=1)


def _compare_shapes(name: str, target: Tensor, value: Tensor) -> str:
    if name.startswith("head.") and value.shape[1:] == target.shape[1:]:
        return f"{len(target)} classes, {len(value)} in the file"
    return f"{_format_shape(target)}, {_format_shape(value)} in the file"


def _format_shape(tensor: Tensor) -> str:
    return " x ".join(str(size) for size in tensor.shape) or "scalar"


def _show(tensors: dict[str, Tensor]) -> str:
    return _shorten([f"{name} ({_format_shape(tensor)})" for name, tensor in tensors.items()])


def _architecture_hint(state: dict[str, Tensor], weights: dict[str, Tensor]) -> str:
    """Return the key to change if the file's model only has another width."""
    given, own = weights.get("norm.weight"), state["norm.weight"]
    if given is None or given.shape == own.shape:
        return "; its tensors must be named as in timm's VisionTransformer"
    return f": model.embedding_dim={len(own)} would have to be {len(given)}"


def freeze(model: nn.Module, what: str | int | None) -> int:
    """Exclude parameters from training: "backbone": all but the head; a number n: the embedding and the first n blocks.

    Returns the number of trainable parameters. Build the optimizer afterwards.
    """
    num_blocks = len(list(model.get_submodule("blocks").children()))
    if not (what in (None, "backbone") or (isinstance(what, int) and 0 <= what <= num_blocks)):
        raise ValueError(f"init.freeze={what} is not known; allowed: backbone, a number up to {num_blocks}, null")
    for name, parameter in model.named_parameters():
        in_backbone = what == "backbone" and not name.startswith("head.")
        if in_backbone or (isinstance(what, int) and layer_of(name, num_blocks + 1) <= what):
            parameter.requires_grad_(False)
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def list_untrained(model: nn.Module, report: LoadReport | None) -> list[str]:
    """Return the frozen parameters that were not loaded, so that they stay random; report: what was loaded, if any."""
    loaded = set() if report is None else {*report.loaded, *report.resized}
    return [name for name, value in model.named_parameters() if not value.requires_grad and name not in loaded]
