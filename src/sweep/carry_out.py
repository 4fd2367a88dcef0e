"""Run a sweep: its jobs one after the other in this process, or in other processes."""

import os
import time
from functools import partial
from pathlib import Path

from hydra.plugins.launcher import Launcher

from .. import terminal
from ..config.compose import USER_ERRORS
from ..distributed.torchrun import report_error
from ..machine.disk import short_path
from ..machine.streams import printable
from ..run.claim import is_held, remove_unused
from ..run.files import SWEEP, SWEEP_STOP
from ..run.job import JobFailed
from ..signals import Interrupts, name_signal
from .job import refresh_ledger
from .launchers import launch_jobs, run_by_launcher
from .ledger import continue_command, count_states, show_ranking
from .plan import JOB_PROCESS, Sweep
from .processes import check_gpus, run_in_processes
from .queue import Queue
from .search import Search
from .state import FAILED, read_states

POLL = 2.0  # seconds between two looks whether the run of `sweep.after` has ended


def run_sweep(sweep: Sweep, launcher: Launcher) -> None:
    """Run the jobs that are left and rank all of them. Raises JobFailed, after printing the errors, if one failed."""
    try:
        _check_settings(sweep)
        if not sweep.place.main:  # follows the main process, job by job
            for number in sweep.settings.only or range(len(sweep.plan.jobs)):
                launch_jobs(sweep, launcher, [number])
            complete = True
        elif os.environ.get(JOB_PROCESS):  # another process runs the sweep, this one a single job
            complete = "failed" not in launch_jobs(sweep, launcher, sweep.settings.only)
        else:
            complete = _carry_out(sweep, launcher)
    except USER_ERRORS as error:
        report_error(printable(f"error: {error}\n"), sweep.place)
        complete = False
    if not complete:
        raise JobFailed


def _check_settings(sweep: Sweep) -> None:
    """Raise ValueError for settings that contradict each other or this machine."""
    settings = sweep.settings
    own = f"sweep.gpus={settings.gpus}" if settings.gpus else "sweep.isolate=true"
    if sweep.place.size > 1 and (settings.separate or settings.search):
        what = own if settings.separate else f"sweep.search={settings.search}"
        raise ValueError(f"{what} starts its jobs itself: python train.py --multirun …, without torchrun")
    if settings.separate and sweep.shared:
        raise ValueError(f"{own} and a hydra/launcher both start processes for the jobs; type only one")
    if settings.gpus:
        check_gpus(settings.gpus)


def _carry_out(sweep: Sweep, launcher: Launcher) -> bool:
    """Run the jobs that are left; return whether all requested jobs are done."""
    with Interrupts(terminal.announce_end, leave=partial(_leave, sweep)):
        (sweep.folder / SWEEP_STOP).unlink(missing_ok=True)
        search = Search(sweep) if sweep.settings.search else None
        sweep.open()
        refresh_ledger(sweep, redraw_after=None)
        terminal.say(_describe_start(sweep))
        queue = Queue(sweep, search)
        try:
            if sweep.settings.after is not None:
                _wait_for(Path(sweep.settings.after))
            started = _run_left(queue, sweep, launcher)
            while not queue.close():
                started = _run_left(queue, sweep, launcher)
        finally:
            sweep.close()
            _rank(sweep, search)
    return started and not queue.list_unfinished()


def _wait_for(folder: Path) -> None:
    """Wait until no process has a run's folder."""
    if is_held(folder):
        terminal.say(f"waiting   until {short_path(folder)} has ended")
    while is_held(folder):
        time.sleep(POLL)


def _run_left(queue: Queue, sweep: Sweep, launcher: Launcher) -> bool:
    """Run the jobs that are left, in the way that was chosen; return False if a launcher cannot start."""
    if sweep.settings.separate:
        run_in_processes(queue, sweep)
    elif sweep.shared:
        return run_by_launcher(queue, sweep, launcher)
    elif sweep.place.size > 1:
        _run_under_torchrun(sweep, launcher)
    else:
        _run_here(queue, sweep, launcher)
    return True


def _leave(sweep: Sweep, number: int) -> None:
    """Say how the sweep that a signal ends at once can continue. Its jobs are safe, whenever that is."""
    if (sweep.folder / SWEEP).exists():
        terminal.say_unbuffered(
            f"stopped by {name_signal(number)}; continue with: {continue_command(sweep.folder, sweep.plan)}"
        )
    else:
        terminal.say_unbuffered(f"stopped by {name_signal(number)} before training began")
        remove_unused(sweep.folder, sweep.made)


def _describe_start(sweep: Sweep) -> str:
    states = read_states(sweep.folder, sweep.plan)
    where = f"sweep     {short_path(sweep.folder)}"
    if sweep.settings.search:
        return f"{where}: up to {sweep.settings.trials} jobs, {len(states)} so far"
    done = "; nothing is left to do, sweep.new=true starts over" if all(state.done for state in states) else ""
    return f"{where}: {count_states(states)}{done}"


def _run_here(queue: Queue, sweep: Sweep, launcher: Launcher) -> None:
    while (numbers := queue.take(1)) or queue.wait():
        if numbers:
            launch_jobs(sweep, launcher, numbers)
            queue.report_end(numbers[0])


def _run_under_torchrun(sweep: Sweep, launcher: Launcher) -> None:
    """Run all requested jobs, done ones too: the other processes of torchrun go through the same list.

    A job that is done returns at once. Jobs that failed before come last, as another failure ends all processes.
    """
    states = read_states(sweep.folder, sweep.plan)
    numbers = sweep.settings.only or range(len(states))
    for number in sorted(numbers, key=lambda number: states[number].status in FAILED):
        launch_jobs(sweep, launcher, [number])


def _rank(sweep: Sweep, search: Search | None) -> None:
    refresh_ledger(sweep, redraw_after=0)
    if search:
        try:
            search.draw()
        except Exception as error:  # whatever it is, a picture does not end a search
            terminal.say(f"warning   the search could not be drawn: {type(error).__name__}: {error}")
    states = read_states(sweep.folder, sweep.plan)
    if any(state.status != "pending" for state in states):
        show_ranking(sweep.folder, sweep.plan, states)
    else:
        terminal.show_pairs([("continue", continue_command(sweep.folder, sweep.plan))])
