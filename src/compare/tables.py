"""The tables of a comparison: what differs in the configurations, the results of each run, the means over seeds."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..config.overrides import show_value
from ..machine.disk import short_path
from ..run.resume import changes_nothing
from ..tables import Table, describe_mean, format_percent, group_by_seed, list_differing, mean, rank_key
from ..terminal import format_minutes
from .choose import Entry

PATHS = {"dataset.root", "dataset.table", "init.weights"}
NUMBERS: dict[str, tuple[str, Callable[[Any], str]]] = {
    "status": ("status", str),
    "val_acc": ("best val acc", format_percent),
    "best_epoch": ("in epoch", str),
    "test_acc": ("test acc", format_percent),
    "test_loss": ("test loss", "{:.4f}".format),
    "macro_f1": ("macro F1", "{:.4f}".format),
    "parameters": ("parameters", "{:,}".format),
    "epochs": ("epochs", str),
    "minutes": ("minutes", format_minutes),
    "images_per_second": ("images/s", "{:,.0f}".format),
}


def list_numbers(entries: Sequence[Entry]) -> Table:
    """Return a row per run with its results; unknown ones are empty."""
    headings = [heading for heading, _ in NUMBERS.values()]
    rows = [[entry.label, *(_show_number(key, entry.numbers[key]) for key in NUMBERS)] for entry in entries]
    return Table(["run", *headings], rows, right=set(headings) - {"status"})


def _show_number(key: str, value: Any) -> str:
    return "" if value is None else NUMBERS[key][1](value)


def find_differences(entries: Sequence[Entry]) -> dict[str, list[Any]]:
    """Return each key that is not equal in all configurations, with its value in each run."""
    keys = [key for key in list_differing([entry.config for entry in entries]) if not changes_nothing(key)]
    if all(entry.config.get("optimizer.lr") == entry.config.get("training.lr") for entry in entries):
        keys = [key for key in keys if key != "optimizer.lr"]  # the same number under its other name
    return {key: [entry.config.get(key) for entry in entries] for key in keys}


def list_differences(entries: Sequence[Entry]) -> Table | None:
    """Return a row per key that differs and a column per run; None if no key differs."""
    differences = find_differences(entries)
    rows = [[key, *(_show(key, value) for value in values)] for key, values in differences.items()]
    return Table(["key", *(entry.label for entry in entries)], rows) if rows else None


def _show(key: str, value: Any) -> str:
    return short_path(Path(value)) if key in PATHS and value is not None else show_value(value)


def list_groups(entries: Sequence[Entry]) -> Table | None:
    """Return a row per group of finished runs that differ only in their seed, with mean and standard deviation.

    Of several runs with the same seed, the newest one counts. None if no two runs differ only in their seed.
    """
    groups = _group([entry for entry in entries if entry.saved.status == "finished"])
    if all(len(group) < 2 for group in groups):
        return None
    settings = find_differences([group[0] for group in groups])
    settings.pop("seed", None)
    rows = []
    for number, group in enumerate(groups):
        name = ", ".join(f"{key}={_show(key, values[number])}" for key, values in settings.items())
        seeds = ", ".join(str(entry.config["seed"]) for entry in group)
        accuracies = [describe_mean(_list(group, key)) for key in ("val_acc", "test_acc")]
        rows.append([name or "all", seeds, *accuracies])
    return Table(["settings", "seeds", "best val acc", "test acc"], rows, right=["best val acc", "test acc"])


def _group(entries: Sequence[Entry]) -> list[list[Entry]]:
    """Return the runs in groups of equal settings, one run per seed, the highest mean validation accuracy first."""

    def list_settings(entry: Entry) -> dict[str, Any]:
        return {key: value for key, value in entry.config.items() if not changes_nothing(key)}

    groups = [_keep_newest(group) for group in group_by_seed(entries, list_settings)]
    return sorted(groups, key=lambda group: rank_key(mean(_list(group, "val_acc"))))


def _keep_newest(group: Sequence[Entry]) -> list[Entry]:
    """Return the newest run of each seed, in the order of the seeds."""
    newest = {entry.config["seed"]: entry for entry in sorted(group, key=lambda entry: entry.saved.started)}
    return [newest[seed] for seed in sorted(newest)]


def _list(group: Sequence[Entry], key: str) -> list[float | None]:
    return [entry.numbers[key] for entry in group]
