"""What a sweep is going to train, every job of it checked before the first one begins."""

import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from .checks import check
from .dataset import DatasetConfig
from .jobs import add_params, expand, list_choices, name_key, read_interval
from .schema import TrainConfig
from .sweep import SweepConfig

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
    settings, folder = read_settings(overrides, composer)
    plan = Plan(typed, hydra, flags)
    if settings.search is None:
        plan.jobs = _check_jobs(expand(words, settings, composer.parser), hydra, composer)
        _refuse_shared_folders(plan.jobs)
        _refuse_doubles(plan.jobs)
        _refuse_own_settings(plan.jobs, settings, {name_key(override) for override in typed})
    else:
        plan.space, extremes = _plan_search(words, settings, composer.parser)
        plan.base = _check_jobs(extremes, hydra, composer)[0]
    if (plan.base or plan.jobs[0]).config["check"]:
        raise ValueError("check=true looks at one data set and trains nothing; leave --multirun out")
    return Sweep(plan, settings), folder


def read_settings(overrides: list[str], composer: Composer) -> tuple[SweepConfig, Path]:
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
            checked.append(check_job(overrides, number, hydra, composer))
        except Exception as error:  # whatever is wrong with it is told, with the job's overrides
            error.add_note(f"in the job {' '.join(overrides)}")
            errors.append(error)
    if errors:
        if len(errors) > 1:
            errors[0].add_note(f"and {len(errors) - 1} more of the {len(jobs)} jobs cannot be run")
        raise errors[0]
    return checked


def check_job(overrides: list[str], number: int, hydra: list[str], composer: Composer) -> PlannedJob:
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


def _refuse_own_settings(jobs: list[PlannedJob], settings: SweepConfig, typed: set[str]) -> None:
    """Refuse a job whose files say how a sweep is run: of several experiments, none decides that for all."""
    wanted = json.loads(json.dumps(asdict(settings)))
    for job in jobs:
        own = job.config["sweep"]
        if other := [key for key in wanted if f"sweep.{key}" not in typed and own[key] != wanted[key]]:
            raise ValueError(
                f"sweep.{other[0]} is set by a file that only some jobs take; make a sweep of its own of them\n"
                f"in the job {' '.join(job.overrides)}"
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
