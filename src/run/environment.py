"""The contents of status.json and environment.json: facts about a run; its command, versions, machine, images."""

import contextlib
import os
import platform
import socket
import subprocess
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config.schema import TrainConfig
from ..distributed.torchrun import read_place
from ..machine.processes import start_time
from ..machine.processor import describe_processor
from .job import Job

if TYPE_CHECKING:
    from ..data.load import Data

# What a resumed run keeps of its status until its checkpoint is loaded.
KEPT_ON_RESUME = ("started", "epoch", "best_epoch", "best_val_acc", "best_val_loss", "best_weights", "peak_memory")


def now() -> str:
    return datetime.now().astimezone().isoformat(timespec="seconds")


def describe_run(config: TrainConfig, job: Job, parameters: int) -> dict[str, Any]:
    """Return the initial content of status.json."""
    return {
        "status": "running",
        "error": None,
        "ended": None,
        "started": now(),
        "dataset": config.dataset.name,
        "root": config.dataset.root,
        "model": job.choices.get("model", ""),
        "embedding_dim": config.model.embedding_dim,
        "num_layers": config.model.num_layers,
        "parameters": parameters,
        "micro_batch_size": None,
        "peak_memory": None,  # bytes, of the device or, on a CPU, of the process
        "epoch": 0,
        "epochs": config.training.epochs,
        "best_epoch": None,
        "best_val_acc": None,
        "best_val_loss": None,
        "best_weights": None,
        "test_acc": None,
        "seconds": 0.0,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "process_started": start_time(os.getpid()),
        "slurm_job": os.environ.get("SLURM_JOB_ID"),
    }


def describe_environment(job: Job, data: "Data") -> dict[str, Any]:
    """Return the initial content of environment.json."""
    return {
        **describe_session(job),
        "choices": {key: value for key, value in job.choices.items() if not key.startswith("hydra/")},
        "data_fingerprint": data.fingerprint(),
        "images": count_images(data),
        "resumed": [],
    }


def describe_session(job: Job) -> dict[str, Any]:
    """Return what may differ between sessions of a run, its start and its continuations."""
    import hydra
    import torch

    from ..augment.chunks import count_cores

    cuda = torch.cuda.is_available()
    return {
        "time": now(),
        "command": job.command,
        "cwd": job.cwd,
        "overrides": job.overrides,
        "processes": read_place().size,
        "git": _git_state(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": version("torchvision"),  # importing it takes a tenth of a second
        "hydra": hydra.__version__,
        "platform": platform.platform(),
        "host": socket.gethostname(),
        "processor": describe_processor(),
        "cores": count_cores(),
        "cpu_threads": torch.get_num_threads(),
        "cuda": torch.version.cuda if cuda else None,
        "gpu": torch.cuda.get_device_name() if cuda else None,
    }


def count_images(data: "Data") -> dict[str, int]:
    return {"train": len(data.train), "val": len(data.val), "test": len(data.test)}


def check_same_images(environment: dict[str, Any], config: TrainConfig, data: "Data") -> None:
    """Raise ValueError, with the numbers of images, if they are not those that the run was started with."""
    if environment.get("data_fingerprint") in (None, data.fingerprint()):
        return
    dataset, before = config.dataset, environment.get("images") or {}
    source = f"dataset.root={dataset.root}" if dataset.root else f"dataset={dataset.name}"
    has, had = (
        ", ".join(f"{images.get(split, '?')} {split}" for split in ("train", "val", "test"))
        for images in (count_images(data), before)
    )
    raise ValueError(
        f"the images are not those that the run was started with (some were added, removed or changed): {source} has "
        f"{has}; it had {had}; restore them, or start a new run without resume"
    )


def _git_state() -> dict[str, Any] | None:
    def git(*arguments: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *arguments]
        done = subprocess.run(command, capture_output=True, check=True, timeout=10)
        return done.stdout.decode("utf-8", "replace").strip()  # names of files in it need not be in any encoding

    with contextlib.suppress(OSError, subprocess.SubprocessError):
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}
    return None
