"""Before a run goes on, or lends its weights: is anything left to do, what was changed, where the weights are."""

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..config import TrainConfig, list_changes, load_config
from .files import BEST, CONFIG
from .saved import open_resumable

if TYPE_CHECKING:
    from ..optim import LearningRate

LIMITS = {"training.epochs", "training.max_minutes", "training.early_stopping"}


def nothing_left(folder: Path, config: TrainConfig, overrides: list[str]) -> str | None:
    """Return, in a sentence, that a run is finished; None where something is left to do.

    Raises ValueError where fewer epochs are wanted than are done.
    """
    saved = open_resumable(str(folder), [])
    done, epochs, ended = int(saved.facts.get("epoch") or 0), config.training.epochs, saved.facts.get("ended")
    if epochs < done:
        raise ValueError(f"training.epochs={epochs}, but the run has {done} behind it; choose {done} or more")
    limits_typed = LIMITS & {override.split("=", 1)[0].lstrip("+") for override in overrides}
    if saved.status != "finished" or (epochs > done and (not ended or limits_typed)):
        return None
    why = f" ({ended})" if ended else ""
    return f"the run is finished after {done} epochs{why}: {folder}; a larger training.epochs continues it"


def describe_changes(folder: Path, config: TrainConfig, learning_rate: "LearningRate") -> list[str]:
    """Return a line for each key that is another than when the run was left, and for a schedule that is."""
    saved = load_config(folder / CONFIG)
    changes = list_changes(saved, config)
    lines = [f"{key}: {old} → {new}" for key, (old, new) in changes.items()]
    before = replace(learning_rate, config=saved.scheduler, peak=saved.optimizer.lr, epochs=saved.training.epochs)
    step = int(open_resumable(str(folder), []).facts.get("epoch") or 0) * learning_rate.steps_per_epoch
    if before(step) != learning_rate(step):
        lines.append(
            f"the learning rate goes on as if it had followed {config.scheduler.name} over {config.training.epochs} "
            f"epochs from the start: {learning_rate(step):.1e} next, instead of {before(step):.1e}"
        )
    return lines


def find_weights(wanted: str) -> tuple[Path, tuple[int, int] | None]:
    """Return the file of weights for `init.weights=<run folder | file>` and, of a run, its patches (rows, columns)."""
    path = Path(os.path.expanduser(wanted))
    if not path.is_dir():
        return path, None
    if not (path / BEST).is_file():
        raise FileNotFoundError(f"init.weights={wanted} is no run with weights: it holds no {BEST}")
    model = load_config(path / CONFIG).model
    assert model.patch_size is not None  # a saved configuration has no null
    height, width = model.image_size
    return path / BEST, (height // model.patch_size, width // model.patch_size)
