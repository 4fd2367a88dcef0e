"""`last.pt`: the state is copied immediately and written by a thread while training continues."""

import errno
import re
import threading
import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, BinaryIO

from ..machine.disk import replace_file
from ..machine.regular import open_regular
from .validate import check_checkpoint


def take_snapshot(value: Any) -> Any:
    """Copy a state to the CPU, as dicts, lists, tensors and plain values, which torch loads with weights_only=True.

    NumPy scalars become Python numbers. Raises TypeError for anything else.
    """
    import torch

    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {take_snapshot(key): take_snapshot(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        items = [take_snapshot(item) for item in value]
        return items if isinstance(value, list) else tuple(items)
    if value is None or isinstance(value, bool):
        return value
    kinds: tuple[Any, ...] = (int, float, str, bytes)
    for kind in kinds:
        if isinstance(value, kind):
            return kind(value)
    if hasattr(value, "item"):
        return take_snapshot(value.item())
    raise TypeError(f"a checkpoint cannot hold {type(value).__name__}: {value!r}")


def write_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Replace the file durably. Raises OSError; the previous file is then unchanged."""
    import torch

    try:
        with replace_file(path) as file:
            sink = _Sink(file)
            torch.save(content, sink)  # type: ignore[arg-type]
            if sink.error is not None:
                raise sink.error
    except (RuntimeError, MemoryError) as error:
        raise OSError(str(error) or "out of memory") from error


class _Sink:
    """A file for torch.save that stores the first error and ignores everything after it.

    An exception inside torch's writer becomes a RuntimeError without the reason, or crashes the process.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.error: OSError | None = None
        self._file = file

    def write(self, data: bytes) -> int:
        if self.error is None:
            try:
                self._file.write(data)
            except OSError as error:
                self.error = error
        return len(data)

    def flush(self) -> None:
        pass


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Return what `write_checkpoint` wrote, on the CPU. Raises ValueError if the file is damaged."""
    import torch

    try:
        with open_regular(path) as file:
            content = torch.load(file, map_location="cpu", weights_only=True)
        check_checkpoint(content)
        return content
    except MemoryError:
        raise
    except Exception as error:  # zipfile, pickle and torch raise various types
        # In a truncated file, torch seeks to an invalid position, which is EINVAL.
        if isinstance(error, OSError) and error.errno != errno.EINVAL:
            raise
        raise ValueError(explain_damage(path, error)) from error


def explain_damage(path: Path, error: Exception) -> str:
    """Return what is wrong with a checkpoint, and what to do."""
    words = f"it has no {error.args[0]}" if isinstance(error, KeyError) and error.args else str(error)
    lines = [line.strip() for line in re.split(r"\n|\. ", words or type(error).__name__)]
    reason = " ".join(lines[: 1 + lines[0].endswith(":")]).rstrip(".:")
    return (
        f"{path} is damaged: {reason}; delete it, and resume=… starts the run over in that folder, from the first epoch"
    )


class CheckpointFile:
    """A checkpoint that a thread writes, in the main process only. `content` describes it, for error messages."""

    def __init__(self, path: Path, main: bool) -> None:
        self.path, self._main = path, main
        self.content = "there is no checkpoint yet"
        self._saved_at = time.monotonic()
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def due(self, minutes: float) -> bool:
        """Return whether so many minutes have passed since the last `save`, or the start."""
        return time.monotonic() - self._saved_at >= 60 * minutes

    def save(self, checkpoint: dict[str, Any], explained: AbstractContextManager[None]) -> None:
        """Copy a checkpoint and write it in the thread; explained: a context that explains errors to the user.

        Raises the error of the previous write; the checkpoint before that is then unchanged.
        """
        self.wait()
        self._saved_at = time.monotonic()
        if self._main:
            arguments = take_snapshot(checkpoint), explained
            # A daemon, so that a second Ctrl-C ends the process immediately.
            self._thread = threading.Thread(target=self._write, args=arguments, name="checkpoint", daemon=True)
            self._thread.start()

    def _write(self, checkpoint: dict[str, Any], explained: AbstractContextManager[None]) -> None:
        try:
            with explained:
                write_checkpoint(self.path, checkpoint)
            self._describe(checkpoint)
        except BaseException as error:
            self._error = error

    def wait(self) -> None:
        """Wait for the thread. Raises its error, once."""
        while self._thread is not None and self._thread.is_alive():
            self._thread.join(0.2)  # without a timeout, Windows could not interrupt it
        self._thread = None
        error, self._error = self._error, None
        if error is not None:
            raise error

    def read(self) -> dict[str, Any] | None:
        """Return the checkpoint, on the CPU, None if there is none. Raises ValueError if it is damaged."""
        self.wait()
        if not self.path.is_file():
            return None
        checkpoint = read_checkpoint(self.path)
        self._describe(checkpoint)
        return checkpoint

    def _describe(self, checkpoint: dict[str, Any]) -> None:
        state = checkpoint["trainer"]
        self.content = f"the last good checkpoint is from epoch {state.get('epoch')}, step {state.get('step')}"
