"""Which runs are compared: `run=` names folders, lists of them, globs; what cannot be compared is told."""

import glob
import os
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..config.compose import flatten, load_config
from ..config.schema import InferenceConfig
from ..machine.disk import read_object, short_path
from ..run.files import CONFIG, METRICS, STATUS, TEST_METRICS
from ..run.query import select_runs
from ..run.saved import SavedRun, choose_run, find_folders, read_run
from ..terminal import track


@dataclass
class Entry:
    """A run that is compared: its short name, its configuration by keys with dots, its epochs by column, its numbers.

    config: without what rounding leaves, as in 10 % of 3 epochs; numbers: what it reached and what that took, None for
    what it does not have.
    """

    label: str
    saved: SavedRun
    config: dict[str, Any]
    history: dict[str, list[float]]
    numbers: dict[str, Any]


def choose_entries(config: InferenceConfig) -> tuple[list[Entry], list[str]]:
    """Return the runs to compare, the best by validation accuracy first, and what was left out, each with its reason.

    Raises ValueError where fewer than two are left.
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
        except Exception as error:  # of yaml, the schema, the table: whatever is wrong, this run cannot be compared
            left_out.append(_explain(run.folder, error))
    if len(entries) < 2:
        raise ValueError(_ask_for_more(config, len(entries), left_out))
    entries.sort(key=_rank)
    for entry, label in zip(entries, name_apart([entry.saved.folder for entry in entries]), strict=True):
        entry.label = label
    return entries, left_out


def _rank(entry: Entry) -> tuple[bool, float, float]:
    """Return what sorts the best first, as a run chooses its best epoch: by accuracy, then by loss."""
    accuracy, loss = (entry.saved.number(key) for key in ("best_val_acc", "best_val_loss"))
    return accuracy is None, -(accuracy or 0.0), loss or 0.0


def _explain(folder: Path, error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        name = Path(error.filename).name if error.filename else STATUS
        reason = f"no {name}" + (", as no epoch has ended" if name == METRICS else "")
    else:
        reason = f"damaged: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
    return f"{short_path(folder.absolute())} ({reason})"


def _ask_for_more(config: InferenceConfig, count: int, left_out: list[str]) -> str:
    where = f"run={config.run}" if config.run else " or ".join(config.roots)
    chosen = f" with filter={config.filter}" if config.filter else ""
    reason = f"; left out: {join(left_out)}" if left_out else ""
    return (
        f"task=compare needs two runs or more, and {where}{chosen} gives {count or 'none'}{reason}\n"
        "write run='[FOLDER,FOLDER]', or a folder of runs (of a sweep: run=multirun/DATE/TIME); "
        "without run= all below outputs and multirun are compared, task=list shows them"
    )


def join(items: Sequence[str], limit: int = 10) -> str:
    """Return items as words, of many the first ones."""
    rest = len(items) - limit
    return ", ".join(items[:limit]) + (f" and {rest} more" if rest > 0 else "")


def _find(config: InferenceConfig) -> tuple[list[Path], list[str]]:
    """Return the folders that are meant, each once, and what was typed in vain."""
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
            missing = "no runs with an epoch in it" if matches else "does not exist"
            left_out.append(f"{wanted} ({missing})")
        folders += found
    return _each_once(folders), left_out


def _list_runs(path: Path) -> Iterable[Path]:
    """Return the folder itself if it is a run, else all below it that have an epoch behind them."""
    is_run = (path / STATUS).is_file() or (path / CONFIG).is_file()
    return [path] if is_run else find_folders([str(path)], METRICS)


def _each_once(folders: Iterable[Path]) -> list[Path]:
    return list({folder.resolve(): folder for folder in folders}.values())


def split_list(typed: str) -> list[str]:
    """Return the paths of `[a, b]` or `a,b`; a comma or bracket of a path that exists does not part it."""
    if os.path.exists(os.path.expanduser(typed)):
        return [typed]
    text = typed.strip()
    if text.startswith("[") and text.endswith("]"):
        text = text[1:-1]
    pieces, paths = text.split(","), []
    while pieces:
        # As many pieces as make a path that is there: a sweep may call its folders lr=0.1,seed=2.
        lengths = range(len(pieces), 0, -1)
        joined = {length: ",".join(pieces[:length]).strip().strip("'\"") for length in lengths}
        length = next((n for n in lengths if n > 1 and os.path.exists(os.path.expanduser(joined[n]))), 1)
        paths.append(joined[length])
        del pieces[:length]
    return [path for path in paths if path]


def name_apart(folders: Sequence[Path]) -> list[str]:
    """Return the shortest trailing parts of folders that tell them apart, as many parts of each."""
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
    return Entry("", run, tidy, history, _read_numbers(run, history))


def _read_numbers(run: SavedRun, history: dict[str, list[float]]) -> dict[str, Any]:
    test = read_object(run.folder / TEST_METRICS)
    rates = [rate for rate in history.get("images_per_second", []) if rate == rate]  # nan is not
    return {
        "status": run.status,
        "val_acc": run.number("best_val_acc"),
        "best_epoch": run.number("best_epoch"),
        "test_acc": test.get("accuracy"),
        "test_loss": test.get("loss"),
        "macro_f1": test.get("macro_f1"),
        "parameters": run.number("parameters"),
        "epochs": run.number("epoch"),
        "minutes": run.minutes,
        "images_per_second": statistics.median(rates) if rates else None,
    }
