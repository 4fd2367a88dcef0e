"""Carry a sweep out: one job after the other in this process, or through one of Hydra's launchers."""

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from filelock import FileLock, Timeout
from hydra.plugins.launcher import Launcher

from .. import terminal
from ..config import SWEEP, Plan, SweepConfig
from ..config.compose import quote
from ..config.folders import remove_folder
from ..config.task import USER_ERRORS
from ..run import SWEEP_LOCK, SWEEP_STOP, SWEEP_TABLE, shorten
from ..signals import ENDING, Interrupted, Interrupts, name_signal
from .job import Outcome, SweepTask
from .ledger import count_states, show_ranking
from .processes import JOB_PROCESS, check_gpus, run_in_processes
from .queue import Queue
from .search import Search
from .state import FAILED, read_states

POLL = 2.0  # seconds between two looks at jobs that another process runs
ATTEMPTS = 2  # of a job whose launcher broke down, maybe by another job's fault


def run_sweep(task: SweepTask, launcher: Launcher) -> None:
    """Run what is left of a sweep and rank all of it; what fails is told, and counted in `start.failures`."""
    start, plan, settings = task.start, task.sweep.plan, task.sweep.settings
    try:
        _check_manner(settings, start.world_size, task.shared)
        if start.rank > 0:
            for number in settings.only or range(len(plan.jobs)):
                _launch(launcher, plan, [number])
        elif os.environ.get(JOB_PROCESS):  # another process carries the sweep out, this one its job
            assert settings.only
            _launch(launcher, plan, settings.only)
        else:
            _carry_out(task, launcher)
    except USER_ERRORS as error:
        start.fail(error)
        if not (task.folder / SWEEP).exists() and start.rank == 0:
            remove_folder(task.folder)


def _check_manner(settings: SweepConfig, world_size: int, shared: bool) -> None:
    own = f"sweep.gpus={settings.gpus}" if settings.gpus else "sweep.isolate=true"
    if world_size > 1 and (settings.separate or settings.search):
        what = own if settings.separate else f"sweep.search={settings.search}"
        raise ValueError(f"{what} starts its jobs itself: python train.py --multirun …, without torchrun")
    if settings.separate and shared:
        raise ValueError(f"{own} and a hydra/launcher both start processes for the jobs; type only one")
    if settings.gpus:
        check_gpus(settings.gpus)


def _carry_out(task: SweepTask, launcher: Launcher) -> None:
    folder, sweep = task.folder, task.sweep
    folder.mkdir(parents=True, exist_ok=True)
    with _hold(folder), Interrupts(terminal.announce_end):
        (folder / SWEEP_STOP).unlink(missing_ok=True)
        search = Search(folder, sweep) if sweep.settings.search else None
        task.store()
        states = read_states(folder, sweep.plan)
        task.write_ledger(redraw_after=None)
        jobs = f"up to {sweep.settings.trials} jobs, {len(states)} so far" if search else count_states(states)
        over = " and nothing is left to do; sweep.new=true begins anew" if all(state.done for state in states) else ""
        terminal.say(f"sweep     {shorten(folder)}: {jobs}{over if states and not search else ''}")
        queue = Queue(folder, sweep, search)
        try:
            if sweep.settings.separate:
                run_in_processes(queue, task)
            elif task.shared:
                _run_by_launcher(queue, task, launcher)
            elif task.start.world_size > 1:
                _run_together(task, launcher)
            else:
                _run_here(queue, task, launcher)
        finally:
            _rank(task, search)
    task.start.failures += [f"job {number}" for number in queue.list_unfinished()]


def _rank(task: SweepTask, search: Search | None) -> None:
    task.write_ledger(redraw_after=0)
    if search:
        try:
            search.draw()
        except Exception as error:  # whatever it is, no search ends for a picture
            terminal.say(f"warning   the search could not be drawn: {type(error).__name__}: {error}")
    states = read_states(task.folder, task.sweep.plan)
    if any(state.status != "pending" for state in states):
        show_ranking(task.folder, task.sweep.plan, states)


@contextlib.contextmanager
def _hold(folder: Path) -> Iterator[None]:
    lock = FileLock(folder / SWEEP_LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ValueError(
            f"the sweep {shorten(folder)} is being carried out by another process; wait for it, or type sweep.new=true"
        ) from None
    try:
        yield
    finally:
        lock.release()


def _launch(launcher: Launcher, plan: Plan, numbers: list[int]) -> list[Outcome]:
    """Let a launcher run jobs, each in the folder of its number; return what came of them."""
    words = [[*plan.jobs[n].overrides, f"hydra.sweep.subdir={quote(plan.jobs[n].folder)}"] for n in numbers]
    returned = launcher.launch(words, initial_job_idx=numbers[0])
    return [result.return_value for result in returned]


def _run_here(queue: Queue, task: SweepTask, launcher: Launcher) -> None:
    while (numbers := queue.take(1)) or _wait(queue):
        if numbers:
            task.store_search()
            _launch(launcher, task.sweep.plan, numbers)
            queue.ended(numbers[0])


def _run_together(task: SweepTask, launcher: Launcher) -> None:
    """Run as many jobs as the other processes of torchrun do; which ones is told to them when a job begins.

    What is done is gone through again, at no cost; what has failed comes last, as its next failure ends all processes.
    """
    states = read_states(task.folder, task.sweep.plan)
    numbers = task.sweep.settings.only or range(len(states))
    for number in sorted(numbers, key=lambda number: states[number].status in FAILED):
        _launch(launcher, task.sweep.plan, [number])


def _wait(queue: Queue) -> bool:
    """Wait a little where jobs are left that run elsewhere; False where none are."""
    if not queue.is_waiting():
        return False
    time.sleep(POLL)
    return True


def _run_by_launcher(queue: Queue, task: SweepTask, launcher: Launcher) -> None:
    """Hand over all jobs at once, of a search `sweep.parallel` at a time.

    A worker that dies can take others with it, with some launchers; what was not at fault gets a second try.
    """
    settings = task.sweep.settings
    _let_workers_import()
    _start_ray(launcher)
    if not settings.search:
        task.lighten()
    attempts: dict[int, int] = {}
    with _Relay(task.folder) as relay:
        while (numbers := queue.take(settings.parallel if settings.search else None)) or _wait(queue):
            if not numbers:
                continue
            task.store_search()
            numbers.sort(key=lambda number: attempts.get(number, 0))
            terminal.say(
                f"launcher  {type(launcher).__name__} takes {len(numbers)}; {SWEEP_TABLE} tells how far they are"
            )
            try:
                _launch(launcher, task.sweep.plan, numbers)
                broken = False
            except Exception as error:  # of whatever kind the launcher's are
                terminal.say(f"launcher  {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")
                broken = True
            states = [queue.ended(number) for number in numbers]
            if broken and all(state.status == "pending" for state in states):  # it cannot begin at all
                task.start.failures += [f"job {number}" for number in numbers]
                break
            for state in states:
                attempts[state.number] = attempts.get(state.number, 0) + 1
                if broken and not state.done and state.status != "failed":
                    if attempts[state.number] < ATTEMPTS:
                        queue.give_back(state.number)
                    else:
                        task.start.failures.append(f"job {state.number}")
            task.write_ledger()
        if relay.received is not None:
            raise Interrupted(relay.received)


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
