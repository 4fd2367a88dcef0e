"""The plan of a new sweep; all jobs are checked before the first one starts."""

import itertools
import json
import os
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from ..config.checks import check
from ..config.compose import flatten
from ..config.dataset import DatasetConfig
from ..config.overrides import is_for_hydra, name_key, show_value
from ..config.schema import TrainConfig
from ..config.sweep import SweepConfig
from ..run.claim import is_held
from ..run.files import CONFIG, LOCK, STATUS, SWEEP
from ..sweep.plan import Plan, PlannedJob, Sweep, is_plain, read_plan
from ..sweep.state import read_state
from .composer import Composer
from .expand import add_params, expand, list_choices, read_interval

MANY_JOBS = 50  # take some seconds to check, about a tenth of a second each
MAX_EXTREMES = 64  # configurations that are checked before a search, whose jobs are chosen later


def plan_sweep(overrides: list[str], flags: list[str], composer: Composer) -> Sweep:
    """Return a new sweep with all of its jobs checked; with `sweep.append`, after those that its folder has already.

    Raises the error of the first bad job, with its overrides and the number of other bad jobs in notes.
    """
    hydra = [override for override in overrides if is_for_hydra(override)]
    typed = [override for override in overrides if not is_for_hydra(override)]
    words = [override for override in typed if not name_key(override).startswith("sweep.")]
    settings, folder = read_settings(overrides, composer)
    # Hydra's way to write them, and ours.
    params = flatten(composer.common["sweeper"].get("params") or {}) | settings.params
    plan = Plan(typed, hydra, flags)
    earlier = _read_earlier(overrides, settings, folder, composer) if settings.append else []
    if settings.search is None:
        listed = expand(words, replace(settings, params=params), composer.parser)
        plan.jobs = _check_jobs(listed, hydra, composer, len(earlier))
        _refuse_other_folders(plan.jobs)
        _refuse_shared_folders(plan.jobs, len(earlier))
        refuse_duplicates(plan.jobs, earlier, folder)
        _refuse_own_settings(plan.jobs, settings, {name_key(override) for override in typed})
    else:
        parsed = composer.parser.parse_overrides(add_params(words, params))
        plan.space = _read_space(parsed, settings)
        plan.base = _check_jobs(_list_extremes(parsed), hydra, composer)[0]
    check(
        plan.base is not None or bool(plan.jobs),
        f"{' '.join(words)} gives no values: there are no jobs",
    )
    for wanted in (job.config["check"] for job in [plan.base, *plan.jobs] if job is not None):
        check(not wanted, f"check={show_value(wanted)} checks a data set and does not train; leave --multirun out")
    return Sweep(plan, settings, folder, is_new=not earlier, added=len(plan.jobs) if earlier else 0)


def _read_earlier(overrides: list[str], settings: SweepConfig, folder: Path, composer: Composer) -> list[PlannedJob]:
    """Return the jobs of the sweep that others are added to, [] if there is none yet. Raises ValueError if none can be.

    Only a process that looks for the next job in sweep.json each time takes those that are added.
    """
    check(
        any(word.startswith("hydra.sweep.dir=") for word in overrides),
        "sweep.append=true needs the folder of the sweep to add to, e.g. hydra.sweep.dir=multirun/queue",
    )
    others = {
        f"sweep.search={settings.search}": settings.search is not None,
        f"sweep.only={settings.only}": settings.only is not None,
        "sweep.new=true": settings.new,
        "hydra/launcher": not str(composer.common["launcher"]["_target_"]).endswith("BasicLauncher"),
    }
    for word in (word for word, chosen in others.items() if chosen):
        raise ValueError(f"sweep.append=true adds jobs to a sweep that may be running; leave {word} out")
    if not (folder / SWEEP).is_file():
        return []
    saved = read_plan(folder)
    check(
        saved.base is None and bool(saved.jobs),
        f"sweep.append=true: {folder} is a search (sweep.search), which chooses its jobs; type another hydra.sweep.dir",
    )
    return saved.jobs


def read_settings(overrides: list[str], composer: Composer) -> tuple[SweepConfig, Path]:
    """Return the settings of `sweep`, and the folder that Hydra would use for a new sweep."""
    parsed = composer.parser.parse_overrides(overrides)
    one_valued = []
    for word, override in zip(overrides, parsed, strict=True):
        if not override.is_sweep_override():
            one_valued.append(word)
        elif name_key(word).startswith("sweep."):
            raise ValueError(f"{word}: settings of a sweep take one value; write a list in brackets, e.g. [1,2]")
        elif is_for_hydra(word):
            raise ValueError(f"{word}: a key of Hydra has one value in all jobs of a sweep")
    cfg = composer.compose(one_valued)
    composer.common = _read_common(cfg.hydra)
    settings = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(SweepConfig), cfg.sweep))
    assert isinstance(settings, SweepConfig)
    for key in ("file", "after"):
        if (path := getattr(settings, key)) is not None:
            setattr(settings, key, os.path.normpath(os.path.join(composer.folder, os.path.expanduser(path))))
    _check_after(settings.after)
    _check_sweeper(cfg.hydra)
    return settings, Path(str(cfg.hydra.sweep.dir))


def _read_common(hydra: DictConfig) -> dict[str, Any]:
    """Return what Hydra reads once for all jobs of a sweep, as it is written."""
    launcher, sweeper, sweep = (OmegaConf.to_container(hydra[key]) for key in ("launcher", "sweeper", "sweep"))
    return {"launcher": launcher, "sweeper": sweeper, "sweep.dir": sweep["dir"]}  # type: ignore[call-overload, index]


def _check_after(folder: str | None) -> None:
    """Raise ValueError for a folder that is not that of a run or sweep; one that has just begun has only its lock."""
    if folder is None:
        return
    check(os.path.isdir(folder), f"sweep.after={folder} is not a folder; type that of a run, or leave it out")
    known = any(os.path.isfile(os.path.join(folder, name)) for name in (CONFIG, STATUS, SWEEP, LOCK))
    check(known, f"sweep.after={folder} is not a run: it has no {CONFIG}; type the folder of one, or leave it out")
    try:
        is_held(Path(folder))
    except OSError as error:
        reason = error.strerror or str(error)
        raise ValueError(
            f"sweep.after={folder} cannot be waited for: its {LOCK} cannot be opened ({reason})"
        ) from error


def _check_sweeper(hydra: DictConfig) -> None:
    """Raise ValueError for another sweeper than Hydra's, which is replaced, and for its keys that mean nothing here."""
    sweeper, choice = hydra.sweeper, hydra.runtime.choices["hydra/sweeper"]
    check(
        choice in ("basic", "resumable"),
        f"hydra/sweeper={choice} is not used here: these sweeps rank their jobs and can be resumed; leave it out, "
        "sweep.search=tpe searches for the best values",
    )
    unknown = [str(key) for key in sweeper if key not in ("_target_", "params") and sweeper[key] is not None]
    check(
        not unknown,
        f"hydra.sweeper.{next(iter(unknown), '')} is not known here; allowed: hydra.sweeper.params; sweep.parallel is "
        "the number of jobs at once",
    )
    params = sweeper.get("params")
    check(
        params is None or OmegaConf.is_dict(params),
        f"hydra.sweeper.params={params} is not of the form {{KEY: VALUES}}, e.g. {{model.num_layers: '4,6'}}",
    )


def _read_space(parsed: list[Override], settings: SweepConfig) -> dict[str, dict[str, Any]]:
    """Return the values that a search chooses from, by key."""
    space: dict[str, dict[str, Any]] = {}
    for override in (override for override in parsed if override.is_sweep_override()):
        key = str(override.get_key_element())
        if key == "seed":
            raise ValueError(f"{override.input_line}: a search trains each job once; type one seed")
        if override.is_discrete_sweep():
            space[key] = {"choices": [choice.partition("=")[2] for choice in list_choices(override)]}
        else:
            low, high, logarithmic, whole = read_interval(override)
            space[key] = {"low": low, "high": high, "log": logarithmic, "whole": whole}
    if not space:
        raise ValueError(
            f"sweep.search={settings.search} has nothing to choose from; type values, e.g. model.num_layers=4,6,8 "
            "training.lr='tag(log,interval(1e-4,1e-2))', or use an experiment that has them (experiment=search_digits)"
        )
    return space


def _list_extremes(parsed: list[Override]) -> list[list[str]]:
    """Return jobs that represent all of a search: all keys at their first value, then one at a time at another."""
    fixed, extremes = [], []
    for override in parsed:
        key = override.get_key_element()
        if not override.is_sweep_override():
            fixed.append(str(override.input_line))
        elif override.is_discrete_sweep():
            extremes.append(list_choices(override))
        else:
            extremes.append([f"{key}={end}" for end in read_interval(override)[:2]])
    first = [values[0] for values in extremes]
    jobs = [[*fixed, *first]]
    for position, values in enumerate(extremes):
        jobs += [[*fixed, *first[:position], value, *first[position + 1 :]] for value in values[1:]]
    return jobs[:MAX_EXTREMES]


def _check_jobs(jobs: list[list[str]], hydra: list[str], composer: Composer, first: int = 0) -> list[PlannedJob]:
    if len(jobs) >= MANY_JOBS:
        print(f"checking  {len(jobs)} jobs", file=sys.stderr, flush=True)
    checked, errors = [], []
    for number, overrides in enumerate(jobs, first):
        try:
            checked.append(check_job(overrides, number, hydra, composer))
        except Exception as error:  # any error is reported with the job's overrides
            error.add_note(f"in the job {' '.join(overrides)}")
            errors.append(error)
    if errors:
        if len(errors) > 1:
            errors[0].add_note(f"and {len(errors) - 1} more of the {len(jobs)} jobs cannot be run")
        raise errors[0]
    return checked


def check_job(overrides: list[str], number: int, hydra: list[str], composer: Composer) -> PlannedJob:
    config, settled = composer.check([*hydra, f"hydra.job.num={number}", f"hydra.job.id={number}", *overrides])
    _refuse_own_launcher(settled.cfg.hydra, composer)
    _check_images(config.dataset)
    return PlannedJob(overrides, str(settled.cfg.hydra.sweep.subdir), _to_json(config))


def _refuse_own_launcher(hydra: DictConfig, composer: Composer) -> None:
    """Raise ValueError for settings of Hydra that it reads once for a sweep, in a file that only some jobs use."""
    own = _read_common(hydra)
    for key in (key for key, wanted in composer.common.items() if own[key] != wanted):
        launcher = f"hydra/launcher={hydra.runtime.choices['hydra/launcher']}"
        what = {"launcher": launcher, "sweeper": "hydra.sweeper.params"}.get(key, f"hydra.{key}")
        raise ValueError(
            f"{what} is set in a file that only some jobs use, but applies to a whole sweep; type it, or train those "
            "jobs as a separate sweep"
        )


def _check_images(dataset: DatasetConfig) -> None:
    """Raise ValueError for a folder without class folders now, rather than when its job starts."""
    if dataset.name == "image_folder" and dataset.root is not None:
        root = Path(dataset.root)
        has_folders = any(path.is_dir() for path in root.iterdir())
        example = root / "cat" / "1.jpg"
        check(has_folders, f"dataset.root={root} contains no folders; each class needs its own, e.g. {example}")


def _to_json(config: TrainConfig) -> dict[str, Any]:
    return json.loads(json.dumps(asdict(config)))


def _refuse_other_folders(jobs: list[PlannedJob]) -> None:
    for job in jobs:
        check(
            is_plain(job.folder),
            f"hydra.sweep.subdir={job.folder} is not a folder inside that of the sweep; leave it out, or use "
            "${hydra.job.num} in it",
        )


def _refuse_shared_folders(jobs: list[PlannedJob], first: int) -> None:
    folders: dict[str, int] = {}
    for number, job in enumerate(jobs, first):
        if (other := folders.setdefault(job.folder, number)) != number:
            raise ValueError(
                f"hydra.sweep.subdir gives jobs {other} and {number} the same folder, {job.folder}; "
                "leave it out, or use ${hydra.job.num} in it"
            )


def name_free_folders(jobs: list[PlannedJob], earlier: list[PlannedJob], folder: Path) -> list[PlannedJob]:
    """Return jobs that are added to a sweep; those whose folders are in use get the next free number as a name."""
    taken, named = {job.folder for job in earlier}, []
    for job in jobs:
        names = itertools.chain([job.folder], map(str, itertools.count(len(earlier))))
        free = next(name for name in names if name not in taken and not (folder / name).exists())
        named.append(replace(job, folder=free))
        taken.add(free)
    return named


def _refuse_own_settings(jobs: list[PlannedJob], settings: SweepConfig, typed: set[str]) -> None:
    """Raise ValueError if a setting of the sweep is in a file that only some jobs use: it would apply to all."""
    wanted = json.loads(json.dumps(asdict(settings)))
    for job in jobs:
        own = job.config["sweep"]
        if other := [key for key in wanted if f"sweep.{key}" not in typed and own[key] != wanted[key]]:
            raise ValueError(
                f"sweep.{other[0]} is set in a file that only some jobs use; run those as a separate sweep\n"
                f"in the job {' '.join(job.overrides)}"
            )


def refuse_duplicates(jobs: list[PlannedJob], earlier: list[PlannedJob], folder: Path) -> None:
    """Raise ValueError for identical jobs: as repeats, their standard deviation would be 0.

    Those that failed or were stopped may be repeated.
    """
    states = [read_state(folder, number, job) for number, job in enumerate(earlier)]
    seen = {_identify(s.planned): s.number for s in states if s.done or s.status in ("pending", "running")}
    for number, job in enumerate(jobs, len(earlier)):
        if (other := seen.setdefault(_identify(job), number)) != number:
            first, second = (" ".join(same.overrides) for same in ([*earlier, *jobs][other], job))
            raise ValueError(f"jobs {other} and {number} are identical ({first}; {second}); vary seed to repeat a job")


def _identify(job: PlannedJob) -> str:
    return json.dumps({**job.config, "sweep": None}, sort_keys=True)
