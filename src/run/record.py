"""A run that is being made: the only writer of its folder."""

import contextlib
import errno
import logging
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from ..config.compose import dump_config, load_config
from ..config.schema import TrainConfig
from ..distributed.states import gather_state
from ..distributed.torchrun import name_launcher, read_place
from ..distributed.world import World
from ..machine.disk import format_json, read_object, short_path, write_bytes, write_json, write_text
from ..signals import name_signal
from ..trackers import TRACKERS
from . import files
from .checkpoint import BackgroundWriter, read_checkpoint, take_snapshot, write_checkpoint
from .environment import KEPT, check_same_images, describe_environment, describe_run, describe_session
from .history import History
from .job import Job
from .limits import find_end
from .log import LogFile, log
from .resume import open_resumable

if TYPE_CHECKING:
    from torch import nn

    from ..data.load import Data


ALONE = World(0, 0, 1)


class Run:
    """A run that is being made; `with Run.begin(…)` keeps its status true whatever ends the block.

    `rows` are its epochs, `best` (epoch, val_acc, val_loss, kind) says which weights are kept, empty before the
    first, `status` is what status.json holds. Of several processes each holds the same, and rank 0 alone writes.
    """

    def __init__(self, folder: Path, config: TrainConfig, world: World) -> None:
        """To be called by `begin` and `resume` alone."""
        self.folder, self.config, self.world = folder, config, world
        self.saved: TrainConfig | None = None  # the configuration that it was left with, if it is resumed
        self.rows: list[dict[str, float]] = []
        self.best: dict[str, Any] = {}
        self.status: dict[str, Any] = {}
        self._started = self._saved_at = time.monotonic()
        self._seconds_before = 0.0
        self._continues = False  # from a checkpoint to which it has yet to go back
        self._found: dict[str, Any] | None = None  # the checkpoint that the run is resumed from, until it is taken
        self._repeated = 0  # the epoch of weights that are newer than the checkpoint, until it has been repeated
        self._kept = "there is no checkpoint yet"
        self._writer = BackgroundWriter()
        names = ["tensorboard"] if config.training.tensorboard and world.main else []
        self._history = History(folder, [TRACKERS[name](folder) for name in names])
        self._log_file: LogFile | None = None

    @classmethod
    def begin(
        cls, folder: Path, config: TrainConfig, job: Job, data: "Data", parameters: int, world: World = ALONE
    ) -> "Run":
        """Write all that is known before training. Raises FileExistsError over another run."""
        if world.main and ((folder / files.STATUS).exists() or (folder / files.CONFIG).exists()):
            raise FileExistsError(f"{folder} already holds a run; choose another hydra.run.dir")
        run = cls(folder, config, world)
        run.status = describe_run(config, job, parameters)
        if world.main:
            run._write_first(data, describe_environment(job, data))
        return run

    @classmethod
    def resume(
        cls, folder: Path, config: TrainConfig, job: Job, data: "Data", parameters: int, world: World = ALONE
    ) -> "Run":
        """Continue the run in the folder; `load_last` then goes back to its checkpoint.

        Raises ValueError where it cannot be: its process is alive, the images are others, its checkpoint is damaged.
        """
        if world.main:
            open_resumable(str(folder.absolute()), [])
        old, environment = read_object(folder / files.STATUS), read_object(folder / files.ENVIRONMENT)
        check_same_images(environment, config, data)
        run = cls(folder, config, world)
        run._continues = True
        run.saved = world.broadcast(load_config(folder / files.CONFIG) if world.main else None)
        run._found = run._read_last()  # before anything is written, as a damaged one must change nothing
        run._seconds_before = float(old.get("seconds") or 0)
        run.status = {**describe_run(config, job, parameters), **{key: old[key] for key in KEPT if key in old}}
        if environment:
            sessions = [*environment.get("resumed", []), describe_session(job)]
            environment = {**environment, "resumed": sessions}
        if world.main:
            run._write_first(data, environment or describe_environment(job, data))
        return run

    def _write_first(self, data: "Data", environment: dict[str, Any]) -> None:
        """Write the configuration before all else, the status last: what has a configuration can be resumed."""
        (self.folder / files.BEST).parent.mkdir(parents=True, exist_ok=True)
        write_text(self.folder / files.CONFIG, dump_config(replace(self.config, resume=None)))
        files.remove_leftovers(self.folder)
        write_json(self.folder / files.CLASSES, data.classes)
        write_json(self.folder / files.PREPROCESSING, asdict(data.preprocessing))
        write_json(self.folder / files.ENVIRONMENT, environment)
        self._write_status()
        # Last, when nothing can fail any more: a handler left behind would write the next job's lines.
        self._log_file = LogFile(self.folder / files.LOG)

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
            self._record_end(end)
            self._write_status()
        except OSError as failure:
            end = end or failure
        finally:
            self._close()
        if end is not None and end is not error:
            raise end

    def _record_end(self, error: BaseException | None) -> None:
        if error is None:
            self.status["status"] = "finished"
        elif isinstance(error, KeyboardInterrupt):
            self.status["status"] = "stopped"
            name = name_signal(getattr(error, "signal", signal.SIGINT))
            self._log(logging.WARNING, f"stopped by {name} after epoch {self.status['epoch']}")
            self._log(logging.INFO, f"continue  {self._resume_command()}")
        else:
            self.status.update(status="failed", error=f"{type(error).__name__}: {error}")
            if self._log_file is not None:
                self._log_file.write_traceback(error)
            if (self.folder / files.LAST).is_file():
                self._log(logging.INFO, f"continue  {self._resume_command()}")

    def _log(self, level: int, line: str) -> None:
        if self.world.main:
            with contextlib.suppress(Exception):
                log.log(level, "%s", line)

    def _close(self) -> None:
        """Leave nothing behind for the next job of a sweep, which lives in the same process."""
        if "matplotlib.pyplot" in sys.modules:
            sys.modules["matplotlib.pyplot"].close("all")
        for part in (self._history, self._log_file):
            if part is not None:
                with contextlib.suppress(Exception):
                    part.close()

    def seconds(self) -> float:
        """Return the time spent on this run, over all sessions."""
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
        if self.world.main:
            path = self.folder / files.STATUS
            with self._naming(path):
                # The folder is not made anew: who deletes it while it is in use wants it gone.
                write_bytes(path, format_json(self.status).encode("utf-8", "surrogateescape"))

    @contextlib.contextmanager
    def _naming(self, path: Path) -> Iterator[None]:
        """Say in an error of writing which file it was, what is left, and how to continue."""
        try:
            yield
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            remedy = "free some space, then" if full else "once that is fixed"
            raise OSError(
                f"cannot write {path}: {error.strerror or error}; {self._kept}; {remedy}: {self._resume_command()}"
            ) from error

    def record(self, row: dict[str, float], peak_memory: int | None = None) -> None:
        """Append an epoch to the metrics, redraw the curves; adds the run's seconds to the row.

        Before `save_last`, which keeps the rows so far. peak_memory: in bytes, since the process started.
        """
        row["seconds"] = round(self.seconds(), 3)
        self.rows.append(take_snapshot(row))
        self.status["epoch"] = int(row["epoch"])
        self.status["peak_memory"] = max(self.status["peak_memory"] or 0, peak_memory or 0) or None
        if self.world.main:
            with self._naming(self.folder):
                self._history.append(self.rows)
        self._write_status()

    def is_best(self, val_acc: float, val_loss: float) -> bool:
        """Tell whether an epoch is the best so far: by accuracy, among equal ones by loss."""
        if not self.best:
            return True
        new, old = (val_acc, -val_loss), (self.best["val_acc"], -self.best["val_loss"])
        return new > old or (new == old and self.status["epoch"] < self._repeated)

    def keep_best(
        self, models: Mapping[str, "nn.Module"], kind: str, epoch: int, val_acc: float, val_loss: float
    ) -> bool:
        """Keep the weights of one of the models if the epoch is the best so far, and tell whether; collective.

        kind: "raw" or "ema", the moving average.
        """
        kind, better = self.world.broadcast((kind, self.is_best(val_acc, val_loss)))
        if better:
            self.save_best(gather_state(models[kind].state_dict()), epoch, val_acc, val_loss, kind)
        return better

    def save_best(self, weights: dict[str, Any], epoch: int, val_acc: float, val_loss: float, kind: str) -> None:
        """Keep the weights of the raw module as those of the best epoch."""
        best = {"epoch": epoch, "val_acc": float(val_acc), "val_loss": float(val_loss), "kind": kind}
        if self.world.main:
            from safetensors.torch import save

            path = self.folder / files.BEST
            tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
            with self._naming(path):
                write_bytes(path, save(tensors, {key: str(value) for key, value in best.items()}))
        self.best, self._repeated = best, 0
        self._show_best()
        self._write_status()

    def load_best(self) -> dict[str, Any]:
        """Return the weights of the best epoch, the same in all processes; collective."""
        from safetensors.torch import load_file

        self.wait()
        return self.world.broadcast(load_file(self.folder / files.BEST) if self.world.main else {})

    def best_val_acc(self) -> float:
        """Return the best validation accuracy, a fraction, 0 without an epoch; collective."""
        return self.world.broadcast(self.best.get("val_acc", 0.0))

    def _show_best(self) -> None:
        self.status.update({name: self.best.get(key) for name, key in files.BEST_FACTS.items()})

    def checkpoint_due(self) -> bool:
        """Tell whether training.checkpoint_minutes have passed since the last checkpoint, or the start."""
        return time.monotonic() - self._saved_at >= 60 * self.config.training.checkpoint_minutes

    def save_last(self, state: dict[str, Any]) -> None:
        """Copy everything that continuing needs, and write it while the training goes on.

        Raises OSError if the previous write failed; what was there before that is still there.
        """
        self.wait()
        self._saved_at = time.monotonic()
        if not self.world.main:
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

        Anything in the folder of later epochs is removed. Collective. Raises ValueError if the checkpoint is damaged.
        """
        self.wait()
        content, self._found = self._found if self._continues else self._read_last(), None
        own: dict[str, Any] = content["run"] if content else {"rows": [], "best": {}, "seconds": 0.0}
        self.rows, self.best, self._repeated = own["rows"], own["best"], 0
        if self._continues:  # earlier sessions count once, though an error can lead here again
            self._seconds_before, self._continues = own["seconds"], False
        self.status["epoch"] = int(self.rows[-1]["epoch"]) if self.rows else 0
        if content:
            self._keep(content["trainer"])
            self._take_newer_best()
        self._show_best()
        if self.world.main:
            with self._naming(self.folder):
                self._history.rewrite(self.rows)
            self._write_status()
        return self.world.broadcast(content["trainer"] if content else None)

    def _read_last(self) -> dict[str, Any] | None:
        path = self.folder / files.LAST
        return read_checkpoint(path) if path.is_file() else None

    def reopen(self, epoch: int) -> None:
        """Take back, before `epoch` is trained, what is known of it and of the end: its row, test and figures."""
        kept = [row for row in self.rows if row["epoch"] < epoch]
        changed, self.rows = len(kept) < len(self.rows), kept
        if self.world.main:
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

    def find_end(self, val_acc: float, time_is_up: bool, judge: Callable[[int, float], bool] | None) -> str | None:
        """Return what ends the run after the epoch recorded last, None where it goes on; collective."""
        epoch, best_epoch = self.status["epoch"], self.best.get("epoch", 0)
        ended = find_end(self.config.training, epoch, best_epoch, val_acc, time_is_up, judge)
        return self.world.broadcast(ended)

    def note_end(self, ended: str, step: int, steps: int) -> None:
        """Record what has ended the run early, after `step` of the `steps` of its last epoch."""
        self.note(ended=ended)
        self._log(logging.INFO, f"ended     by {ended}, after step {step} of {steps} in the last epoch")

    def note_test(self, test: Mapping[str, float]) -> None:
        """Record the metrics of the test split."""
        self.note(test_acc=test["accuracy"])
        best, mean = self.best, test["mean_class_accuracy"]
        self._log(logging.INFO, f"best      epoch {best['epoch']}: validation accuracy {best['val_acc']:.2%}")
        accuracy = f"accuracy {test['accuracy']:.2%}, mean of the classes {mean:.2%}, loss {test['loss']:.4f}"
        self._log(logging.INFO, f"test      {accuracy}")

    def profile_files(self) -> tuple[Path, Path] | None:
        """Return where the trace and the table of `training.profile` go; None where nothing is recorded."""
        if not (self.config.training.profile and self.world.main):
            return None
        return self.folder / files.PROFILE_TRACE, self.folder / files.PROFILE_TABLE

    def next_steps(self) -> list[tuple[str, str]]:
        """Return what is where in the folder, and the commands that use it."""
        folder = Path(short_path(self.folder))
        quoted = shlex.quote(str(folder))
        steps = [
            ("curves", f"{folder / files.CURVES}"),
            ("test", f"{folder / files.TEST_METRICS}, {Path(files.PER_CLASS).name}, {Path(files.CONFUSION).name}"),
            ("figures", f"{(folder / files.PREDICTIONS).parent}"),
            ("weights", f"{folder / files.BEST}"),
            ("predict", f"python inference.py run={quoted} input=IMAGE"),
            ("browse", f"tensorboard --logdir {quoted}"),
        ]
        if self.profile_files():
            steps.insert(0, ("profile", f"{folder / files.PROFILE_TRACE}, {Path(files.PROFILE_TABLE).name}"))
        return steps

    def _resume_command(self) -> str:
        return f"{name_launcher(read_place())} train.py resume={shlex.quote(short_path(self.folder))}"
