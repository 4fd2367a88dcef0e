"""Runs on the disk: found, told apart, chosen. Needs no torch, so that a table of runs is there at once."""

import contextlib
import json
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config.compose import load_config
from ..config.schema import TrainConfig
from ..machine.disk import read_csv, read_json, read_object
from ..machine.processes import is_alive
from .files import BEST, BEST_FACTS, CLASSES, CONFIG, ENVIRONMENT, LAST, METRICS, PREPROCESSING, STATUS, read_best

if TYPE_CHECKING:
    from ..data.images import Preprocessing


@dataclass
class SavedRun:
    """A run on disk, as its status.json tells. `status` is "killed" where the process is gone without a word."""

    folder: Path
    status: str
    facts: dict[str, Any]

    @property
    def started(self) -> str:
        return str(self.facts.get("started", ""))

    @property
    def dataset(self) -> str:
        """The data set's name, with the folder's for images of one's own."""
        root = self.facts.get("root")
        name = str(self.facts.get("dataset") or "")
        return f"{name} ({Path(root).name})" if name == "image_folder" and root else name

    @property
    def source(self) -> tuple[Any, Any]:
        """What makes two runs comparable: data set and folder."""
        return self.facts.get("dataset"), self.facts.get("root")

    @property
    def val_acc(self) -> float:
        return float(self.number("best_val_acc") or 0.0)

    def number(self, fact: str) -> float | None:
        """Return a number of status.json, None where it has none by that name, or something else."""
        value = self.facts.get(fact)
        return value if isinstance(value, int | float) and not isinstance(value, bool) else None

    @property
    def minutes(self) -> float | None:
        seconds = self.number("seconds")
        return None if seconds is None else seconds / 60

    def usable(self) -> bool:
        return (self.folder / BEST).is_file()

    def choices(self) -> dict[str, str]:
        """Return the option chosen of each group, as environment.json recorded it; {} where it cannot be read."""
        choices = read_object(self.folder / ENVIRONMENT).get("choices")
        return {str(key): str(value) for key, value in choices.items()} if isinstance(choices, dict) else {}

    def lives(self) -> bool:
        """Tell whether the run's process is alive: by its number on this machine, else by what it has written."""
        if self.is_here():
            return is_alive(self.facts.get("pid"), self.facts.get("process_started"))
        return time.time() < self.last_sign() + self.patience()

    def is_here(self) -> bool:
        """Tell whether its process ran on this machine, and can be looked for."""
        # Elsewhere than under POSIX, looking for a process by os.kill would end it.
        return os.name == "posix" and self.facts.get("host") == socket.gethostname()

    def last_sign(self) -> float:
        """Return when the run has last written, in seconds since 1970."""
        times = [0.0]
        for name in (STATUS, LAST):
            with contextlib.suppress(OSError):
                times.append((self.folder / name).stat().st_mtime)
        return max(times)

    def patience(self) -> float:
        """Return after how many silent seconds a run elsewhere counts as killed: three missed checkpoints."""
        try:
            minutes = load_config(self.folder / CONFIG).training.checkpoint_minutes
        except Exception:  # of yaml, the schema: whatever is wrong with the file
            minutes = 5.0
        return 3 * 60 * min(minutes, 1e6)  # so that a date can still be made of it

    def history(self) -> dict[str, list[float]]:
        """Return the columns of metrics.csv, nan where an epoch has no number; a line that was cut short is left out.

        Raises OSError or ValueError where there is no such table.
        """
        rows = [row for row in read_csv(self.folder / METRICS) if None not in row.values()]
        return {key: [float(row[key] or "nan") for row in rows] for key in (rows[0] if rows else {})}

    def load(self) -> tuple[TrainConfig, list[str], "Preprocessing"]:
        """Return configuration, classes and preprocessing; together with the weights, all that inference needs."""
        from ..data.images import Preprocessing

        try:
            classes = read_json(self.folder / CLASSES)
            preprocessing = Preprocessing.from_json(read_json(self.folder / PREPROCESSING))
            return load_config(self.folder / CONFIG), classes, preprocessing
        except Exception as error:  # of json, yaml, the schema: whatever is wrong, this run cannot be used
            reason = str(error).splitlines()[0]
            raise ValueError(f"the run {self.folder} is damaged: {reason}") from error


def read_run(folder: Path) -> SavedRun:
    """Read a run's status. Raises FileNotFoundError or ValueError where the folder is not a run."""
    path = folder / STATUS
    if not path.is_file():
        raise FileNotFoundError(f"run={folder} is not a run: it holds no {STATUS}")
    try:
        facts = json.loads(path.read_text(encoding="utf-8", errors="surrogateescape"))
        status = str(facts["status"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    run = SavedRun(folder, status, facts)
    if status == "running" and not run.lives():
        run.status = "killed"
        facts |= _newer_best(folder, facts)
    return run


def _newer_best(folder: Path, facts: dict[str, Any]) -> dict[str, Any]:
    """Return what the weights say of themselves where a kill came before the status could."""
    best = read_best(folder / BEST)
    if not best or best["epoch"] <= (facts.get("best_epoch") or 0):
        return {}
    return {name: best[key] for name, key in BEST_FACTS.items()}


def find_runs(roots: list[str]) -> list[SavedRun]:
    """Return the usable runs below the roots (those with weights), newest first."""
    return [run for run in find_all_runs(roots)[0] if run.usable()]


def find_all_runs(roots: list[str]) -> tuple[list[SavedRun], list[str]]:
    """Return all runs below the roots, newest first, and a sentence about each that cannot be read."""
    runs, problems = [], []
    for folder in find_folders(roots):
        try:
            runs.append(read_run(folder))
        except (ValueError, OSError) as error:
            problems.append(str(error))
    return sorted(runs, key=lambda run: (run.started, str(run.folder)), reverse=True), problems


def find_folders(roots: list[str], name: str = STATUS) -> Iterator[Path]:
    """Yield the folders below the roots that hold a file of this name, without descending into them."""
    for root in roots:
        for parent, folders, names in os.walk(os.path.expanduser(root)):
            if name in names:
                folders.clear()
                yield Path(parent)
            folders[:] = [folder for folder in folders if not folder.startswith(".")]  # .hydra has a config.yaml too


def best_run(runs: list[SavedRun]) -> SavedRun:
    """Return the run of the highest validation accuracy among those on the newest run's data set."""
    newest = max(runs, key=lambda run: (run.started, str(run.folder)))
    return max((run for run in runs if run.source == newest.source), key=lambda run: run.val_acc)


def choose_run(wanted: str, roots: list[str]) -> SavedRun:
    """Return the run for `run=latest`, `run=best` or `run=<folder>`. Raises where there is none with weights."""
    if wanted not in ("latest", "best"):
        run = read_run(Path(os.path.expanduser(wanted)))
        if not run.usable():
            raise FileNotFoundError(f"run={wanted} has no weights yet: it ended before its first epoch")
        return run
    runs = find_runs(roots)
    if not runs:
        raise FileNotFoundError(f"no runs with weights in {', '.join(roots)}; train one first: python train.py")
    return runs[0] if wanted == "latest" else best_run(runs)
