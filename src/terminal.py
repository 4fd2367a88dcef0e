"""Terminal output: log lines, progress bars, tables, questions. Plain lines if the output goes to a file."""

import contextlib
import logging
import os
import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from .machine.streams import printable, printable_cell

# A file or pipe has no width: tables get this one, other lines are never wrapped.
console = Console(highlight=False, width=None if sys.stdout is not None and sys.stdout.isatty() else 200)


def announce_end(signal: str) -> None:
    """Print that a signal was received; called by its handler."""
    say_unbuffered(f"{signal}: saving after this step, then stopping; press Ctrl-C to quit immediately")


def say_unbuffered(text: str) -> None:
    """Print a line from the handler of a signal: without buffers, which may be in use just then."""
    if not console.quiet:
        with contextlib.suppress(OSError):  # the terminal is gone, or the pipe closed
            os.write(2, f"\n{printable(text)}\n".encode("utf-8", "backslashreplace"))


class _ConsoleHandler(logging.Handler):
    """Print through rich, so that lines appear above a progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        style = "yellow" if record.levelno >= logging.WARNING else None
        console.print(printable_cell(self.format(record)), style=style, markup=False, soft_wrap=True)


def log_to_console(logger: logging.Logger, shown: bool = True) -> None:
    """Send a logger's messages to the terminal; calling it again does not repeat them.

    shown=False: this process prints nothing at all from now on.
    """
    console.quiet = not shown
    logger.setLevel(logging.INFO)
    logger.propagate = False
    if not any(isinstance(handler, _ConsoleHandler) for handler in logger.handlers):
        logger.addHandler(_ConsoleHandler())


def track(items: Iterable[Any], total: int, description: str) -> Iterator[Any]:
    """Yield the items with a progress bar, which disappears at the end; no bar without a terminal."""
    with _build_progress() as progress:
        yield from progress.track(items, total=total, description=description)


@contextlib.contextmanager
def show_progress(total: int, description: str) -> Iterator[Callable[[int], None]]:
    """Yield a function that advances such a bar by a number of items; no bar for a total of 0."""
    with _build_progress(disable=not total) as progress:
        task = progress.add_task(description, total=total)
        yield lambda count: progress.advance(task, count)


def _build_progress(disable: bool = False) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    disable = disable or console.quiet or not console.is_terminal
    return Progress(*columns, console=console, transient=True, disable=disable)


class TrainingBar:
    """A progress bar for a whole run: epoch, step, loss, images per second, time left; nothing without a terminal."""

    def __init__(self, epochs: int, steps_per_epoch: int) -> None:
        self.epochs, self.steps = epochs, steps_per_epoch
        self.epoch, self._refreshed = 0, 0.0
        columns = (
            TextColumn("epoch {task.fields[epoch]}/" + str(epochs)),
            BarColumn(),
            TextColumn("step {task.fields[step]}/" + str(steps_per_epoch)),
            TextColumn("loss {task.fields[loss]:.3f}"),
            TextColumn("{task.fields[rate]:,.0f} images/s"),
            TimeRemainingColumn(compact=True),
            TextColumn("left"),
        )
        self._progress = Progress(
            *columns, console=console, transient=True, disable=console.quiet or not console.is_terminal
        )
        self._task = self._progress.add_task(
            "", total=epochs * steps_per_epoch, epoch=1, step=0, loss=float("nan"), rate=0.0
        )

    def __enter__(self) -> "TrainingBar":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def start_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def update(self, step: int, loss: float, rate: float) -> None:
        """Show a step of the epoch, at most four times per second; rate: images per second."""
        now = time.perf_counter()
        if self._progress.disable or (now - self._refreshed < 0.25 and step < self.steps):
            return
        self._refreshed = now
        self._progress.update(
            self._task,
            completed=(self.epoch - 1) * self.steps + step,
            epoch=self.epoch,
            step=step,
            loss=loss,
            rate=rate,
        )


def describe_epoch(row: Mapping[str, float], epochs: int, best: bool) -> str:
    """Return an epoch's line; a star marks the best validation accuracy so far."""
    width = len(str(epochs))
    averaged = f" ema {row['ema_val_acc']:6.2%}" if "ema_val_acc" in row else ""
    return (
        f"epoch {row['epoch']:>{width}}/{epochs}  lr {row['lr']:.1e}  "
        f"train loss {row['train_loss']:.4f} acc {row['train_acc']:6.2%}  "
        f"val loss {row['val_loss']:.4f} acc {row['val_acc']:6.2%}{averaged}{'*' if best else ' '} "
        f"{row['images_per_second']:,.0f} images/s"
    )


def format_minutes(minutes: float) -> str:
    return f"{minutes:,.1f}" if minutes >= 1 else f"{minutes:.2f}"


def show_pairs(pairs: Sequence[tuple[str, str]]) -> None:
    """Print an empty line, then a line for each name and its text."""
    console.print()
    for name, text in pairs:
        say(f"{name:<9} {text}")


def show_report(counts: Mapping[str, Sequence[int]], sections: Sequence[tuple[str, Sequence[str]]]) -> None:
    """Print a table of images per class and split, then each section's heading and lines."""
    columns = ("class", "train", "val", "test")
    totals = [sum(column) for column in zip(*counts.values(), strict=True)]
    rows = [(name, *map("{:,}".format, row)) for name, row in [*counts.items(), ("all", totals)]]
    show_table(columns, rows, right=columns[1:])
    for heading, lines in sections:
        show_heading(heading)
        for line in lines:
            say(f"  {line}")


def show_heading(text: str) -> None:
    console.print()
    console.print(printable_cell(text), style="bold", markup=False, soft_wrap=True)


def say(text: str) -> None:
    """Print a line as it is: not wrapped, not read as markup."""
    console.print(printable_cell(text), markup=False, soft_wrap=True)


def warn(text: str) -> None:
    """Print a line on standard error, unless it is empty."""
    if text:
        print(printable_cell(text), file=sys.stderr, flush=True)


def show_table(columns: Sequence[str], rows: Iterable[Sequence[str]], right: Collection[str] = ()) -> None:
    """Print a table; `right` names the columns that are right-aligned."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in columns:
        table.add_column(Text(printable_cell(name)), justify="right" if name in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable_cell(cell)) for cell in row))
    console.print(table)


def fits(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> bool:
    """Return whether a table fits the terminal without folding a cell."""
    widths = [max(cell_len(printable_cell(cell)) for cell in column) for column in zip(columns, *rows, strict=True)]
    return sum(widths) + 2 * (len(widths) - 1) <= console.width


def show_predictions(name: str, predictions: Sequence[tuple[str, float]]) -> None:
    """Print an image's classes and confidences (from 0 to 1) with bars, in the order given."""
    console.print(printable_cell(name), style="bold", markup=False, soft_wrap=True)
    shown = [(printable_cell(label), confidence) for label, confidence in predictions]
    longest = max(len(label) for label, _ in shown)
    for label, confidence in shown:
        bar = "█" * round(confidence * 30) or "▏"
        say(f"  {label:<{longest}}  {confidence:7.2%}  {bar}")


def is_interactive() -> bool:
    return sys.stdin is not None and sys.stdin.isatty()


def ask(question: str, complete_paths: bool = False) -> str | None:
    """Ask for a line; complete_paths: with TAB completion of file names. None at the end of the input."""
    if is_interactive() and complete_paths:
        _complete_paths()
    try:
        return input(printable_cell(question)).strip()
    except (EOFError, RuntimeError):  # RuntimeError: standard input is closed
        return None
    finally:
        if not is_interactive():
            print()


def _complete_paths() -> None:
    import glob

    try:
        import readline
    except ImportError:  # on Windows, where the prompt works without completion
        return

    def complete(text: str, state: int) -> str | None:
        pattern = glob.escape(os.path.expanduser(text)) + "*"
        matches = [path + "/" * os.path.isdir(path) for path in sorted(glob.glob(pattern))]
        return matches[state] if state < len(matches) else None

    readline.set_completer(complete)
    readline.set_completer_delims("")  # file names may contain spaces
    readline.parse_and_bind("tab: complete")
