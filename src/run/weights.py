"""`best.safetensors`: the weights of a run's best epoch, with what they are in its metadata."""

import contextlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from ..config.compose import load_config
from ..config.initial import CONFIG, find_run
from ..config.schema import TrainConfig
from ..machine.disk import read_json, write_bytes
from .files import BEST, CLASSES

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
    damage = (OSError, SafetensorError, KeyError, ValueError, TypeError, OverflowError, RecursionError)
    with contextlib.suppress(*damage), safe_open(path, "np") as file:
        metadata = file.metadata() or {}
        facts = json.loads(metadata[FACTS]) if FACTS in metadata else metadata  # earlier versions: an entry for each
        return {key: kind(facts[key]) for key, kind in kinds.items()}
    return {}


@dataclass(frozen=True)
class InitialWeights:
    """A file of weights, and what the run it belongs to tells about it: the run's configuration and its classes."""

    path: Path
    config: TrainConfig | None = None
    classes: list[str] | None = None

    @property
    def grid(self) -> tuple[int, int] | None:
        """The rows and columns of patches that the weights were trained with, None if they are unknown."""
        if self.config is None or self.config.model.patch_size is None or self.config.model.image_size is None:
            return None
        model = self.config.model
        return model.image_size[0] // model.patch_size, model.image_size[1] // model.patch_size


def find_weights(wanted: str) -> InitialWeights:
    """Return the weights for `init.weights=<run folder | file>`.

    Raises FileNotFoundError for a folder without weights, ValueError for a damaged run.
    """
    path, folder = Path(wanted), find_run(wanted)
    if path.is_dir():
        path /= BEST
        if not path.is_file():
            raise FileNotFoundError(f"init.weights={wanted} is not a run with weights: it has no {BEST}")
    if folder is None:
        return InitialWeights(path)
    try:
        classes = read_json(folder / CLASSES) if (folder / CLASSES).is_file() else None
        return InitialWeights(path, load_config(folder / CONFIG), classes)
    except Exception as error:  # json, yaml and the schema raise various types
        raise ValueError(f"init.weights={wanted}: the run {folder} is damaged: {error}") from error
