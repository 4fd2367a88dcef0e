"""Runs on the disk: found, told apart, chosen. Needs no torch, so that a table of runs is there at once."""

import contextlib
import json
import os
import shlex
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import SWEEP, TrainConfig, load_config
from .files import (
    BEST,
    BEST_FACTS,
    CLASSES,
    CONFIG,
    LAST,
    METRICS,
    PREPROCESSING,
    STATUS,
    read_best,
    read_csv,
    read_json,
    shorten,
)
from .process import is_alive

if TYPE_CHECKING:
    from ..data import Preprocessing


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

    def history(self) -> dict[str, list[float]]:
        """Return the columns of metrics.csv, nan where an epoch has no number; a line that was cut short is left out.

        Raises OSError or ValueError where there is no such table.
        """
        rows = [row for row in read_csv(self.folder / METRICS) if None not in row.values()]
        return {key: [float(row[key] or "nan") for row in rows] for key in (rows[0] if rows else {})}

    def load(self) -> tuple[TrainConfig, list[str], "Preprocessing"]:
        """Return configuration, classes and preprocessing; together with the weights, all that inference needs."""
        from ..data import Preprocessing

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
    if status == "running" and not _lives(folder, facts):
        status = "killed"
        facts |= _newer_best(folder, facts)
    return SavedRun(folder, status, facts)


def _lives(folder: Path, facts: dict[str, Any]) -> bool:
    """Tell whether the process of a run lives: by its number on this machine, else by what it has written lately."""
    if _is_here(facts):
        return is_alive(facts.get("pid"), facts.get("process_started"))
    return time.time() < _last_sign(folder) + _patience(folder)


def _is_here(facts: dict[str, Any]) -> bool:
    # Elsewhere than under POSIX, asking for a process by os.kill would end it.
    return os.name == "posix" and facts.get("host") == socket.gethostname()


def _last_sign(folder: Path) -> float:
    """Return when, in seconds since 1970, a run has last written."""
    times = [0.0]
    for name in (STATUS, LAST):
        with contextlib.suppress(OSError):
            times.append((folder / name).stat().st_mtime)
    return max(times)


def _patience(folder: Path) -> float:
    """Return after how many seconds of silence a run counts as killed: three checkpoints that have not come."""
    try:
        minutes = load_config(folder / CONFIG).training.checkpoint_minutes
    except Exception:  # of yaml, the schema: whatever is wrong with the file
        minutes = 5.0
    return 3 * 60 * min(minutes, 1e6)  # a date can still be made of it


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


def open_resumable(wanted: str, roots: list[str]) -> SavedRun:
    """Return the run for `resume=latest` (the newest, with weights or without) or `resume=<folder>`.

    Its status may be missing: a configuration is enough to begin with. Raises FileNotFoundError where there is
    none, ValueError where its process lives.
    """
    if wanted.lower() == "latest":
        runs = [_read_any(folder) for folder in find_folders(roots, CONFIG)]
        if not runs:
            raise FileNotFoundError(
                f"resume=latest: no runs in {', '.join(roots)} below {os.getcwd()}; train one first: python train.py"
            )
        run = max(runs, key=lambda run: (_age_key(run), str(run.folder)))
    else:
        folder = Path(os.path.expanduser(wanted))
        if (folder / SWEEP).is_file():
            raise FileNotFoundError(f"resume={wanted} is a sweep: python train.py --multirun {_resume(folder)}")
        if not (folder / CONFIG).is_file():
            raise FileNotFoundError(f"resume={wanted} is not a run: it holds no {CONFIG}; {_suggest_run(folder)}")
        run = _read_any(folder)
    _refuse_running(run, wanted)
    return run


def _suggest_run(path: Path) -> str:
    """Say which run was meant by a path that is none: the one that it lies in, or up to three newest ones below it."""
    for folder in path.absolute().parents[:2]:
        if (folder / CONFIG).is_file() and (folder / STATUS).is_file():
            return f"did you mean {_resume(folder)}?"
    # A run lies at most as deep as in multirun/DATE/TIME/JOB; more of a disk is not searched.
    runs = [_read_any(file.parent) for depth in (1, 2, 3) for file in path.glob("*/" * depth + STATUS)]
    runs.sort(key=lambda run: (_age_key(run), str(run.folder)), reverse=True)
    if not runs:
        return "write the folder of a run, or resume=latest for the newest"
    return f"the newest below it: {', '.join(_resume(run.folder) for run in runs[:3])}"


def _resume(folder: Path) -> str:
    return f"resume={shlex.quote(shorten(folder))}"


def _read_any(folder: Path) -> SavedRun:
    try:
        return read_run(folder)
    except (OSError, ValueError):
        return SavedRun(folder, "killed", {})


def _age_key(run: SavedRun) -> float:
    """Return when a run began, in seconds since 1970; of one without a status, when its configuration was written."""
    with contextlib.suppress(ValueError):
        return datetime.fromisoformat(run.started).timestamp()
    with contextlib.suppress(OSError):
        return (run.folder / CONFIG).stat().st_mtime
    return 0.0


def _refuse_running(run: SavedRun, wanted: str) -> None:
    """Raise ValueError where two processes would write one folder."""
    if run.status != "running":
        return
    facts = run.facts
    which = f" is {shorten(run.folder)}, which" if wanted.lower() == "latest" else ""
    running = f"resume={wanted}{which} is still running (process {facts.get('pid')} on host {facts.get('host')})"
    if _is_here(facts):
        raise ValueError(f"{running}; stop it first")
    if facts.get("slurm_job") is not None and facts["slurm_job"] == os.environ.get("SLURM_JOB_ID"):
        return  # the same job, put back into the queue and started elsewhere: its first process is gone
    sign = _last_sign(run.folder)
    minutes = max(0, round((time.time() - sign) / 60))
    until = datetime.fromtimestamp(sign + _patience(run.folder)).strftime("%Y-%m-%d %H:%M")
    raise ValueError(
        f"{running}: it gave a sign of life {minutes} minutes ago; stop it first, or, if it is gone, resume it "
        f"after {until}"
    )
