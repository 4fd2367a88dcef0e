"""The tables of a comparison: what differs in the configurations, what each run reached, what seeds make of it."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..config.overrides import show_value
from ..machine.disk import short_path
from ..run.resume import changes_nothing
from ..terminal import format_minutes
from .choose import Entry

PATHS = {"dataset.root", "dataset.table", "init.weights"}


@dataclass
class Table:
    """Cells as text; `right` names the columns that are aligned there."""

    columns: list[str]
    rows: list[list[str]]
    right: set[str] = field(default_factory=set)

    def turn(self, corner: str) -> "Table":
        """Return it with rows as columns; corner: what heads the first column then."""
        columns, *rows = zip([corner, *self.columns[1:]], *self.rows, strict=True)
        return Table(list(columns), [list(row) for row in rows])


NUMBERS: dict[str, tuple[str, Callable[[Any], str]]] = {
    "status": ("status", str),
    "val_acc": ("best val acc", "{:.2%}".format),
    "best_epoch": ("in epoch", str),
    "test_acc": ("test acc", "{:.2%}".format),
    "test_loss": ("test loss", "{:.4f}".format),
    "macro_f1": ("macro F1", "{:.4f}".format),
    "parameters": ("parameters", "{:,}".format),
    "epochs": ("epochs", str),
    "minutes": ("minutes", format_minutes),
    "images_per_second": ("images/s", "{:,.0f}".format),
}


def list_numbers(entries: Sequence[Entry]) -> Table:
    """Return what each run reached, a row per run; what it does not have is empty."""
    headings = [heading for heading, _ in NUMBERS.values()]
    rows = [[entry.label, *(_show_number(key, entry.numbers[key]) for key in NUMBERS)] for entry in entries]
    return Table(["run", *headings], rows, right=set(headings) - {"status"})


def _show_number(key: str, value: Any) -> str:
    return "" if value is None else NUMBERS[key][1](value)


def find_differences(entries: Sequence[Entry]) -> dict[str, list[Any]]:
    """Return the values, a run each, of every key that is not equal in all configurations."""
    keys = dict.fromkeys(key for entry in entries for key in entry.config)
    values = {key: [entry.config.get(key) for entry in entries] for key in keys if not changes_nothing(key)}
    if all(entry.config.get("optimizer.lr") == entry.config.get("training.lr") for entry in entries):
        values.pop("optimizer.lr", None)  # the same number by its other name
    return {key: row for key, row in values.items() if any(value != row[0] for value in row)}


def list_differences(entries: Sequence[Entry]) -> Table | None:
    """Return a row per key that differs, a column per run; None where nothing does."""
    differences = find_differences(entries)
    rows = [[key, *(_show(key, value) for value in values)] for key, values in differences.items()]
    return Table(["key", *(entry.label for entry in entries)], rows) if rows else None


def _show(key: str, value: Any) -> str:
    return short_path(Path(value)) if key in PATHS and value is not None else show_value(value)


def list_groups(entries: Sequence[Entry]) -> Table | None:
    """Return mean and sample standard deviation over the seeds, where finished runs differ in nothing else.

    A seed counts once, in its newest run. None where no two runs differ in their seed alone.
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
        rows.append([name or "all", seeds, *(_average(group, key) for key in ("val_acc", "test_acc"))])
    return Table(["settings", "seeds", "best val acc", "test acc"], rows, right={"best val acc", "test acc"})


def _group(entries: Sequence[Entry]) -> list[list[Entry]]:
    """Return the runs of equal settings but for the seed, one run of each seed, in the order of the best of each."""
    groups: dict[str, list[Entry]] = {}
    for entry in entries:
        settings = {key: value for key, value in entry.config.items() if key != "seed" and not changes_nothing(key)}
        groups.setdefault(repr(settings), []).append(entry)
    return [_each_seed_once(group) for group in groups.values()]


def _each_seed_once(group: list[Entry]) -> list[Entry]:
    newest = {entry.config["seed"]: entry for entry in sorted(group, key=lambda entry: entry.saved.started)}
    return [newest[seed] for seed in sorted(newest)]


def _average(group: Sequence[Entry], key: str) -> str:
    values = [entry.numbers[key] for entry in group if entry.numbers[key] is not None]
    if not values:
        return ""
    deviation = f" ± {statistics.stdev(values):.2%}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2%}{deviation} ({len(values)})"
