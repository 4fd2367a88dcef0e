"""Which job of a sweep is next. Other processes may add jobs to sweep.json at any time, which are taken from there."""

import contextlib
import time
from collections.abc import Sequence

from .. import terminal
from ..run.files import SWEEP, SWEEP_OPEN, SWEEP_STOP
from .plan import Sweep, lock_plan
from .search import Search
from .state import JobState, read_state

POLL = 2.0  # seconds between two checks of jobs that another process is running


class Queue:
    """The jobs that are left, each taken once while the sweep runs; a search adds new ones up to its limit."""

    def __init__(self, sweep: Sweep, search: Search | None) -> None:
        self._sweep, self._search = sweep, search
        self._taken: set[int] = set()
        self._given_up: set[int] = set()
        self._seen: tuple[int, ...] = ()  # the version of sweep.json that was read last
        for number in self._numbers():
            self.report_end(number)

    def take(self, count: int | None) -> list[int]:
        """Return up to `count` jobs to run now, None: all; none once the sweep was told to stop."""
        if self._is_stopped():
            return []
        ready = [state.number for state in self._list_left() if state.status != "running"][:count]
        while self._search and count and len(ready) < count and self._may_ask():
            ready.append(self._search.ask())
            self._sweep.store()
        self._taken.update(ready)
        return ready

    def wait(self) -> bool:
        """Wait briefly if other processes, such as those of an earlier start, are running jobs; return whether."""
        if self._is_stopped() or all(state.status != "running" for state in self._list_left()):
            return False
        time.sleep(POLL)
        return True

    def has_more(self) -> bool:
        """Return whether there is, or may still be, a job to take."""
        return not self._is_stopped() and (bool(self._list_left()) or self._may_ask())

    def close(self) -> bool:
        """Return whether no job is left; none is added from then on, but by a process that then runs it itself."""
        if not self._sweep.takes_more:
            return True
        with lock_plan(self._sweep.folder):
            if self.has_more():
                return False
            (self._sweep.folder / SWEEP_OPEN).unlink(missing_ok=True)
            return True

    def give_back(self, number: int) -> None:
        """Allow a job to be taken once more."""
        self._taken.discard(number)

    def give_up(self, number: int) -> None:
        """Count a job as unfinished even if it wrote no status."""
        self._given_up.add(number)

    def list_unfinished(self) -> list[int]:
        """Return the jobs that are not done; one that ran without writing a status counts as done."""
        states = [self.read(number) for number in self._numbers()]
        silent = self._taken - self._given_up
        return [s.number for s in states if not s.done and (s.status != "pending" or s.number not in silent)]

    def read(self, number: int) -> JobState:
        return read_state(self._sweep.folder, number, self._sweep.plan.jobs[number])

    def report_end(self, number: int) -> JobState:
        """Tell the search, if any, how a job ended, and return its state."""
        state = self.read(number)
        if self._search:
            self._search.tell(state)
        return state

    def _read_added(self) -> None:
        """Take the jobs that others have added; sweep.json is read only if it has changed since the last time."""
        seen = self._seen
        with contextlib.suppress(OSError):
            status = (self._sweep.folder / SWEEP).stat()
            seen = (status.st_ino, status.st_mtime_ns, status.st_size)
        if seen == self._seen or not self._sweep.takes_more:
            return
        self._seen = seen
        try:
            self._sweep.read_added()
        except (OSError, ValueError) as error:
            terminal.say(f"warning   no jobs are taken from {SWEEP}: {error}")

    def _list_left(self) -> list[JobState]:
        self._read_added()
        states = [self.read(number) for number in self._numbers() if number not in self._taken]
        return [state for state in states if not state.done]

    def _numbers(self) -> Sequence[int]:
        return self._sweep.settings.only or range(len(self._sweep.plan.jobs))

    def _is_stopped(self) -> bool:
        return (self._sweep.folder / SWEEP_STOP).exists()

    def _may_ask(self) -> bool:
        return self._search is not None and len(self._sweep.plan.jobs) < self._sweep.settings.trials
