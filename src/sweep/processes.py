"""Each job of a sweep in a process of its own: none can take another with it, and several GPUs are kept busy."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import terminal
from ..run import LOG, STATUS, STDERR, SWEEP_STOP, read_object, write_json
from ..run.environment import now
from ..signals import Interrupted, Interrupts
from .job import SweepTask
from .ledger import write_ledger
from .queue import Queue
from .state import FAILED, JobState

POLL = 0.2  # seconds between two looks at the processes
FAREWELL = 10.0  # seconds for jobs to leave after a second Ctrl-C


@dataclass
class _Child:
    number: int
    slot: int
    process: subprocess.Popen


def run_in_processes(queue: Queue, task: SweepTask) -> None:
    """Keep `sweep.parallel` jobs running, or one on each of `sweep.gpus`, until none is left.

    A signal is passed on: the jobs are saved as stopped, the others stay pending. Raises Interrupted then.
    """
    gpus = task.sweep.settings.gpus
    if gpus:
        check_gpus(gpus)
    slots: list[int | None] = [*gpus] if gpus else [None] * task.sweep.settings.parallel
    alone = len(slots) == 1
    children: list[_Child] = []
    with Interrupts(terminal.announce_end) as interrupts:
        interrupts.defer = True
        forwarded = False
        try:
            while children or not interrupts.received:
                free = [slot for slot in range(len(slots)) if slot not in {child.slot for child in children}]
                for slot in free if not interrupts.received else []:
                    for number in queue.take(1):
                        task.store()
                        children.append(_Child(number, slot, _start(task, number, slots[slot], alone)))
                        if not alone:
                            place = f" on CUDA device {slots[slot]}" if gpus else ""
                            terminal.say(task.describe(number, f"{queue.look(number).beginning()}{place}"))
                if interrupts.received and not forwarded:
                    _pass_on(children, interrupts.received)
                    forwarded = True
                for child in [child for child in children if child.process.poll() is not None]:
                    children.remove(child)
                    _finish(task, queue, child, alone)
                if not children and not interrupts.received and not queue.has_more():
                    break
                time.sleep(POLL)
        except Interrupted:
            _pass_on(children, signal.SIGINT)
            deadline = time.monotonic() + FAREWELL
            for child in children:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.process.wait(max(0.0, deadline - time.monotonic()))
            raise
        if interrupts.received:
            raise Interrupted(interrupts.received)


def check_gpus(gpus: list[int]) -> None:
    """Refuse devices that are not there: a job would train on the CPU instead, without a word."""
    import torch

    count = torch.cuda.device_count()
    if max(gpus) >= count:
        raise ValueError(f"sweep.gpus={gpus}, but torch sees {count} CUDA device(s), numbered from 0")


def _start(task: SweepTask, number: int, gpu: int | None, shown: bool) -> subprocess.Popen:
    """Start a process for one job, out of reach of the terminal's Ctrl-C, which it gets from here, once."""
    folder = task.folder / task.sweep.plan.jobs[number].folder
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / STDERR).open("ab") as errors:
        return subprocess.Popen(
            build_command(task, number),
            env=build_environment(dict(os.environ), gpu),
            stdout=None if shown else subprocess.DEVNULL,
            stderr=errors,
            start_new_session=True,
        )


def build_command(task: SweepTask, number: int) -> list[str]:
    settings = [f"sweep.only={number}", "sweep.isolate=false", "sweep.gpus=null"]
    settings += [f"sweep.on_error={task.sweep.settings.on_error}"]
    return [sys.executable, sys.argv[0], "--multirun", f"resume={task.folder}", *settings]


def build_environment(environment: dict[str, str], gpu: int | None) -> dict[str, str]:
    """Return the environment of a job that sees one CUDA device, `gpu` of those that this process sees."""
    environment["PYTHONFAULTHANDLER"] = "1"  # a crash leaves its traceback in stderr.log
    if gpu is not None:
        visible = [name for name in environment.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
        environment["CUDA_VISIBLE_DEVICES"] = visible[gpu] if visible else str(gpu)
    return environment


def _pass_on(children: list[_Child], number: int) -> None:
    for child in children:
        with contextlib.suppress(OSError):
            child.process.send_signal(number)


def _finish(task: SweepTask, queue: Queue, child: _Child, alone: bool) -> None:
    state = queue.ended(child.number)
    code = child.process.returncode
    if not state.done and state.status not in ("stopped", "failed") and code != 0:
        _record_end(state, code)
        state = queue.ended(child.number)
    errors = state.folder / STDERR
    with contextlib.suppress(OSError):
        if errors.stat().st_size == 0:
            errors.unlink()
    if state.status in FAILED and task.sweep.settings.on_error == "stop":
        (task.folder / SWEEP_STOP).touch()
    if not alone or state.error:
        accuracy = f", validation accuracy {state.val_acc:.2%}" if state.val_acc is not None else ""
        terminal.say(f"job {state.number:<5} {state.status}{accuracy}{state.error and f': {state.error}'}")
    write_ledger(task.folder, task.sweep.plan)


def _record_end(state: JobState, code: int) -> None:
    """Write down what a process could not, as it was killed or crashed."""
    if code < 0:
        name = signal.Signals(-code).name
        hint = ", as the system does when memory is short" if -code == signal.SIGKILL else ""
        error, status = f"its process was ended by {name}{hint}", "killed"
    else:
        error, status = f"its process ended with code {code}: {_last_line(state.folder / STDERR)}", "failed"
    facts: dict[str, Any] = {"started": now(), "epoch": 0, **read_object(state.folder / STATUS)}
    with contextlib.suppress(OSError):
        with (state.folder / LOG).open("a", encoding="utf-8") as log:
            log.write(f"{error}\n")
        write_json(state.folder / STATUS, {**facts, "status": status, "error": error})


def _last_line(path: Path) -> str:
    with contextlib.suppress(OSError):
        lines = path.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return lines[-1] if lines else ""
    return ""
