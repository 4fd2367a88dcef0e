"""Jobs through Hydra's launchers: in this process, or in workers of SLURM, Ray and the like."""

import os
import signal
from dataclasses import replace
from pathlib import Path
from types import FrameType

from hydra.plugins.launcher import Launcher

from .. import terminal
from ..config.overrides import quote
from ..run.files import SWEEP_STOP, SWEEP_TABLE
from ..signals import ENDING, Interrupted, name_signal
from .job import refresh_ledger
from .plan import Sweep
from .queue import Queue

ATTEMPTS = 2  # of a job whose launcher broke down, maybe through another job's fault


def launch_jobs(sweep: Sweep, launcher: Launcher, numbers: list[int]) -> list[str]:
    """Let a launcher run jobs, each in the folder of its number; return their statuses."""
    jobs = [sweep.plan.jobs[number] for number in numbers]
    words = [[*job.overrides, f"hydra.sweep.subdir={quote(job.folder)}"] for job in jobs]
    return [result.return_value for result in launcher.launch(words, initial_job_idx=numbers[0])]


def run_by_launcher(queue: Queue, sweep: Sweep, launcher: Launcher) -> bool:
    """Hand over all jobs at once, of a search `sweep.parallel` at a time; return False where the launcher cannot begin.

    A worker that dies can take others with it, with some launchers; those get a second attempt.
    """
    search = sweep.settings.search
    _let_workers_import()
    _start_ray(launcher)
    if not search:  # each worker gets the plan; the configurations are in sweep.json, too
        sweep.plan.jobs = [replace(job, config={}) for job in sweep.plan.jobs]
    attempts: dict[int, int] = {}
    with _Relay(sweep.folder) as relay:
        while (numbers := queue.take(sweep.settings.parallel if search else None)) or queue.wait():
            if numbers and not _run_once(queue, sweep, launcher, numbers, attempts):
                return False
        if relay.received is not None:
            raise Interrupted(relay.received)
    return True


def _run_once(queue: Queue, sweep: Sweep, launcher: Launcher, numbers: list[int], attempts: dict[int, int]) -> bool:
    """Hand over the jobs; what a launcher that broke down has left is given back to the queue.

    attempts: how often each job was handed over. Return False where the launcher broke down before any of them.
    """
    numbers.sort(key=lambda number: attempts.get(number, 0))
    terminal.say(f"launcher  {type(launcher).__name__} takes {len(numbers)}; {SWEEP_TABLE} tells how far they are")
    broken = False
    try:
        launch_jobs(sweep, launcher, numbers)
    except Exception as error:  # of whatever kind the launcher's are
        terminal.say(f"launcher  {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")
        broken = True
    states = [queue.ended(number) for number in numbers]
    if broken and all(state.status == "pending" for state in states):
        return False
    for state in states:
        attempts[state.number] = attempts.get(state.number, 0) + 1
        unfinished = broken and not state.done and state.status != "failed"
        if unfinished and attempts[state.number] < ATTEMPTS:
            queue.give_back(state.number)
        elif unfinished:
            queue.give_up(state.number)
    refresh_ledger(sweep)
    return True


def _let_workers_import() -> None:
    """Let workers that start elsewhere find `src`."""
    root = str(Path(__file__).resolve().parents[2])
    paths = [root, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(paths))


def _start_ray(launcher: Launcher) -> None:
    """Start Ray, if that is the launcher, before the relay: it takes the signals for itself when it starts."""
    if type(launcher).__name__ == "RayLauncher":
        from hydra_plugins.hydra_ray_launcher._launcher_util import start_ray

        start_ray(launcher.ray_cfg.init)  # type: ignore[attr-defined]


class _Relay:
    """Ask the jobs that a launcher runs, wherever, to end at a signal, and let no further one begin.

    The launcher is not interrupted: it would kill its workers before they have saved. A second signal does.
    """

    def __init__(self, folder: Path) -> None:
        self.received: int | None = None
        self._stop = folder / SWEEP_STOP

    def __enter__(self) -> "_Relay":
        self._before = {number: signal.signal(number, self._handle) for number in ENDING}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            raise Interrupted(number)
        self.received = number
        self._stop.write_text(name_signal(number))  # what is written makes the running jobs end too
        terminal.announce_end(name_signal(number))
