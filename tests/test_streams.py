"""Showing is not essential work: a narrow encoding, a closed pipe or a full disk ends no program and loses no run."""

import errno
import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, cast

import pytest
from helpers import TINY

from src import terminal
from src.machine.disk import read_object
from src.machine.streams import make_streams_safe, write_error
from src.run.files import LAST, STATUS
from src.tables import Table

ROOT = Path(__file__).resolve().parents[1]
LINE = "lr: 0.1 → 0.2, 8 × 8 px, 97.6 ± 0.6 %, 1 · 2 …"


@pytest.fixture
def redirect(monkeypatch: pytest.MonkeyPatch) -> Callable[[BinaryIO, str], None]:
    """Make a stream this process's standard output and error, as at its start."""

    def replace(raw: BinaryIO, encoding: str) -> None:
        stream = io.TextIOWrapper(raw, encoding)
        for name in ("stdout", "stderr"):
            monkeypatch.setattr(sys, name, stream)
            monkeypatch.setattr(sys, f"__{name}__", stream)
        make_streams_safe()

    return replace


@pytest.mark.parametrize(
    ("encoding", "shown"),
    [
        ("utf-8", [LINE, "café", "█" * 15]),
        ("cp1252", ["lr: 0.1 -> 0.2, 8 × 8 px, 97.6 ± 0.6 %, 1 · 2 …", "café", "#" * 15]),
        ("ascii", ["lr: 0.1 -> 0.2, 8 x 8 px, 97.6 +- 0.6 %, 1 . 2 ...", r"caf\xe9", "#" * 15]),
    ],
)
def test_what_an_encoding_lacks_is_shown_in_ascii(
    encoding: str, shown: list[str], redirect: Callable[[BinaryIO, str], None]
) -> None:
    written = io.BytesIO()
    redirect(written, encoding)
    terminal.say(LINE)
    terminal.show_predictions("café", [("a", 0.5)])
    table = Table(["±"], [["…"]])
    terminal.show_table(table.columns, table.rows)
    print("\udce9 and 猫", file=sys.stderr)  # of a file name that is not UTF-8, and of a class
    sys.stdout.flush()
    sys.stderr.flush()
    lines = written.getvalue().decode(encoding).splitlines()
    assert [lines[0], lines[1], lines[2].split()[-1]] == shown
    assert lines[-1] == (r"\udce9 and 猫" if encoding == "utf-8" else r"\udce9 and \u732b")


@pytest.mark.parametrize("code", [errno.EPIPE, errno.ENOSPC])
def test_a_stream_that_takes_nothing_raises_nothing_and_tells_why(
    code: int, redirect: Callable[[BinaryIO, str], None], capfd: pytest.CaptureFixture
) -> None:
    if code == errno.EPIPE:
        reader, writer = os.pipe()
        os.close(reader)
    else:
        if not Path("/dev/full").exists():
            pytest.skip("this system has no device that is always full")
        writer = os.open("/dev/full", os.O_WRONLY)
    with io.FileIO(writer, "w") as raw:
        redirect(cast(BinaryIO, io.BufferedWriter(raw)), "utf-8")
        assert write_error(sys.stdout) is None
        terminal.say("lost")
        terminal.show_pairs([("lost", "too")])
        print("lost", file=sys.stderr, flush=True)
        assert getattr(write_error(sys.stdout), "errno", None) == code
    terminal.say("lost, as the stream is closed")


def test_closed_streams_are_replaced_and_safe_ones_are_left_alone(
    monkeypatch: pytest.MonkeyPatch, redirect: Callable[[BinaryIO, str], None]
) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    make_streams_safe()
    terminal.say("nobody sees it")
    sys.stdout.close()
    redirect(io.BytesIO(), "ascii")
    safe = sys.stdout
    make_streams_safe()
    assert sys.stdout is safe
    captured = io.StringIO()
    monkeypatch.setattr(sys, "stdout", captured)
    make_streams_safe()
    assert sys.stdout is captured


def test_a_signal_is_announced_to_a_terminal_that_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    def write(descriptor: int, data: bytes) -> int:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("src.terminal.os.write", write)
    terminal.announce_end("SIGHUP")


def test_a_run_whose_output_nobody_reads_any_more_is_saved_by_ctrl_c(tmp_path: Path) -> None:
    """As in `2>&1 | tee log`, where Ctrl-C ends tee, too; 120 would be the code of a flush that fails at the end."""
    folder = tmp_path / "run"
    words = [*TINY, "training.epochs=1000", "training.tensorboard=false", "device=cpu", f"hydra.run.dir={folder}"]
    reader, writer = os.pipe()
    command = [sys.executable, str(ROOT / "train.py"), *words, f"dataset.cache_dir={tmp_path}"]
    process = subprocess.Popen(command, stdout=writer, stderr=writer, env={**os.environ, "OMP_NUM_THREADS": "1"})
    os.close(writer)
    os.close(reader)
    with process:
        while process.poll() is None and not read_object(folder / STATUS).get("epoch"):
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
    status = read_object(folder / STATUS)
    assert (process.returncode, status["status"], status["error"]) == (130, "stopped", None)
    assert (folder / LAST).is_file() and "stopped by Ctrl-C after epoch" in (folder / "train.log").read_text()
