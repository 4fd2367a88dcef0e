"""Continue a run: its own configuration instead of today's files, and which of its keys may be typed anew."""

import json
import shlex
from argparse import Namespace
from dataclasses import asdict, dataclass, is_dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, get_type_hints

import yaml
from hydra.core.config_store import ConfigStore
from omegaconf.errors import OmegaConfBaseException

from .compose import escape, flatten, is_quoted, load_config, show_value
from .schema import TrainConfig

# What only says how, how long and where the training goes on may change. What decides what is learned, and from which
# images, would make the record of the epochs that are done untrue. The data itself is known by its fingerprint, so it
# may lie elsewhere by now.
CHANGEABLE = (
    *("training.*", "scheduler.*", "optimizer.*", "augmentation.*", "device"),
    *("dataset.root", "dataset.table", "dataset.cache", "dataset.cache_dir", "dataset.on_error"),
)
FIXED = (
    *("training.batch_size", "training.sampler", "training.class_weights", "training.ema", "training.label_smoothing"),
    *("optimizer.name", "augmentation.repeats"),
)
NEUTRAL = ("resume", "check", "device", "dataset.cache", "dataset.cache_dir")
PRIMARY = "configuration_of_the_run"  # its name in Hydra's ConfigStore


@dataclass
class ResumedRun:
    """A run to continue: its folder, the configuration that it was saved with, the option chosen of each group."""

    folder: Path
    config: TrainConfig
    choices: dict[str, str]


def typed_run(overrides: list[str]) -> str | None:
    """Return the value of `resume=`, the last one where there are several; None where it is null or not typed.

    Raises ValueError where it is empty, as a script's variable without a value leaves it.
    """
    values = [value for key, value in map(_split, overrides) if key == "resume"]
    value = values[-1] if values else "null"
    value = value[1:-1] if is_quoted(value) else value
    if not value:
        raise ValueError("resume= has no value; write latest or a run's folder, or leave it out")
    return None if value == "null" else value


def _split(override: str) -> tuple[str, str]:
    key, _, value = override.partition("=")
    return key.lstrip("+"), value


def drop_resume(overrides: list[str]) -> list[str]:
    return [override for override in overrides if _split(override)[0] != "resume"]


def check_typed(wanted: str, arguments: Namespace) -> None:
    """Refuse in a sentence what cannot go with `resume=`: another folder, options of groups, a check."""
    resume = f"resume={wanted}"
    if any(_split(override)[0] == "hydra.mode" for override in arguments.overrides):
        raise ValueError(f"{resume} continues one run; for a sweep type --multirun, and no hydra.mode")
    if arguments.config_name:
        raise ValueError(f"{resume} takes the run's own configuration; leave --config-name out")
    groups = {key for key, kind in get_type_hints(TrainConfig).items() if is_dataclass(kind)} - {"training", "init"}
    for override in arguments.overrides:
        key, value = _split(override)
        if key == "hydra.run.dir":
            raise ValueError(f"{resume} continues in the run's own folder; leave {key} out")
        if key.lstrip("~").split("@")[0] in groups | {"experiment"}:
            hint = f", e.g. {key}.KEY=VALUE" if key in groups else ""
            raise ValueError(f"{resume} takes single keys, not {override}, which sets a whole group{hint}")
        if key == "check" and value.lower() not in ("false", "no", "off", "0"):
            raise ValueError(f"{resume} trains on and check=true ends without training; type only one")


def check_untyped(config: Any) -> None:
    """Refuse `resume` in a file: it would continue that run with every start."""
    if config.resume is not None:
        resume = f"resume={config.resume}"
        raise ValueError(f"{resume} stands in a file; it is typed: python train.py {shlex.quote(resume)}")


def open_run(folder: Path) -> ResumedRun:
    """Read what continuing needs from a run's folder. Raises ValueError where its configuration is damaged."""
    folder = folder.absolute()
    path = folder / "config.yaml"
    try:
        config = load_config(path)
    except (OSError, ValueError, TypeError, yaml.YAMLError, OmegaConfBaseException) as error:
        raise ValueError(f"{path} is no configuration to continue from: {str(error).splitlines()[0]}") from error
    return ResumedRun(folder, config, _read_choices(folder / "environment.json"))


def _read_choices(path: Path) -> dict[str, str]:
    """Return the options of the run's groups, which are told and recorded only: {} where they cannot be read."""
    try:
        choices = json.loads(path.read_text(encoding="utf-8", errors="surrogateescape"))["choices"]
        return {str(group): str(option) for group, option in choices.items()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return {}


def register(run: ResumedRun) -> str:
    """Make the run's configuration one that Hydra starts from, and return its name.

    Its values are text to Hydra, never interpolated: the run may be a stranger's.
    """
    node = {
        "defaults": [
            "train_schema",
            "_self_",
            {"override hydra/job_logging": "none"},
            {"override hydra/hydra_logging": "none"},
        ],
        **escape({**asdict(run.config), "resume": str(run.folder)}),
        "hydra": {"job": {"name": "train"}},
    }
    ConfigStore.instance().store(name=PRIMARY, node=node)
    return PRIMARY


def list_changes(saved: TrainConfig, config: TrainConfig) -> dict[str, tuple[Any, Any]]:
    """Return the values before and after of each key that differs; `resume` and `sweep` do not count."""
    before, after = flatten(asdict(saved)), flatten(asdict(config))
    pairs = {
        key: (before[key], value) for key, value in after.items() if key != "resume" and not key.startswith("sweep.")
    }
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}


def refuse_changes(run: ResumedRun, config: TrainConfig) -> None:
    """Refuse a configuration that differs from the run's in what makes it another experiment."""
    changed = {key: values for key, values in list_changes(run.config, config).items() if not _is_changeable(key)}
    if changed:
        typed = " and ".join(f"{key}={show_value(value)}" for key, (_, value) in changed.items())
        had = " and ".join(show_value(value) for value, _ in changed.values())
        raise ValueError(
            f"{typed} would make it another experiment: the run has {had}. "
            f"Train a new run; init.weights={shlex.quote(str(run.folder))} begins with its weights"
        )


def changes_nothing(key: str) -> bool:
    """Tell whether a key says only where and how a training is done, so that its result is the same."""
    return key in NEUTRAL or key.startswith("sweep.")


def _is_changeable(key: str) -> bool:
    return key not in FIXED and any(fnmatchcase(key, pattern) for pattern in CHANGEABLE)
