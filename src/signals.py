"""Signals that ask a run to end: Ctrl-C, SIGTERM, and SIGUSR1, which SLURM sends before a time limit."""

import contextlib
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

ENDING = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name)]

LOOK = 1.0  # seconds between two looks at the file that asks to end


class Interrupted(KeyboardInterrupt):
    """A signal that ended the run; `signal` is which one."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.signal = signal.Signals(number)


def name_signal(number: int) -> str:
    """Return what users call a signal: Ctrl-C, SIGTERM."""
    return "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name


class Interrupts:
    """Catch the signals that end a run, while in a `with` block, in the main thread.

    They raise Interrupted at once until `defer` is set; from then on the first one is kept in `received`, for the
    caller to end where it is good to end. Another one raises if either is a Ctrl-C: of two, torchrun passes on the
    second as SIGTERM. The others may well come twice from a scheduler that knows of one.
    """

    def __init__(self, announce: Callable[[str], None], stop: Path | None = None) -> None:
        """announce: called with the name of a signal that is kept, to tell the user that it was heard.

        stop: a file that asks to end as SIGTERM does, once something is written into it; for those that no signal
        reaches, as they run elsewhere.
        """
        self.defer = False
        self._received: signal.Signals | None = None
        self._stop, self._looked = stop, 0.0
        self._announce = announce
        self._before: dict[int, object] = {}

    @property
    def received(self) -> signal.Signals | None:
        """The first signal that was kept; None where none has come."""
        if self._received is None and self._stop is not None and time.monotonic() - self._looked >= LOOK:
            self._looked = time.monotonic()
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
