"""A job: what Hydra, or one of its launchers in another process, calls, and how an error of it is told."""

import contextlib
import json
import os
import sys
import textwrap
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from .compose import to_config
from .folders import remove_folder
from .plan import Plan, Sweep
from .resume import ResumedRun, open_run
from .schema import TrainConfig

# What a user can mend; anything else is a defect of ours and shows its traceback.
USER_ERRORS = (ValueError, OSError, FloatingPointError, HydraException, OmegaConfBaseException, yaml.YAMLError)


@dataclass
class Job:
    """One job of a run or sweep: its folder, what was typed for it, and the option chosen of each group."""

    folder: Path
    overrides: list[str]
    choices: dict[str, str]
    command: list[str] = field(default_factory=list)  # as typed
    quiet: bool = False  # nothing is shown, as other jobs run at the same time
    stop: Path | None = None  # a file that asks it to end, once something is in it
    judge: Callable[[int, float], bool] | None = None  # epoch, validation accuracy -> whether to end it as hopeless


class JobFailed(BaseException):  # noqa: N818 - no Exception, so that Hydra lets it through
    """A job failed, was told, and must end this process."""


@dataclass
class Start:
    """What all jobs of a start share."""

    schema: type[Any]
    command: list[str]
    rank: int
    local_rank: int
    world_size: int
    find_run: Callable[[str], Path] | None = None
    run: ResumedRun | None = None
    reopened: tuple[Path, Plan] | None = None  # the sweep that is to go on
    sweep: Sweep | None = None
    failures: list[str] = field(default_factory=list)  # names alone: an exception would keep its job's data alive

    def fail(self, error: Exception) -> None:
        """Tell what a user can mend in a line, a defect of ours with its traceback, and count it."""
        self.failures.append(type(error).__name__)
        full = bool(os.environ.get("HYDRA_FULL_ERROR")) or not isinstance(error, USER_ERRORS)
        self.tell("".join(traceback.format_exception(error)) if full else f"error: {error}\n")

    def tell(self, text: str) -> None:
        """Print what ends a job; torchrun, given it too, closes with the words of the process that failed first."""
        if path := os.environ.get("TORCHELASTIC_ERROR_FILE"):
            facts = {"py_callstack": text.strip(), "timestamp": str(int(time.time()))}  # the first is what it shows
            with contextlib.suppress(OSError):
                Path(path).write_text(json.dumps({"message": {"message": text.strip(), "extraInfo": facts}}))
        if self.rank > 0:
            text = textwrap.indent(text, f"[rank {self.rank}] ", lambda line: True)
        print(text, end="", file=sys.stderr, flush=True)


class Task:
    """What Hydra, or one of its launchers in another process, calls for each job."""

    def __init__(self, main: Callable[[Any, Job], Any], start: Start) -> None:
        self.main, self.start = main, start

    def __call__(self, cfg: DictConfig, **facts: Any) -> Any:
        """Call `main` with the job's configuration; `facts` are further ones of its `Job`.

        An error is told and counted; that of a sweep's job is raised again, for the sweep to record.
        """
        start, runtime = self.start, HydraConfig.get()
        run = start.run
        if start.sweep is not None and cfg.resume is not None:  # a job that was begun before
            run = open_run(Path(cfg.resume))
        # Not asked of Hydra: it would interpolate the name of a folder.
        folder = start.run.folder if start.run and start.rank == 0 else Path(runtime.runtime.output_dir)
        choices = run.choices if run else dict(runtime.runtime.choices)
        job = Job(folder, list(runtime.overrides.task), choices, start.command, **facts)
        try:
            if run is not None and start.run is None:
                return self.main(replace(run.config, resume=str(run.folder)), job)
            return self.main(to_config(start.schema, cfg, job.overrides), job)
        except Exception as error:
            if os.environ.get("HYDRA_FULL_ERROR") and start.world_size == 1 and start.sweep is None:
                raise
            start.fail(error)
            if start.world_size > 1:  # the others wait for this process; the launcher ends them when it has ended
                raise JobFailed from None
            if start.sweep is not None:
                raise
            return None
        finally:
            # What failed before the run began (a broken data set, say) leaves no folder; Hydra had made it.
            new = start.schema is TrainConfig and run is None and start.rank == 0
            if new and {path.name for path in folder.iterdir()} <= {".hydra"}:
                remove_folder(folder)
