"""Copy weights into a model, as far as they fit.

Names are timm's, as in `model.py`. Letters in shapes: N tokens, D embedding dimension, P patch size, C channels.
"""

import re
import unicodedata
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from ..model import VisionTransformer, resize_position_embedding
from .architecture import (
    ASIDE,
    CLASS,
    LEAST_SHARE,
    NAMES,
    PATCHES,
    POSITIONS,
    describe_key,
    list_squares,
    read_architecture,
)
from .names import explain_others


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


@torch.no_grad()
def load_weights(
    model: VisionTransformer,
    weights: dict[str, Tensor],
    source: str,
    grid: tuple[int, int] | None = None,
    strict: bool = True,
    fresh_head: str = "",
    resample: bool = False,
) -> LoadReport:
    """Copy what fits into the model, in place, and leave the rest as initialized.

    Position embeddings are resized to the model's grid, the first convolution is adapted to its channels. grid: the
    rows and columns of patches that the weights were trained with; None: the model's own if their number is the same,
    or else a square. strict: the file and the model may differ only in heads and in what only training needs.
    fresh_head: why the file's head is not used; "" to use it if it fits. resample: resize the patch embedding, too, if
    the model has other patches.

    Raises ValueError, which names the keys to change, for weights of another model, and if the grid is unknown.
    """
    state = model.state_dict()
    report = LoadReport(source, unused=[name for name in weights if name not in state])
    fitting: dict[str, Tensor] = {}
    for name, target in state.items():
        if fresh_head and name.startswith("head."):
            report.initialized[name] = fresh_head
        elif name not in weights:
            report.initialized[name] = "not in the file"
        elif name == POSITIONS and weights[name].ndim == 3 and weights[name].shape[::2] == target.shape[::2]:
            fitting[name] = weights[name]
        else:
            value, change = _adapt_channels(model, name, weights[name], target)
            if resample and name == PATCHES and value.shape[-1] != target.shape[-1]:
                value, change = resample_patches(value, target.shape[-1]), _describe_windows(value, target, change)
            if value.shape == target.shape:
                fitting[name] = value
                report.resized |= {name: change} if change else {}
            else:
                report.initialized[name] = _compare_shapes(name, target, value)
    report.loaded = list(fitting)
    _refuse_others(report, state, weights, strict)
    if POSITIONS in fitting:
        fitting[POSITIONS], change = _adapt_positions(model, weights, source, grid)
        report.resized |= {POSITIONS: change} if change else {}
    for name, value in fitting.items():
        state[name].copy_(value)
    return report


def _refuse_others(report: LoadReport, state: dict[str, Tensor], weights: dict[str, Tensor], strict: bool) -> None:
    """Raise ValueError if the weights are those of another model: what is missing or left over changes its function."""
    left_over = [name for name in report.unused if not ASIDE.match(name)]
    missing = [name for name in report.initialized if not name.startswith("head.")]
    body = [name for name in state if not name.startswith("head.")]
    few = len(body) - len(missing) < LEAST_SHARE * len(body)
    if not (few or strict and (left_over or missing)):
        return
    foreign = [name for name in left_over if not NAMES.fullmatch(name)]
    theirs, ours = read_architecture(weights), read_architecture(state)
    differing = [key for key in theirs if theirs[key] != ours[key]]
    if foreign or not differing:
        names = explain_others(foreign) or (_shorten(foreign) if foreign else f"no {_shorten(missing)}")
        problem = f"is of another architecture than model.*: it has {names}"
    else:
        keys = " ".join(f"model.{key}={describe_key(key, theirs[key])}" for key in differing)
        here = ", ".join(describe_key(key, ours[key]) for key in differing)
        problem = f"is of another model; write {keys} (here: {here})"
    advice = "" if few else "; init.strict=false loads what fits and leaves the rest random"
    raise ValueError(
        f"init.weights={report.source} {problem}{advice}"
        f"\n  in the file: {_show(weights)}\n  in the model: {_show(state)}"
    )


def _adapt_channels(model: VisionTransformer, name: str, value: Tensor, target: Tensor) -> tuple[Tensor, str]:
    """Return a tensor of the file, with the channels of the model's images if it is the first convolution's.

    Other channels become their mean, so that the output for gray images stays the same: as in timm between one channel
    and three; for four, timm repeats the first. Returns what was changed too.
    """
    first = "patch_embed.stem.0.weight" if len(model.patch_embed.stem) else "patch_embed.proj.weight"
    if name != first or value.ndim != 4 or value.shape[1] == target.shape[1]:
        return value, ""
    given, wanted = value.shape[1], target.shape[1]  # of (D, C, a, a)
    mean = value.float().mean(dim=1, keepdim=True)
    return (mean * (given / wanted)).expand(-1, wanted, -1, -1), f"{given} -> {wanted} channels"


def resample_patches(weight: Tensor, side: int) -> Tensor:
    """Resize a patch embedding (D,C,a,a) to patches of another side: FlexiViT (Beyer et al., arXiv 2212.08013, eq. 4).

    The new weights give resized patches the tokens of the old ones, exactly for larger patches, otherwise as nearly as
    least squares can.
    """
    old = weight.shape[-1]
    pixels = torch.eye(old**2, dtype=torch.float64).view(old**2, 1, old, old)
    resized = F.interpolate(pixels, (side, side), mode="bicubic", antialias=True).flatten(1)  # (a², side²)
    inverse = torch.linalg.pinv(resized)  # (side², a²)
    return (weight.double().flatten(2) @ inverse.T).unflatten(2, (side, side)).float()


def _describe_windows(value: Tensor, target: Tensor, change: str) -> str:
    return " and ".join(filter(None, [change, f"{value.shape[-1]} -> {target.shape[-1]} px"]))


def _adapt_positions(
    model: VisionTransformer, weights: dict[str, Tensor], source: str, grid: tuple[int, int] | None
) -> tuple[Tensor, str]:
    """Return the position embeddings (1, N, D) for the model's grid and prefix tokens, and what was changed."""
    given = weights[POSITIONS].float()
    # The numbers of class tokens and registers, or whatever else stands before the patches.
    others = [
        tensor for name, tensor in weights.items() if re.fullmatch(r"(?!mask)\w+_tokens?", name) and tensor.ndim == 3
    ]
    in_file = int(CLASS in weights), sum(tensor.shape[1] for tensor in others) - int(CLASS in weights)
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
    prefixes = (sum(num_tokens), num_tokens[0], 0)
    rows, columns = grid or own_grid
    for prefix in prefixes:
        if rows * columns + prefix == num_positions:
            return (rows, columns), prefix
    squares = [] if grid else list_squares(num_positions, *num_tokens)
    if squares:
        side, prefix = squares[0]
        return (side, side), prefix
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


@torch.no_grad()
def match_head(
    weights: dict[str, Tensor], model: VisionTransformer, theirs: list[str] | None, ours: list[str]
) -> tuple[dict[str, Tensor], str, str]:
    """Return the weights with a head for our classes, why it is not used (or ""), and a line for the log (or "").

    theirs: the classes of the file's head, in order; None if they are unknown. Rows of the same class are copied, by
    name; those of other classes stay as the model has them.
    """
    rows, own = weights.get("head.weight"), model.head
    if rows is None or rows.shape[1:] != own.weight.shape[1:]:
        return weights, "", ""
    if theirs is None:
        line = "head: copied, since it has as many classes; the file does not say which"
        return weights, "", line if len(rows) == len(ours) else ""
    numbers = {unicodedata.normalize("NFC", name): number for number, name in enumerate(theirs)}
    pairs = [
        (row, numbers[name])
        for row, name in enumerate(unicodedata.normalize("NFC", name) for name in ours)
        if numbers.get(name, len(rows)) < len(rows)
    ]
    if not pairs:
        return weights, f"none of its {len(theirs)} classes is here", ""
    here, there = zip(*pairs, strict=True)
    head = {"head.weight": own.weight.clone(), "head.bias": own.bias.clone()}
    head = {name: tensor for name, tensor in head.items() if name in weights}
    for name, tensor in head.items():
        tensor[list(here)] = weights[name][list(there)].to(tensor)
    new = [name for row, name in enumerate(ours) if row not in here]
    line = f"head: {len(here)} of {len(ours)} classes by their names" + (f"; new: {_shorten(new)}" if new else "")
    return weights | head, "", line
