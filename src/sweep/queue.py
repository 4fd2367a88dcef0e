"""Which job of a sweep is next."""

from collections.abc import Sequence
from pathlib import Path

from ..config import Sweep
from ..run import SWEEP_STOP
from .search import Search
from .state import JobState, read_state


class Queue:
    """The jobs that are left, each given out once in a start of the sweep; of a search, as many as it may still ask."""

    def __init__(self, folder: Path, sweep: Sweep, search: Search | None) -> None:
        self._folder, self._plan, self._settings, self._search = folder, sweep.plan, sweep.settings, search
        self._taken: set[int] = set()
        for number in self._numbers():
            self.ended(number)

    def take(self, count: int | None) -> list[int]:
        """Return up to `count` jobs to run now, all there are for None; none after the sweep was told to stop."""
        if self._stopped():
            return []
        ready = [state.number for state in self._open() if state.status != "running"][:count]
        while self._search and count and len(ready) < count and self._may_ask():
            ready.append(self._search.ask())
        self._taken.update(ready)
        return ready

    def is_waiting(self) -> bool:
        """Tell whether nothing is left but jobs that another process, of an earlier start say, is running."""
        return not self._stopped() and any(state.status == "running" for state in self._open())

    def has_more(self) -> bool:
        """Tell whether there is, or may still be, a job to take."""
        return not self._stopped() and (bool(self._open()) or self._may_ask())

    def _stopped(self) -> bool:
        return (self._folder / SWEEP_STOP).exists()

    def _may_ask(self) -> bool:
        return self._search is not None and len(self._plan.jobs) < self._settings.trials

    def look(self, number: int) -> JobState:
        return read_state(self._folder, number, self._plan.jobs[number])

    def give_back(self, number: int) -> None:
        """Let a job be taken once more."""
        self._taken.discard(number)

    def list_unfinished(self) -> list[int]:
        """Return the jobs that have not come to a good end; of one that left no trace, that is when it was not run."""
        states = [self.look(number) for number in self._numbers()]
        left = [state for state in states if not state.done]
        return [state.number for state in left if state.status != "pending" or state.number not in self._taken]

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
        return self._settings.only or range(len(self._plan.jobs))
