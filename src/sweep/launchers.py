"""Jobs through Hydra's launchers: in this process, or in workers of SLURM, Ray and the like."""

import os
import signal
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import FrameType

from hydra.plugins.launcher import Launcher

from .. import terminal
from ..config.compose import list_words
from ..config.overrides import quote
from ..data.survey import survey
from ..run.files import SWEEP_STOP, SWEEP_TABLE
from ..signals import Interrupted, handle_ending, name_signal
from .job import refresh_ledger
from .plan import Sweep
from .queue import Queue

ATTEMPTS = 2  # per job if the launcher fails: another job may have been the cause


def launch_jobs(sweep: Sweep, launcher: Launcher, numbers: list[int]) -> list[str]:
    """Run jobs through a launcher, each in its own folder; return their statuses."""
    name = launcher.config.hydra.job.config_name  # type: ignore[attr-defined]
    jobs = [sweep.plan.jobs[number] for number in numbers]
    look = partial(survey, folder=sweep.plan.cwd)
    words = [
        [*list_words(job.overrides, sweep.plan.hydra, name, look), f"hydra.sweep.subdir={quote(job.folder)}"]
        for job in jobs
    ]
    return [result.return_value for result in launcher.launch(words, initial_job_idx=numbers[0])]


def run_by_launcher(queue: Queue, sweep: Sweep, launcher: Launcher) -> bool:
    """Submit all jobs at once, or `sweep.parallel` at a time in a search; return False if the launcher cannot start.

    With some launchers a worker that dies takes others with it, so unfinished jobs get a second attempt.
    """
    search = sweep.settings.search
    _let_workers_import()
    _start_ray(launcher)
    if not search:  # the plan is sent to each worker, which does not need the configurations; sweep.json has them
        sweep.plan.jobs = [replace(job, config={}) for job in sweep.plan.jobs]
    attempts: Counter[int] = Counter()
    with _Relay(sweep.folder) as relay:
        while (numbers := queue.take(sweep.settings.parallel if search else None)) or queue.wait():
            if not numbers:
                continue
            numbers.sort(key=attempts.__getitem__)  # those that have failed before come last
            completed = _submit(sweep, launcher, numbers)
            states = [queue.report_end(number) for number in numbers]
            if not completed and all(state.status == "pending" for state in states):
                return False
            attempts.update(numbers)
            for state in states:
                if not completed and not state.done and state.status != "failed":
                    retry = attempts[state.number] < ATTEMPTS
                    (queue.give_back if retry else queue.give_up)(state.number)
            refresh_ledger(sweep)
        if relay.received is not None:
            raise Interrupted(relay.received)
    return True


def _submit(sweep: Sweep, launcher: Launcher, numbers: list[int]) -> bool:
    """Wait until the launcher has run the jobs; return False if it raised an error, which is printed."""
    terminal.say(f"launcher  {type(launcher).__name__} runs {len(numbers)}; {SWEEP_TABLE} shows their progress")
    try:
        launch_jobs(sweep, launcher, numbers)
    except Exception as error:  # each launcher has its own
        terminal.say(f"launcher  {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")
        return False
    return True


def _let_workers_import() -> None:
    """Let workers that start in other folders or on other machines find `src`."""
    root = str(Path(__file__).resolve().parents[2])
    paths = [root, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(paths))


def _start_ray(launcher: Launcher) -> None:
    """Start Ray if it is the launcher; it installs signal handlers when it starts, which `_Relay` then replaces."""
    if type(launcher).__name__ == "RayLauncher":
        from hydra_plugins.hydra_ray_launcher._launcher_util import start_ray

        start_ray(launcher.ray_cfg.init)  # type: ignore[attr-defined]


class _Relay:
    """At a signal, ask the running jobs to save and stop, wherever they run, and let no new one start.

    The launcher itself is not interrupted: it would kill its workers before they have saved. A second signal does.
    """

    def __init__(self, folder: Path) -> None:
        self.received: int | None = None
        self._stop = folder / SWEEP_STOP

    def __enter__(self) -> "_Relay":
        self._before = handle_ending(self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            raise Interrupted(number)
        self.received = number
        self._stop.write_text(name_signal(number))  # not empty: running jobs stop too
        terminal.announce_end(name_signal(number))
