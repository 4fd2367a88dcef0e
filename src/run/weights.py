"""`best.safetensors`: the weights of a run's best epoch, with what they are in its metadata."""

import contextlib
import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from ..config.compose import load_config
from ..machine.disk import write_bytes
from .files import BEST, CONFIG

FACTS = "facts"  # the entry of the file's metadata

# The facts about the best weights: name in status.json -> name in the file.
BEST_FACTS = {"best_epoch": "epoch", "best_val_acc": "val_acc", "best_val_loss": "val_loss", "best_weights": "kind"}


def write_best(path: Path, weights: dict[str, Any], facts: dict[str, Any]) -> None:
    """Replace the file durably. facts: epoch, val_acc, val_loss and kind ("raw" or "ema")."""
    from safetensors.torch import save

    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    # In one entry: safetensors writes several in random order, but equal runs should give equal files.
    write_bytes(path, save(tensors, {FACTS: json.dumps(facts)}))


def read_best(path: Path) -> dict[str, Any]:
    """Return the facts that `write_best` stored; {} if there is no such file, or it is damaged."""
    kinds = {"epoch": int, "val_acc": float, "val_loss": float, "kind": str}
    with contextlib.suppress(OSError, SafetensorError, KeyError, ValueError), safe_open(path, "np") as file:
        metadata = file.metadata() or {}
        facts = json.loads(metadata[FACTS]) if FACTS in metadata else metadata  # earlier versions: an entry for each
        return {key: kind(facts[key]) for key, kind in kinds.items()}
    return {}


def find_weights(wanted: str) -> tuple[Path, tuple[int, int] | None]:
    """Return the file for `init.weights=<run folder | file>` and, for a run, its patches as (rows, columns)."""
    path = Path(wanted)
    if not path.is_dir():
        return path, None
    if not (path / BEST).is_file():
        raise FileNotFoundError(f"init.weights={wanted} is not a run with weights: it has no {BEST}")
    model = load_config(path / CONFIG).model
    assert model.patch_size is not None  # a saved configuration has no null
    height, width = model.image_size
    return path / BEST, (height // model.patch_size, width // model.patch_size)
