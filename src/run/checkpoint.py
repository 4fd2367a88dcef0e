"""`last.pt`: a copy of the state is taken at once and written by a thread, while the training goes on."""

import errno
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from ..machine.disk import replace_file


def take_snapshot(value: Any) -> Any:
    """Copy a state onto the CPU, as dicts, lists, tensors and plain values alone.

    So torch loads it with weights_only=True: numbers of numpy become Python's. Raises TypeError for anything else.
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
    """Replace the file durably. Raises OSError, after which the previous one is still there."""
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
    """A file for torch.save that keeps its first error and swallows the rest.

    An exception within torch's writer comes out as a RuntimeError without the reason, or ends the process.
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
    """Return what `write_checkpoint` wrote, on the CPU. Raises ValueError where the file is damaged."""
    import torch

    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        if {"trainer", "run"} <= content.keys() and {"rows", "best", "seconds"} <= content["run"].keys():
            return content
        reason = "it is not a checkpoint of a run"
    except MemoryError:
        raise
    except Exception as error:  # of zip, pickle, torch: whatever is wrong, it cannot be used
        # torch seeks to where a file that was cut off does not reach: to the system, an invalid argument.
        if isinstance(error, OSError) and error.errno != errno.EINVAL:
            raise
        reason = re.split(r"\n|\. ", str(error) or type(error).__name__)[0].rstrip(".")
    raise ValueError(
        f"{path} is damaged: {reason}; once it is deleted, resume=… begins the run anew in that folder, "
        "from its first epoch"
    )


class BackgroundWriter:
    """One thread that writes; its error is raised, once, by the next `wait`."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def start(self, write: Callable[[], None]) -> None:
        """Call `write` in the thread, after `wait`."""
        self.wait()
        # A daemon, so that a second Ctrl-C ends the process at once.
        self._thread = threading.Thread(target=self._call, args=(write,), name="checkpoint", daemon=True)
        self._thread.start()

    def _call(self, write: Callable[[], None]) -> None:
        try:
            write()
        except BaseException as error:
            self._error = error

    def wait(self) -> None:
        while self._thread is not None and self._thread.is_alive():
            self._thread.join(0.2)  # without an end it could not be interrupted on Windows
        self._thread = None
        error, self._error = self._error, None
        if error is not None:
            raise error
