"""What ends a run before its last epoch, by the names that status.json gives it."""

from collections.abc import Callable

from ..config.schema import TrainingConfig

PRUNED = "sweep.pruner"  # a search has ended one of its jobs as hopeless
LIMITS = ("max_minutes", "early_stopping")  # keys of `training`


def name_limits(training: TrainingConfig) -> dict[str, str]:
    """Return the limits that are set, as they are typed: {"early_stopping": "training.early_stopping=5", …}."""
    return {key: f"training.{key}={getattr(training, key):g}" for key in LIMITS if getattr(training, key) is not None}


def still_ends(ended: str | None, training: TrainingConfig, pruned: bool) -> str | None:
    """Return what ended a run if it would end it again, None where the run goes on; pruned: whether it may be."""
    lasting = [*name_limits(training).values(), *([PRUNED] if pruned else [])]
    return ended if ended in lasting else None


def find_end(
    training: TrainingConfig,
    epoch: int,
    best_epoch: int,
    val_acc: float,
    time_is_up: bool,
    judge: Callable[[int, float], bool] | None,
) -> str | None:
    """Return what ends a run after `epoch`, None where it goes on; judge: epoch, accuracy -> whether it is hopeless."""
    limits, patience = name_limits(training), training.early_stopping
    if time_is_up:
        return limits["max_minutes"]
    if patience and epoch - best_epoch >= patience:
        return limits["early_stopping"]
    if judge and epoch < training.epochs and judge(epoch, val_acc):
        return PRUNED
    return None
