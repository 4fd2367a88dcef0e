"""What a sweep is going to train, checked before it begins, and known again when the same is typed once more."""

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from .checks import check
from .compose import flatten, show_value
from .dataset import DatasetConfig
from .jobs import add_params, expand, list_choices, name_key, read_interval
from .resume import changes_nothing
from .schema import TrainConfig
from .sweep import SweepConfig

SWEEP = "sweep.json"
# Of `sweep`, what does not decide which jobs there are: it may be typed anew when a sweep goes on.
MANNERS = ("trials", "on_error", "isolate", "gpus", "parallel", "only")
MANY = 50  # jobs that take some seconds to check, about a tenth each
EXTREMES = 64  # values that are checked before a search, each with the others' first; it chooses its jobs on the way


@dataclass
class PlannedJob:
    """A job of a sweep: what would train it alone, its folder below the sweep's, its checked configuration."""

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
    """A plan, and how it is carried out this time. `folder` is where an earlier start began it, None for a new one."""

    plan: Plan
    settings: SweepConfig
    folder: Path | None = None

    def check_numbers(self) -> None:
        """Refuse numbers of jobs that the sweep does not have, or a search not yet."""
        count = len(self.plan.jobs)
        if wrong := [number for number in self.settings.only or [] if number >= count]:
            has = f"the jobs 0 to {count - 1}" if count else "no jobs yet"
            raise ValueError(f"sweep.only={wrong[0]}: the sweep has {has}")


def split_override(override: str) -> tuple[str, str]:
    return name_key(override), override.partition("=")[2]


def is_for_hydra(override: str) -> bool:
    return name_key(override).startswith(("hydra.", "hydra/"))


@dataclass
class Composer:
    """Hydra, while it is composing: `raw` gives what it makes of overrides, `checked` also our own checks' result."""

    raw: Callable[[list[str]], DictConfig]
    checked: Callable[[list[str]], tuple[TrainConfig, DictConfig]]
    parser: OverridesParser


def plan_sweep(overrides: list[str], flags: list[str], composer: Composer) -> tuple[Sweep, Path]:
    """Return a new sweep, every job of it checked, and the folder that Hydra would give it.

    Raises what is wrong with the first bad job, with its overrides and how many more there are in a note.
    """
    hydra = [override for override in overrides if is_for_hydra(override)]
    typed = [override for override in overrides if not is_for_hydra(override)]
    words = [override for override in typed if not name_key(override).startswith("sweep.")]
    settings, folder = _read_settings(overrides, composer)
    plan = Plan(typed, hydra, flags)
    if settings.search is None:
        plan.jobs = _check_jobs(expand(words, settings, composer.parser), hydra, composer)
        _refuse_shared_folders(plan.jobs)
        _refuse_doubles(plan.jobs)
    else:
        plan.space, extremes = _plan_search(words, settings, composer.parser)
        plan.base = _check_jobs(extremes, hydra, composer)[0]
    if (plan.base or plan.jobs[0]).config["check"]:
        raise ValueError("check=true looks at one data set and trains nothing; leave --multirun out")
    return Sweep(plan, settings), folder


def _read_settings(overrides: list[str], composer: Composer) -> tuple[SweepConfig, Path]:
    parsed = composer.parser.parse_overrides(overrides)
    one_valued = []
    for word, override in zip(overrides, parsed, strict=True):
        if not override.is_sweep_override():
            one_valued.append(word)
        elif name_key(word).startswith("sweep."):
            raise ValueError(f"{word}: how a sweep is run has one value; a list is written in brackets, e.g. [1,2]")
    cfg = composer.raw(one_valued)
    settings = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(SweepConfig), cfg.sweep))
    assert isinstance(settings, SweepConfig)
    return settings, Path(str(cfg.hydra.sweep.dir))


def reopen_sweep(saved: Plan, folder: Path, overrides: list[str], composer: Composer) -> Sweep:
    """Return a sweep that goes on; overrides: all of them, as `merge_typed` has put them together.

    Raises ValueError where one of its jobs would be another one by now.
    """
    settings, _ = _read_settings(overrides, composer)
    hydra = [override for override in overrides if is_for_hydra(override)]
    sweep = Sweep(saved, settings, folder)
    sweep.check_numbers()
    for number in settings.only or range(len(saved.jobs)):
        before = saved.base or saved.jobs[number]  # of a search only what it starts from is known
        _refuse_change(number, before, _check_job(before.overrides, number, hydra, composer))
        if saved.base:
            break
    return sweep


def _plan_search(
    words: list[str], settings: SweepConfig, parser: OverridesParser
) -> tuple[dict[str, dict[str, Any]], list[list[str]]]:
    """Return the values of each key to search, and jobs with their extremes, the first of them first."""
    parsed = parser.parse_overrides(add_params(words, settings, parser))
    space: dict[str, dict[str, Any]] = {}
    fixed, extremes = [], []
    for override in parsed:
        if not override.is_sweep_override():
            fixed.append(str(override.input_line))
            continue
        key = str(override.get_key_element())
        if key == "seed":
            raise ValueError(f"{override.input_line}: a search trains each of its jobs once; type one seed")
        if override.is_discrete_sweep():
            extremes.append(list_choices(override))
            space[key] = {"choices": [choice.partition("=")[2] for choice in extremes[-1]]}
        else:
            low, high, logarithmic, whole = read_interval(override)
            extremes.append([f"{key}={low}", f"{key}={high}"])
            space[key] = {"low": low, "high": high, "log": logarithmic, "whole": whole}
    if not space:
        raise ValueError(
            f"sweep.search={settings.search} has nothing to choose from; type values, e.g. model.num_layers=4,6,8 "
            "training.lr='tag(log,interval(1e-4,1e-2))', or name an experiment that has them (experiment=search_digits)"
        )
    first = [values[0] for values in extremes]
    jobs = [[*fixed, *first]]
    for position, values in enumerate(extremes):
        jobs += [[*fixed, *first[:position], value, *first[position + 1 :]] for value in values[1:]]
    return space, jobs[:EXTREMES]


def _check_jobs(jobs: list[list[str]], hydra: list[str], composer: Composer) -> list[PlannedJob]:
    if len(jobs) >= MANY:
        print(f"checking  {len(jobs)} jobs", file=sys.stderr, flush=True)
    checked, errors = [], []
    for number, overrides in enumerate(jobs):
        try:
            checked.append(_check_job(overrides, number, hydra, composer))
        except Exception as error:  # whatever is wrong with it is told, with the job's overrides
            error.add_note(f"in the job {' '.join(overrides)}")
            errors.append(error)
    if errors:
        if len(errors) > 1:
            errors[0].add_note(f"and {len(errors) - 1} more of the {len(jobs)} jobs cannot be run")
        raise errors[0]
    return checked


def _check_job(overrides: list[str], number: int, hydra: list[str], composer: Composer) -> PlannedJob:
    config, cfg = composer.checked([*hydra, f"hydra.job.num={number}", f"hydra.job.id={number}", *overrides])
    _check_images(config.dataset)
    return PlannedJob(overrides, str(cfg.hydra.sweep.subdir), _to_json(config))


def _check_images(dataset: DatasetConfig) -> None:
    """Refuse a folder without class folders, as it would be found only when its job begins."""
    if dataset.name == "image_folder" and dataset.root is not None:
        root = Path(dataset.root)
        there = any(path.is_dir() for path in root.iterdir())
        check(there, f"dataset.root={root} holds no folders; each class has its own, e.g. {root / 'cat' / '1.jpg'}")


def _to_json(config: TrainConfig) -> dict[str, Any]:
    return json.loads(json.dumps(asdict(config)))


def _refuse_shared_folders(jobs: list[PlannedJob]) -> None:
    folders: dict[str, int] = {}
    for number, job in enumerate(jobs):
        if (other := folders.setdefault(job.folder, number)) != number:
            raise ValueError(
                f"hydra.sweep.subdir gives jobs {other} and {number} one folder, {job.folder}; "
                "leave it out, or let it hold ${hydra.job.num}"
            )


def _refuse_doubles(jobs: list[PlannedJob]) -> None:
    """Refuse jobs that would train the same: as repeats they would show a deviation of none."""
    seen: dict[str, int] = {}
    for number, job in enumerate(jobs):
        if (other := seen.setdefault(json.dumps(job.config), number)) != number:
            first, second = (" ".join(same.overrides) for same in (jobs[other], job))
            raise ValueError(
                f"jobs {other} and {number} would train the same ({first}; {second}); repeats differ in their seed"
            )


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
        folder = next(_find_sweeps(root), None)
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


def _find_sweeps(root: Path) -> Iterator[Path]:
    """Yield the sweeps up to two folders below `root`, the one that was last at work first."""
    folders = [path.parent for depth in ("*", "*/*") for path in root.glob(f"{depth}/{SWEEP}")]
    yield from sorted(folders, key=lambda folder: (folder.stat().st_mtime, folder), reverse=True)


def find_same(plan: Plan, folder: Path, typed: bool) -> tuple[Path, Plan] | None:
    """Return folder and plan of the newest sweep that the same command has begun, None where there is none.

    folder: where a new one would go; where it was `typed`, no other is looked at.
    """
    for candidate in [folder] if typed else _find_sweeps(folder.parent.parent):
        with contextlib.suppress(OSError, ValueError):
            saved = read_plan(candidate)
            if _is_same(saved, plan):
                return candidate, saved
    return None


def _is_same(saved: Plan, plan: Plan) -> bool:
    def identify(plan: Plan) -> Any:
        jobs = [plan.base] if plan.base else plan.jobs
        return plan.space, [(job.overrides, _list_deciding(job)) for job in jobs]

    return identify(saved) == identify(plan)


def _list_deciding(job: PlannedJob) -> dict[str, Any]:
    """Return the values that decide what a job gives, by their keys with dots."""
    return {key: value for key, value in flatten(job.config).items() if not changes_nothing(key)}


def _refuse_change(number: int, before: PlannedJob, after: PlannedJob) -> None:
    old, new = _list_deciding(before), _list_deciding(after)
    changed = [key for key in old if key in new and old[key] != new[key]]
    if changed:
        told = ", ".join(f"{key} was {show_value(old[key])}, is {show_value(new[key])}" for key in changed[:3])
        raise ValueError(
            f"job {number} of the sweep is another one by now ({told}): a file of configs/ has changed, "
            "or the folder where you stand; undo that, or begin a new sweep"
        )


def merge_typed(saved: Plan, typed: list[str]) -> list[str]:
    """Return the overrides of a sweep that goes on: what was typed at its start, and what is typed for it now.

    Raises ValueError for what would make other jobs of it.
    """
    allowed = [f"sweep.{key}" for key in MANNERS]
    for override in typed:
        key = name_key(override)
        if not is_for_hydra(override) and key not in allowed or key.startswith("hydra.sweep."):
            raise ValueError(
                f"--multirun resume=… goes on with the jobs of that sweep; leave {override} out "
                f"(what may be typed: {', '.join(allowed)}, hydra/launcher)"
            )
    keys = {name_key(override) for override in typed}
    dropped = keys | {"sweep.only", "sweep.new"}
    kept = [override for override in saved.overrides + saved.hydra if name_key(override) not in dropped]
    return [override for override in kept if not override.startswith("hydra.sweep.dir")] + typed
