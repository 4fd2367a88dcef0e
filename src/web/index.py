"""The runs and sweeps below the roots, each with an id for its address, read again only when their files change."""

import contextlib
import hashlib
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..config.compose import read_values
from ..machine.disk import short_path
from ..machine.processes import find_holder
from ..run.files import (
    CLASSES,
    CONFIG,
    ENVIRONMENT,
    LOCK,
    LOG,
    METRICS,
    PER_CLASS,
    PREPROCESSING,
    STATUS,
    SWEEP,
    TEST_METRICS,
    TEST_PREDICTIONS,
)
from ..run.query import select_runs
from ..run.saved import SavedRun, best_run, read_run
from ..sweep.ledger import count_states
from ..sweep.plan import Plan, read_plan
from ..sweep.state import JobState, read_states
from .cache import FileCache
from .errors import PageError

FRESH = 0.5  # seconds for which what was found is not looked for again
POINTS = 32  # of the small curve of a run
PAGE = 50  # rows of the table
TEXTS = (STATUS, CONFIG, LOG, METRICS, CLASSES, ENVIRONMENT, PREPROCESSING, TEST_METRICS, TEST_PREDICTIONS, PER_CLASS)


def make_id(folder: Path) -> str:
    """Return a short name for a folder, which says nothing about where it is, and is the same after a restart."""
    return hashlib.blake2b(os.fsencode(os.path.abspath(folder)), digest_size=6).hexdigest()


@dataclass
class SavedSweep:
    """A sweep on disk, and the states of its jobs."""

    folder: Path
    plan: Plan
    states: list[JobState]

    @property
    def status(self) -> str:
        """What the table shows: that of its jobs, the most important one; waiting if it has begun none yet."""
        found = {state.status for state in self.states}
        if "running" in found:
            return "running"
        if self.states and all(state.done for state in self.states):
            return "finished"
        if find_holder(self.folder / LOCK):
            return "waiting"
        return next((status for status in ("failed", "killed") if status in found), "stopped")

    @property
    def active(self) -> bool:
        """Whether a process runs it."""
        return self.status in ("running", "waiting")

    @property
    def best(self) -> SavedRun | None:
        known = [state.run for state in self.states if state.val_acc is not None]
        return max(known, key=lambda run: run.val_acc or 0.0, default=None)

    @property
    def started(self) -> str:
        return max((state.run.started for state in self.states), default="")


@dataclass
class Found:
    """The folders below the roots at one time. sweep_of: the sweep that a run is a job of, by the run's folder."""

    runs: list[SavedRun] = field(default_factory=list)
    sweeps: list[Path] = field(default_factory=list)
    sweep_of: dict[Path, Path] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    folders: dict[str, Path] = field(default_factory=dict)  # by id


class RunIndex:
    """What is below the roots. Nothing is stored but what can be read again."""

    def __init__(self, roots: list[str]) -> None:
        self.roots = roots
        self._lock = threading.Lock()
        self._found, self._at = Found(), -FRESH
        self._read = FileCache(_read_unlinked, (STATUS,))
        self._plans = FileCache(read_plan, (SWEEP,), most=200)
        self._curves = FileCache(_read_curve, (METRICS,))

    def find(self) -> Found:
        """Return what is there now, or was less than half a second ago."""
        with self._lock:
            if time.monotonic() - self._at >= FRESH:
                self._found, self._at = self._search(), time.monotonic()
            return self._found

    def _search(self) -> Found:
        found = Found()
        for root in self.roots:
            for folder, is_run, sweep in _walk(os.path.expanduser(root)):
                if not is_run:
                    found.sweeps.append(folder)
                    continue
                try:
                    found.runs.append(self._open(folder))
                except (OSError, ValueError) as error:
                    found.problems.append(str(error))
                    continue
                if sweep is not None:
                    found.sweep_of[folder] = sweep
        found.runs.sort(key=lambda run: (run.started, str(run.folder)), reverse=True)
        found.folders = {make_id(run.folder): run.folder for run in found.runs}
        found.folders |= {make_id(folder): folder for folder in found.sweeps}
        return found

    def _open(self, folder: Path) -> SavedRun:
        run = self._read(folder)
        if run.facts["status"] == "running":  # its process may have gone without writing anything
            run = read_run(folder)
        return run

    def open_run(self, wanted: str) -> SavedRun:
        """Return the run with an id, the number in the table, or the best or latest one. Raises PageError."""
        found = self.find()
        with_weights = [run for run in found.runs if run.has_weights()]
        if wanted in ("best", "latest"):
            if not with_weights:
                raise PageError("there is no trained run yet; train one first", 404)
            return best_run(with_weights) if wanted == "best" else with_weights[0]
        if wanted.isdecimal() and 0 < int(wanted[:7]) <= len(found.runs) and len(wanted) < 7:
            return found.runs[int(wanted) - 1]
        folder = found.folders.get(wanted)
        if folder is None or folder in found.sweeps:
            raise PageError(f"there is no run {wanted}: it was moved or deleted, or is not below the roots", 404)
        try:
            return self._open(folder)
        except (OSError, ValueError) as error:
            raise PageError(f"the run cannot be read: {error}", 404) from error

    def open_sweep(self, wanted: str) -> SavedSweep:
        """Return the sweep with an id. Raises PageError."""
        found = self.find()
        folder = found.folders.get(wanted)
        if folder is None or folder not in found.sweeps:
            raise PageError(f"there is no sweep {wanted}: it was moved or deleted, or is not below the roots", 404)
        try:
            return self.read_sweep(folder)
        except (OSError, ValueError) as error:
            raise PageError(f"the sweep cannot be read: {error}", 404) from error

    def read_sweep(self, folder: Path) -> SavedSweep:
        plan = self._plans(folder)
        return SavedSweep(folder, plan, read_states(folder, plan))

    def list_rows(self, wanted: str | None, sort: str, page: int, flat: bool, weights: bool) -> dict[str, Any]:
        """Return a page of the table: runs that match the filter; without one, sweeps are one row. Raises PageError."""
        found = self.find()
        runs = [run for run in found.runs if run.has_weights()] if weights else found.runs
        try:
            chosen = select_runs(runs, wanted, sort or "started")
        except ValueError as error:
            key = "sort" if str(error).startswith("sort") else "filter"
            raise PageError(str(error), key=key) from error
        folded = not (flat or wanted or weights)
        rows = self._fold(chosen, found, sort) if folded else [(run, None) for run in chosen]
        numbers = {id(run): number for number, run in enumerate(found.runs, start=1)}
        pages = max(1, -(-len(rows) // PAGE))
        page = min(max(page, 1), pages)
        described = []
        for run, sweep in rows[(page - 1) * PAGE : page * PAGE]:
            if sweep is not None:
                described.append({"kind": "sweep", **self.describe_sweep(sweep)})
            elif run is not None:
                number = numbers.get(id(run))
                described.append({"kind": "run", **self.describe(run, number, found.sweep_of.get(run.folder))})
        return {
            "rows": described,
            "page": page,
            "pages": pages,
            "total": len(rows),
            "problems": found.problems[:20],
            "folders": self.roots,
        }

    def _fold(self, runs: list[SavedRun], found: Found, sort: str) -> list[tuple[SavedRun | None, SavedSweep | None]]:
        """Return the rows in order, each sweep at the place of its first job; those without jobs come first."""
        rows: list[tuple[SavedRun | None, SavedSweep | None]] = []
        left = dict.fromkeys(found.sweeps)
        begun = set(found.sweep_of.values())
        for folder in [folder for folder in left if folder not in begun]:
            del left[folder]
            with contextlib.suppress(OSError, ValueError):
                rows.append((None, self.read_sweep(folder)))
        for run in runs:
            sweep = found.sweep_of.get(run.folder)
            if sweep is None:
                rows.append((run, None))
            elif sweep in left:
                del left[sweep]
                try:
                    rows.append((None, self.read_sweep(sweep)))
                except (OSError, ValueError) as error:
                    found.problems.append(str(error))
        return rows

    def describe(self, run: SavedRun, number: int | None = None, sweep: Path | None = None) -> dict[str, Any]:
        """Return a run as the table shows it; accuracies are fractions, unknown values are None."""
        facts = run.facts
        local_and_running = run.status == "running" and run.is_local()
        return {
            "id": make_id(run.folder),
            "number": number,
            "folder": str(run.folder.absolute()),
            "name": short_path(run.folder.absolute()),
            "started": run.started,
            "dataset": run.dataset,
            "model": facts.get("model") or "",
            "parameters": run.number("parameters"),
            "epoch": run.number("epoch"),
            "epochs": run.number("epochs"),
            "val_acc": run.val_acc,
            "best_epoch": run.number("best_epoch"),
            "test_acc": run.number("test_acc"),
            "minutes": run.minutes,
            "status": run.status,
            "error": facts.get("error") if run.status in ("failed", "killed") else None,
            "ended": facts.get("ended"),
            "curve": self.curve(run),
            "sweep": None if sweep is None else make_id(sweep),
            "has_weights": run.has_weights(),
            "resumable": run.status in ("stopped", "failed", "killed") and (run.folder / CONFIG).is_file(),
            "stoppable": local_and_running,
            "seconds_left": _seconds_left(run) if run.status == "running" else None,
        }

    def curve(self, run: SavedRun) -> list[float]:
        return self._curves(run.folder)

    def describe_sweep(self, sweep: SavedSweep) -> dict[str, Any]:
        best = sweep.best
        running = [state for state in sweep.states if state.status == "running"]
        names = dict.fromkeys(state.run.dataset for state in sweep.states if state.run.dataset)
        return {
            "id": make_id(sweep.folder),
            "name": short_path(sweep.folder.absolute()),
            "folder": str(sweep.folder.absolute()),
            "started": sweep.started,
            "status": sweep.status,
            "counts": count_states(sweep.states),
            "jobs": len(sweep.states),
            "val_acc": None if best is None else best.val_acc,
            "dataset": ", ".join(names),
            "stoppable": sweep.active and all(state.run.is_local() for state in running),
            "resumable": not sweep.active and any(not state.done for state in sweep.states),
        }


def _walk(root: str) -> Iterator[tuple[Path, bool, Path | None]]:
    """Yield each sweep and run below a root: its folder, whether it is a run, and the sweep that it is in."""
    sweeps: dict[str, Path] = {}
    for parent, folders, names in os.walk(root):
        inside = sweeps.get(os.path.dirname(parent))
        if STATUS in names:
            folders.clear()
            yield Path(parent), True, inside
            continue
        if SWEEP in names:
            inside = Path(parent)
            yield inside, False, None
        if inside is not None:
            sweeps[parent] = inside
        folders[:] = [name for name in folders if not name.startswith(".")]


def _read_unlinked(folder: Path) -> SavedRun:
    """Read a run. Raises ValueError if one of its files is a link: it may be a stranger's, and lead anywhere."""
    for name in TEXTS:
        if (folder / name).is_symlink():
            raise ValueError(f"the run {folder} is not shown, because its {name} is a link")
    return read_run(folder)


def _read_curve(folder: Path) -> list[float]:
    """Return the validation accuracy after each epoch, at most `POINTS` of them."""
    with contextlib.suppress(OSError, ValueError):
        values = SavedRun(folder, "", {}).history().get("val_acc", [])
        known = [value for value in values if 0 <= value <= 1]
        step = max(1, -(-len(known) // POINTS))
        return known[::-1][::step][::-1]  # the last one is always among them
    return []


def _seconds_left(run: SavedRun) -> float | None:
    """Return how long the rest of the epochs takes, at the pace of those before; None before the first one."""
    epoch, epochs, seconds = (run.number(name) for name in ("epoch", "epochs", "seconds"))
    if not epoch or not epochs or not seconds:
        return None
    left = seconds / epoch * (epochs - epoch)
    with contextlib.suppress(Exception):  # yaml raises various types
        limit = read_values(run.folder / CONFIG).get("training.max_minutes")
        left = left if limit is None else min(left, 60 * limit - seconds)
    return max(0.0, left - max(0.0, time.time() - run.last_write()))
