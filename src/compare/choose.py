"""Which runs are compared: `run=` takes a folder, a list or a glob; runs that cannot be compared are reported."""

import glob
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..config.compose import NewerVersionError, flatten, load_config
from ..config.inference import InferenceConfig
from ..machine.disk import read_object, short_path
from ..run.files import CONFIG, METRICS, STATUS, TEST_METRICS
from ..run.query import select_runs
from ..run.saved import SavedRun, choose_run, find_folders, read_run
from ..run.validate import as_number
from ..tables import rank_key
from ..terminal import track


@dataclass
class Entry:
    """A run to compare.

    label: its short name; config: its values by keys with dots, without rounding errors, as in 10 % of 3 epochs;
    history: the columns of metrics.csv; numbers: its results and their cost, None if unknown.
    """

    label: str
    saved: SavedRun
    config: dict[str, Any]
    history: dict[str, list[float]]
    numbers: dict[str, Any]


def choose_entries(config: InferenceConfig) -> tuple[list[Entry], list[str]]:
    """Return the runs to compare, the best by validation accuracy first, and those left out, each with the reason.

    Raises ValueError if there are fewer than two.
    """
    folders, left_out = _find(config)
    saved = []
    for folder in folders:
        try:
            saved.append(read_run(folder))
        except (OSError, ValueError) as error:
            left_out.append(_explain(folder, error))
    entries = []
    chosen = select_runs(saved, config.filter, "started")
    for run in track(chosen, len(chosen), "reading runs"):
        try:
            entries.append(_read_entry(run))
        except Exception as error:  # from yaml, the schema, the table: whatever is wrong, it cannot be compared
            left_out.append(_explain(run.folder, error))
    if len(entries) < 2:
        raise ValueError(_ask_for_more(config, len(entries), left_out))
    entries.sort(key=lambda entry: rank_key(entry.numbers["val_acc"], entry.saved.number("best_val_loss")))
    for entry, label in zip(entries, name_apart([entry.saved.folder for entry in entries]), strict=True):
        entry.label = label
    return entries, left_out


def _explain(folder: Path, error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        name = Path(error.filename).name if error.filename else STATUS
        reason = f"no {name}" + (", as no epoch has finished" if name == METRICS else "")
    elif isinstance(error, NewerVersionError):
        reason = str(error)
    else:
        reason = f"damaged: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
    return f"{short_path(folder.absolute())} ({reason})"


def _ask_for_more(config: InferenceConfig, count: int, left_out: list[str]) -> str:
    where = f"for run={config.run}" if config.run else f"in {' and '.join(config.roots)}"
    chosen = f" {'and' if config.run else 'with'} filter={config.filter}" if config.filter else ""
    reason = f"; left out: {join(left_out)}" if left_out else ""
    return (
        f"task=compare needs at least two runs, but found {count or 'none'} {where}{chosen}{reason}\n"
        "write run='[FOLDER,FOLDER]' or a folder of runs (of a sweep: run=multirun/DATE/TIME); "
        "without run=, all runs below outputs and multirun are compared; task=list shows them"
    )


def join(items: Sequence[str], limit: int = 10) -> str:
    """Return the items separated by commas, only the first ones if there are many."""
    rest = len(items) - limit
    return ", ".join(items[:limit]) + (f" and {rest} more" if rest > 0 else "")


def _find(config: InferenceConfig) -> tuple[list[Path], list[str]]:
    """Return the folders of the runs, each once, and what was typed that is no run, with the reason."""
    if not config.run:
        return _each_once(find_folders(config.roots, METRICS)), []
    folders, left_out = [], []
    for wanted in split_list(config.run):
        if wanted in ("latest", "best") and not os.path.exists(wanted):
            folders.append(choose_run(wanted, config.roots).folder)
            continue
        path = os.path.expanduser(wanted)
        matches = [path] if os.path.exists(path) else sorted(glob.glob(path, recursive=True))
        found = [folder for match in matches for folder in _list_runs(Path(match))]
        if not found:
            missing = "no run with a finished epoch in it" if matches else "does not exist"
            left_out.append(f"{wanted} ({missing})")
        folders += found
    return _each_once(folders), left_out


def _list_runs(path: Path) -> Iterable[Path]:
    """Return the folder itself if it is a run, otherwise all runs below it with a finished epoch."""
    is_run = (path / STATUS).is_file() or (path / CONFIG).is_file()
    return [path] if is_run else find_folders([str(path)], METRICS)


def _each_once(folders: Iterable[Path]) -> list[Path]:
    return list({folder.resolve(): folder for folder in folders}.values())


def split_list(typed: str) -> list[str]:
    """Return the paths in `[a, b]` or `a,b`; commas and brackets may be part of a path that exists."""
    if os.path.exists(os.path.expanduser(typed)):
        return [typed]
    text = typed.strip()
    if text.startswith("[") and text.endswith("]"):
        text = text[1:-1]
    pieces, paths = text.split(","), []
    while pieces:
        # Join as many pieces as make an existing path: folders of a sweep may be called lr=0.1,seed=2.
        lengths = range(len(pieces), 0, -1)
        joined = {length: ",".join(pieces[:length]).strip().strip("'\"") for length in lengths}
        length = next((n for n in lengths if n > 1 and os.path.exists(os.path.expanduser(joined[n]))), 1)
        paths.append(joined[length])
        del pieces[:length]
    return [path for path in paths if path]


def name_apart(folders: Sequence[Path]) -> list[str]:
    """Return the ends of the folders' paths, the same number of parts of each, as few as make them different."""
    parts = [folder.absolute().parts for folder in folders]
    names: list[str] = []
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-length:]) for part in parts]
        if len(set(names)) == len(names):
            break
    return names


def _read_entry(run: SavedRun) -> Entry:
    history = run.history()
    if not history:
        raise FileNotFoundError(2, "no epoch", METRICS)
    values = flatten(asdict(load_config(run.folder / CONFIG)))
    tidy = {key: float(f"{value:.12g}") if isinstance(value, float) else value for key, value in values.items()}
    return Entry("", run, tidy, history, _read_numbers(run))


def _read_numbers(run: SavedRun) -> dict[str, Any]:
    test = read_object(run.folder / TEST_METRICS)
    return {
        "status": run.status,
        "val_acc": run.number("best_val_acc"),
        "best_epoch": run.number("best_epoch"),
        "test_acc": as_number(test.get("accuracy")),
        "test_loss": as_number(test.get("loss")),
        "macro_f1": as_number(test.get("macro_f1")),
        "parameters": run.number("parameters"),
        "epochs": run.number("epoch"),
        "minutes": run.minutes,
        "images_per_second": run.images_per_second(),
    }
