"""Begin with weights that are there: read a file, copy what fits into the model, freeze what shall stay.

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

# What files wrap weights in: our last.pt, DeiT and MAE, timm, torchvision, DINO. The first that holds tensors is taken.
NESTS = ("trainer", "model", "state_dict", "model_ema", "teacher")
# What wrappers put before names: DDP, torch.compile, Lightning's habit, DINO.
PREFIXES = re.compile(r"^(module\.|_orig_mod\.|model\.|backbone\.)+")
POSITIONS, CLASS, REGISTERS = "pos_embed", "cls_token", "reg_token"


@dataclass
class LoadReport:
    """What became of the model's tensors and of the file's; every list is in the order of the model or the file."""

    source: str
    loaded: list[str] = field(default_factory=list)
    resized: dict[str, str] = field(default_factory=dict)  # of the loaded: name -> what was changed
    fresh: dict[str, str] = field(default_factory=dict)  # name -> why it begins as initialized
    unused: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """Return one to four lines for the log; long lists of names are shortened."""
        reasons: dict[str, list[str]] = {}
        for name, why in self.fresh.items():
            reasons.setdefault(why, []).append(name)
        parts = {
            "resized": [f"{name} {change}" for name, change in self.resized.items()],
            "begin fresh": [f"{_shorten(names)} ({why})" for why, names in reasons.items()],
            "not used": self.unused,
        }
        first = f"{len(self.loaded)} of {len(self.loaded) + len(self.fresh)} tensors from {self.source}"
        return [first, *(f"{title}: {_shorten(items)}" for title, items in parts.items() if items)]


def _shorten(items: list[str], limit: int = 4) -> str:
    more = [f"and {len(items) - limit} more"] if len(items) > limit else []
    return ", ".join([*items[:limit], *more])


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a file to the CPU, out of whatever they are nested in; nothing in the file is executed.

    Raises FileNotFoundError, OSError or ValueError, which name init.weights.
    """
    allowed = ", ".join(WEIGHT_SUFFIXES)
    if not path.is_file():
        raise FileNotFoundError(f"init.weights={path} is not a file; allowed: a run's folder, or a file ({allowed})")
    if path.suffix.lower() not in WEIGHT_SUFFIXES:
        raise ValueError(f"init.weights={path} is no file of weights; allowed: {allowed}")
    try:
        content = _read(path)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
        held = f"holds objects ({found[1]}), which could run code" if found else "is damaged"
        raise ValueError(f"init.weights={path} {held}; save the state_dict() alone, best as .safetensors") from error
    except OSError as error:
        raise OSError(f"init.weights={path} cannot be read: {error}") from error
    except Exception as error:  # of torch, zipfile or safetensors: each has its own for a damaged file
        reason = re.split(r"\n|\. ", f"{type(error).__name__}: {error}")[0]
        raise ValueError(f"init.weights={path} is damaged, or not what its name says: {reason}") from error
    weights = _unwrap(content, depth=3)
    if not weights:
        raise ValueError(f"init.weights={path} holds no named tensors, on its own or under {', '.join(NESTS)}")
    return weights


def _read(path: Path) -> Any:
    if path.suffix.lower() == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    return torch.load(path, map_location="cpu", weights_only=True)


def _unwrap(content: Any, depth: int) -> dict[str, Tensor]:
    """Return the tensors of the innermost nest, at most `depth` deep: a dict may hold itself."""
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

    Position embeddings are resized to the model's grid, and the first convolution is made to fit its channels. `grid`
    holds the rows and columns of patches that the weights were trained on; None takes them to be square, or, where
    their number is no square, to be the model's own.

    Raises ValueError where nothing but the head fits, or where the grid of the position embeddings is unknown.
    """
    weights = {PREFIXES.sub("", name): tensor for name, tensor in weights.items()}
    state = model.state_dict()
    report = LoadReport(source, unused=[name for name in weights if name not in state])
    fitting: dict[str, Tensor] = {}
    for name, target in state.items():
        if name not in weights:
            report.fresh[name] = "not in the file"
            continue
        value, change = _adapt(model, name, target, weights, source, grid)
        if value.shape != target.shape:
            report.fresh[name] = _why(name, target, value)
            continue
        report.loaded.append(name)
        fitting[name] = value
        if change:
            report.resized[name] = change
    if all(name.startswith("head.") for name in fitting):
        raise ValueError(
            f"init.weights={source} does not fit this model{_architecture_hint(state, weights)}"
            f"\n  in the file: {_show(weights)}\n  the model's: {_show(state)}"
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
    """Return a tensor of the file as the model needs it, if that can be done, and what was changed."""
    value = weights[name]
    if name == POSITIONS and value.ndim == 3 and value.shape[::2] == target.shape[::2]:
        return _adapt_positions(model, weights, source, grid)
    first = "patch_embed.stem.0.weight" if len(model.patch_embed.stem) else "patch_embed.proj.weight"
    if name == first and value.ndim == 4 and value.shape[1] != target.shape[1]:
        return _adapt_channels(value, target.shape[1]), f"{value.shape[1]} -> {target.shape[1]} channels"
    return value, ""


def _adapt_channels(weight: Tensor, channels: int) -> Tensor:
    """Give a convolution (D, C, a, a) other input channels: each gets their mean, so that gray images give the same.

    What timm does between one channel and three; to four it would repeat the first.
    """
    mean = weight.float().mean(dim=1, keepdim=True)
    return (mean * (weight.shape[1] / channels)).expand(-1, channels, -1, -1)


def _adapt_positions(
    model: VisionTransformer, weights: dict[str, Tensor], source: str, grid: tuple[int, int] | None
) -> tuple[Tensor, str]:
    """Return the position embeddings (1, N, D) for the model's grid and prefix tokens, and what was changed."""
    given = weights[POSITIONS]
    there = int(CLASS in weights), weights[REGISTERS].shape[:-1].numel() if REGISTERS in weights else 0
    here = int(model.cls_token is not None), 0 if model.reg_token is None else model.reg_token.shape[1]
    grid, num_prefix = _find_grid(given.shape[1], there, grid, model.grid_size, source)
    prefix = _adapt_prefix(model.pos_embed[:, : sum(here)], given[:, :num_prefix], here, there)
    patches = resize_position_embedding(given[:, num_prefix:], grid, model.grid_size, 0)
    changes = []
    if grid != model.grid_size:
        changes.append(f"{grid[0]} x {grid[1]} -> {model.grid_size[0]} x {model.grid_size[1]}")
    if num_prefix != sum(here):
        changes.append(f"{num_prefix} -> {sum(here)} positions before the patches")
    return torch.cat([prefix, patches.to(prefix)], dim=1), " and ".join(changes)


def _find_grid(
    num_positions: int,
    num_tokens: tuple[int, int],
    grid: tuple[int, int] | None,
    own_grid: tuple[int, int],
    source: str,
) -> tuple[tuple[int, int], int]:
    """Return rows and columns of the patches, and how many positions stand before them.

    `num_tokens` are the file's class token and registers: all of them may have a position, or the class token alone,
    or none (timm's `no_embed_class`).
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
            f"which are not those of its {grid[0]} x {grid[1]} patches"
        )
    raise ValueError(
        f"init.weights={source}: its {POSITIONS} has {num_positions} positions, which are not a square of patches, so "
        "their rows and columns are unknown; give the folder of the run, which knows them, instead of a file"
    )


def _adapt_prefix(own: Tensor, given: Tensor, here: tuple[int, int], there: tuple[int, int]) -> Tensor:
    """Return own positions (1, n, D) of class token and registers, those replaced that the file has tokens for.

    Its tokens without a position get zeros, which add nothing.
    """
    given = F.pad(given, (0, 0, 0, sum(there) - given.shape[1]))
    own_kinds, given_kinds = own.split(here, dim=1), given.split(there, dim=1)
    pairs = zip(own_kinds, given_kinds, strict=True)
    return torch.cat([torch.cat([b[:, : a.shape[1]].to(a), a[:, b.shape[1] :]], dim=1) for a, b in pairs], dim=1)


def _why(name: str, target: Tensor, value: Tensor) -> str:
    if name.startswith("head.") and value.shape[1:] == target.shape[1:]:
        return f"{len(target)} classes, there {len(value)}"
    return f"{_format_shape(target)}, there {_format_shape(value)}"


def _format_shape(tensor: Tensor) -> str:
    return " x ".join(str(size) for size in tensor.shape) or "one number"


def _show(tensors: dict[str, Tensor]) -> str:
    return _shorten([f"{name} ({_format_shape(tensor)})" for name, tensor in tensors.items()])


def _architecture_hint(state: dict[str, Tensor], weights: dict[str, Tensor]) -> str:
    """Name the key to change where the file has the model's names at another width."""
    there, here = weights.get("norm.weight"), state["norm.weight"]
    if there is None or there.shape == here.shape:
        return "; names as in timm's VisionTransformer are needed"
    return f", whose model.embedding_dim={len(here)} would have to be {len(there)}"


def freeze(model: nn.Module, what: str | int | None) -> int:
    """Exclude parameters from training: "backbone" all but the head, a number n the embedding and the first n blocks.

    Returns the number of parameters that are left to train; build the optimizer afterwards.
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
    """Return the frozen parameters that stay as they were initialized; report: what was loaded before, if anything."""
    loaded = set() if report is None else {*report.loaded, *report.resized}
    return [name for name, value in model.named_parameters() if not value.requires_grad and name not in loaded]
