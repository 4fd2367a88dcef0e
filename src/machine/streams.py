"""Standard output and error as a program needs them: whatever happens to a terminal, the work goes on.

A pipe may be closed, a disk full, a terminal gone, and its encoding may lack a letter. None of this may raise an error.
"""

import codecs
import contextlib
import io
import os
import re
import sys
from typing import Any

# Letters of our own output in ASCII, for terminals that cannot show them. Any other letter becomes its number: \xe9.
SIMPLER = {"→": "->", "×": "x", "±": "+-", "·": ".", "…": "...", "█": "#", "▏": "|", "━": "-", "╸": "-", "╺": "-"}

# What a terminal obeys instead of showing it: control characters, and those that turn the direction of writing.
CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]")


def printable(text: str, own_lines: bool = False) -> str:
    """Return text that a terminal shows and never obeys: names of files and classes may hold escape sequences.

    Parts of file names that are not UTF-8 become ?. Lines after the first are indented, so that a name with a line
    break cannot pass for a message of ours, unless all lines are ours, as in a traceback.
    """
    shown = text.encode("utf-8", "replace").decode()
    shown = CONTROLS.sub(lambda found: f"\\x{ord(found[0]):02x}", shown)
    return shown if own_lines else re.sub(r"\n(?=[^\n])(?! {2})", "\n  ", shown)


def printable_cell(text: str) -> str:
    """Return such text on one line, for a table or between other words."""
    return printable(text, own_lines=True).replace("\n", "\\n")


def make_streams_safe() -> None:
    """Replace this process's standard output and error by streams whose writes never raise.

    What cannot be written is lost; `write_error` tells whether. Streams that were replaced before, by this function or
    by a test or notebook that captures the output, are left as they are.
    """
    codecs.register_error("simpler", _simplify)
    _occupy_closed()
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # it was closed before Python started
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - for as long as the process runs
        elif type(stream) is io.TextIOWrapper and stream is getattr(sys, f"__{name}__"):
            setattr(sys, name, _wrap(stream))
    if isinstance(sys.stdin, io.TextIOWrapper):
        with contextlib.suppress(io.UnsupportedOperation):  # it has been read from
            sys.stdin.reconfigure(errors="surrogateescape")  # file names in answers may have any bytes


def write_error(stream: Any) -> OSError | None:
    """Return why something written to the stream was lost, None if nothing was."""
    buffer = getattr(stream, "buffer", None)
    error = getattr(getattr(buffer, "raw", buffer), "error", None)
    return error if isinstance(error, OSError) else None


def _occupy_closed() -> None:
    """Open the null device where a standard descriptor is closed, or the next file opened would get the output."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free


def _wrap(stream: io.TextIOWrapper) -> io.TextIOWrapper:
    sink = _Sink(getattr(stream.buffer, "raw", stream.buffer))
    # `python -u` has no buffer.
    buffer: Any = sink if stream.write_through else io.BufferedWriter(sink)
    return io.TextIOWrapper(
        buffer, stream.encoding, "simpler", line_buffering=stream.line_buffering, write_through=stream.write_through
    )


class _Sink(io.RawIOBase):
    """A raw stream that keeps the last error of a write instead of raising it, and counts the bytes as written."""

    def __init__(self, raw: Any) -> None:
        self._raw = raw
        self.error: OSError | None = None

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._raw.fileno()

    def isatty(self) -> bool:
        return self._raw.isatty()

    def write(self, data: Any) -> int:
        try:
            written = self._raw.write(data)
        except (OSError, ValueError) as error:  # ValueError: it was closed
            self.error = error if isinstance(error, OSError) else OSError(str(error))
            return len(data)
        return len(data) if written is None else written  # None: a pipe that does not block is full


def _simplify(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    letters = error.object[error.start : error.end]
    simple = (SIMPLER.get(letter) or letter.encode("ascii", "backslashreplace").decode() for letter in letters)
    return "".join(simple), error.end
