"""Signals that ask a run to stop: Ctrl-C, SIGTERM, SIGHUP of a closed terminal, and SLURM's SIGUSR1."""

import _thread
import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")
ENDING = [getattr(signal, name) for name in NAMES if hasattr(signal, name)]  # Windows has only two

POLL_SECONDS = 1.0  # between checks of the stop file
RETRY_SECONDS = 0.05  # between two looks whether an import has ended
PATIENCE = 60.0  # seconds that it may take until a signal is raised inside it after all
CONFIGURATION = ("hydra", "omegaconf", "antlr4")  # packages that compose configurations
OURS = ("src", "__main__")

_noted: list[int] = []  # by `note_signals`


class Interrupted(KeyboardInterrupt):
    """A signal that stopped the run; `signal` is the one."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.signal = signal.Signals(number)


def name_signal(number: int) -> str:
    """Return a signal's name for users: Ctrl-C, SIGTERM."""
    return "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name


def handle_ending(handler: Callable[[int, FrameType | None], None]) -> dict[int, Any]:
    """Set the handler of all signals that stop a run; return those before, by signal.

    SIGHUP stays ignored if it is, as `nohup` asks for.
    """
    hangup = getattr(signal, "SIGHUP", None)
    numbers = [n for n in ENDING if n != hangup or signal.getsignal(n) is not signal.SIG_IGN]
    return {number: signal.signal(number, handler) for number in numbers}


def note_signals() -> None:
    """Keep a signal until the first `Interrupts`: raised now, it would end other people's imports with a traceback.

    A second one ends the process at once. For the first line of a program.
    """
    handle_ending(_note)


def _note(number: int, frame: FrameType | None) -> None:
    if _noted:
        os._exit(128 + number)
    _noted.append(number)


class Interrupts:
    """Handle the signals that stop a run, inside a `with` block in the main thread.

    They raise Interrupted immediately until `defer` is set. After that, the first signal is stored in `received`, for
    the caller to stop at a good point. A second one raises if either is Ctrl-C, which torchrun forwards as SIGTERM the
    second time; otherwise it is ignored, because schedulers may send a signal twice.

    Imports, and Hydra where it composes, turn an exception into another one, or crash. In them, a signal ends the
    process at once if it can `leave`; otherwise it is raised afterwards.
    """

    def __init__(
        self,
        announce: Callable[[str], None] = lambda name: None,
        stop: Path | None = None,
        defer: bool = False,
        leave: Callable[[int], None] | None = None,
    ) -> None:
        """announce: called with the name of a signal that is deferred, to tell the user that it was received.

        stop: a file that acts like SIGTERM once it is not empty, for processes on a cluster that signals do not reach.
        leave: called with the signal before the process ends at once.
        """
        self.defer = defer
        self._received: signal.Signals | None = None
        self._stop, self._checked = stop, 0.0
        self._announce, self._leave = announce, leave
        self._before: dict[int, Any] = {}
        self._postponed: float | None = None  # when a signal came that could not be raised
        self._reminded = False  # whether the handler is called again for that signal

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
            self._before = handle_ending(self._handle)
            if self.defer and _noted:
                self._received = signal.Signals(_noted.pop(0))
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def release(self) -> None:
        """Raise Interrupted for the deferred signal, if any, and for any other immediately from now on."""
        self.defer = False
        if self._received is not None:
            raise Interrupted(self._received)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        reminded, self._reminded = self._reminded, False
        if self.defer:
            if not (reminded and self._received):  # it is not a second signal
                self._store(number)
        elif not _is_fragile(frame):
            raise Interrupted(number)
        elif self._leave is not None:
            self._leave(number)
            os._exit(128 + number)
        elif self._postponed is None or (reminded and time.monotonic() - self._postponed < PATIENCE):
            self._postponed = self._postponed or time.monotonic()
            # Not threading.Timer: a lock that it takes may be held by what was interrupted.
            _thread.start_new_thread(self._remind, (number,))
        else:  # a second signal, or it takes too long
            raise Interrupted(number)

    def _store(self, number: int) -> None:
        if self._received is None:
            self._received = signal.Signals(number)
            self._announce(name_signal(number))
        elif signal.SIGINT in (number, self._received):
            raise Interrupted(number)

    def _remind(self, number: int) -> None:
        time.sleep(RETRY_SECONDS)
        self._reminded = True
        _thread.interrupt_main(signal.Signals(number))


def _is_fragile(frame: FrameType | None) -> bool:
    """Return whether the code at this frame is part of an import, or of Hydra's work for ours."""
    ours = False
    while frame is not None:
        package = str(frame.f_globals.get("__name__")).partition(".")[0]
        ours = ours or package in OURS
        if frame.f_code.co_filename.startswith("<frozen importlib") or (package in CONFIGURATION and not ours):
            return True
        frame = frame.f_back
    return False
