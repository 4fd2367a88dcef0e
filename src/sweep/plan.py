"""A sweep's plan: its jobs, as `sweep.json` stores them, and how they are run this time."""

import contextlib
import functools
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig

from ..config.checks import check
from ..config.options import CONFIGS
from ..config.overrides import name_key, split_override
from ..config.sweep import SweepConfig
from ..distributed.torchrun import Place
from ..machine.disk import read_json, write_json
from ..run.claim import refuse_links
from ..run.files import PLAN_LOCK, SWEEP, SWEEP_OPEN
from ..tables import list_differing

# Settings of `sweep` that say how the jobs are run, not which jobs there are: they may change when a sweep continues.
CHANGEABLE = ("trials", "on_error", "isolate", "gpus", "parallel", "only", "after")
LARGEST = 2**28  # bytes of sweep.json; a job takes 5 KB
JOB_PROCESS = "VIT_SWEEP_JOB"  # set in the environment of a process that runs one job of a sweep


@dataclass
class PlannedJob:
    """A job of a sweep: the overrides that train it alone, its folder in the sweep's, its checked configuration."""

    overrides: list[str]
    folder: str
    config: dict[str, Any]

    def texts(self) -> dict[str, str]:
        """Return the values of the overrides by key, as typed."""
        return dict(map(split_override, self.overrides))

    def values(self) -> dict[str, Any]:
        """Return the values of the overrides by key, as Hydra reads them: 1e-3 and 0.001 are equal."""
        return {name_key(override): _read_value(override) for override in self.overrides}


@functools.cache
def _read_value(override: str) -> Any:
    try:
        return OverridesParser.create().parse_override(override).value()
    except HydraException:  # in a plan that was edited by hand
        return split_override(override)[1]


@dataclass
class Plan:
    """A sweep as stored in sweep.json.

    overrides: as typed; hydra: those for Hydra itself; flags: the words with dashes; space: for a search, the values
    that it chooses from, by key; base: what a search starts from; cwd: the folder that relative paths refer to, unknown
    in plans of earlier versions. Jobs of a search are added as they are chosen.
    """

    overrides: list[str]
    hydra: list[str]
    flags: list[str]
    jobs: list[PlannedJob] = field(default_factory=list)
    space: dict[str, dict[str, Any]] = field(default_factory=dict)
    base: PlannedJob | None = None
    cwd: str = ""

    def list_swept(self) -> list[str]:
        """Return the keys whose values are not equal in all jobs."""
        return list(dict.fromkeys([*self.space, *list_differing([job.values() for job in self.jobs])]))


@dataclass
class Sweep:
    """A plan and how it is run this time. Hydra's launchers call it for each job, in this process or another.

    folder: exists already unless `is_new`; made: by this process; run_job: trains the job of a composed configuration;
    shared: other jobs run at the same time, so that a job prints little; pid: of the process that runs the sweep.
    added: jobs at the end of the plan that sweep.json does not have yet; elsewhere: another process runs the sweep, and
    this one only adds jobs; check_added: raises ValueError for jobs that are not taken from sweep.json.
    """

    plan: Plan
    settings: SweepConfig
    folder: Path
    is_new: bool = True
    made: bool = False
    place: Place = Place()
    run_job: Callable[..., Any] | None = None
    shared: bool = False
    pid: int = field(default_factory=os.getpid)
    added: int = 0
    elsewhere: bool = False
    check_added: Callable[[list[PlannedJob]], None] | None = None

    @property
    def takes_more(self) -> bool:
        """Whether the process that runs the sweep looks for jobs that others add: not if it has a list to work off."""
        settings = self.settings
        return not (settings.search or settings.only or self.shared or self.place.size > 1)

    def __call__(self, cfg: DictConfig) -> str:
        """Run a job and return its status."""
        from .job import run_planned_job  # not at the top: it needs rich, and errors in a command are to show at once

        return run_planned_job(self, cfg)

    def store(self) -> None:
        """Write the plan to sweep.json."""
        write_json(self.folder / SWEEP, asdict(self.plan))

    def open(self) -> None:
        """Write the plan, with what others have added since it was read, and show them whether this process takes more.

        Whoever holds the folder opens the plan and closes it, and others add to it, under `lock_plan`.
        """
        with lock_plan(self.folder):
            if (self.folder / SWEEP).is_file():
                self.read_added()
            self.store()
            if self.takes_more:
                (self.folder / SWEEP_OPEN).touch()

    def close(self) -> None:
        """Take no more jobs: a process that adds some from now on waits for the end of this one, and runs them."""
        with contextlib.suppress(OSError), lock_plan(self.folder):
            (self.folder / SWEEP_OPEN).unlink(missing_ok=True)

    def read_added(self) -> None:
        """Take the jobs that others have added to sweep.json. Raises OSError or ValueError, and takes none then."""
        jobs, count = read_plan(self.folder).jobs, len(self.plan.jobs)
        if jobs[:count] != self.plan.jobs or self.settings.search:
            return
        if self.check_added is not None:
            self.check_added(jobs[count:])
        self.plan.jobs += jobs[count:]

    def check_numbers(self) -> None:
        """Raise ValueError for numbers in `sweep.only` of jobs that do not exist, or not yet in a search."""
        count = len(self.plan.jobs)
        if wrong := [number for number in self.settings.only or [] if number >= count]:
            has = f"the jobs 0 to {count - 1}" if count else "no jobs yet"
            raise ValueError(f"sweep.only={wrong[0]}: the sweep has {has}")


def lock_plan(folder: Path) -> FileLock:
    """Return the lock for `with` that a process has while it adds jobs to a sweep, takes its folder, or lets it go."""
    refuse_links(folder, deep=False)
    return FileLock(folder / PLAN_LOCK)


def read_plan(folder: Path) -> Plan:
    """Read a sweep's sweep.json. Raises FileNotFoundError or ValueError if the folder is not a sweep."""
    path = folder / SWEEP
    if not path.is_file():
        raise FileNotFoundError(f"{folder} is not a sweep: it has no {SWEEP}")
    try:
        values = read_json(path, LARGEST)
        jobs = [PlannedJob(**job) for job in values.pop("jobs")]
        base = values.pop("base")
        plan = Plan(**values, jobs=jobs, base=PlannedJob(**base) if base else None)
        _check_types(plan)
        return plan
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        newer = " or was written by a newer version of this program" if "unexpected keyword" in str(error) else ""
        raise ValueError(f"{path} is damaged{newer}: {error}") from error


def _check_types(plan: Plan) -> None:
    """Raise ValueError for parts of a plan that are not what it has: the file may be a stranger's."""
    jobs = [*plan.jobs, *([plan.base] if plan.base else [])]
    for words in (plan.overrides, plan.hydra, plan.flags, *(job.overrides for job in jobs)):
        check(isinstance(words, list) and all(isinstance(word, str) for word in words), f"{words} is no list of words")
    for job in jobs:
        check(isinstance(job.config, dict), f"the configuration of {job.folder!r} is invalid")
        check(is_plain(job.folder), f"{job.folder!r} is not a folder inside that of the sweep")
        sections = [job.config.get(name, {}) for name in ("dataset", "training", "sweep")]
        check(all(isinstance(section, dict) for section in sections), f"the configuration of {job.folder} is invalid")
    check(len({job.folder for job in plan.jobs}) == len(plan.jobs), "two jobs have the same folder")
    check(isinstance(plan.cwd, str), f"{plan.cwd} is no folder")
    spaces = plan.space.values()
    kinds = [{"choices"}, {"low", "high", "log", "whole"}]
    check(all(isinstance(space, dict) and set(space) in kinds for space in spaces), "its space is invalid")


def is_plain(folder: Any) -> bool:
    """Return whether this is a path of folders inside another one, without links up or hidden parts."""
    if not isinstance(folder, str) or not folder or "\0" in folder:
        return False
    parts = Path(folder).parts
    known = all(not part.startswith(".") and len(os.fsencode(part)) < 256 for part in parts)
    return 0 < len(parts) < 10 and not Path(folder).is_absolute() and known


def list_untrusted(hydra: list[str]) -> list[str]:
    """Return the words for Hydra that are not taken from sweep.json, because they could run code."""
    launchers = {"basic", *(path.stem for path in (CONFIGS / "hydra" / "launcher").glob("*.yaml"))}
    harmless = {"hydra.sweep.dir", "hydra.sweep.subdir", "hydra.run.dir"}  # not used: a sweep has its folders
    known = {f"hydra/launcher={name}" for name in launchers}
    return [word for word in hydra if word not in known and name_key(word) not in harmless]


def open_sweep(wanted: str, root: Path) -> tuple[Path, Plan]:
    """Return folder and plan for `--multirun resume=latest` (the newest below `root`) or `resume=<folder>`."""
    hint = "leave --multirun out to continue a single run"
    if wanted.lower() == "latest":
        folder = next(find_sweeps(root), None)
        if folder is None:
            raise FileNotFoundError(f"--multirun resume=latest: no sweeps in {root} below {os.getcwd()}; {hint}")
    else:
        folder = Path(os.path.expanduser(wanted))
        if not (folder / SWEEP).is_file():
            raise FileNotFoundError(f"--multirun resume={wanted} is not a sweep: it has no {SWEEP}; {hint}")
    return folder, read_plan(folder)


def find_sweeps(root: Path) -> Iterator[Path]:
    """Yield the sweeps up to two folders below `root`, the last active one first."""
    folders = [path.parent for depth in ("*", "*/*") for path in root.glob(f"{depth}/{SWEEP}")]
    yield from sorted(folders, key=lambda folder: (folder.stat().st_mtime, folder), reverse=True)
