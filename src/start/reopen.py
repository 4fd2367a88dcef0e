"""Continue an earlier sweep: find it by the command that started it, check it against the current configuration.

Its files may be a stranger's: `trust` says what is taken from them.
"""

import contextlib
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..config.checks import read_switch
from ..config.compose import flatten
from ..config.overrides import is_for_hydra, name_key, show_value, split_override
from ..run.claim import refuse_linked_path
from ..run.resume import changes_nothing
from ..sweep.plan import CHANGEABLE, Plan, PlannedJob, Sweep, find_sweeps, read_plan
from .composer import Composer
from .plan import check_job, read_settings
from .trust import check_plan, take_hydra


def find_same(sweep: Sweep, typed: bool) -> Sweep:
    """Return the newest sweep that the same command has started, or `sweep` itself if there is none.

    typed: whether the user typed its folder, so that only that one is searched.
    """
    for folder in [sweep.folder] if typed else find_sweeps(sweep.folder.parent.parent):
        with contextlib.suppress(OSError, ValueError):
            saved = read_plan(folder)
            if _is_same(saved, sweep.plan):
                # An earlier version stored neither the folder nor absolute flags.
                typed_now = replace(sweep.plan, jobs=saved.jobs, base=saved.base, space=saved.space)
                plan = replace(typed_now, cwd=saved.cwd or sweep.plan.cwd)
                return replace(sweep, plan=plan, folder=folder, is_new=False)
    return sweep


def _is_same(saved: Plan, plan: Plan) -> bool:
    if any(key == "sweep.append" and read_switch(value) for key, value in map(split_override, saved.overrides)):
        return False  # it is a queue

    def identify(plan: Plan) -> Any:
        jobs = [plan.base] if plan.base else plan.jobs
        return plan.space, [(job.overrides, _list_result_keys(job)) for job in jobs]

    return identify(saved) == identify(plan)


def _list_result_keys(job: PlannedJob) -> dict[str, Any]:
    """Return the values that affect a job's result, by dotted key."""
    return {key: value for key, value in flatten(job.config).items() if not changes_nothing(key)}


def merge_typed(saved: Plan, typed: list[str]) -> list[str]:
    """Return the overrides of a continued sweep: those that started it, and those typed now.

    Raises ValueError for overrides that would change its jobs.
    """
    allowed = [f"sweep.{key}" for key in CHANGEABLE]
    for override in typed:
        key = name_key(override)
        if not is_for_hydra(override) and key not in allowed or key.startswith("hydra.sweep."):
            raise ValueError(
                f"--multirun resume=… continues the jobs of that sweep; leave {override} out "
                f"(allowed: {', '.join(allowed)}, hydra/launcher)"
            )
    dropped = {name_key(override) for override in typed} | {
        f"sweep.{key}" for key in ("only", "append", "after", "new", "file")
    }
    ours, hydra = _translate(saved)
    kept = [word for word in ours if name_key(word) not in dropped]
    return [*kept, *take_hydra(hydra, typed), *typed]


def _translate(saved: Plan) -> tuple[list[str], list[str]]:
    """Return our words and those for Hydra, with `hydra/launcher=processes` of earlier versions as settings of ours."""
    if "hydra/launcher=processes" not in saved.hydra:
        return saved.overrides, saved.hydra
    counts = [word.partition("=")[2] for word in saved.hydra if name_key(word) == "hydra.launcher.n_jobs"]
    parallel = int(counts[-1]) if counts and counts[-1].lstrip("-").isdecimal() else 2
    hydra = [word for word in saved.hydra if not name_key(word).startswith(("hydra/launcher", "hydra.launcher"))]
    settings = ["sweep.isolate=true", f"sweep.parallel={parallel if parallel > 0 else os.cpu_count()}"]
    return [*saved.overrides, *settings], hydra


def reopen_sweep(saved: Plan, folder: Path, overrides: list[str], composer: Composer) -> Sweep:
    """Return the sweep to continue; overrides: those returned by `merge_typed`.

    Raises ValueError if the current configuration would change one of its jobs.
    """
    check_plan(saved, composer.parser)
    for job in saved.jobs:
        refuse_linked_path(folder, job.folder)
    settings, _ = read_settings(overrides, composer)
    hydra = [override for override in overrides if is_for_hydra(override)]
    sweep = Sweep(replace(saved, hydra=hydra), settings, folder, is_new=False)
    sweep.check_numbers()
    for number in settings.only or range(len(saved.jobs)):
        before = saved.base or saved.jobs[number]  # of a search, only the base is known
        _refuse_change(number, before, check_job(before.overrides, number, hydra, composer))
        if saved.base:
            break
    return sweep


def _refuse_change(number: int, before: PlannedJob, after: PlannedJob) -> None:
    old, new = _list_result_keys(before), _list_result_keys(after)
    changed = [key for key in old if key in new and old[key] != new[key]]
    if changed:
        values = ", ".join(f"{key} was {show_value(old[key])}, is {show_value(new[key])}" for key in changed[:3])
        raise ValueError(
            f"job {number} of the sweep has changed ({values}), because of an edited file in configs/, another "
            "working directory or another version; undo that, or start a new sweep"
        )
