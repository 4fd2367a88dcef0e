"""A sweep's plan: which jobs there are, as `sweep.json` holds it, and how they are carried out this time."""

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from ..config.overrides import split_override
from ..config.sweep import SweepConfig
from ..distributed.torchrun import Place
from ..machine.disk import write_json
from ..run.files import SWEEP

# Settings of `sweep` that do not decide which jobs there are: they may be typed anew when a sweep goes on.
MANNERS = ("trials", "on_error", "isolate", "gpus", "parallel", "only")


@dataclass
class PlannedJob:
    """A job of a sweep: the overrides that train it alone, its folder below the sweep's, its checked configuration."""

    overrides: list[str]
    folder: str
    config: dict[str, Any]


@dataclass
class Plan:
    """A sweep as sweep.json holds it.

    overrides: as typed; hydra: those for Hydra itself; flags: the words with dashes. `space` holds the values of each
    key that a search chooses from, and `base` what it starts from; its jobs are added as they are chosen.
    """

    overrides: list[str]
    hydra: list[str]
    flags: list[str]
    jobs: list[PlannedJob] = field(default_factory=list)
    space: dict[str, dict[str, Any]] = field(default_factory=dict)
    base: PlannedJob | None = None

    def list_swept(self) -> list[str]:
        """Return the keys whose values are not the same in all jobs."""
        values = [dict(split_override(override) for override in job.overrides) for job in self.jobs]
        keys = dict.fromkeys([*self.space, *(key for job in values for key in job)])
        return [key for key in keys if key in self.space or len({job.get(key) for job in values}) > 1]


@dataclass
class Sweep:
    """A plan, and how it is carried out this time; what Hydra's launchers call for each job, in whatever process.

    folder: where it is, or, in a new one, will be; is_new: whether that folder is still to be made; run_job: trains
    the job of a composed configuration; shared: whether other jobs run at the same time, so that little is shown;
    pid: the process that carries the sweep out.
    """

    plan: Plan
    settings: SweepConfig
    folder: Path
    is_new: bool = True
    place: Place = Place()
    run_job: Callable[..., Any] | None = None
    shared: bool = False
    pid: int = field(default_factory=os.getpid)

    def __call__(self, cfg: DictConfig) -> str:
        """Run a job and return its status."""
        from .job import run_planned_job  # not above: it needs rich, and a typo does not wait for that

        return run_planned_job(self, cfg)

    def store(self) -> None:
        """Write the plan."""
        write_json(self.folder / SWEEP, asdict(self.plan))

    def check_numbers(self) -> None:
        """Refuse `sweep.only` numbers that the sweep does not have, or a search not yet."""
        count = len(self.plan.jobs)
        if wrong := [number for number in self.settings.only or [] if number >= count]:
            has = f"the jobs 0 to {count - 1}" if count else "no jobs yet"
            raise ValueError(f"sweep.only={wrong[0]}: the sweep has {has}")


def read_plan(folder: Path) -> Plan:
    """Read a sweep's sweep.json. Raises FileNotFoundError or ValueError where the folder is not a sweep."""
    path = folder / SWEEP
    if not path.is_file():
        raise FileNotFoundError(f"{folder} is not a sweep: it holds no {SWEEP}")
    try:
        values = json.loads(path.read_text(encoding="utf-8", errors="surrogateescape"))
        jobs = [PlannedJob(**job) for job in values.pop("jobs")]
        base = values.pop("base")
        return Plan(**values, jobs=jobs, base=PlannedJob(**base) if base else None)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error


def open_sweep(wanted: str, root: Path) -> tuple[Path, Plan]:
    """Return the folder and plan of `--multirun resume=latest`, the newest below `root`, or `resume=<folder>`."""
    if wanted.lower() == "latest":
        folder = next(find_sweeps(root), None)
        if folder is None:
            raise FileNotFoundError(
                f"--multirun resume=latest: no sweeps in {root} below {os.getcwd()}; "
                "leave --multirun out to continue a single run"
            )
    else:
        folder = Path(os.path.expanduser(wanted))
        if not (folder / SWEEP).is_file():
            raise FileNotFoundError(
                f"--multirun resume={wanted} is not a sweep: it holds no {SWEEP}; "
                "leave --multirun out to continue a single run"
            )
    return folder, read_plan(folder)


def find_sweeps(root: Path) -> Iterator[Path]:
    """Yield the sweeps up to two folders below `root`, the one that was last active first."""
    folders = [path.parent for depth in ("*", "*/*") for path in root.glob(f"{depth}/{SWEEP}")]
    yield from sorted(folders, key=lambda folder: (folder.stat().st_mtime, folder), reverse=True)
