"""What ends a run before its last epoch, and its name in status.json."""

from collections.abc import Callable

from ..config.schema import TrainingConfig

PRUNED = "sweep.pruner"  # a search ended one of its jobs
LIMITS = ("max_minutes", "early_stopping")  # keys of `training`


def name_limits(training: TrainingConfig) -> dict[str, str]:
    """Return the limits that are set, as typed: {"early_stopping": "training.early_stopping=5", …}."""
    return {key: f"training.{key}={getattr(training, key):g}" for key in LIMITS if getattr(training, key) is not None}


def still_ends(ended: str | None, training: TrainingConfig, pruned: bool) -> str | None:
    """Return what ended a run if it still applies, else None; pruned: whether a search may end the run."""
    applying = [*name_limits(training).values(), *([PRUNED] if pruned else [])]
    return ended if ended in applying else None


def find_end(
    training: TrainingConfig,
    epoch: int,
    best_epoch: int,
    val_acc: float,
    time_is_up: bool,
    should_prune: Callable[[int, float], bool] | None,
) -> str | None:
    """Return what ends a run after `epoch`, None if it continues."""
    limits, patience = name_limits(training), training.early_stopping
    if time_is_up:
        return limits["max_minutes"]
    if patience and epoch - best_epoch >= patience:
        return limits["early_stopping"]
    last = training.epochs == epoch
    if should_prune and not last and should_prune(epoch, val_acc):
        return PRUNED
    return None
