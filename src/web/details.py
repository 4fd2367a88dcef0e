"""A run, as its page shows it: configuration, environment, results, files."""

import json
import math
import os
import shlex
from pathlib import Path
from typing import Any

from ..machine.disk import read_csv, read_object, short_path
from ..machine.regular import open_regular, read_regular
from ..machine.streams import printable_cell
from ..run import files
from ..run.changes import list_changes, read_settings, show_setting
from ..run.messages import resume_command
from ..run.saved import SavedRun
from ..run.validate import as_number
from .index import make_id

LOG_BYTES = 2**20  # at the end of a log, which are read
FIGURES = {
    files.PREDICTIONS: "Predictions for test images",
    files.ATTENTION: "Attention, layer by layer",
    files.AUGMENTATIONS: "Training images as the model sees them",
    files.CONFUSION: "Confusion matrix",
    files.CURVES: "Curves",
    files.POSITION_EMBEDDINGS: "Similarity of the position embeddings",
    files.PATCH_FILTERS: "Filters of the patch projection",
}
DOWNLOADS = (
    *(files.BEST, files.CONFIG, files.CLASSES, files.PREPROCESSING, files.METRICS, files.TEST_METRICS),
    *(files.PER_CLASS, files.TEST_PREDICTIONS, files.LOG, files.ENVIRONMENT, files.STATUS),
)
TESTED = {
    "accuracy": "accuracy",
    "top5_accuracy": "top-5 accuracy",
    "mean_class_accuracy": "mean class accuracy",
    "macro_f1": "macro F1",
    "macro_precision": "macro precision",
    "loss": "loss",
    "images": "images",
}


def describe_details(run: SavedRun) -> dict[str, Any]:
    """Return everything on the page of a run but its table row, its epochs and its log."""
    environment = run.environment()
    return {
        "input": _read_input(run),
        "classes": read_classes(run),
        "config": _read_config(run),
        "environment": [
            {"key": key, "value": show_setting(value)}
            for key, value in environment.items()
            if value not in (None, [], {})
        ],
        "command": shlex.join(["python", *map(str, environment.get("command") or [])])
        if isinstance(environment.get("command"), list)
        else str(environment.get("command") or ""),
        "resume_command": resume_command(run.folder),
        "predict_command": f"python inference.py run={shlex.quote(short_path(run.folder))} input=IMAGE",
        "words": [word for word in environment.get("overrides") or [] if isinstance(word, str)],
        "test": _read_test(run),
        "per_class": _read_per_class(run),
        "figures": [
            {"name": name, "title": title, "url": file_url(run, name)}
            for name, title in FIGURES.items()
            if (run.folder / name).is_file()
        ],
        "files": [
            {"name": name, "bytes": (run.folder / name).stat().st_size, "url": file_url(run, name)}
            for name in DOWNLOADS
            if (run.folder / name).is_file()
        ],
        "predictions": (run.folder / files.TEST_PREDICTIONS).is_file(),
    }


def file_url(run: SavedRun, name: str) -> str:
    stamp = (run.folder / name).stat().st_mtime_ns
    return f"/api/runs/{make_id(run.folder)}/files/{name}?v={stamp}"


def find_file(run: SavedRun, name: str) -> Path | None:
    """Return the path of a file that the page offers, None for any other name, and for links, which lead elsewhere."""
    if name not in (*DOWNLOADS, *FIGURES):
        return None
    path = run.folder / name
    linked = any(part.is_symlink() for part in (path, path.parent))
    return path if path.is_file() and not linked else None


def read_metrics(run: SavedRun, since: int) -> dict[str, Any]:
    """Return the epochs after `since`; None where one has no value."""
    try:
        columns = run.history()
    except (OSError, ValueError):
        columns = {}
    rows = [list(row) for row in zip(*columns.values(), strict=True)] if columns else []
    names = list(columns)
    place = names.index("epoch") if "epoch" in names else 0
    clean = [[value if math.isfinite(value) else None for value in row] for row in rows]
    return {"columns": names, "rows": [row for row in clean if (row[place] or 0) > since]}


def read_log(run: SavedRun, count: int) -> list[str]:
    """Return the last lines of the log."""
    try:
        with open_regular(run.folder / files.LOG) as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - LOG_BYTES))
            text = file.read(LOG_BYTES).decode("utf-8", "replace")
    except OSError:
        return []
    return [printable_cell(line) for line in text.splitlines()[-count:]]


def _read_input(run: SavedRun) -> dict[str, int] | None:
    fields = read_object(run.folder / files.PREPROCESSING)
    size = fields.get("size")
    numbers = [*(size if isinstance(size, list) else []), fields.get("channels")]
    if len(numbers) != 3 or not all(type(number) is int for number in numbers):
        return None
    return dict(zip(("height", "width", "channels"), numbers, strict=True))


def read_classes(run: SavedRun) -> list[str] | None:
    """Return the names of the classes, None if they cannot be read."""
    try:
        names = json.loads(read_regular(run.folder / files.CLASSES, 2**26).decode("utf-8", "replace"))
    except (OSError, ValueError, RecursionError):
        return None
    return [str(name) for name in names] if isinstance(names, list) else None


def _read_config(run: SavedRun) -> dict[str, list[dict[str, Any]]]:
    """Return all values by key, and those that are not the defaults of the chosen options."""
    settings = read_settings(run)
    changes = list_changes(run, settings)
    return {
        "changed": [
            {"key": key, "value": show_setting(value), "default": show_setting(default)}
            for key, (value, default) in changes.items()
        ],
        "all": [{"key": key, "value": show_setting(value)} for key, value in settings.items()],
    }


def _read_test(run: SavedRun) -> list[dict[str, Any]] | None:
    found = read_object(run.folder / files.TEST_METRICS)
    rows = []
    for key, name in TESTED.items():
        value = as_number(found.get(key))
        if value is None:
            continue
        text = f"{value:,.0f}" if key == "images" else f"{value:.4f}" if key == "loss" else f"{100 * value:.2f} %"
        low, high = as_number(found.get("accuracy_low")), as_number(found.get("accuracy_high"))
        if key == "accuracy" and low is not None and high is not None:
            text = f"{100 * value:.2f} % ({100 * low:.1f}–{100 * high:.1f}, 95 % interval)"
        rows.append({"name": name, "value": value, "text": text})
    return rows or None


def _read_per_class(run: SavedRun) -> list[dict[str, Any]] | None:
    try:
        rows = read_csv(run.folder / files.PER_CLASS)
        return [
            {"class": row["class"], **{key: float(row[key]) for key in ("precision", "recall", "f1", "support")}}
            for row in rows
        ]
    except (OSError, ValueError, KeyError, TypeError):
        return None
