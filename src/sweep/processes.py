"""Each job of a sweep in a process of its own, so that none can take others down and several GPUs are kept busy."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from .. import terminal
from ..machine.disk import read_object, write_json
from ..run.claim import refuse_linked_path
from ..run.environment import now
from ..run.files import LOG, STATUS, STDERR, SWEEP_STOP
from ..signals import ENDING, Interrupted, Interrupts
from ..tables import format_percent
from .job import describe_job, refresh_ledger
from .plan import JOB_PROCESS, Sweep, list_untrusted
from .queue import Queue
from .state import FAILED, JobState

POLL = 0.2  # seconds between two checks of the processes
GRACE = 10.0  # seconds that the jobs have to exit after a second Ctrl-C


def run_in_processes(queue: Queue, sweep: Sweep) -> None:
    """Keep `sweep.parallel` jobs running, or one on each of `sweep.gpus`, until none is left.

    A signal is passed on: the running jobs save and stop, the others stay pending. Raises Interrupted then.
    """
    pool = _Pool(queue, sweep)
    passed_on = False
    with Interrupts(terminal.announce_end) as interrupts:
        interrupts.defer = True
        try:
            while True:
                if not interrupts.received:
                    pool.fill()
                elif not passed_on:
                    pool.signal(interrupts.received)
                    passed_on = True
                pool.reap()
                if not pool.children and (interrupts.received or not queue.has_more()):
                    break
                time.sleep(POLL)
        except BaseException as error:  # a second Ctrl-C makes the jobs quit at once; at any other error they save
            pool.signal(signal.SIGINT if isinstance(error, Interrupted) else signal.SIGTERM)
            pool.wait(GRACE)
            raise
        if interrupts.received:
            raise Interrupted(interrupts.received)


class _Pool:
    """A fixed number of slots, each for a process with one job; a slot may have a CUDA device.

    children: by slot, the job's number and its process; _before: by job, what its status.json held at the start.
    """

    def __init__(self, queue: Queue, sweep: Sweep) -> None:
        settings = sweep.settings
        self.children: dict[int, tuple[int, subprocess.Popen]] = {}
        self._before: dict[int, dict[str, Any]] = {}
        self._queue, self._sweep = queue, sweep
        self._gpus: list[int | None] = [*settings.gpus] if settings.gpus else [None] * settings.parallel
        self._single = len(self._gpus) == 1  # the job itself prints to the terminal
        self._ending = False  # whether the processes have been told to end

    def fill(self) -> None:
        """Start a job in each free slot, as long as there are jobs."""
        for slot, gpu in enumerate(self._gpus):
            if slot not in self.children:
                for number in self._queue.take(1):
                    self.children[slot] = number, self._start(number, gpu)

    def _start(self, number: int, gpu: int | None) -> subprocess.Popen:
        """Start a process for one job, in a session of its own: Ctrl-C reaches it through `signal`, once."""
        state = self._queue.read(number)
        refuse_linked_path(self._sweep.folder, state.planned.folder)
        state.folder.mkdir(parents=True, exist_ok=True)
        if not self._single:
            where = "" if gpu is None else f" on CUDA device {gpu}"
            terminal.say(describe_job(self._sweep, number, f"{state.describe_start()}{where}"))
        self._before[number] = read_object(state.folder / STATUS)
        with (state.folder / STDERR).open("ab") as errors:
            return subprocess.Popen(
                build_command(self._sweep, number),
                env=build_environment(dict(os.environ), gpu, self._sweep.settings.parallel),
                stdout=None if self._single else subprocess.DEVNULL,
                stderr=errors,
                start_new_session=True,
            )

    def reap(self) -> None:
        """Record how the processes that have exited did so, and free their slots."""
        for slot, (number, process) in list(self.children.items()):
            if process.poll() is not None:
                del self.children[slot]
                self._finish(number, process.returncode)

    def _finish(self, number: int, code: int) -> None:
        state = self._queue.report_end(number)
        silent = state.status == "killed" or read_object(state.folder / STATUS) == self._before[number]
        # One that was told to end before it trained has not failed; it stays to be run.
        if code != 0 and silent and not state.done and not self._ending:
            _record_exit(state, code)
            state = self._queue.read(number)
        with contextlib.suppress(OSError):
            if (state.folder / STDERR).stat().st_size == 0:
                (state.folder / STDERR).unlink()
        if state.status in FAILED and self._sweep.settings.on_error == "stop":
            (self._sweep.folder / SWEEP_STOP).touch()
        if not self._single or state.error:
            accuracy = "" if state.val_acc is None else f", validation accuracy {format_percent(state.val_acc)}"
            terminal.say(f"job {number:<5} {state.status}{accuracy}{state.error and f': {state.error}'}")
        refresh_ledger(self._sweep)

    def signal(self, number: int) -> None:
        """Send a signal to all processes."""
        self._ending = True
        for _, process in self.children.values():
            with contextlib.suppress(OSError):
                process.send_signal(number)

    def wait(self, seconds: float) -> None:
        """Wait until all processes have exited, for so many seconds at most."""
        deadline = time.monotonic() + seconds
        for _, process in self.children.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, deadline - time.monotonic()))


def check_gpus(gpus: list[int]) -> None:
    """Raise ValueError for devices that do not exist: their jobs would train on the CPU without a warning."""
    import torch

    count = torch.cuda.device_count()
    if max(gpus) >= count:
        raise ValueError(f"sweep.gpus={gpus}, but torch sees {count} CUDA device(s), numbered from 0")


def build_command(sweep: Sweep, number: int) -> list[str]:
    """Return the command that runs one job of the sweep in its own process."""
    settings = [f"sweep.only={number}", "sweep.isolate=false", "sweep.gpus=null"]
    settings += [f"sweep.on_error={sweep.settings.on_error}"]
    # What is not taken from sweep.json, this process has been told, and tells it on.
    told = [*sweep.plan.flags, *list_untrusted(sweep.plan.hydra)]
    return [sys.executable, sys.argv[0], "--multirun", f"resume={sweep.folder}", *settings, *told]


def build_environment(environment: dict[str, str], gpu: int | None, jobs: int = 1) -> dict[str, str]:
    """Return the environment of a job that sees one CUDA device: number `gpu` of those that this process sees.

    jobs: how many run at once; those on a CPU share its cores, unless OMP_NUM_THREADS says otherwise.
    """
    environment |= {JOB_PROCESS: "1", "PYTHONFAULTHANDLER": "1"}  # a crash leaves its traceback in stderr.log
    if gpu is None and jobs > 1:
        from ..augment.chunks import count_cores  # imports torch

        environment.setdefault("OMP_NUM_THREADS", str(max(1, count_cores() // jobs)))
    if gpu is not None:
        visible = [name for name in environment.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
        environment["CUDA_VISIBLE_DEVICES"] = visible[gpu] if visible else str(gpu)
    return environment


def _record_exit(state: JobState, code: int) -> None:
    """Write to log and status why a process exited that could not do so itself, as it was killed or crashed."""
    error: str | None
    if abs(code) - 128 * (code > 0) in ENDING:  # a signal for this job alone, which came before it trained
        error, status = None, "stopped"
    elif code < 0:
        hint = ", which the system sends when it runs out of memory" if -code == signal.SIGKILL else ""
        error, status = f"its process was killed by {signal.Signals(-code).name}{hint}", "killed"
    else:
        error, status = f"its process exited with code {code}: {_read_last_line(state.folder / STDERR)}", "failed"
    facts: dict[str, Any] = {"started": now(), "epoch": 0, **read_object(state.folder / STATUS)}
    with contextlib.suppress(OSError):
        with (state.folder / LOG).open("a", encoding="utf-8") as log:
            log.write(f"{error or 'stopped by a signal before training began'}\n")
        write_json(state.folder / STATUS, {**facts, "status": status, "error": error})


def _read_last_line(path: Path) -> str:
    with contextlib.suppress(OSError):
        lines = path.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return lines[-1] if lines else ""
    return ""
