"""`best.safetensors`: the weights of a run's best epoch, with what they are in its metadata."""

import contextlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from ..config.compose import load_config
from ..config.initial import CONFIG, FACTS, Origin, describe_run
from ..config.schema import TrainConfig
from ..machine.disk import read_json, write_bytes
from .files import BEST, CLASSES

# The facts about the best weights: name in status.json -> name in the file.
BEST_FACTS = {"best_epoch": "epoch", "best_val_acc": "val_acc", "best_val_loss": "val_loss", "best_weights": "kind"}


def write_best(path: Path, weights: dict[str, Any], facts: dict[str, Any], config: TrainConfig) -> None:
    """Replace the file durably. facts: epoch, val_acc, val_loss and kind ("raw" or "ema").

    With what `config` says about the model and the images, a copy of the file alone can be used, too.
    """
    from safetensors.torch import save

    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    # In one entry: safetensors writes several in random order, but equal runs should give equal files.
    origin = describe_run(path, config)
    facts = {**facts, "model": origin.model, "dataset": origin.dataset}
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
    """A file of weights, what they tell about themselves, and the classes of their head, None if these are unknown."""

    path: Path
    origin: Origin
    classes: list[str] | None = None


def find_weights(wanted: str, folder: Path) -> InitialWeights:
    """Return the weights for `init.weights=<run folder | file in it>`; folder: of the run.

    Raises FileNotFoundError for a folder without weights, ValueError for a damaged run.
    """
    path = Path(wanted)
    if path.is_dir():
        path /= BEST
        if not path.is_file():
            raise FileNotFoundError(f"init.weights={wanted} is not a run with weights: it has no {BEST}")
    try:
        classes = read_json(folder / CLASSES) if (folder / CLASSES).is_file() else None
        return InitialWeights(path, describe_run(folder, load_config(folder / CONFIG)), classes)
    except Exception as error:  # json, yaml and the schema raise various types
        raise ValueError(f"init.weights={wanted}: the run {folder} is damaged: {error}") from error
