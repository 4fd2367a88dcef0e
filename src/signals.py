"""Signals that ask a run to end: Ctrl-C, SIGTERM, and SIGUSR1, which SLURM sends before a time limit."""

import signal
import threading
import time
from collections.abc import Callable
from types import FrameType

ENDING = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name)]
SAME_PRESS = 0.5  # seconds within which a second SIGINT is the first one, passed on by a launcher


class Interrupted(KeyboardInterrupt):
    """A signal that ended the run; `signal` is which one."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.signal = signal.Signals(number)


class Interrupts:
    """Catch the signals that end a run, while in a `with` block, in the main thread.

    They raise Interrupted at once until `defer` is set; from then on the first one is kept in `received`, for the
    caller to end where it is good to end, and only another Ctrl-C raises.
    """

    def __init__(self, announce: Callable[[signal.Signals], None], relayed: bool = False) -> None:
        """announce: called with a signal that is kept, to tell the user that it was heard.

        relayed: whether a launcher passes on the signals that the terminal has sent already.
        """
        self.received: signal.Signals | None = None
        self.defer = False
        self._announce = announce
        self._relayed, self._at = relayed, 0.0
        self._before: dict[int, object] = {}

    def __enter__(self) -> "Interrupts":
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._handle) for number in ENDING}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if not self.defer:
            raise Interrupted(number)
        if self.received is None:
            self.received, self._at = signal.Signals(number), time.monotonic()
            self._announce(self.received)
        elif number == signal.SIGINT and (not self._relayed or time.monotonic() - self._at > SAME_PRESS):
            raise Interrupted(number)
