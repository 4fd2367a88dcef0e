"""Signals that ask a run to stop: Ctrl-C, SIGTERM, and SIGUSR1, which SLURM sends before a time limit."""

import contextlib
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

ENDING = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name)]

POLL_SECONDS = 1.0  # between checks of the stop file


class Interrupted(KeyboardInterrupt):
    """A signal that stopped the run; `signal` is the one."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.signal = signal.Signals(number)


def name_signal(number: int) -> str:
    """Return a signal's name for users: Ctrl-C, SIGTERM."""
    return "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name


class Interrupts:
    """Handle the signals that stop a run, inside a `with` block in the main thread.

    They raise Interrupted immediately until `defer` is set. After that, the first signal is stored in `received`, for
    the caller to stop at a good point. A second one raises if either is Ctrl-C, which torchrun forwards as SIGTERM the
    second time; otherwise it is ignored, because schedulers may send a signal twice.
    """

    def __init__(self, announce: Callable[[str], None], stop: Path | None = None) -> None:
        """announce: called with the name of a signal that is deferred, to tell the user that it was received.

        stop: a file that acts like SIGTERM once it is not empty, for processes on a cluster that signals do not reach.
        """
        self.defer = False
        self._received: signal.Signals | None = None
        self._stop, self._checked = stop, 0.0
        self._announce = announce
        self._before: dict[int, object] = {}

    @property
    def received(self) -> signal.Signals | None:
        """The first deferred signal, None if there is none."""
        if self._received is None and self._stop is not None and time.monotonic() - self._checked >= POLL_SECONDS:
            self._checked = time.monotonic()
            with contextlib.suppress(OSError):
                if self._stop.stat().st_size > 0:
                    self._received = signal.SIGTERM
        return self._received

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
        if self._received is None:
            self._received = signal.Signals(number)
            self._announce(name_signal(number))
        elif signal.SIGINT in (number, self._received):
            raise Interrupted(number)
