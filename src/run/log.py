"""The log of a run: in the terminal immediately, in train.log once the run has a folder."""

import logging
import traceback
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..machine.disk import open_to_append
from ..machine.streams import printable, printable_cell
from ..terminal import log_to_console

log = logging.getLogger("vit")
TRACEBACK = logging.ERROR + 1  # the only message of several lines


class _Buffer(logging.Handler):
    """Keep the records from before the run has a folder."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


class LogFile(logging.FileHandler):
    """train.log of a run. On a full disk it loses lines; it must not print a traceback for each."""

    def __init__(self, path: Path) -> None:
        """Open the file and write what was logged since `start_log`."""
        super().__init__(path, encoding="utf-8", errors="backslashreplace")
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        for record in _take_buffered():
            self.handle(record)
        log.addHandler(self)

    def _open(self) -> Any:
        return open_to_append(Path(self.baseFilename))

    def format(self, record: logging.LogRecord) -> str:
        return (printable if record.levelno == TRACEBACK else printable_cell)(super().format(record))

    def write_traceback(self, error: BaseException) -> None:
        """Write a traceback to the file only; the caller shows the message in the terminal."""
        text = "".join(traceback.format_exception(error))
        record = logging.LogRecord("vit", TRACEBACK, "", 0, text, None, None)
        record.levelname = "ERROR"
        self.handle(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        pass

    def close(self) -> None:
        log.removeHandler(self)
        super().close()


def start_log(shown: bool) -> None:
    """Start the log of a job, which may share its process with earlier ones; shown=False: not in the terminal."""
    _take_buffered()
    log_to_console(log, shown)
    log.addHandler(_Buffer())


def log_lines(lines: Iterable[str], warnings: Iterable[str] = ()) -> None:
    for line in lines:
        log.info("%s", line)
    for warning in warnings:
        log.warning("%s", warning)


def _take_buffered() -> list[logging.LogRecord]:
    records = []
    for handler in [handler for handler in log.handlers if isinstance(handler, _Buffer)]:
        log.removeHandler(handler)
        records += handler.records
    return records
