"""A run that is being made: the only writer of its folder."""

import contextlib
import errno
import logging
import os
import shlex
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from ..config import Job, TrainConfig, dump_config
from ..signals import name_signal
from . import files
from .checkpoint import BackgroundWriter, read_checkpoint, take_snapshot, write_checkpoint
from .environment import KEPT, check_same_images, describe_environment, describe_run, describe_sitting
from .history import History
from .saved import open_resumable

if TYPE_CHECKING:
    from ..data import Data

log = logging.getLogger("vit")


class Run:
    """A run that is being made; `with Run(...)` keeps its status true whatever ends the block.

    `rows` are its epochs, `best` (epoch, val_acc, val_loss, kind) says which weights are kept, empty before the
    first, `status` is what status.json holds.
    """

    def __init__(
        self, folder: Path, config: TrainConfig, job: Job, data: "Data", parameters: int, owner: bool = True
    ) -> None:
        """Write all that is known before training; with `config.resume` set, continue the run in the folder.

        owner: False in the other processes of a run, which hold the same and write nothing.
        Raises FileExistsError over another run; ValueError where a run cannot be continued: its process lives, or
        the images are others, or its checkpoint is damaged.
        """
        self.folder, self.owner = folder, owner
        self.rows: list[dict[str, float]] = []
        self.best: dict[str, Any] = {}
        self._started = self._saved = time.monotonic()
        self._checkpoint_seconds = 60 * config.training.checkpoint_minutes
        self._continues = config.resume is not None
        self._found: dict[str, Any] | None = None  # the checkpoint that the run is continued from, until it is taken
        self._repeated = 0  # the epoch of weights that are newer than the checkpoint, until it has been repeated
        self._kept = "there is no checkpoint yet"
        self._writer = BackgroundWriter()
        self._history = History(folder, config.training.tensorboard and owner)
        self._log_file: _LogFile | None = None
        old: dict[str, Any] = {}
        environment: dict[str, Any] = {}
        if self._continues:
            if owner:
                open_resumable(str(folder.absolute()), [])
            old, environment = files.read_object(folder / files.STATUS), files.read_object(folder / files.ENVIRONMENT)
            check_same_images(environment, config, data)
            self._found = self._read_last()  # before anything is written, as a damaged one shall change nothing
        elif owner and ((folder / files.STATUS).exists() or (folder / files.CONFIG).exists()):
            raise FileExistsError(f"{folder} already holds a run; choose another hydra.run.dir")
        self._seconds_before = float(old.get("seconds") or 0)
        self.status = {**describe_run(config, job, parameters), **{key: old[key] for key in KEPT if key in old}}
        if owner:
            self._write_first(config, job, data, environment)

    def _write_first(self, config: TrainConfig, job: Job, data: "Data", environment: dict[str, Any]) -> None:
        """Write the configuration before all else, the status last: what has a configuration can be resumed."""
        if environment:
            resumed = [*environment.get("resumed", []), describe_sitting(job)]
            environment = {**environment, "resumed": resumed}
        (self.folder / files.BEST).parent.mkdir(parents=True, exist_ok=True)
        files.write_text(self.folder / files.CONFIG, dump_config(replace(config, resume=None)))
        files.remove_leftovers(self.folder)
        files.write_json(self.folder / files.CLASSES, data.classes)
        files.write_json(self.folder / files.PREPROCESSING, asdict(data.preprocessing))
        files.write_json(self.folder / files.ENVIRONMENT, environment or describe_environment(job, data))
        self._write_status()
        # Last, when nothing can fail any more: a handler left behind would write the next job's lines.
        self._log_file = _LogFile(self.folder / files.LOG, encoding="utf-8", errors="backslashreplace")
        self._log_file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        log.addHandler(self._log_file)

    def __enter__(self) -> "Run":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Write down how the run ended. Raises what went wrong in that only where nothing had before."""
        end = error
        try:
            self.wait()
        except (OSError, KeyboardInterrupt) as failure:  # a second Ctrl-C leaves without what was waited for
            end = error or failure
            if error is not None and isinstance(failure, OSError):
                self._log(logging.WARNING, str(failure))
        try:
            self._tell_end(end)
            self._write_status()
        except OSError as failure:
            end = end or failure
        finally:
            self._close()
        if end is not None and end is not error:
            raise end

    def _quietly(self, call: Callable[..., None], *arguments: Any) -> None:
        with contextlib.suppress(Exception):
            call(*arguments)

    def _tell_end(self, error: BaseException | None) -> None:
        if error is None:
            self.status["status"] = "finished"
        elif isinstance(error, KeyboardInterrupt):
            self.status["status"] = "stopped"
            name = name_signal(getattr(error, "signal", signal.SIGINT))
            self._log(logging.WARNING, f"stopped by {name} after epoch {self.status['epoch']}")
            self._log(logging.INFO, f"continue   {self._resume_command()}")
        else:
            self.status.update(status="failed", error=f"{type(error).__name__}: {error}")
            self._log_traceback(error)
            if (self.folder / files.LAST).is_file():
                self._log(logging.INFO, f"continue   {self._resume_command()}")

    def _log(self, level: int, line: str) -> None:
        if self.owner:
            self._quietly(log.log, level, "%s", line)

    def _log_traceback(self, error: BaseException) -> None:
        """Write it into the file alone: the terminal gets the message from the caller."""
        if self._log_file is not None:
            text = "".join(traceback.format_exception(error))
            self._log_file.handle(logging.LogRecord("vit", logging.ERROR, "", 0, text, None, None))

    def _close(self) -> None:
        """Leave nothing behind for the next job of a sweep, which lives in the same process."""
        if "matplotlib.pyplot" in sys.modules:
            sys.modules["matplotlib.pyplot"].close("all")
        self._quietly(self._history.close)
        if self._log_file is not None:
            log.removeHandler(self._log_file)
            self._quietly(self._log_file.close)

    def seconds(self) -> float:
        """Return the time spent on this run, over all sittings."""
        return self._seconds_before + time.monotonic() - self._started

    def note(self, **facts: Any) -> None:
        """Put facts into status.json."""
        self.status.update(facts)
        self._write_status()

    def note_memory(self, micro_batch_size: int, share: int) -> None:
        """Tell that memory takes only so many images at once of a device's share of a batch."""
        line = f"memory    too small for {share} images at once; batches are taken in pieces of {micro_batch_size}"
        self._log(logging.WARNING, f"{line}, with the same result")
        self.note(micro_batch_size=micro_batch_size)

    def _write_status(self) -> None:
        self.status["seconds"] = round(self.seconds(), 3)
        if self.owner:
            path = self.folder / files.STATUS
            with self._naming(path):
                # The folder is not made anew: who deletes it while it is in use wants it gone.
                files.write_bytes(path, files.format_json(self.status).encode("utf-8", "surrogateescape"))

    @contextlib.contextmanager
    def _naming(self, path: Path) -> Iterator[None]:
        """Say in an error of writing which file it was, what is left, and how to continue."""
        try:
            yield
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            remedy = "free some space, then" if full else "once that is mended"
            raise OSError(
                f"cannot write {path}: {error.strerror or error}; {self._kept}; {remedy}: {self._resume_command()}"
            ) from error

    def record(self, row: dict[str, float]) -> None:
        """Append an epoch to the metrics, redraw the curves; adds the run's seconds to the row.

        Before `save_last`, which keeps the rows that there are.
        """
        row["seconds"] = round(self.seconds(), 3)
        self.rows.append(take_snapshot(row))
        self.status["epoch"] = int(row["epoch"])
        if self.owner:
            with self._naming(self.folder):
                self._history.append(self.rows)
        self._write_status()

    def is_best(self, val_acc: float, val_loss: float) -> bool:
        """Tell whether an epoch is the best so far: by accuracy, among equal ones by loss."""
        if not self.best:
            return True
        new, old = (val_acc, -val_loss), (self.best["val_acc"], -self.best["val_loss"])
        return new > old or (new == old and self.status["epoch"] < self._repeated)

    def save_best(self, weights: dict[str, Any], epoch: int, val_acc: float, val_loss: float, kind: str) -> None:
        """Keep the weights of the raw module as those of the best epoch; kind: "raw" or "ema", their average."""
        best = {"epoch": epoch, "val_acc": float(val_acc), "val_loss": float(val_loss), "kind": kind}
        if self.owner:
            from safetensors.torch import save

            path = self.folder / files.BEST
            tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
            with self._naming(path):
                files.write_bytes(path, save(tensors, {key: str(value) for key, value in best.items()}))
        self.best, self._repeated = best, 0
        self._show_best()
        self._write_status()

    def _show_best(self) -> None:
        self.status.update({name: self.best.get(key) for name, key in files.BEST_FACTS.items()})

    def checkpoint_due(self) -> bool:
        """Tell whether training.checkpoint_minutes have passed since the last checkpoint, or the start."""
        return time.monotonic() - self._saved >= self._checkpoint_seconds

    def save_last(self, state: dict[str, Any]) -> None:
        """Copy everything that continuing needs, and write it while the training goes on.

        Raises OSError if the previous write failed; what was there before that is still there.
        """
        self.wait()
        self._saved = time.monotonic()
        if not self.owner:
            return
        own = {"rows": self.rows, "best": self.best, "seconds": self.seconds()}
        content = take_snapshot({"trainer": state, "run": own})

        def write() -> None:
            with self._naming(self.folder / files.LAST):
                write_checkpoint(self.folder / files.LAST, content)
            self._keep(content["trainer"])

        self._writer.start(write)

    def _keep(self, state: dict[str, Any]) -> None:
        self._kept = f"the last good checkpoint is that of epoch {state.get('epoch')}, step {state.get('step')}"

    def wait(self) -> None:
        """Wait for the checkpoint that is being written. Raises OSError if it could not be."""
        self._writer.wait()

    def load_last(self) -> dict[str, Any] | None:
        """Go back to the last checkpoint and return the trainer's state in it; None, at the start, without one.

        What the folder shows of later epochs goes. Raises ValueError where the checkpoint is damaged.
        """
        self.wait()
        content, self._found = self._found if self._continues else self._read_last(), None
        own: dict[str, Any] = content["run"] if content else {"rows": [], "best": {}, "seconds": 0.0}
        self.rows, self.best, self._repeated = own["rows"], own["best"], 0
        if self._continues:  # the earlier sittings count once, though an error can lead here again
            self._seconds_before, self._continues = own["seconds"], False
        self.status["epoch"] = int(self.rows[-1]["epoch"]) if self.rows else 0
        if content:
            self._keep(content["trainer"])
            self._take_newer_best()
        self._show_best()
        if self.owner:
            with self._naming(self.folder):
                self._history.rewrite(self.rows)
            self._write_status()
        return content["trainer"] if content else None

    def _read_last(self) -> dict[str, Any] | None:
        path = self.folder / files.LAST
        return read_checkpoint(path) if path.is_file() else None

    def reopen(self, epoch: int) -> None:
        """Take back, before `epoch` is trained, what is known of it and of the end: its row, test and figures."""
        kept = [row for row in self.rows if row["epoch"] < epoch]
        changed, self.rows = len(kept) < len(self.rows), kept
        if self.owner:
            files.remove_results(self.folder)
            if changed:
                with self._naming(self.folder):
                    self._history.rewrite(self.rows)
        self.note(epoch=epoch - 1)

    def _take_newer_best(self) -> None:
        """Take over weights that are of a later epoch than the checkpoint: the older ones are overwritten."""
        best = files.read_best(self.folder / files.BEST)
        if best and best["epoch"] > self.status["epoch"]:
            self.best, self._repeated = best, best["epoch"]

    def next_steps(self) -> list[tuple[str, str]]:
        """Return what is where in the folder, and the commands that use it."""
        folder = Path(files.shorten(self.folder))
        quoted = shlex.quote(str(folder))
        return [
            ("curves", f"{folder / files.CURVES}"),
            ("test", f"{folder / files.TEST_METRICS}, {Path(files.PER_CLASS).name}, {Path(files.CONFUSION).name}"),
            ("figures", f"{(folder / files.PREDICTIONS).parent}"),
            ("weights", f"{folder / files.BEST}"),
            ("predict", f"python inference.py run={quoted} input=IMAGE"),
            ("browse", f"tensorboard --logdir {quoted}"),
        ]

    def _resume_command(self) -> str:
        return f"{name_start()} train.py resume={shlex.quote(files.shorten(self.folder))}"


def name_start() -> str:
    """Return how this process was started: by python, or by torchrun with so many others."""
    processes = os.environ.get("LOCAL_WORLD_SIZE", "1")
    return "python" if processes == "1" else f"torchrun --nproc-per-node={processes}"


class _LogFile(logging.FileHandler):
    """A log on a full disk loses lines; it must not print a traceback for each."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        pass
