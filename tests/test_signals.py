"""Signals: the first one is kept until it is good to end, a second Ctrl-C is not."""

import os
import signal
from pathlib import Path

import pytest

from src.signals import Interrupted, Interrupts


def send(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
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
