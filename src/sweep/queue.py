"""Which job of a sweep is next."""

import time
from collections.abc import Sequence

from ..run.files import SWEEP_STOP
from .plan import Sweep
from .search import Search
from .state import JobState, read_state

POLL = 2.0  # seconds between two looks at jobs that another process runs


class Queue:
    """The jobs that are left, each given out once in a start of the sweep; of a search, as many as it may still ask."""

    def __init__(self, sweep: Sweep, search: Search | None) -> None:
        self._sweep, self._search = sweep, search
        self._taken: set[int] = set()
        self._given_up: set[int] = set()
        for number in self._numbers():
            self.ended(number)

    def take(self, count: int | None) -> list[int]:
        """Return up to `count` jobs to run now, all there are for None; none after the sweep was told to stop."""
        if self._stopped():
            return []
        ready = [state.number for state in self._open() if state.status != "running"][:count]
        while self._search and count and len(ready) < count and self._may_ask():
            ready.append(self._search.ask())
            self._sweep.store()
        self._taken.update(ready)
        return ready

    def is_waiting(self) -> bool:
        """Tell whether nothing is left but jobs that another process, of an earlier start say, is running."""
        return not self._stopped() and any(state.status == "running" for state in self._open())

    def wait(self) -> bool:
        """Wait a little where jobs are left that run elsewhere; False where none are."""
        if self.is_waiting():
            time.sleep(POLL)
            return True
        return False

    def has_more(self) -> bool:
        """Tell whether there is, or may still be, a job to take."""
        return not self._stopped() and (bool(self._open()) or self._may_ask())

    def _stopped(self) -> bool:
        return (self._sweep.folder / SWEEP_STOP).exists()

    def _may_ask(self) -> bool:
        return self._search is not None and len(self._sweep.plan.jobs) < self._sweep.settings.trials

    def look(self, number: int) -> JobState:
        return read_state(self._sweep.folder, number, self._sweep.plan.jobs[number])

    def give_back(self, number: int) -> None:
        """Let a job be taken once more."""
        self._taken.discard(number)

    def give_up(self, number: int) -> None:
        """Let a job count as unfinished though it left no trace."""
        self._given_up.add(number)

    def list_unfinished(self) -> list[int]:
        """Return the jobs that have not come to a good end; of one that left no trace, that is when it was not run."""
        states = [self.look(number) for number in self._numbers()]
        left = [state for state in states if not state.done]
        silent = self._taken - self._given_up
        return [state.number for state in left if state.status != "pending" or state.number not in silent]

    def ended(self, number: int) -> JobState:
        """Note that a job has come to an end, of whatever kind, and return its state."""
        state = self.look(number)
        if self._search:
            self._search.tell(state)
        return state

    def _open(self) -> list[JobState]:
        states = [self.look(number) for number in self._numbers() if number not in self._taken]
        return [state for state in states if not state.done]

    def _numbers(self) -> Sequence[int]:
        return self._sweep.settings.only or range(len(self._sweep.plan.jobs))
