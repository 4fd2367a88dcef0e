"""What `python inference.py` does in a terminal or a pipe: the table of runs, the prompts, the predictions.

The table does not need torch; `predictor` does, and is imported when a run is used.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .. import terminal
from ..config.schema import InferenceConfig
from ..machine.disk import short_path
from ..run.query import select_runs
from ..run.saved import SavedRun, best_run, choose_run, find_all_runs, find_runs
from ..tables import Table, format_percent

if TYPE_CHECKING:
    from .predictor import Predictor

NUMBERS = ("no", "parameters", "epochs", "val acc", "test acc", "minutes")
COLUMNS = ("no", "when", "data set", "model", *NUMBERS[1:], "status")
DROPPED_FIRST = ("minutes", "parameters", "epochs", "model", "when")  # in a terminal that is too narrow for all


def list_runs(config: InferenceConfig, everything: bool = False) -> list[SavedRun]:
    """Print the table of runs that match `filter`, in the order of `sort`; return the runs.

    everything: show runs without weights too, and the folders. Raises FileNotFoundError if there are no runs.
    """
    if everything:
        found, problems = find_all_runs(config.roots)
        for problem in problems:
            print(f"left out: {terminal.printable(problem)}", file=sys.stderr)
    else:
        found = find_runs(config.roots)
    if not found:
        raise FileNotFoundError(f"no runs in {' or '.join(config.roots)}; train one first: python train.py")
    runs = select_runs(found, config.filter, config.sort)
    if not runs:
        raise FileNotFoundError(f"filter={config.filter} matches none of {len(found)} run(s); leave it out to see all")
    rows = [_describe(number, run) for number, run in enumerate(runs, start=1)]
    table = Table((*COLUMNS, "folder"), rows, right=NUMBERS)
    _show_fitting(table if everything else table.pick(range(len(COLUMNS))))
    return runs


def _show_fitting(table: Table) -> None:
    """Print the table, in a narrow terminal without some of its columns."""
    dropped: list[str] = []
    shown = table
    for name in DROPPED_FIRST if terminal.console.is_terminal else ():
        if terminal.fits(shown.columns, shown.rows):
            break
        dropped.append(name)
        shown = table.pick([position for position, column in enumerate(table.columns) if column not in dropped])
    terminal.show_table(shown.columns, shown.rows, shown.right)
    if dropped:
        terminal.say(f"(a wider terminal also shows: {', '.join(dropped)})")


def _describe(number: int, run: SavedRun) -> tuple[str, ...]:
    """Return a row of the table; unknown numbers are empty."""
    facts = {key: "" if value is None else value for key, value in run.facts.items()}
    val_acc, test_acc, parameters = (run.number(key) for key in ("best_val_acc", "test_acc", "parameters"))
    size = f" {facts['embedding_dim']}×{facts['num_layers']}" if facts.get("num_layers") else ""
    return (
        str(number),
        run.started[:16].replace("T", " "),
        run.dataset,
        f"{facts.get('model', '')}{size}",
        "" if parameters is None else f"{parameters:,}",
        f"{facts.get('epoch', '')}/{facts.get('epochs', '')}",
        format_percent(val_acc),
        format_percent(test_acc),
        "" if run.minutes is None else terminal.format_minutes(run.minutes),
        run.status,
        short_path(run.folder.absolute()),
    )


def predict_once(config: InferenceConfig) -> int:
    """Predict `input` with `run` (by default the best one); return the number of images predicted.

    Prints bars, or writes `output`. Unreadable files are left out and named on stderr. Raises ValueError if no image
    could be read.
    """
    from .predictor import find_inputs, write_predictions

    files = find_inputs(str(config.input))
    run = choose_run(config.run or "best", config.roots)
    predictor = _open(run, config)
    rows: list[dict[str, str | float]] = []
    for read, probabilities, errors in predictor.predict_files(files, config.batch_size):
        for line in errors:
            print(f"left out: {line}", file=sys.stderr)
        for path, row in zip(read, probabilities, strict=True):
            top = predictor.top(row, config.topk)
            rows.append(_as_row(path, top))
            if config.output is None:
                terminal.show_predictions(str(path), top)
    if not rows:
        raise ValueError(f"input={config.input}: none of {len(files)} file(s) is a readable image")
    if config.output is not None:
        output = Path(os.path.expanduser(config.output))
        write_predictions(output, rows)
        terminal.say(f"{len(rows)} predictions written to {output}")
    return len(rows)


def _as_row(path: Path, top: Sequence[tuple[str, float]]) -> dict[str, str | float]:
    row: dict[str, str | float] = {"file": str(path)}
    for rank, (name, confidence) in enumerate(top, start=1):
        suffix = "" if rank == 1 else f"_{rank}"
        row |= {f"class{suffix}": name, f"confidence{suffix}": round(confidence, 6)}
    return row


def _open(run: SavedRun, config: InferenceConfig) -> "Predictor":
    from .predictor import Predictor

    predictor = Predictor(run, config.device)
    facts = run.facts
    unfinished = "" if run.status == "finished" else f", {run.status} in epoch {facts['epoch']} of {facts['epochs']}"
    folder = short_path(run.folder.absolute())
    terminal.say(f"run {folder}: {run.dataset}, validation accuracy {format_percent(run.val_acc)}{unfinished}")
    return predictor


def ask_about_images(config: InferenceConfig) -> None:
    """List the runs and ask for one, then ask for images until `q` or the end of the input."""
    while True:
        run = choose_run(config.run, config.roots) if config.run else _ask_for_run(list_runs(config))
        if run is None:
            return
        try:
            predictor = _open(run, config)
        except (OSError, ValueError) as error:
            if config.run or not terminal.is_interactive():
                raise
            terminal.say(f"{error}; choose another run")
            continue
        if not _answer(predictor, config):
            return
        config.run = None


def _ask_for_run(runs: list[SavedRun]) -> SavedRun | None:
    best = best_run(runs)
    question = f"run 1-{len(runs)} (Enter: {runs.index(best) + 1}, the best on {best.dataset}; q: quit): "
    while True:
        answer = terminal.ask(question)
        if answer is None or answer.lower() == "q":
            return None
        if answer == "":
            return best
        if answer.isdecimal() and 1 <= int(answer) <= len(runs):
            return runs[int(answer) - 1]
        terminal.say(f"'{answer}' is not a number from 1 to {len(runs)}")


def _answer(predictor: "Predictor", config: InferenceConfig) -> bool:
    """Ask for images and predict them; return True to choose another run, False to quit."""
    from .predictor import find_inputs

    while True:
        answer = terminal.ask("image, folder or glob (r: another run, q: quit): ", complete_paths=True)
        if answer is None or answer.lower() == "q":
            return False
        if answer.lower() == "r":
            return True
        if not answer:
            continue
        try:
            files = find_inputs(_unquote(answer))
        except OSError as error:
            terminal.say(str(error))
            continue
        for read, probabilities, errors in predictor.predict_files(files, config.batch_size):
            for path, row in zip(read, probabilities, strict=True):
                terminal.show_predictions(str(path), predictor.top(row, config.topk))
            for line in errors:
                terminal.say(f"left out: {line}")


def _unquote(answer: str) -> str:
    """Return the path in what file managers paste: it may be in quotes, or have backslashes before spaces."""
    if len(answer) > 1 and answer[0] == answer[-1] and answer[0] in "'\"":
        return answer[1:-1]
    return answer if Path(answer).exists() else answer.replace("\\ ", " ")
