"""The log of a run: lines appear in the terminal at once, and in train.log from the moment that there is a folder."""

import logging
import traceback
from collections.abc import Iterable
from pathlib import Path

from ..terminal import log_to_console

log = logging.getLogger("vit")


class _Early(logging.Handler):
    """Keep what is logged before the run has a folder; what fails before that leaves none."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


class LogFile(logging.FileHandler):
    """train.log, of one run. A log on a full disk loses lines; it must not print a traceback for each."""

    def __init__(self, path: Path) -> None:
        """Open the file, and write what was logged since `start_log`."""
        super().__init__(path, encoding="utf-8", errors="backslashreplace")
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        for record in _drop_early():
            self.handle(record)
        log.addHandler(self)

    def write_traceback(self, error: BaseException) -> None:
        """Write it into the file alone: the terminal gets the message from the caller."""
        text = "".join(traceback.format_exception(error))
        self.handle(logging.LogRecord("vit", logging.ERROR, "", 0, text, None, None))

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        pass

    def close(self) -> None:
        log.removeHandler(self)
        super().close()


def start_log(shown: bool) -> None:
    """Begin the log of a job, which may share its process with others; shown=False: the terminal stays quiet."""
    _drop_early()
    log_to_console(log, shown)
    log.addHandler(_Early())


def log_lines(lines: Iterable[str], warnings: Iterable[str] = ()) -> None:
    for line in lines:
        log.info("%s", line)
    for warning in warnings:
        log.warning("%s", warning)


def _drop_early() -> list[logging.LogRecord]:
    records = []
    for handler in [handler for handler in log.handlers if isinstance(handler, _Early)]:
        log.removeHandler(handler)
        records += handler.records
    return records
