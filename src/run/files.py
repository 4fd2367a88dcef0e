"""The files of a run: every name is spelt here and nowhere else, and whole files are replaced durably."""

import contextlib
import csv
import errno
import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

CONFIG, CLASSES, PREPROCESSING = "config.yaml", "classes.json", "preprocessing.json"
STATUS, ENVIRONMENT, METRICS, LOG = "status.json", "environment.json", "metrics.csv", "train.log"
CURVES, TENSORBOARD = "curves.png", "tensorboard"
BEST, LAST = "checkpoints/best.safetensors", "checkpoints/last.pt"
TEST_METRICS, PER_CLASS, CONFUSION = "test/metrics.json", "test/per_class.csv", "test/confusion_matrix.png"
TEST_PREDICTIONS = "test/predictions.csv"
PREDICTIONS, ATTENTION = "figures/predictions.png", "figures/attention.png"
AUGMENTATIONS = "figures/augmentations.png"
POSITION_EMBEDDINGS, PATCH_FILTERS = "figures/position_embeddings.png", "figures/patch_filters.png"
PROFILE_TRACE, PROFILE_TABLE = "profile/trace.json", "profile/operations.txt"
# Of a sweep, beside the folders of its jobs, and in each of those.
SWEEP_TABLE, SWEEP_REPORT, SWEEP_PICTURE = "sweep.csv", "sweep.md", "sweep.png"
STUDY, SEARCH_HISTORY, SEARCH_IMPORTANCE = "study.log", "search_history.png", "search_importance.png"
SWEEP_LOCK, SWEEP_STOP, LEDGER_LOCK = ".lock", ".stop", ".ledger.lock"
JOB_CLAIM, STDERR = ".claim", "stderr.log"
PRUNED = "sweep.pruner"  # what status.json says has ended a hopeless job of a search

# What a kill in the middle of a write leaves: ours, and those of `plots`.
LEFTOVERS = (".*.tmp", ".*.png")
# What status.json calls the facts of the best weights.
BEST_FACTS = {"best_epoch": "epoch", "best_val_acc": "val_acc", "best_val_loss": "val_loss", "best_weights": "kind"}


@contextlib.contextmanager
def replace_file(path: Path) -> Iterator[BinaryIO]:
    """Yield a file that takes the place of `path` when the block ends, whole and on the disk; after an error not."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    _flush_folder(path.parent)


def _flush_folder(folder: Path) -> None:
    """Put a folder's names on the disk, where the system can; the renaming itself is atomic anyway."""
    with contextlib.suppress(PermissionError):  # Windows does not open folders
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):  # some network file systems
                raise
        finally:
            os.close(descriptor)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a whole file or nothing; its folder has to be there."""
    with replace_file(path) as file:
        file.write(content)


def write_text(path: Path, text: str) -> None:
    """Write a whole file or nothing, into a folder that is made where it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, text.encode("utf-8", "surrogateescape"))  # file names need not be UTF-8


def write_json(path: Path, value: Any) -> None:
    write_text(path, format_json(value))


def format_json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8", errors="surrogateescape"))


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write a table of the columns of all rows; what a row lacks stays empty."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    write_text(path, format_csv([dict(zip(columns, columns, strict=True)), *rows], columns))


def format_csv(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """Return rows as lines, without a header."""
    table = io.StringIO()
    csv.DictWriter(table, columns, lineterminator="\n").writerows(rows)
    return table.getvalue()


def read_csv(path: Path) -> list[dict[str, str]]:
    """Return the rows of a table with a header. Raises OSError, and ValueError where it is no table."""
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        try:
            return list(csv.DictReader(file))
        except csv.Error as error:
            raise ValueError(str(error)) from error


def read_metadata(path: Path) -> dict[str, str]:
    """Return the metadata of a safetensors file, whose header is 8 bytes of length and that much JSON.

    Empty where there is no such file, or no metadata in it.
    """
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError), path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length < os.fstat(file.fileno()).st_size:
            return {str(key): str(value) for key, value in json.loads(file.read(length))["__metadata__"].items()}
    return {}


def read_best(path: Path) -> dict[str, Any]:
    """Return epoch, val_acc, val_loss and kind of the best weights, as their own file tells; empty if it does not."""
    with contextlib.suppress(KeyError, ValueError):
        facts = read_metadata(path)
        kinds = {"epoch": int, "val_acc": float, "val_loss": float, "kind": str}
        return {key: kind(facts[key]) for key, kind in kinds.items()}
    return {}


def read_object(path: Path) -> dict[str, Any]:
    """Return a JSON file's object, empty where a kill left none."""
    try:
        value = read_json(path)
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def shorten(folder: Path) -> str:
    """Return the folder as seen from here where that is shorter."""
    with contextlib.suppress(OSError, ValueError):  # another drive, or there is no here any more
        return min(os.path.relpath(folder), str(folder), key=len)
    return str(folder)


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
