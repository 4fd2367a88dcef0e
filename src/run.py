"""The run directory: what a run leaves behind. Every file name is spelt here and nowhere else.

Written so that a killed run is complete up to its last epoch: tables are appended to, everything else is
written under a temporary name and renamed.
"""

import contextlib
import csv
import io
import json
import logging
import os
import platform
import shlex
import socket
import subprocess
import time
import traceback
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from .config import Job, TrainConfig, dump_config, load_config

if TYPE_CHECKING:  # they import torch, which a table of runs does not need
    from .data import Data, Preprocessing

CONFIG, CLASSES, PREPROCESSING = "config.yaml", "classes.json", "preprocessing.json"
STATUS, ENVIRONMENT, METRICS, LOG = "status.json", "environment.json", "metrics.csv", "train.log"
CURVES, TENSORBOARD = "curves.png", "tensorboard"
BEST, LAST = "checkpoints/best.safetensors", "checkpoints/last.pt"
TEST_METRICS, PER_CLASS, CONFUSION = "test/metrics.json", "test/per_class.csv", "test/confusion_matrix.png"
PREDICTIONS, ATTENTION = "figures/predictions.png", "figures/attention.png"
AUGMENTATIONS = "figures/augmentations.png"
POSITION_EMBEDDINGS, PATCH_FILTERS = "figures/position_embeddings.png", "figures/patch_filters.png"

log = logging.getLogger("vit")


def write_text(path: Path, text: str) -> None:
    """Write a whole file or nothing: under a temporary name, then renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text, encoding="utf-8", errors="surrogateescape")  # file names need not be UTF-8
    os.replace(temporary, path)


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    table = io.StringIO()
    writer = csv.DictWriter(table, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, table.getvalue())


class Run:
    """A run that is being made; `with Run(...)` keeps its status true whatever ends the block."""

    def __init__(self, folder: Path, config: TrainConfig, job: Job, data: "Data", parameters: int) -> None:
        """Make the folder and write all that is known before training. Raises FileExistsError over another run."""
        if (folder / STATUS).exists():
            raise FileExistsError(f"{folder} already holds a run; choose another hydra.run.dir")
        self.folder = folder
        self.rows: list[dict[str, float]] = []
        self._started = time.monotonic()
        self._events: Any = None
        self._global_step = 0
        (folder / BEST).parent.mkdir(parents=True, exist_ok=True)
        self.status: dict[str, Any] = {
            "status": "running",
            "error": None,
            "started": datetime.now().astimezone().isoformat(timespec="seconds"),
            "dataset": config.dataset.name,
            "root": config.dataset.root,
            "model": job.choices.get("model", ""),
            "embedding_dim": config.model.embedding_dim,
            "num_layers": config.model.num_layers,
            "parameters": parameters,
            "epoch": 0,
            "epochs": config.training.epochs,
            "best_epoch": None,
            "best_val_acc": None,
            "best_val_loss": None,
            "test_acc": None,
            "seconds": 0.0,
            "host": socket.gethostname(),
            "pid": os.getpid(),
        }
        self._write_status()
        write_text(folder / CONFIG, dump_config(config))
        write_json(folder / CLASSES, data.classes)
        write_json(folder / PREPROCESSING, asdict(data.preprocessing))
        write_json(folder / ENVIRONMENT, describe_environment(config, job, data))
        if config.training.tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            self._events = SummaryWriter(str(folder / TENSORBOARD))
        # Last, when nothing can fail any more: a handler left behind would write the next job's lines.
        self._log_file = logging.FileHandler(folder / LOG, encoding="utf-8", errors="backslashreplace")
        self._log_file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        log.addHandler(self._log_file)

    def __enter__(self) -> "Run":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.status["status"] = "finished"
        elif isinstance(error, KeyboardInterrupt):
            self.status["status"] = "stopped"
            log.warning("stopped by Ctrl-C after epoch %d", self.status["epoch"])
        else:
            self.status.update(status="failed", error=f"{type(error).__name__}: {error}")
            # For the file alone: the terminal gets the message from the caller.
            record = "".join(traceback.format_exception(kind, error, trace))
            self._log_file.emit(logging.LogRecord("vit", logging.ERROR, "", 0, record, None, None))
        self._write_status()
        if self._events is not None:
            self._events.close()
        log.removeHandler(self._log_file)
        self._log_file.close()

    def _write_status(self) -> None:
        self.status["seconds"] = round(time.monotonic() - self._started, 3)
        write_json(self.folder / STATUS, self.status)

    def record(self, row: dict[str, float], learning_rates: list[float]) -> None:
        """Append an epoch to the metrics, redraw the curves; `learning_rates` holds one per step of the epoch."""
        from .plots import plot_curves

        row["seconds"] = round(time.monotonic() - self._started, 3)
        path = self.folder / METRICS
        new = not path.exists()
        with path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(row))
            if new:
                writer.writeheader()
            writer.writerow(row)
        self.rows.append(row)
        self.status["epoch"] = int(row["epoch"])
        self._write_status()
        plot_curves({key: [row[key] for row in self.rows] for key in row}, self.folder / CURVES)
        if self._events is not None:
            for rate in learning_rates:
                self._events.add_scalar("lr", rate, self._global_step)
                self._global_step += 1
            for key in row.keys() - {"epoch", "lr"}:
                self._events.add_scalar(key, row[key], int(row["epoch"]))
            self._events.flush()

    def next_steps(self) -> list[tuple[str, str]]:
        """Return what is where in the folder, and the commands that use it."""
        folder = self.folder.relative_to(Path.cwd()) if self.folder.is_relative_to(Path.cwd()) else self.folder
        quoted = shlex.quote(str(folder))
        return [
            ("curves", f"{folder / CURVES}"),
            ("test", f"{folder / TEST_METRICS}, {Path(PER_CLASS).name}, {Path(CONFUSION).name}"),
            ("figures", f"{(folder / PREDICTIONS).parent}"),
            ("weights", f"{folder / BEST}"),
            ("predict", f"python inference.py run={quoted} input=IMAGE"),
            ("browse", f"tensorboard --logdir {quoted}"),
        ]

    def is_best(self, val_acc: float, val_loss: float) -> bool:
        """Tell whether an epoch is the best so far: by accuracy, among equal ones by loss."""
        best_acc, best_loss = self.status["best_val_acc"], self.status["best_val_loss"]
        return best_acc is None or (val_acc, -val_loss) > (best_acc, -best_loss)

    def save_best(self, weights: dict[str, Any], epoch: int, val_acc: float, val_loss: float) -> None:
        """Keep the weights of the raw module as those of the best epoch."""
        from safetensors.torch import save_file

        path = self.folder / BEST
        temporary = path.with_name(f".{path.name}.tmp")
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
        save_file(tensors, temporary, {"epoch": str(epoch), "val_acc": str(val_acc)})
        os.replace(temporary, path)
        self.status.update(best_epoch=epoch, best_val_acc=val_acc, best_val_loss=val_loss)

    def save_last(self, state: dict[str, Any]) -> None:
        """Keep everything that continuing needs; loadable with weights_only=True."""
        import torch

        path = self.folder / LAST
        temporary = path.with_name(f".{path.name}.tmp")
        torch.save(state, temporary)
        os.replace(temporary, path)


def describe_environment(config: TrainConfig, job: Job, data: "Data") -> dict[str, Any]:
    import hydra
    import torch
    import torchvision

    cuda = torch.cuda.is_available()
    return {
        "command": job.command,
        "overrides": job.overrides,
        "choices": {key: value for key, value in job.choices.items() if not key.startswith("hydra/")},
        "git": _git_state(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "hydra": hydra.__version__,
        "platform": platform.platform(),
        "cpu_threads": torch.get_num_threads(),
        "cuda": torch.version.cuda if cuda else None,
        "gpu": torch.cuda.get_device_name() if cuda else None,
        "data_fingerprint": data.fingerprint(),
        "images": {"train": len(data.train), "val": len(data.val), "test": len(data.test)},
    }


def _git_state() -> dict[str, Any] | None:
    def git(*arguments: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    with contextlib.suppress(OSError, subprocess.SubprocessError):
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}
    return None


@dataclass
class SavedRun:
    """A run on disk, as its status.json tells. `status` is "killed" where the process is gone without a word."""

    folder: Path
    status: str
    facts: dict[str, Any]

    @property
    def started(self) -> str:
        return str(self.facts.get("started", ""))

    @property
    def dataset(self) -> str:
        """The data set's name, with the folder's for images of one's own."""
        root = self.facts.get("root")
        name = str(self.facts.get("dataset"))
        return f"{name} ({Path(root).name})" if name == "image_folder" and root else name

    @property
    def source(self) -> tuple[Any, Any]:
        """What makes two runs comparable: data set and folder."""
        return self.facts.get("dataset"), self.facts.get("root")

    @property
    def val_acc(self) -> float:
        return float(self.facts.get("best_val_acc") or 0.0)

    def usable(self) -> bool:
        return (self.folder / BEST).is_file()

    def load(self) -> tuple[TrainConfig, list[str], "Preprocessing"]:
        """Return configuration, classes and preprocessing; together with the weights, all that inference needs."""
        from .data import Preprocessing

        try:
            classes = json.loads(_read_text(self.folder / CLASSES))
            preprocessing = Preprocessing.from_json(json.loads(_read_text(self.folder / PREPROCESSING)))
            return load_config(self.folder / CONFIG), classes, preprocessing
        except Exception as error:  # of json, yaml, the schema: whatever is wrong, this run cannot be used
            reason = str(error).splitlines()[0]
            raise ValueError(f"the run {self.folder} is damaged: {reason}") from error


def _read_text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="surrogateescape")


def read_run(folder: Path) -> SavedRun:
    """Read a run's status. Raises FileNotFoundError or ValueError where the folder is not a run."""
    path = folder / STATUS
    if not path.is_file():
        raise FileNotFoundError(f"run={folder} is not a run: it holds no {STATUS}")
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        status = str(facts["status"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if status == "running" and facts.get("host") == socket.gethostname() and not _is_alive(facts.get("pid")):
        status = "killed"
    return SavedRun(folder, status, facts)


def _is_alive(pid: Any) -> bool:
    try:
        os.kill(int(pid), 0)
    except PermissionError:  # somebody else's, but there
        return True
    except (OSError, TypeError, ValueError, OverflowError):
        return False
    return True


def find_runs(roots: list[str]) -> list[SavedRun]:
    """Return the usable runs below the roots (those with weights), newest first."""
    runs = []
    for folder in (folder for root in roots for folder in _walk(Path(os.path.expanduser(root)))):
        with contextlib.suppress(ValueError, OSError):
            run = read_run(folder)
            if run.usable():
                runs.append(run)
    return sorted(runs, key=lambda run: (run.started, str(run.folder)), reverse=True)


def _walk(root: Path) -> Iterator[Path]:
    """Yield the run folders below root without descending into them."""
    for parent, folders, files in os.walk(root):
        if STATUS in files:
            folders.clear()
            yield Path(parent)


def best_run(runs: list[SavedRun]) -> SavedRun:
    """Return the run of the highest validation accuracy among those on the newest run's data set."""
    return max((run for run in runs if run.source == runs[0].source), key=lambda run: run.val_acc)


def choose_run(wanted: str, roots: list[str]) -> SavedRun:
    """Return the run for `run=latest`, `run=best` or `run=<folder>`. Raises where there is none with weights."""
    if wanted not in ("latest", "best"):
        run = read_run(Path(os.path.expanduser(wanted)))
        if not run.usable():
            raise FileNotFoundError(f"run={wanted} has no weights yet: it ended before its first epoch")
        return run
    runs = find_runs(roots)
    if not runs:
        raise FileNotFoundError(f"no runs with weights in {', '.join(roots)}; train one first: python train.py")
    return runs[0] if wanted == "latest" else best_run(runs)
