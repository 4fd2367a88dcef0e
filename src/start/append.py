"""Add jobs to a sweep that there is, `sweep.append=true`: another process is running it, or this one does from now on.

What a process sees while it composes the jobs may be out of date when it writes them or takes the folder. So it looks
again under `lock_plan`: jobs that others have added come first; if the other process has ended since, it starts over.
"""

import os
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from ..config.checks import check
from ..config.overrides import is_for_hydra, name_key
from ..machine.disk import short_path
from ..machine.streams import printable
from ..run.claim import hold_folder, is_held
from ..run.files import SWEEP, SWEEP_OPEN
from ..sweep.plan import CHANGEABLE, Plan, Sweep, list_untrusted, lock_plan, read_plan
from .composer import Composer
from .plan import name_free_folders, refuse_duplicates
from .reopen import merge_typed, reopen_sweep
from .trust import check_added

PATIENCE = 60.0  # seconds that a process may take to start a sweep or, after its last job, to end
POLL = 0.2
SILENCE = 2.0  # seconds before the user is told


class SweepBusyError(ValueError):
    """The sweep in a folder cannot be added to at this moment. The message is for a user who has waited in vain."""

    def __init__(self, message: str, folder: Path) -> None:
        super().__init__(message)
        self.folder = folder


def join_sweep(sweep: Sweep, overrides: list[str], composer: Composer) -> tuple[Sweep, list[str]]:
    """Return the sweep as this process adds to it, or runs it if no other one does, and the overrides for that.

    sweep, overrides: as planned from what was typed. Raises ValueError if its jobs would not run as they were checked.
    """
    saved = read_plan(sweep.folder)
    _refuse_other_conditions(saved, sweep, composer.folder)
    sweep = replace(sweep, plan=replace(sweep.plan, jobs=[*saved.jobs, *sweep.plan.jobs]))
    with lock_plan(sweep.folder):
        elsewhere = is_held(sweep.folder)
    if elsewhere:
        return replace(sweep, elsewhere=True), overrides
    allowed = [f"sweep.{key}" for key in CHANGEABLE]
    how = [word for word in overrides if is_for_hydra(word) or name_key(word) in allowed]
    words = merge_typed(saved, [word for word in how if not name_key(word).startswith("hydra.sweep.")])
    reopened = reopen_sweep(saved, sweep.folder, words, composer)
    return replace(reopened, plan=replace(reopened.plan, jobs=sweep.plan.jobs), added=sweep.added), words


def _refuse_other_conditions(saved: Plan, sweep: Sweep, cwd: str) -> None:
    """Raise ValueError if what applies to all jobs of the sweep is not what the new jobs were checked with."""
    name = f"hydra.sweep.dir={short_path(sweep.folder)}"
    launchers = [word for word in saved.hydra if name_key(word) == "hydra/launcher" and not word.endswith("=basic")]
    check(not launchers, f"sweep.append=true: the sweep in {name} gives all its jobs to {' '.join(launchers)} at once")
    has, typed = ([*plan.flags, *sorted(list_untrusted(plan.hydra))] for plan in (saved, sweep.plan))
    check(
        has == typed,
        f"sweep.append=true: the jobs of a sweep share flags and words for Hydra, {name} has "
        f"{' '.join(has) or 'none'}, not {' '.join(typed) or 'none'}; type the same, or another folder",
    )
    check(
        not os.path.isdir(saved.cwd) or os.path.samefile(saved.cwd, cwd),
        f"sweep.append=true: {name} was started in {saved.cwd}, which its relative paths refer to; type this there",
    )


def add_or_claim(sweep: Sweep, cleanup: ExitStack) -> Sweep:
    """Take the folder of the sweep until the clean-up or, if another process has it, write the jobs that it takes.

    Returns the sweep with its new jobs at their places. Raises SweepBusyError if neither can be done.
    """
    folder, name = sweep.folder.absolute(), short_path(sweep.folder)
    busy = SweepBusyError(f"another process is running the sweep {name}, and takes no more jobs; wait for it", folder)
    before, new = sweep.plan.jobs[: -sweep.added], sweep.plan.jobs[-sweep.added :]
    with lock_plan(folder):
        saved = read_plan(folder)
        if saved.jobs[: len(before)] != before:
            raise busy
        check_added(saved.jobs)
        refuse_duplicates(new, saved.jobs, folder)
        jobs = [*saved.jobs, *name_free_folders(new, saved.jobs, folder)]
        held = is_held(folder)
        if held and (folder / SWEEP_OPEN).exists():
            sweep = replace(sweep, plan=replace(saved, jobs=jobs), elsewhere=True)
            sweep.store()
            return sweep
        # The other process is starting, ending, or has a list of jobs to work off; or it has ended since, so that this
        # one has to check the jobs that are left.
        if held or sweep.elsewhere:
            raise busy
        cleanup.enter_context(hold_folder(folder, str(busy)))
        (folder / SWEEP_OPEN).unlink(missing_ok=True)  # of a process that was killed
        return replace(sweep, plan=replace(sweep.plan, jobs=jobs))


def is_starting(folder: Path) -> bool:
    """Return whether another process has made a sweep in a folder, or is about to."""
    return (folder / SWEEP).is_file() or is_held(folder)


def wait_for_runner(folder: Path) -> None:
    """Wait until the process that has the folder takes jobs, or has ended."""
    start, said = time.monotonic(), False
    while is_held(folder) and not (folder / SWEEP_OPEN).exists() and (waited := time.monotonic() - start) < PATIENCE:
        if waited > SILENCE and not said:
            print(printable(f"waiting   for the process that is running {short_path(folder)}"), flush=True)
            said = True
        time.sleep(POLL)


def describe_added(sweep: Sweep) -> str:
    """Return a line about the jobs that were added to a sweep of another process."""
    last = len(sweep.plan.jobs) - 1
    first = last - sweep.added + 1
    jobs = f"1 job, number {last}," if first == last else f"{sweep.added} jobs, numbers {first} to {last},"
    note = "" if sweep.settings.after is None else "; sweep.after has no effect on a sweep that is running"
    return f"added     {jobs} to {short_path(sweep.folder)}, which another process is running{note}"
