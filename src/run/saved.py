"""Runs on disk: found, read, chosen. Does not import torch, so that tables of runs appear immediately."""

import contextlib
import os
import re
import shlex
import socket
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config.checks import explain_address
from ..config.compose import NewerVersionError, load_config
from ..config.schema import TrainConfig
from ..machine.disk import read_csv, read_json, read_object, short_path
from ..machine.processes import is_alive
from ..machine.streams import printable_cell
from ..tables import format_percent, rank_key
from .files import BEST, CLASSES, CONFIG, ENVIRONMENT, LAST, METRICS, PREPROCESSING, STATUS
from .validate import LARGEST, as_number, check_environment, check_facts, check_parts
from .weights import BEST_FACTS, read_best

ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.xz", ".tar.zst", ".7z", ".rar")

if TYPE_CHECKING:
    from ..data.images import Preprocessing


@dataclass
class SavedRun:
    """A run on disk. `facts` is its status.json; `status` is "killed" if it says running but the process is gone."""

    folder: Path
    status: str
    facts: dict[str, Any]

    @property
    def started(self) -> str:
        return self.facts.get("started") or ""

    @property
    def dataset(self) -> str:
        """The name of the data set, with its folder for the user's own images."""
        root = self.facts.get("root")
        name = str(self.facts.get("dataset") or "")
        return f"{name} ({Path(root).name})" if name == "image_folder" and root else name

    @property
    def source(self) -> tuple[Any, Any]:
        """Data set and folder: runs with the same ones are comparable."""
        return self.facts.get("dataset"), self.facts.get("root")

    @property
    def val_acc(self) -> float | None:
        """The best validation accuracy, a fraction."""
        return self.number("best_val_acc")

    def number(self, fact: str) -> float | None:
        """Return a number from status.json, None if it is missing or not a number."""
        return as_number(self.facts.get(fact))

    @property
    def minutes(self) -> float | None:
        seconds = self.number("seconds")
        return None if seconds is None else seconds / 60

    def has_weights(self) -> bool:
        return (self.folder / BEST).is_file()

    def choices(self) -> dict[str, str]:
        """Return the chosen option of each group from environment.json; {} if it cannot be read."""
        choices = self.environment().get("choices") or {}
        return {str(key): str(value) for key, value in choices.items()}

    def environment(self) -> dict[str, Any]:
        """Return the content of environment.json, without what is not of its kind; {} if it cannot be read."""
        return check_environment(read_object(self.folder / ENVIRONMENT))

    def is_alive(self) -> bool:
        """Return whether the run's process is alive: by its id on this machine, else by its last write."""
        if self.is_local():
            return is_alive(self.facts.get("pid"), self.facts.get("process_started"))
        return time.time() < self.last_write() + self.timeout()

    def is_local(self) -> bool:
        """Return whether the run's process was started on this machine and can be checked."""
        # On Windows, os.kill would end the process instead of checking it.
        return os.name == "posix" and self.facts.get("host") == socket.gethostname()

    def last_write(self) -> float:
        """Return when the run last wrote its status or checkpoint, in seconds since 1970."""
        times = [0.0]
        for name in (STATUS, LAST):
            with contextlib.suppress(OSError):
                times.append((self.folder / name).stat().st_mtime)
        return max(times)

    def timeout(self) -> float:
        """Return the seconds without a write after which a run on another machine counts as killed: 3 checkpoints."""
        try:
            minutes = load_config(self.folder / CONFIG).training.checkpoint_minutes
        except Exception:  # yaml and the schema raise various types
            minutes = 5.0
        return 3 * 60 * min(minutes, 1e6)  # so that a date can be computed from it

    def history(self) -> dict[str, list[float]]:
        """Return the columns of metrics.csv, nan where an epoch has no value, without an incomplete last line.

        Raises OSError or ValueError if it cannot be read.
        """
        rows = [row for row in read_csv(self.folder / METRICS) if None not in row and None not in row.values()]
        return {key: [float(row[key] or "nan") for row in rows] for key in (rows[0] if rows else {})}

    def images_per_second(self) -> float | None:
        """Return the median over the epochs, None if metrics.csv has none or cannot be read."""
        with contextlib.suppress(OSError, ValueError):
            rates = [rate for rate in self.history().get("images_per_second", []) if 0 < rate < LARGEST]
            return round(statistics.median(rates), 1) if rates else None
        return None

    def load(self) -> tuple[TrainConfig, list[str], "Preprocessing"]:
        """Return configuration, classes and preprocessing: with the weights, all that inference needs."""
        from ..data.images import Preprocessing

        try:
            config, classes = load_config(self.folder / CONFIG), read_json(self.folder / CLASSES)
            fields = read_json(self.folder / PREPROCESSING)
            check_parts(config, classes, fields)
            known = {key: value for key, value in fields.items() if key in Preprocessing.__dataclass_fields__}
            preprocessing = Preprocessing.from_json(known)
            if len(known) < len(fields):
                raise NewerVersionError(PREPROCESSING, fields.keys() - known.keys())
            return config, classes, preprocessing
        except NewerVersionError as error:
            raise ValueError(f"the run {self.folder} cannot be used: {error}") from error
        except Exception as error:  # json, yaml and the schema raise various types
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise ValueError(f"the run {self.folder} is damaged: {reason}") from error


def read_run(folder: Path) -> SavedRun:
    """Read a run's status. Raises FileNotFoundError or ValueError if the folder is not a run."""
    path = folder / STATUS
    if not path.is_file():
        raise FileNotFoundError(f"run={folder} is not a run: it has no {STATUS}")
    try:
        facts = check_facts(read_json(path))
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    run = SavedRun(folder, facts["status"], facts)
    if run.status == "running" and not run.is_alive():
        run.status = "killed"
        facts |= _newer_best(folder, facts)
    return run


def _newer_best(folder: Path, facts: dict[str, Any]) -> dict[str, Any]:
    """Return the facts of weights that are newer than the status, after a kill between the two writes."""
    best = read_best(folder / BEST)
    if not best or best["epoch"] <= (facts.get("best_epoch") or 0):
        return {}
    return {name: best[key] for name, key in BEST_FACTS.items()}


def find_runs(roots: list[str]) -> list[SavedRun]:
    """Return the runs with weights below the roots, newest first."""
    return [run for run in find_all_runs(roots)[0] if run.has_weights()]


def find_all_runs(roots: list[str]) -> tuple[list[SavedRun], list[str]]:
    """Return all runs below the roots, newest first, and an error message for each that cannot be read."""
    runs, problems = [], []
    for folder in find_folders(roots):
        try:
            runs.append(read_run(folder))
        except (ValueError, OSError) as error:
            problems.append(str(error))
    return sorted(runs, key=lambda run: (run.started, str(run.folder)), reverse=True), problems


def find_folders(roots: list[str], name: str = STATUS) -> Iterator[Path]:
    """Yield the folders below the roots with a file of this name, without descending into them."""
    for root in roots:
        for parent, folders, names in os.walk(os.path.expanduser(root)):
            if name in names:
                folders.clear()
                yield Path(parent)
            folders[:] = [folder for folder in folders if not folder.startswith(".")]  # .hydra has a config.yaml too


def best_run(runs: list[SavedRun]) -> SavedRun:
    """Return the run that ranks first by validation accuracy among those on the newest run's data set."""
    newest = max(runs, key=lambda run: (run.started, str(run.folder)))
    comparable = [run for run in runs if run.source == newest.source]
    return min(comparable, key=lambda run: rank_key(run.val_acc, run.number("best_val_loss")))


def choose_run(wanted: str | None, roots: list[str]) -> SavedRun:
    """Return the run for `run=latest`, `run=best`, `run=<its number in the table>`, `run=<folder>`, or for no `run=`.

    Raises FileNotFoundError if it has no weights, and ValueError without `run=` if there are runs on several data sets:
    what is asked of one would be answered by another.
    """
    if wanted is not None and re.fullmatch(r"[1-9]\d{0,6}", wanted) and not os.path.exists(wanted):
        return _open_number(int(wanted), roots)
    if wanted not in ("latest", "best", None):
        return _open_folder(wanted)
    runs = find_runs(roots)
    if not runs:
        raise FileNotFoundError(f"no runs with weights in {', '.join(roots)}; train one first: python train.py")
    if wanted is None and len({run.source for run in runs}) > 1:
        raise ValueError("\n".join(["which run? they are on several data sets:", *list_bests(runs)]))
    return runs[0] if wanted == "latest" else best_run(runs)


def list_bests(runs: list[SavedRun]) -> list[str]:
    """Return a line for each data set with the best run on it, as it is typed."""
    sources = dict.fromkeys(run.source for run in runs)
    bests = [best_run([run for run in runs if run.source == source]) for source in sources]
    return [
        printable_cell(f"run={_type(run.folder)}  {run.dataset}, validation accuracy {format_percent(run.val_acc)}")
        for run in bests
    ]


def name_others(run: SavedRun, roots: list[str]) -> list[str]:
    """Return a warning, line by line, if there are runs on other data sets than that of a run chosen by a word."""
    others = [other for other in find_runs(roots) if other.source != run.source]
    return [f"this run is on {run.dataset}; on other data sets:", *list_bests(others)] if others else []


def _open_number(number: int, roots: list[str]) -> SavedRun:
    """Return the run with this number in the table of all runs, in which the newest is the first."""
    runs, _ = find_all_runs(roots)
    if number > len(runs):
        raise FileNotFoundError(f"run={number}: the table has {len(runs)} runs; python inference.py task=list shows it")
    return _open_folder(str(runs[number - 1].folder))


def _open_folder(wanted: str) -> SavedRun:
    """Return the run in a folder, of which only what inference needs may have been copied."""
    folder = Path(os.path.expanduser(wanted))
    if not (folder / CONFIG).is_file() and not (folder / STATUS).is_file():
        raise FileNotFoundError(explain_no_run("run", wanted))
    if not (folder / BEST).is_file():
        why = "it ended before its first epoch" if (folder / STATUS).is_file() else f"there is no {folder / BEST}"
        raise FileNotFoundError(f"run={wanted} has no weights yet: {why}")
    if missing := [name for name in (CONFIG, CLASSES, PREPROCESSING) if not (folder / name).is_file()]:
        raise FileNotFoundError(f"run={wanted} is not complete: it has no {' and no '.join(missing)}")
    if (folder / STATUS).is_file():
        return read_run(folder)
    facts: dict[str, Any] = {}
    with contextlib.suppress(Exception):  # what is wrong with it is said when it is loaded
        dataset = load_config(folder / CONFIG).dataset
        facts = {"dataset": dataset.name, "root": dataset.root}
    return SavedRun(folder, "unknown", {**facts, **_newer_best(folder, {})})


def read_any(folder: Path) -> SavedRun:
    """Return the run in a folder with a configuration, whatever is missing besides."""
    try:
        return read_run(folder)
    except (OSError, ValueError):
        return SavedRun(folder, "killed", {})


def sort_key(run: SavedRun) -> tuple[float, str]:
    """Return when a run was started, in seconds since 1970; without a status, when its configuration was written."""
    started = 0.0
    with contextlib.suppress(OSError):
        started = (run.folder / CONFIG).stat().st_mtime
    with contextlib.suppress(ValueError):
        started = datetime.fromisoformat(run.started).timestamp()
    return started, str(run.folder)


def explain_no_run(key: str, wanted: str) -> str:
    """Return why `key=wanted` is not the folder of a run, and what to type or do instead.

    Suggests a run that contains the path, or the three newest runs below it; key: run or resume.
    """
    if address := explain_address(key, wanted):
        return address
    path = Path(os.path.expanduser(wanted))
    if path.is_file() and path.name.lower().endswith(ARCHIVES):
        return f"{key}={wanted} is an archive; unpack it first and type the run's folder"
    return f"{key}={wanted} is not a run: it has no {CONFIG}; {_suggest_run(key, path)}"


def _suggest_run(key: str, path: Path) -> str:
    for folder in path.absolute().parents[:2]:
        if (folder / CONFIG).is_file() and ((folder / STATUS).is_file() or (folder / BEST).is_file()):
            return f"did you mean {key}={_type(folder)}?"
    # At most as deep as multirun/DATE/TIME/JOB, so that not a whole disk is searched.
    marker = Path(BEST if key == "run" else STATUS)
    found = [file for depth in (1, 2, 3) for file in path.glob("*/" * depth + str(marker))]
    runs = [read_any(file.parents[len(marker.parts) - 1]) for file in found]
    if not runs:
        return f"type the folder of a run, or {key}=latest for the newest"
    newest = sorted(runs, key=sort_key, reverse=True)[:3]
    return f"the newest below it: {', '.join(f'{key}={_type(run.folder)}' for run in newest)}"


def _type(folder: Path) -> str:
    return shlex.quote(short_path(folder))
