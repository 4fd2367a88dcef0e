"""What the page starts: `python train.py WORDS`, or an export, each in a session of its own, which outlives the page.

What is going on is read from the folders of runs. Kept here is only what a process prints before it has one.
"""

import contextlib
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO

from ..config.compose import CONFIGS
from ..config.initial import HUB
from ..config.keys import list_keys
from ..config.overrides import PATH_KEYS, is_quoted, quote_path, split_override, type_value, unquote_path
from ..config.schema import TrainConfig
from ..machine.processes import find_holder, runs_program
from ..machine.streams import printable
from ..run.files import LOCK
from ..run.saved import SavedRun
from .errors import PageError, find_key
from .folders import allow
from .index import RunIndex, SavedSweep, make_id

TRAIN, INFERENCE = CONFIGS.parent / "train.py", CONFIGS.parent / "inference.py"
CHECK_SECONDS = 60.0
MOST_STARTS = 50  # that are remembered
MOST_WORDS, LONGEST = 200, 4096
OUTPUT = 20_000  # characters of what a process has printed
QUEUE = "queue"
GROUPS = ("model", "dataset", "optimizer", "scheduler", "augmentation", "experiment")


@dataclass
class Start:
    """A process that the page has started. output: a file without a name, which the process keeps if the page ends."""

    words: list[str]
    process: subprocess.Popen
    output: BinaryIO
    sweep: Path | None = None  # the folder of its sweep, if it is one
    id: str = field(default_factory=lambda: os.urandom(6).hex())
    run: str | None = None  # the id of its run, once it has one
    exports: str | None = None  # the id of the run that it exports, instead of training one

    @property
    def command(self) -> str:
        program = TRAIN if self.exports is None else INFERENCE
        return shlex.join(["python", program.name, *map(unquote_path, self.words)])

    def read(self) -> str:
        """Return the end of what it has printed."""
        descriptor = self.output.fileno()
        size = os.fstat(descriptor).st_size
        content = os.pread(descriptor, OUTPUT, max(0, size - OUTPUT))
        return printable(content.decode("utf-8", "replace"), own_lines=True)


class Jobs:
    """Starts, stops and resumes training. roots: the folders below which images may be used."""

    def __init__(self, index: RunIndex, roots: list[Path]) -> None:
        self._index, self._roots = index, roots
        self._starts: dict[str, Start] = {}
        self._lock = threading.RLock()
        self._checks = threading.Semaphore(2)  # processes at once

    def check(self, words: Sequence[str]) -> str:
        """Return the command of these words. Raises PageError with what the command line says against them."""
        self.check_words(words)
        command = [sys.executable, str(TRAIN), *words, "--cfg", "job"]
        try:
            with self._checking():
                done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=CHECK_SECONDS)
        except subprocess.TimeoutExpired as error:
            raise PageError("checking the settings takes more than a minute; is the disk slow?", 503) from error
        if done.returncode:
            raise explain_output(done.stderr.decode("utf-8", "replace"), words)
        return shlex.join(["python", "train.py", *words])

    @contextlib.contextmanager
    def _checking(self) -> Iterator[None]:
        if not self._checks.acquire(timeout=10):
            raise PageError("too many settings are being checked; try again in a moment", 503)
        try:
            yield
        finally:
            self._checks.release()

    def check_words(self, words: Sequence[str]) -> None:
        """Raise PageError for words that are not values of our keys: others could run code, or read the environment."""
        keys = {*list_keys(TrainConfig), *GROUPS}
        if len(words) > MOST_WORDS or any(len(word) > LONGEST for word in words):
            raise PageError("there are too many settings, or one is too long")
        for word in words:
            key, value = split_override(word)
            if "=" not in word or word.startswith(("-", "~")) or not word.isprintable():
                raise PageError(f"{word} is not of the form key=value", key=key if key in keys else None)
            if key not in keys or key in ("resume", "check") or key.startswith("sweep."):
                raise PageError(f"{key} is not a key that can be set here{_suggest(key)}", key=key)
            if "${" in value:
                raise PageError(f"{key} takes a value, not a reference such as ${{…}}", key=key)
            if key in PATH_KEYS and "pattern" not in key and value not in ("", "null"):
                plain = value[1:-1] if is_quoted(value) else value
                if key == "dataset.subfolder":  # inside the data set
                    if os.path.isabs(plain) or ".." in Path(plain).parts:
                        raise PageError(f"{word}: it is a folder inside the data set", key=key)
                elif key == "init.weights" and HUB.match(plain):  # no path
                    continue
                elif key != "init.weights" or os.sep in plain or plain.startswith((".", "~")) or os.path.exists(plain):
                    allow(plain, self._roots, key)

    def start(self, words: Sequence[str], queue: bool) -> Start:
        """Start training, or let it follow what runs now. Raises PageError if the settings are wrong."""
        self.check(words)
        with self._lock:
            running = self.list_running()
            if queue and any(self._is_starting(start) for start in self._starts.values()):
                raise PageError("another start is being prepared; try again in a moment", 409)
            if not queue or not running:
                return self._spawn(list(words))
            folder = self._find_queue()
            own = {self._index.find().sweep_of.get(run.folder) for run in running}
            waits = [run for run in running if self._index.find().sweep_of.get(run.folder) != folder]
            after = [f"sweep.after={waits[0].folder}"] if waits and folder not in own else []
            settings = ["sweep.append=true", "sweep.isolate=true", f"hydra.sweep.dir={type_value(str(folder))}"]
            # Quoted, since a sweep would take a path with a comma for two.
            return self._spawn(["--multirun", *settings, *after, *map(quote_path, words)], folder)

    def _is_starting(self, start: Start) -> bool:
        """Return whether a process that was started for a single run has no run yet."""
        trains = start.sweep is None and start.exports is None
        return trains and start.process.poll() is None and self._find_run(start) is None

    def list_running(self) -> list[SavedRun]:
        """Return the runs that train on this machine, the newest first."""
        return [run for run in self._index.find().runs if run.status == "running" and run.is_local()]

    def _find_queue(self) -> Path:
        """Return the folder of the queue that is at work, or of a new one."""
        for folder in sorted(self._index.find().sweeps, reverse=True):
            with contextlib.suppress(OSError, ValueError):  # damaged
                if folder.name.startswith(QUEUE) and self._index.read_sweep(folder).active:
                    return folder
        for start in reversed(self._starts.values()):
            if start.sweep is not None and start.process.poll() is None:
                return start.sweep
        now = datetime.now()
        return Path("multirun") / f"{now:%Y-%m-%d}" / f"{QUEUE}-{now:%H-%M-%S}"

    def resume(self, run: SavedRun, words: Sequence[str]) -> Start:
        self.check_words(words)
        return self._spawn([f"resume={run.folder}", *words])

    def resume_sweep(self, sweep: SavedSweep) -> Start:
        return self._spawn(["--multirun", f"resume={sweep.folder}"], sweep.folder)

    def export(self, run: SavedRun, formats: Sequence[str]) -> Start:
        """Write formats into the run's folder. Raises PageError while another export goes on: one takes the memory."""
        with self._lock:
            identity = make_id(run.folder)
            for start in self._starts.values():
                if start.exports is not None and start.process.poll() is None:
                    which = "this" if start.exports == identity else "another"
                    raise PageError(f"{which} run is being exported; wait until that has ended", 409)
            words = ["task=export", f"run={run.folder}", f"formats=[{','.join(formats)}]"]
            return self._spawn(words, exports=identity)

    def find_export(self, run: SavedRun) -> Start | None:
        """Return the last export of a run that was started here, None if there was none."""
        starts = (start for start in reversed(list(self._starts.values())) if start.exports == make_id(run.folder))
        return next(starts, None)

    def _spawn(self, words: list[str], sweep: Path | None = None, exports: str | None = None) -> Start:
        output = tempfile.TemporaryFile()  # noqa: SIM115 - for as long as the process is remembered
        process = subprocess.Popen(
            [sys.executable, str(TRAIN if exports is None else INFERENCE), *words],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        start = Start(words, process, output, sweep, exports=exports)
        with self._lock:
            self._starts[start.id] = start
            for old in [old for old in self._starts.values() if old.process.poll() is not None][:-MOST_STARTS]:
                self._starts.pop(old.id).output.close()
        return start

    def list_starts(self) -> list[dict[str, Any]]:
        """Return the processes that are starting or have failed to, the newest first."""
        with self._lock:
            starts = [start for start in self._starts.values() if start.exports is None]
            shown = [self.describe(start) for start in reversed(starts)]
        return [start for start in shown if start["state"] != "ended" or start["error"]]

    def open_start(self, wanted: str) -> Start:
        if wanted not in self._starts:
            raise PageError("this start is not known, as the page has been restarted; its run is in the table", 404)
        return self._starts[wanted]

    def describe(self, start: Start) -> dict[str, Any]:
        code = start.process.poll()
        if start.run is None and start.exports is None:
            start.run = self._find_run(start)
        sweep = self._find_sweep(start)
        output, error, key = start.read(), None, None
        if code not in (None, 0) and start.run is None:
            problem = explain_signal(-code) if code < 0 else explain_output(output, start.words)
            error, key = problem.message, problem.key
        return {
            "id": start.id,
            "command": start.command,
            "state": "ended" if code is not None else self._name_work(start, sweep),
            "output": output,
            "code": code,
            "run": start.run,
            "sweep": sweep,
            "error": error,
            "key": key,
        }

    def _name_work(self, start: Start, sweep: str | None) -> str:
        return "exporting" if start.exports else "training" if start.run or sweep else "starting"

    def _find_run(self, start: Start) -> str | None:
        """Return the id of the run that a process trains, by the number of the process, which the run has noted."""
        resumed = [word.partition("=")[2] for word in start.words if word.startswith("resume=")]
        for run in self._index.find().runs:
            if run.is_local() and run.facts.get("pid") == start.process.pid:
                return make_id(run.folder)
            if resumed and str(run.folder) == resumed[0] and start.process.poll() is not None:
                return make_id(run.folder)
        return None

    def _find_sweep(self, start: Start) -> str | None:
        """Return the id of the sweep that a process runs or has added to, once it is there."""
        if start.sweep is None:
            return None
        wanted = make_id(start.sweep)
        return wanted if wanted in self._index.find().folders else None

    def close(self) -> None:
        """Forget the processes, which go on."""
        while self._starts:
            self._starts.popitem()[1].output.close()

    def stop(self, run: SavedRun) -> str:
        """Ask a run to save and stop, as Ctrl-C does. Raises PageError if its process is not there, or not ours."""
        pid = run.facts.get("pid")
        if run.status != "running" or not isinstance(pid, int):
            raise PageError("the run is not running", 409)
        if not run.is_local():
            raise PageError(f"the run is on another machine, {run.facts.get('host')}; stop it there", 409)
        # The file that names the process may be a stranger's.
        if find_holder(run.folder / LOCK) not in (pid, None):
            raise PageError(f"process {pid} is not the one that trains this run, so it was not stopped", 409)
        _terminate(pid)
        return "it saves after this step and stops; Resume continues it from there"

    def stop_sweep(self, sweep: SavedSweep) -> str:
        """Ask the process of a sweep to stop, which passes it on to its jobs. Raises PageError if it is not there."""
        pid = find_holder(sweep.folder / LOCK)
        if pid is None:  # not told by this system: its first running job is in the same process, or a child of it
            running = [state for state in sweep.states if state.status == "running" and state.run.is_local()]
            pid = next((state.facts.get("pid") for state in running), 0)
        if not pid:
            raise PageError("the sweep is not running on this machine", 409)
        _terminate(pid)
        return "its jobs save after this step and stop; Resume continues the sweep"


def _terminate(pid: int) -> None:
    """Ask a process to save and end. Raises PageError for one that does not train."""
    if not runs_program(pid, "train.py"):
        raise PageError(f"process {pid} is not a training process, so it was not stopped", 409)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)


def _suggest(key: str) -> str:
    from ..config.keys import suggest_keys

    near = suggest_keys(key, TrainConfig)
    return f"; did you mean {' or '.join(near)}?" if near else ""


def explain_signal(number: int) -> PageError:
    """Return the error of a process that a signal has ended."""
    if number == signal.SIGKILL:
        return PageError("it was killed, probably because the machine was out of memory")
    return PageError(f"it was ended by signal {number} ({signal.strsignal(number)})")


def explain_output(output: str, words: Sequence[str]) -> PageError:
    """Return the error that a process has printed last, with the key that it names."""
    lines = [line for line in output.splitlines() if line.strip()]
    starts = [place for place, line in enumerate(lines) if line.startswith("error: ")]
    told = "\n".join(lines[starts[-1] :]) if starts else "\n".join(lines[-3:])
    message = printable(told.removeprefix("error: ").strip(), own_lines=True) or "it ended without saying why"
    return PageError(message, 400, find_key(message, words))
