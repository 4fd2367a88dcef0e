"""Continue an earlier sweep: find it by the command that started it, check it against the current configuration."""

import contextlib
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..config.compose import flatten
from ..config.overrides import is_for_hydra, name_key, show_value
from ..run.resume import changes_nothing
from ..sweep.plan import CHANGEABLE, Plan, PlannedJob, Sweep, find_sweeps, read_plan
from .composer import Composer
from .plan import check_job, read_settings


def find_same(sweep: Sweep, typed: bool) -> Sweep:
    """Return the newest sweep that the same command has started, or `sweep` itself if there is none.

    typed: whether the user typed its folder, so that only that one is searched.
    """
    for folder in [sweep.folder] if typed else find_sweeps(sweep.folder.parent.parent):
        with contextlib.suppress(OSError, ValueError):
            saved = read_plan(folder)
            if _is_same(saved, sweep.plan):
                # An earlier version stored neither the folder nor absolute flags.
                plan = replace(saved, flags=sweep.plan.flags, cwd=saved.cwd or sweep.plan.cwd)
                return replace(sweep, plan=plan, folder=folder, is_new=False)
    return sweep


def _is_same(saved: Plan, plan: Plan) -> bool:
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
    keys = {name_key(override) for override in typed}
    dropped = keys | {"sweep.only", "sweep.new"}
    earlier = _translate(saved.overrides + saved.hydra)
    kept = [override for override in earlier if name_key(override) not in dropped | {"hydra.sweep.dir"}]
    return kept + typed


def _translate(overrides: list[str]) -> list[str]:
    """Replace `hydra/launcher=processes` of earlier versions by the settings that do the same now."""
    if "hydra/launcher=processes" not in overrides:
        return overrides
    counts = [override.partition("=")[2] for override in overrides if name_key(override) == "hydra.launcher.n_jobs"]
    parallel = int(counts[-1]) if counts else 2
    kept = [
        override for override in overrides if not name_key(override).startswith(("hydra/launcher", "hydra.launcher"))
    ]
    return [*kept, "sweep.isolate=true", f"sweep.parallel={parallel if parallel > 0 else os.cpu_count()}"]


def reopen_sweep(saved: Plan, folder: Path, overrides: list[str], composer: Composer) -> Sweep:
    """Return the sweep to continue; overrides: those returned by `merge_typed`.

    Raises ValueError if the current configuration would change one of its jobs.
    """
    settings, _ = read_settings(overrides, composer)
    hydra = [override for override in overrides if is_for_hydra(override)]
    sweep = Sweep(saved, settings, folder, is_new=False)
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
