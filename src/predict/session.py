"""What `python inference.py` does in a terminal or a pipe: the table of runs, the prompts, the predictions.

The table does not need torch; `predictor` does, and is imported when a run is used.
"""

import contextlib
import errno
import os
import signal
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .. import terminal
from ..config.inference import InferenceConfig
from ..machine.disk import short_path
from ..machine.streams import write_error
from ..run.query import select_runs
from ..run.saved import SavedRun, best_run, choose_run, find_all_runs, name_others
from ..signals import Interrupts, name_signal
from ..tables import Table, format_percent

if TYPE_CHECKING:
    from .output import Add
    from .predictor import Predictor

NUMBERS = ("no", "parameters", "epochs", "val acc", "test acc", "minutes")
COLUMNS = ("no", "when", "data set", "model", *NUMBERS[1:], "status")
SHOWN = 12  # images up to which each one gets its bars
DROPPED_FIRST = ("minutes", "parameters", "epochs", "model", "when")  # in a terminal that is too narrow for all


def list_runs(config: InferenceConfig, everything: bool = False) -> dict[int, SavedRun]:
    """Print the table of runs that match `filter`, in the order of `sort`; return them by their numbers.

    everything: show runs without weights too, and the folders. A run has the same number in each table, and in `run=`:
    its place among all runs, the newest first. Raises FileNotFoundError if there are no runs.
    """
    known, problems = find_all_runs(config.roots)
    for problem in problems if everything else ():
        terminal.warn(f"left out: {problem}")
    found = [run for run in known if everything or run.has_weights()]
    if not found:
        raise FileNotFoundError(f"no runs in {' or '.join(config.roots)}; train one first: python train.py")
    chosen = select_runs(found, config.filter, config.sort)
    if not chosen:
        raise FileNotFoundError(f"filter={config.filter} matches none of {len(found)} run(s); leave it out to see all")
    numbers = {id(run): number for number, run in enumerate(known, start=1)}
    runs = {numbers[id(run)]: run for run in chosen}
    rows = [_describe(number, run) for number, run in runs.items()]
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


@dataclass
class Tally:
    """How many of the files were predicted, and how many could not be read."""

    predicted: int = 0
    unreadable: int = 0

    def describe(self, others: int, done: str = "predicted") -> str:
        """Return a line such as "24 images predicted, 2 unreadable, 38 other files"."""
        parts = [f"{self.predicted:,} image{'' if self.predicted == 1 else 's'} {done}"]
        parts += [f"{self.unreadable:,} unreadable"] if self.unreadable else []
        parts += [f"{others:,} other file{'' if others == 1 else 's'}"] if others else []
        return ", ".join(parts)


def predict_once(config: InferenceConfig) -> int:
    """Predict `input` with `run` (by default the best one); return the number of images predicted.

    Prints bars, or writes `output`, which a signal leaves with the rows so far. Files that are left out are told on
    stderr. Raises ValueError if no image could be read, OSError if the output cannot be written.
    """
    from .inputs import find_inputs
    from .output import open_output

    inputs = find_inputs(str(config.input))
    run = choose_one(config)
    output = None if config.output is None else Path(os.path.expanduser(config.output))
    tally, stopped, add = Tally(), None, None
    with contextlib.ExitStack() as stack:
        if output is not None:
            stack.enter_context(Interrupts())  # a signal is raised, in imports too, so that no empty file is left
            add = stack.enter_context(open_output(output))
        predictor = open_predictor(run, config)
        terminal.warn(inputs.describe_others())
        try:
            _predict(predictor, inputs.files, str(config.input), config, tally, add, terminal.warn)
        except KeyboardInterrupt as error:
            if not tally.predicted:
                raise
            stopped = error
        if not tally.predicted:
            raise ValueError(f"input={config.input}: none of {len(inputs.files)} file(s) is a readable image")
    if stopped is not None:
        name = name_signal(getattr(stopped, "signal", signal.SIGINT))
        terminal.say(f"stopped by {name} after {tally.predicted + tally.unreadable:,} of {len(inputs.files):,} files")
    if output is not None:
        terminal.say(f"{tally.predicted:,} predictions written to {output}")
    elif (lost := write_error(sys.stdout)) and lost.errno != errno.EPIPE:  # a closed pipe wants no more
        raise OSError(f"the predictions cannot be printed: {lost.strerror}; output=FILE.csv writes them into a file")
    if output is not None or len(inputs.files) + len(inputs.others) > 1:
        terminal.say(tally.describe(len(inputs.others)))
    if stopped is not None:
        raise stopped
    return tally.predicted


def choose_one(config: InferenceConfig) -> SavedRun:
    """Return the run that `run=` means, and warn of runs on other data sets if it is a word."""
    run = choose_run(config.run, config.roots)
    if config.run in ("best", "latest"):
        for line in name_others(run, config.roots):
            terminal.warn(line)
    return run


def _predict(
    predictor: "Predictor",
    files: Sequence[Path],
    wanted: str,
    config: InferenceConfig,
    tally: Tally,
    add: "Add | None",
    report: Callable[[str], None],
) -> None:
    """Predict the files, which `wanted` means; show each image or, with `add`, add its row to a table.

    report: prints a line.

    A signal ends it between two batches' results, so that each is complete.
    """
    from ..data.read import count_notes
    from .summary import Summary

    brief = add is None and len(files) > SHOWN  # bars of many images tell nobody anything
    summary = Summary(predictor.classes, wanted)
    shown = len(files) if add or brief else 0
    notes = Counter[str]()  # what ambiguous files were taken for
    trial = predictor.choose_computing(config.batch_size, len(files))
    if trial.rates:
        report(f"computing in {trial.describe()}")
    try:
        with Interrupts() as interrupts, terminal.show_progress(shown, "predicting") as advance:
            for read, probabilities, errors in predictor.predict_files(files, config.batch_size, notes):
                interrupts.defer = True
                for line in errors:
                    report(f"left out: {line}")
                tops = [predictor.top(row, config.topk) for row in probabilities]
                if add:
                    add([_as_row(path, top) for path, top in zip(read, tops, strict=True)])
                for path, top in zip(read, tops, strict=True):
                    summary.add(path, *top[0])
                    if not add and not brief:
                        terminal.show_predictions(str(path), top)
                tally.predicted += len(read)
                tally.unreadable += len(errors)
                advance(len(read) + len(errors))
                interrupts.release()
                if add is None and write_error(sys.stdout):
                    break
        if brief:
            terminal.show_table(*summary.table())
            terminal.say("a row for each image: output=FILE.csv")
        for line in summary.score():
            terminal.say(line)
    finally:
        for line in count_notes(notes):
            report(line)


def _as_row(path: Path, top: Sequence[tuple[str, float]]) -> dict[str, str | float]:
    row: dict[str, str | float] = {"file": str(path)}
    for rank, (name, confidence) in enumerate(top, start=1):
        suffix = "" if rank == 1 else f"_{rank}"
        row |= {f"class{suffix}": name, f"confidence{suffix}": round(confidence, 6)}
    return row


def open_predictor(run: SavedRun, config: InferenceConfig) -> "Predictor":
    """Load a run's model, and say which run it is."""
    from ..machine.kernels import Wanted
    from .predictor import Predictor

    predictor = Predictor(run, config.device, Wanted.of(config))
    facts = run.facts
    has_ended = run.status == "finished" or "epoch" not in facts  # of a copied run, only weights may be known
    unfinished = "" if has_ended else f", {run.status} in epoch {facts['epoch']} of {facts.get('epochs')}"
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
            predictor = open_predictor(run, config)
        except (OSError, ValueError) as error:
            if config.run or not terminal.is_interactive():
                raise
            terminal.say(f"{error}; choose another run")
            continue
        if not _answer(predictor, config):
            return
        config.run = None


def _ask_for_run(runs: dict[int, SavedRun]) -> SavedRun | None:
    best = best_run(list(runs.values()))
    number = next(number for number, run in runs.items() if run is best)
    question = f"number of a run (Enter: {number}, the best on {best.dataset}; q: quit): "
    while True:
        answer = terminal.ask(question)
        if answer is None or answer.lower() == "q":
            return None
        if answer == "":
            return best
        if answer.isdecimal() and int(answer) in runs:
            return runs[int(answer)]
        terminal.say(f"'{answer}' is not a number in the table")


def _answer(predictor: "Predictor", config: InferenceConfig) -> bool:
    """Ask for images and predict them; return True to choose another run, False to quit."""
    from .inputs import find_inputs

    while True:
        answer = terminal.ask("image, folder or glob (r: another run, q: quit): ", complete_paths=True)
        if answer is None or answer.lower() == "q":
            return False
        if answer.lower() == "r":
            return True
        if not answer:
            continue
        wanted = _unquote(answer)
        try:
            inputs = find_inputs(wanted)
        except (OSError, ValueError) as error:
            terminal.say(str(error))
            continue
        tally = Tally()
        _predict(predictor, inputs.files, wanted, config, tally, None, terminal.say)
        if len(inputs.files) + len(inputs.others) > 1:
            if inputs.others:
                terminal.say(inputs.describe_others())
            terminal.say(tally.describe(len(inputs.others)))


def _unquote(answer: str) -> str:
    """Return the path in what file managers paste: it may be in quotes, or have backslashes before spaces."""
    if len(answer) > 1 and answer[0] == answer[-1] and answer[0] in "'\"":
        return answer[1:-1]
    return answer if Path(answer).exists() else answer.replace("\\ ", " ")
