"""The data report for the training form: `python train.py check=FOLDER WORDS`, in a process of its own."""

import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from ..machine.disk import read_object
from ..machine.streams import printable
from ..run.files import AUGMENTATIONS, REPORT, SAMPLES
from .errors import PageError
from .jobs import OUTPUT, TRAIN, Jobs, explain_output

MOST = 4  # reports that are kept; an older one, and its process, goes
PICTURES = {SAMPLES: "Training images", Path(AUGMENTATIONS).name: "A training batch as the model sees it"}


@dataclass
class Report:
    """A report that is written into a temporary folder, which is gone when the page ends."""

    folder: "tempfile.TemporaryDirectory[str]"
    words: list[str]
    process: subprocess.Popen
    output: BinaryIO
    id: str = field(default_factory=lambda: os.urandom(6).hex())

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(3)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.output.close()
        self.folder.cleanup()


class Reports:
    """The last reports."""

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs
        self._reports: dict[str, Report] = {}
        self._lock = threading.Lock()

    def start(self, words: Sequence[str]) -> Report:
        """Look at the data of these words. Raises PageError for words that are not allowed."""
        self._jobs.check_words(words)
        folder = tempfile.TemporaryDirectory(prefix="vit-report-", ignore_cleanup_errors=True)
        output = tempfile.TemporaryFile()  # noqa: SIM115 - for as long as the report is kept
        process = subprocess.Popen(
            [sys.executable, str(TRAIN), *words, f"check={folder.name}"],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        report = Report(folder, list(words), process, output)
        with self._lock:
            self._reports[report.id] = report
            old = [self._reports.pop(key) for key in list(self._reports)[:-MOST]]
        for other in old:
            other.close()
        return report

    def describe(self, wanted: str) -> dict[str, Any]:
        """Return how far a report is and, once it is done, what it says. Raises PageError if it is not known."""
        report = self._open(wanted)
        code = report.process.poll()
        size = os.fstat(report.output.fileno()).st_size
        content = os.pread(report.output.fileno(), OUTPUT, max(0, size - OUTPUT))
        output = printable(content.decode("utf-8", "replace"), own_lines=True)
        problem = explain_output(output, report.words) if code else None
        done = code == 0
        names = [name for name in PICTURES if done and (Path(report.folder.name) / name).is_file()]
        return {
            "state": "running" if code is None else "done" if done else "failed",
            "output": output,
            "error": problem.message if problem else None,
            "key": problem.key if problem else None,
            "report": read_object(Path(report.folder.name) / REPORT) if done else None,
            "pictures": [{"title": PICTURES[name], "url": f"/api/reports/{report.id}/{name}"} for name in names],
        }

    def find_picture(self, wanted: str, name: str) -> Path:
        """Return the path of a picture of a report. Raises PageError if there is none."""
        path = Path(self._open(wanted).folder.name) / name
        if name not in PICTURES or not path.is_file():
            raise PageError("the report has no such picture", 404)
        return path

    def _open(self, wanted: str) -> Report:
        if wanted not in self._reports:
            raise PageError("this report is no longer kept; look at the data again", 404)
        return self._reports[wanted]

    def close(self) -> None:
        for report in self._reports.values():
            report.close()
