"""Signals: the first one is kept until it is good to end, a second Ctrl-C is not."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from src import signals
from src.signals import Interrupted, Interrupts, note_signals

ROOT = Path(__file__).resolve().parents[1]


def send(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_a_signal_is_announced_and_kept_while_deferred_and_raises_otherwise(number: signal.Signals) -> None:
    heard: list[str] = []
    with Interrupts(heard.append) as interrupts:
        with pytest.raises(Interrupted) as caught:
            send(number)
        assert caught.value.signal == number and heard == [] and interrupts.received is None
        interrupts.defer = True
        send(number)
        assert heard == ["Ctrl-C" if number == signal.SIGINT else number.name] and interrupts.received == number


@pytest.mark.parametrize(
    ("first", "second", "leaves"),
    [
        (signal.SIGINT, signal.SIGINT, True),
        (signal.SIGINT, signal.SIGTERM, True),
        (signal.SIGTERM, signal.SIGINT, True),
        (signal.SIGTERM, signal.SIGTERM, False),
        (signal.SIGUSR1, signal.SIGTERM, False),
    ],
)
def test_a_second_signal_leaves_at_once_if_a_user_is_pressing_keys(first: int, second: int, leaves: bool) -> None:
    with Interrupts(lambda signal: None) as interrupts:
        interrupts.defer = True
        send(first)
        if leaves:
            with pytest.raises(Interrupted):
                send(second)
        else:
            send(second)
            assert interrupts.received == first


def test_the_handlers_of_before_are_put_back() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(RuntimeError), Interrupts(lambda signal: None):
        assert signal.getsignal(signal.SIGTERM) != before[1]
        raise RuntimeError
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_file_asks_to_end_once_something_is_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("src.signals.POLL_SECONDS", 0.0)
    stop = tmp_path / "stop"
    with Interrupts(lambda name: None, stop) as interrupts:
        interrupts.defer = True
        assert interrupts.received is None
        stop.touch()
        assert interrupts.received is None
        stop.write_text("Ctrl-C")
        assert interrupts.received == signal.SIGTERM


def test_a_hangup_stays_ignored_under_nohup() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Interrupts() as interrupts:
            send(signal.SIGHUP)
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN and interrupts.received is None
    finally:
        signal.signal(signal.SIGHUP, before)


def test_what_was_deferred_is_raised_on_release_and_later_signals_at_once() -> None:
    with Interrupts(defer=True) as interrupts:
        interrupts.release()
        interrupts.defer = True
        send(signal.SIGTERM)
        with pytest.raises(Interrupted):
            interrupts.release()
        with pytest.raises(Interrupted):
            send(signal.SIGUSR1)


def test_a_signal_before_everything_is_kept_for_the_first_that_handles_them(monkeypatch: pytest.MonkeyPatch) -> None:
    left: list[int] = []
    monkeypatch.setattr("src.signals.os._exit", left.append)
    monkeypatch.setattr(signals, "_noted", [])
    before = {number: signal.getsignal(number) for number in signals.ENDING}
    try:
        note_signals()
        send(signal.SIGTERM)
        assert not left
        send(signal.SIGINT)
        assert left == [130], "a second one does not wait"
        with Interrupts(defer=True) as interrupts, pytest.raises(Interrupted) as caught:
            interrupts.release()
        assert caught.value.signal == signal.SIGTERM
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# What libraries do with an exception in their imports: numpy makes it another one, and some compiled ones crash.
LIBRARY = """
import os, signal
try:
    os.kill(os.getpid(), signal.SIGINT)
    list(range(1000))
except BaseException as error:
    raise ImportError("this library is broken") from error
"""


@pytest.fixture
def fragile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Callable[[], Any]]:
    """Calls in which Ctrl-C is pressed, and which make an error of their own of it."""
    (tmp_path / "fragile_library.py").write_text(LIBRARY)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "fragile_library", raising=False)
    OmegaConf.register_new_resolver("press", lambda: send(signal.SIGINT), replace=True)
    # Hydra's code has Hydra's name.
    hydra: dict[str, Any] = {"__name__": "hydra.core.utils", "send": lambda: OmegaConf.create({"a": "${press:}"}).a}
    exec("def compose():\n    try: send()\n    except BaseException as error: raise RuntimeError from error\n", hydra)
    return {"an import": lambda: __import__("fragile_library"), "composing": hydra["compose"]}


@pytest.mark.parametrize("where", ["an import", "composing"])
def test_a_signal_in_other_peoples_code_is_raised_after_it(
    where: str, fragile: dict[str, Callable[[], Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("src.signals.RETRY_SECONDS", 0.001)
    finished = False
    with Interrupts(), pytest.raises(Interrupted):
        fragile[where]()
        finished = True
        end = time.monotonic() + 20
        while time.monotonic() < end:
            pass
    assert finished and time.monotonic() < end


@pytest.mark.parametrize("where", ["an import", "composing"])
def test_before_there_is_anything_to_save_it_ends_the_process_there(
    where: str, fragile: dict[str, Callable[[], Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    ends: list[int] = []
    monkeypatch.setattr("src.signals.os._exit", ends.append)
    with Interrupts(leave=ends.append):
        fragile[where]()
    assert ends == [signal.SIGINT, 130]


def test_ctrl_c_while_torch_is_imported_leaves_a_line_and_no_folder(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "train.py"), "device=cpu"]
    with subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        while process.poll() is None and not list(tmp_path.glob("outputs/*/*/.hydra/overrides.yaml")):
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate()
    assert (process.returncode, output.strip()) == (130, "stopped by Ctrl-C before training began")
    assert not list(tmp_path.iterdir())
