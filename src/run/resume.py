"""Before a run goes on, or lends its weights: is anything left to do, what was changed, where the weights are."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import TrainConfig, TrainingConfig, list_changes, load_config
from .files import BEST, CONFIG
from .saved import open_resumable

if TYPE_CHECKING:
    from ..optim import LearningRate

LIMITS = ("max_minutes", "early_stopping")  # keys of `training` that end a run before its epochs are done


def name_limits(training: TrainingConfig) -> dict[str, str]:
    """Return what ends a run early, as it is typed: {"early_stopping": "training.early_stopping=5", …}."""
    return {key: f"training.{key}={getattr(training, key):g}" for key in LIMITS if getattr(training, key) is not None}


def nothing_left(folder: Path, config: TrainConfig) -> str | None:
    """Return, in a sentence, that a run is finished, and which keys have no effect; None where something is left to do.

    Raises ValueError where fewer epochs are wanted than are done.
    """
    saved = open_resumable(str(folder), [])
    done, epochs, ended = int(saved.facts.get("epoch") or 0), config.training.epochs, saved.facts.get("ended")
    if epochs < done:
        raise ValueError(f"training.epochs={epochs}, but the run has {done} behind it; choose {done} or more")
    stands = ended in name_limits(config.training).values()
    if saved.status != "finished" or (epochs > done and not stands):
        return None
    key, why = (str(ended).split("=")[0], f", ended by {ended}") if stands else ("training.epochs", "")
    epochs_done = "1 epoch" if done == 1 else f"{done} epochs"
    unused = _name_unused(load_config(folder / CONFIG), config)
    return f"the run is finished after {epochs_done}{why}: {folder}; a larger {key} continues it{unused}"


def _name_unused(saved: TrainConfig, config: TrainConfig) -> str:
    keys = set(list_changes(saved, config))
    if "training.lr" in keys:
        keys -= {"optimizer.lr"}  # the same by another name
    return f"; {', '.join(sorted(keys))} {'was' if len(keys) == 1 else 'were'} not used" if keys else ""


def describe_changes(saved: TrainConfig, config: TrainConfig, learning_rate: "LearningRate", step: int) -> list[str]:
    """Return a line for each key that is another than when the run was left, and for a schedule that is.

    learning_rate: that of `config`; step: the next one, counted over the whole run.
    """
    lines = [f"{key}: {_show(old, new)} → {_show(new, old)}" for key, (old, new) in list_changes(saved, config).items()]
    before = replace(learning_rate, config=saved.scheduler, peak=saved.optimizer.lr, epochs=saved.training.epochs)
    if before(step) != learning_rate(step):
        lines.append(
            f"the learning rate goes on as if it had followed {config.scheduler.name} over {config.training.epochs} "
            f"epochs from the start: {learning_rate(step):.1e} next, instead of {before(step):.1e}"
        )
    return lines


def _show(value: Any, other: Any) -> str:
    """Return a value for people: of a number six digits, unless it takes more to tell it from the other one."""
    same = isinstance(value, float) and isinstance(other, float) and f"{value:g}" == f"{other:g}"
    return f"{value:g}" if isinstance(value, float) and not same else str(value)


def find_weights(wanted: str) -> tuple[Path, tuple[int, int] | None]:
    """Return the file of weights for `init.weights=<run folder | file>` and, of a run, its patches (rows, columns)."""
    path = Path(wanted)
    if not path.is_dir():
        return path, None
    if not (path / BEST).is_file():
        raise FileNotFoundError(f"init.weights={wanted} is no run with weights: it holds no {BEST}")
    model = load_config(path / CONFIG).model
    assert model.patch_size is not None  # a saved configuration has no null
    height, width = model.image_size
    return path / BEST, (height // model.patch_size, width // model.patch_size)
