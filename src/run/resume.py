"""Continue a run: find it, check what is left to train and which settings may change.

`resume=` uses the run's own configuration, not the current files in configs/. `open_resumable` finds the run,
`refuse_changes` compares what is typed with that configuration, `explain_finished` and `describe_changes` report what
continuing means.
"""

import os
import shlex
import time
from dataclasses import asdict, replace
from datetime import datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config.checks import check
from ..config.compose import USER_ERRORS, flatten, load_config
from ..config.overrides import show_value
from ..config.paths import anchor
from ..config.schema import TrainConfig
from ..machine.disk import short_path
from .files import CONFIG, SWEEP
from .limits import name_limits
from .saved import SavedRun, explain_no_run, find_folders, read_any, sort_key

if TYPE_CHECKING:
    from ..optim import LearningRate

ROOTS = ["outputs", "multirun"]  # where `resume=latest` looks, below the working directory

# How, how long and where a training continues may change. What is learned, and from which images, may not, because the
# record of the epochs so far would be wrong. Images are identified by their fingerprint, so they may move.
CHANGEABLE = (
    *("training.*", "scheduler.*", "optimizer.*", "augmentation.*", "device"),
    *("dataset.root", "dataset.table", "dataset.cache", "dataset.cache_dir", "dataset.on_error"),
)
FIXED = (
    *("training.batch_size", "training.sampler", "training.class_weights", "training.ema", "training.label_smoothing"),
    *("optimizer.name", "augmentation.repeats"),
)
NEUTRAL = (
    *("resume", "check", "device", "dataset.cache", "dataset.cache_dir"),
    *("training.kernels", "training.attention", "training.threads", "training.compile"),
)


def open_resumable(wanted: str, roots: list[str]) -> SavedRun:
    """Return the run for `resume=latest` (the newest, with or without weights) or `resume=<folder>`.

    A configuration is enough to continue from; the status may be missing. Raises FileNotFoundError if there is no such
    run, ValueError if its process is alive.
    """
    if wanted.lower() == "latest":
        runs = [read_any(folder) for folder in find_folders(roots, CONFIG)]
        if not runs:
            raise FileNotFoundError(
                f"resume=latest: no runs in {', '.join(roots)} below {os.getcwd()}; train one first: python train.py"
            )
        run = max(runs, key=sort_key)
    else:
        folder = Path(os.path.expanduser(wanted))
        if (folder / SWEEP).is_file():
            typed = shlex.quote(short_path(folder))
            raise FileNotFoundError(
                f"resume={wanted} is a sweep; continue it with: python train.py --multirun resume={typed}"
            )
        if not (folder / CONFIG).is_file():
            raise FileNotFoundError(explain_no_run("resume", wanted))
        run = read_any(folder)
    _refuse_running(run, wanted)
    return run


def _refuse_running(run: SavedRun, wanted: str) -> None:
    """Raise ValueError if two processes would write to the same folder."""
    if run.status != "running":
        return
    facts = run.facts
    which = f" is {short_path(run.folder)}, which" if wanted.lower() == "latest" else ""
    running = f"resume={wanted}{which} is still running (process {facts.get('pid')} on host {facts.get('host')})"
    if run.is_local():
        raise ValueError(f"{running}; stop it first")
    if facts.get("slurm_job") is not None and facts["slurm_job"] == os.environ.get("SLURM_JOB_ID"):
        return  # the same SLURM job, requeued on another node: its earlier process has ended
    written = run.last_write()
    minutes = max(0, round((time.time() - written) / 60))
    until = datetime.fromtimestamp(written + run.timeout()).strftime("%Y-%m-%d %H:%M")
    raise ValueError(
        f"{running}: its last sign of life was {minutes} minutes ago; stop it first, or, if it has died, resume it "
        f"after {until}"
    )


def read_config(run: SavedRun) -> TrainConfig:
    """Return the configuration to continue with. Raises ValueError if it is damaged.

    Relative paths in it refer to the folder in which the run was started.
    """
    path = run.folder / CONFIG
    started_in = run.environment().get("cwd") or ""
    try:
        config = anchor(load_config(path), started_in if os.path.isdir(started_in) else os.getcwd())
        check(config.training.epochs is not None, "training.epochs must not be null")  # saved ones are complete
        return config
    except (*USER_ERRORS, TypeError) as error:
        raise ValueError(f"{path} is not a valid configuration: {str(error).splitlines()[0]}") from error


def list_changes(saved: TrainConfig, config: TrainConfig) -> dict[str, tuple[Any, Any]]:
    """Return the old and new value of each key that differs, except `resume` and `sweep`."""
    before, after = flatten(asdict(saved)), flatten(asdict(config))
    pairs = {
        key: (before[key], value) for key, value in after.items() if key != "resume" and not key.startswith("sweep.")
    }
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}


def refuse_changes(run: SavedRun, saved: TrainConfig, config: TrainConfig) -> None:
    """Raise ValueError if the configuration differs from the run's in a key that may not change."""
    changed = {key: values for key, values in list_changes(saved, config).items() if not _is_changeable(key)}
    if changed:
        typed = " and ".join(f"{key}={show_value(value)}" for key, (_, value) in changed.items())
        had = " and ".join(show_value(value) for value, _ in changed.values())
        raise ValueError(
            f"{typed} would be a different experiment: the run has {had}. "
            f"Start a new run; init.weights={shlex.quote(str(run.folder))} initializes it with the weights of this one"
        )


def changes_nothing(key: str) -> bool:
    """Return whether a key does not affect the result, only where and how it is computed."""
    return key in NEUTRAL or key.startswith("sweep.")


def _is_changeable(key: str) -> bool:
    return key not in FIXED and any(fnmatchcase(key, pattern) for pattern in CHANGEABLE)


def explain_finished(folder: Path, config: TrainConfig) -> str | None:
    """Return a message if the run is finished, with the typed keys that have no effect; None if it can continue.

    Raises ValueError if the run has trained more epochs already.
    """
    run = open_resumable(str(folder), [])
    done, epochs, ended = int(run.facts.get("epoch") or 0), config.training.epochs, run.facts.get("ended")
    assert epochs is not None  # saved configurations are complete
    if epochs < done:
        raise ValueError(f"training.epochs={epochs}, but the run has already trained {done}; choose {done} or more")
    limited = ended in name_limits(config.training).values()
    if run.status != "finished" or (epochs > done and not limited):
        return None
    key, why = (str(ended).split("=")[0], f", ended by {ended}") if limited else ("training.epochs", "")
    epochs_done = "1 epoch" if done == 1 else f"{done} epochs"
    unused = _name_unused(read_config(run), config)
    return f"the run is finished after {epochs_done}{why}: {folder}; a larger {key} continues it{unused}"


def _name_unused(saved: TrainConfig, config: TrainConfig) -> str:
    keys = set(list_changes(saved, config))
    if "training.lr" in keys:
        keys -= {"optimizer.lr"}  # the same value under another name
    return f"; {', '.join(sorted(keys))} {'was' if len(keys) == 1 else 'were'} not used" if keys else ""


def describe_changes(saved: TrainConfig, config: TrainConfig, learning_rate: "LearningRate", step: int) -> list[str]:
    """Return a line for each key that has changed since the last session, and one for a changed schedule.

    learning_rate: the schedule of `config`; step: the next one, counted over the whole run.
    """
    lines = [f"{key}: {_show(old, new)} → {_show(new, old)}" for key, (old, new) in list_changes(saved, config).items()]
    assert saved.training.epochs is not None
    before = replace(learning_rate, config=saved.scheduler, peak=saved.optimizer.lr, epochs=saved.training.epochs)
    if before(step) != learning_rate(step):
        lines.append(
            f"the learning rate continues as if it had followed {config.scheduler.name} over {config.training.epochs} "
            f"epochs from the start: {learning_rate(step):.1e} next, instead of {before(step):.1e}"
        )
    return lines


def _show(value: Any, other: Any) -> str:
    """Return a readable value: a number with six digits, or all of them if six are those of the other one, too."""
    same = isinstance(value, float) and isinstance(other, float) and f"{value:g}" == f"{other:g}"
    return f"{value:g}" if isinstance(value, float) and not same else str(value)
