"""The names of the files of runs and sweeps, spelled here and nowhere else."""

import contextlib
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

CONFIG, CLASSES, PREPROCESSING = "config.yaml", "classes.json", "preprocessing.json"
STATUS, ENVIRONMENT, METRICS, LOG = "status.json", "environment.json", "metrics.csv", "train.log"
CURVES = "curves.png"
BEST, LAST = "checkpoints/best.safetensors", "checkpoints/last.pt"
TEST_METRICS, PER_CLASS, CONFUSION = "test/metrics.json", "test/per_class.csv", "test/confusion_matrix.png"
TEST_PREDICTIONS = "test/predictions.csv"
PREDICTIONS, ATTENTION = "figures/predictions.png", "figures/attention.png"
AUGMENTATIONS = "figures/augmentations.png"
POSITION_EMBEDDINGS, PATCH_FILTERS = "figures/position_embeddings.png", "figures/patch_filters.png"
PROFILE_TRACE, PROFILE_TABLE = "profile/trace.json", "profile/operations.txt"
# Of a sweep, beside the folders of its jobs, and in each of those.
SWEEP = "sweep.json"
SWEEP_TABLE, SWEEP_REPORT, SWEEP_PICTURE = "sweep.csv", "sweep.md", "sweep.png"
STUDY, SEARCH_HISTORY, SEARCH_IMPORTANCE = "study.log", "search_history.png", "search_importance.png"
SWEEP_LOCK, SWEEP_STOP, LEDGER_LOCK = ".lock", ".stop", ".ledger.lock"
JOB_CLAIM, STDERR = ".claim", "stderr.log"

# What a kill in the middle of a write leaves: ours, and those of `plots`.
LEFTOVERS = (".*.tmp", ".*.png")
# What status.json calls the facts of the best weights.
BEST_FACTS = {"best_epoch": "epoch", "best_val_acc": "val_acc", "best_val_loss": "val_loss", "best_weights": "kind"}


def read_best(path: Path) -> dict[str, Any]:
    """Return epoch, val_acc, val_loss and kind of the best weights, as their file says; {} where it does not."""
    kinds = {"epoch": int, "val_acc": float, "val_loss": float, "kind": str}
    with contextlib.suppress(OSError, SafetensorError, KeyError, ValueError), safe_open(path, "np") as file:
        facts = file.metadata() or {}
        return {key: kind(facts[key]) for key, kind in kinds.items()}
    return {}


def remove_results(folder: Path) -> None:
    """Remove what is made at the end of a run, which is of other weights as soon as it goes on."""
    tests = (TEST_METRICS, TEST_PREDICTIONS, PER_CLASS, CONFUSION)
    for name in (*tests, PREDICTIONS, ATTENTION, POSITION_EMBEDDINGS, PATCH_FILTERS):
        (folder / name).unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # not there, or not empty
        (folder / TEST_METRICS).parent.rmdir()


def remove_leftovers(folder: Path) -> None:
    """Remove what a kill in the middle of a write has left in a run."""
    for parent in (folder, (folder / LAST).parent):
        for path in (path for pattern in LEFTOVERS for path in parent.glob(pattern)):
            path.unlink(missing_ok=True)
