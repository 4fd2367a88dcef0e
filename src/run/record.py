"""A run in progress: the only writer of its folder."""

import contextlib
import logging
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from ..config.compose import dump_config
from ..config.schema import TrainConfig
from ..distributed.states import gather_state
from ..distributed.world import World
from ..machine.disk import format_json, short_path, write_bytes, write_json, write_text
from ..signals import name_signal
from ..trackers import TRACKERS
from . import files
from .checkpoint import CheckpointFile, take_snapshot
from .environment import KEPT_ON_RESUME, check_same_images, describe_environment, describe_run, describe_session
from .history import History
from .job import Job
from .limits import find_end
from .log import LogFile, log
from .messages import explain_write_error, is_full_disk, list_next_steps, resume_command
from .resume import open_resumable, read_config
from .saved import SavedRun, read_any
from .weights import BEST_FACTS, read_best, write_best

if TYPE_CHECKING:
    from torch import nn

    from ..data.load import Data


ALONE = World(0, 0, 1)
FEW = 100  # test images, below which an accuracy is off by several percent


class Run:
    """A run in progress. `with Run.begin(…)` records in its status how the block ended, whatever ends it.

    `rows` are its epochs; `best` has epoch, val_acc, val_loss and kind of the best weights, {} before the first epoch;
    `status` is the content of status.json. With several processes, each has the same values, but only rank 0 writes.
    """

    def __init__(self, folder: Path, config: TrainConfig, world: World) -> None:
        """Call `begin` or `resume` instead."""
        self.folder, self.config, self.world = folder, config, world
        self.saved: TrainConfig | None = None  # if the run is resumed, its configuration so far
        self.rows: list[dict[str, float]] = []
        self.best: dict[str, Any] = {}
        self.status: dict[str, Any] = {}
        self._started = time.monotonic()
        self._seconds_before = 0.0
        self._resuming = False  # until `load_last` has loaded the checkpoint of the previous session
        self._checkpoint: dict[str, Any] | None = None  # that checkpoint
        self._best_ahead = 0  # the epoch of best weights that are newer than the checkpoint, until it is repeated
        self._last = CheckpointFile(folder / files.LAST, world.main)
        names = ["tensorboard"] if config.training.tensorboard and world.main else []
        self._history = History(folder, [TRACKERS[name](folder) for name in names])
        self._log_file: LogFile | None = None

    @classmethod
    def begin(
        cls, folder: Path, config: TrainConfig, job: Job, data: "Data", parameters: int, world: World = ALONE
    ) -> "Run":
        """Start a new run and write what is known before training. Raises FileExistsError if there is a run already."""
        if world.main and ((folder / files.STATUS).exists() or (folder / files.CONFIG).exists()):
            raise FileExistsError(f"{folder} already contains a run; choose another hydra.run.dir")
        run = cls(folder, config, world)
        run.status = describe_run(config, job, parameters)
        if world.main:
            run._write_first(data, describe_environment(job, data), job)
        return run

    @classmethod
    def resume(
        cls, folder: Path, config: TrainConfig, job: Job, data: "Data", parameters: int, world: World = ALONE
    ) -> "Run":
        """Continue the run in the folder; call `load_last` next.

        Raises ValueError if the run's process is alive, its images have changed, or its checkpoint is damaged.
        """
        if world.main:
            open_resumable(str(folder.absolute()), [])
        before = read_any(folder)
        old, environment = before.facts, before.environment()
        check_same_images(environment, config, data)
        run = cls(folder, config, world)
        run._resuming = True
        run.saved = world.broadcast(read_config(SavedRun(folder, "stopped", {})) if world.main else None)
        run._checkpoint = run._last.read()  # before anything is written: if it is damaged, nothing may change
        run._seconds_before = before.number("seconds") or 0.0
        kept = {key: old[key] for key in KEPT_ON_RESUME if key in old}
        run.status = {**describe_run(config, job, parameters), **kept}
        if environment:
            sessions = [*environment.get("resumed", []), describe_session(job)]
            environment = {**environment, "resumed": sessions}
        if world.main:
            run._write_first(data, environment or describe_environment(job, data), job)
        return run

    def _write_first(self, data: "Data", environment: dict[str, Any], job: Job) -> None:
        """Write the configuration first and the status last: a folder with a configuration can be resumed."""
        with self._explained(self.folder):
            (self.folder / files.BEST).parent.mkdir(parents=True, exist_ok=True)
            write_text(self.folder / files.CONFIG, dump_config(replace(self.config, resume=None), job.relative))
            files.remove_leftovers(self.folder)
            write_json(self.folder / files.CLASSES, data.classes)
            write_json(self.folder / files.PREPROCESSING, asdict(data.preprocessing))
            write_json(self.folder / files.ENVIRONMENT, environment)
        self._write_status()
        # After everything that can fail: a handler left behind would also log the next job.
        with self._explained(self.folder / files.LOG):
            self._log_file = LogFile(self.folder / files.LOG)

    def __enter__(self) -> "Run":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Record how the run ended. An error while doing so is raised only if there was none before."""
        end = error
        if isinstance(error, OSError) and is_full_disk(error):  # from a writer that knows nothing of runs, as a picture
            path = Path(error.filename or self.folder)
            end = OSError(explain_write_error(error, path, self.folder, self._last.content))
            end.__cause__ = error
        try:
            self.wait()
            with self._explained(self.folder / files.CURVES):
                self._history.finish()
        except (OSError, KeyboardInterrupt) as failure:  # a second Ctrl-C does not wait for the checkpoint
            end = end or failure
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
            return
        if isinstance(error, KeyboardInterrupt):
            self.status["status"] = "stopped"
            name = name_signal(getattr(error, "signal", signal.SIGINT))
            self._log(logging.WARNING, f"stopped by {name} after epoch {self.status['epoch']}")
        else:
            self.status.update(status="failed", error=f"{type(error).__name__}: {error}")
            if self._log_file is not None:
                self._log_file.write_traceback(error)
        if isinstance(error, KeyboardInterrupt) or self._last.path.is_file():
            self._log(logging.INFO, f"continue  {resume_command(self.folder)}")

    def _log(self, level: int, line: str) -> None:
        if self.world.main:
            with contextlib.suppress(Exception):
                log.log(level, "%s", line)

    def _close(self) -> None:
        """Close everything that the next job of a sweep, in the same process, must not inherit."""
        if "matplotlib.pyplot" in sys.modules:
            sys.modules["matplotlib.pyplot"].close("all")
        with contextlib.suppress(Exception):
            self._history.close()
        with contextlib.suppress(Exception):
            if self._log_file is not None:
                self._log_file.close()

    def seconds(self) -> float:
        """Return the time spent on this run, over all sessions."""
        return self._seconds_before + time.monotonic() - self._started

    def update_status(self, **facts: Any) -> None:
        """Add facts to status.json."""
        self.status.update(facts)
        self._write_status()

    def _write_status(self) -> None:
        self.status["seconds"] = round(self.seconds(), 3)
        if self.world.main:
            path = self.folder / files.STATUS
            with self._explained(path):
                # Without making the folder: if a user deletes it during the run, it must stay deleted.
                write_bytes(path, format_json(self.status).encode("utf-8", "surrogateescape"))

    @contextlib.contextmanager
    def _explained(self, path: Path) -> Iterator[None]:
        """Explain an error of writing the file to the user."""
        try:
            yield
        except OSError as error:
            raise OSError(explain_write_error(error, path, self.folder, self._last.content)) from error

    def report_memory(self, micro_batch_size: int, per_device: int) -> None:
        """Report that the `per_device` images of a step do not fit into memory at once."""
        line = f"memory    {per_device} images at once do not fit; using micro-batches of {micro_batch_size}"
        model, training = self.config.model, self.config.training
        random = model.dropout or model.attention_dropout or model.drop_path or training.patch_dropout
        result = "which draw other masks of dropout: the result differs a little" if random else "with the same result"
        self._log(logging.WARNING, f"{line}, {result}")
        self.update_status(micro_batch_size=micro_batch_size)

    def record(self, row: dict[str, float], peak_memory: int | None = None) -> None:
        """Append an epoch to the metrics and redraw the curves; adds the run's seconds to the row.

        Call it before `save_last`, which saves the rows so far. peak_memory: in bytes, since the process started.
        """
        row["seconds"] = round(self.seconds(), 3)
        self.rows.append(take_snapshot(row))
        self.status["epoch"] = int(row["epoch"])
        self.status["peak_memory"] = max(self.status["peak_memory"] or 0, peak_memory or 0) or None
        if self.world.main:
            with self._explained(self.folder):
                self._history.append(self.rows)
        self._write_status()

    def is_best(self, val_acc: float, val_loss: float) -> bool:
        """Return whether an epoch is the best so far: by accuracy, then by loss."""
        if not self.best:
            return True
        new, old = (val_acc, -val_loss), (self.best["val_acc"], -self.best["val_loss"])
        return new > old or (new == old and self.status["epoch"] < self._best_ahead)

    def keep_best(
        self, models: Mapping[str, "nn.Module"], kind: str, epoch: int, val_acc: float, val_loss: float
    ) -> bool:
        """Save the weights of one of the models if the epoch is the best so far; return whether it is; collective.

        kind: "raw" or "ema", the moving average.
        """
        kind, better = self.world.broadcast((kind, self.is_best(val_acc, val_loss)))
        if better:
            self.save_best(gather_state(models[kind].state_dict()), epoch, val_acc, val_loss, kind)
        return better

    def save_best(self, weights: dict[str, Any], epoch: int, val_acc: float, val_loss: float, kind: str) -> None:
        """Save the weights of a raw module as those of the best epoch."""
        best = {"epoch": epoch, "val_acc": float(val_acc), "val_loss": float(val_loss), "kind": kind}
        if self.world.main:
            path = self.folder / files.BEST
            with self._explained(path):
                write_best(path, weights, best, self.config)
        self.best, self._best_ahead = best, 0
        self._show_best()
        self._write_status()

    def load_best(self) -> dict[str, Any]:
        """Return the weights of the best epoch, the same in all processes; collective."""
        from safetensors.torch import load_file

        self.wait()
        return self.world.broadcast(load_file(self.folder / files.BEST) if self.world.main else {})

    def best_val_acc(self) -> float:
        """Return the best validation accuracy, a fraction; 0 before the first epoch; collective."""
        return self.world.broadcast(self.best.get("val_acc", 0.0))

    def _show_best(self) -> None:
        self.status.update({name: self.best.get(key) for name, key in BEST_FACTS.items()})

    def checkpoint_due(self) -> bool:
        """Return whether training.checkpoint_minutes have passed since the last checkpoint, or the start."""
        return self._last.due(self.config.training.checkpoint_minutes)

    def save_last(self, state: dict[str, Any]) -> None:
        """Copy everything needed to continue, and write it while training continues.

        Raises OSError if the previous write failed; the checkpoint before it is then unchanged.
        """
        own = {"rows": self.rows, "best": self.best, "seconds": self.seconds()}
        self._last.save({"trainer": state, "run": own}, self._explained(self._last.path))

    def wait(self) -> None:
        """Wait until the checkpoint is written. Raises OSError if that failed."""
        self._last.wait()

    def load_last(self) -> dict[str, Any] | None:
        """Go back to the last checkpoint; return the trainer's state in it, or None, and start over, if there is none.

        Removes later epochs from the folder. Collective. Raises ValueError if the checkpoint is damaged.
        """
        self.wait()
        content, self._checkpoint = self._checkpoint if self._resuming else self._last.read(), None
        own: dict[str, Any] = content["run"] if content else {"rows": [], "best": {}, "seconds": 0.0}
        self.rows, self.best, self._best_ahead = own["rows"], own["best"], 0
        if self._resuming:  # count earlier sessions once, although an error can lead here again
            self._seconds_before, self._resuming = own["seconds"], False
        self.status["epoch"] = int(self.rows[-1]["epoch"]) if self.rows else 0
        if content:
            self._take_newer_best()
        self._show_best()
        if self.world.main:
            with self._explained(self.folder):
                self._history.rewrite(self.rows)
            self._write_status()
        return self.world.broadcast(content["trainer"] if content else None)

    def _take_newer_best(self) -> None:
        """Keep best weights of an epoch after the checkpoint, because they have overwritten the older ones."""
        best = read_best(self.folder / files.BEST)
        if best and best["epoch"] > self.status["epoch"]:
            self.best, self._best_ahead = best, best["epoch"]

    def discard_from(self, epoch: int) -> None:
        """Remove, before `epoch` is trained, its row if there is one, and the test results and figures."""
        kept = [row for row in self.rows if row["epoch"] < epoch]
        changed, self.rows = len(kept) < len(self.rows), kept
        if self.world.main:
            files.remove_results(self.folder)
        if self.world.main and changed:
            with self._explained(self.folder):
                self._history.rewrite(self.rows)
        self.update_status(epoch=epoch - 1)

    def find_end(
        self, val_acc: float, time_is_up: bool, should_prune: Callable[[int, float], bool] | None
    ) -> str | None:
        """Return what ends the run after the last recorded epoch, None if it continues; collective."""
        epoch, best_epoch = self.status["epoch"], self.best.get("epoch", 0)
        ended = find_end(self.config.training, epoch, best_epoch, val_acc, time_is_up, should_prune)
        return self.world.broadcast(ended)

    def report_end(self, ended: str, step: int, steps: int) -> None:
        """Record what has ended the run early, after `step` of the `steps` of its last epoch."""
        self.update_status(ended=ended)
        self._log(logging.INFO, f"ended     by {ended}, after step {step} of {steps} in the last epoch")

    def report_test(self, test: Mapping[str, float]) -> None:
        """Record the metrics of the test split."""
        self.update_status(test_acc=test["accuracy"])
        best, mean = self.best, test["mean_class_accuracy"]
        self._log(logging.INFO, f"best      epoch {best['epoch']}: validation accuracy {best['val_acc']:.2%}")
        low, high, count = test["accuracy_low"], test["accuracy_high"], int(test["images"])
        accuracy = f"accuracy {test['accuracy']:.2%} of {count:,} images, mean class accuracy {mean:.2%}"
        self._log(logging.INFO, f"test      {accuracy}, loss {test['loss']:.4f}")
        interval = f"on other images of this kind it would be {low:.1%} to {high:.1%} (95 % interval)"
        if count < FEW:
            self._log(logging.WARNING, f"{count} test images tell little: {interval}")
        else:
            self._log(logging.INFO, f"interval  {interval}")
        wrong = count - round(test["accuracy"] * count)
        where = short_path(self.folder / files.TEST_PREDICTIONS)
        self._log(logging.INFO, f"wrong     {wrong:,} of {count:,}, listed in {where} (correct is 0)")

    def profile_files(self) -> tuple[Path, Path] | None:
        """Return the files for the trace and the table of `training.profile`; None if it is off."""
        if not (self.config.training.profile and self.world.main):
            return None
        return self.folder / files.PROFILE_TRACE, self.folder / files.PROFILE_TABLE

    def next_steps(self) -> list[tuple[str, str]]:
        """Return the results in the folder and the commands that use them, each with a name."""
        return list_next_steps(self.folder, profiled=self.profile_files() is not None)
