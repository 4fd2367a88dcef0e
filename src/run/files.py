"""The file names of runs and sweeps. They are written here and nowhere else, but for CONFIG."""

import contextlib
from pathlib import Path

from ..config.initial import CONFIG as CONFIG

CLASSES, PREPROCESSING = "classes.json", "preprocessing.json"
STATUS, ENVIRONMENT, METRICS, LOG = "status.json", "environment.json", "metrics.csv", "train.log"
CURVES = "curves.png"
BEST, LAST = "checkpoints/best.safetensors", "checkpoints/last.pt"
TEST_METRICS, PER_CLASS, CONFUSION = "test/metrics.json", "test/per_class.csv", "test/confusion_matrix.png"
TEST_PREDICTIONS = "test/predictions.csv"
PREDICTIONS, ATTENTION = "figures/predictions.png", "figures/attention.png"
AUGMENTATIONS = "figures/augmentations.png"
POSITION_EMBEDDINGS, PATCH_FILTERS = "figures/position_embeddings.png", "figures/patch_filters.png"
EXPORTS = "exports"  # the folder of `task=export`, unless another one is named
PARITY = "parity.json"  # of an export: what was written, from which weights, and how nearly it agrees
PROFILE_TRACE, PROFILE_TABLE = "profile/trace.json", "profile/operations.txt"
LOCK = ".lock"  # of a run, of a sweep, and of each of its jobs: see `claim`
# Files of a sweep, next to the folders of its jobs, and in each of them.
SWEEP = "sweep.json"
SWEEP_TABLE, SWEEP_REPORT, SWEEP_PICTURE = "sweep.csv", "sweep.md", "sweep.png"
STUDY, SEARCH_HISTORY, SEARCH_IMPORTANCE = "study.log", "search_history.png", "search_importance.png"
SWEEP_STOP, LEDGER_LOCK = ".stop", ".ledger.lock"
SWEEP_OPEN, PLAN_LOCK = ".open", ".plan.lock"  # there while jobs may be added; held while they are
STDERR = "stderr.log"

# Files of `check=FOLDER`, next to a picture of the name of AUGMENTATIONS.
REPORT, SAMPLES = "report.json", "samples.png"

# Temporary files that a kill leaves behind: from `machine.disk`, and from `plots`.
LEFTOVERS = (".*.tmp", ".*.png")


def remove_results(folder: Path) -> None:
    """Remove the results of the end of a run, which no longer belong to its weights once it continues."""
    tests = (TEST_METRICS, TEST_PREDICTIONS, PER_CLASS, CONFUSION)
    for name in (*tests, PREDICTIONS, ATTENTION, POSITION_EMBEDDINGS, PATCH_FILTERS):
        (folder / name).unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # missing, or not empty
        (folder / TEST_METRICS).parent.rmdir()


def remove_leftovers(folder: Path) -> None:
    """Remove temporary files that a kill has left in a run."""
    for parent in (folder, (folder / LAST).parent):
        for path in (path for pattern in LEFTOVERS for path in parent.glob(pattern)):
            if path.is_symlink() or not path.is_dir():  # a folder belongs to an export
                path.unlink(missing_ok=True)
