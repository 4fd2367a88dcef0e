"""An earlier sweep: found on the disk, known again by the words that began it, and gone on with."""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .compose import flatten, show_value
from .jobs import name_key
from .plan import Composer, Plan, PlannedJob, Sweep, check_job, is_for_hydra, read_settings
from .resume import changes_nothing

SWEEP = "sweep.json"
# Of `sweep`, what does not decide which jobs there are: it may be typed anew when a sweep goes on.
MANNERS = ("trials", "on_error", "isolate", "gpus", "parallel", "only")


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


def reopen_sweep(saved: Plan, folder: Path, overrides: list[str], composer: Composer) -> Sweep:
    """Return a sweep that goes on; overrides: all of them, as `merge_typed` has put them together.

    Raises ValueError where one of its jobs would be another one by now.
    """
    settings, _ = read_settings(overrides, composer)
    hydra = [override for override in overrides if is_for_hydra(override)]
    sweep = Sweep(saved, settings, folder)
    sweep.check_numbers()
    for number in settings.only or range(len(saved.jobs)):
        before = saved.base or saved.jobs[number]  # of a search only what it starts from is known
        _refuse_change(number, before, check_job(before.overrides, number, hydra, composer))
        if saved.base:
            break
    return sweep


def _refuse_change(number: int, before: PlannedJob, after: PlannedJob) -> None:
    old, new = _list_deciding(before), _list_deciding(after)
    changed = [key for key in old if key in new and old[key] != new[key]]
    if changed:
        told = ", ".join(f"{key} was {show_value(old[key])}, is {show_value(new[key])}" for key in changed[:3])
        raise ValueError(
            f"job {number} of the sweep is another one by now ({told}): a file of configs/ has changed, "
            "or the folder where you stand; undo that, or begin a new sweep"
        )
