"""What is taken from a saved sweep, whose files may be a stranger's: words that set our own keys, and little else.

Words for Hydra can run code: a callback, a launcher's set-up commands, a folder of configurations. So those are taken
only if they are typed again. Values may refer to other keys, `${model.num_heads}`, but not call resolvers, which read
the environment or files.
"""

import re
import shlex
from collections.abc import Collection, Iterable
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from ..config.keys import list_keys
from ..config.overrides import name_key, split_override
from ..config.recipe import SECTIONS
from ..config.schema import TrainConfig
from ..run.files import SWEEP
from ..sweep.plan import Plan, PlannedJob, list_untrusted
from .expand import list_choices

GROUPS = (*SECTIONS, "experiment")
REFERENCE = re.compile(r"\$\{[a-z_]+(\.\w+)*\}")  # of another key
OPTION = re.compile(r"[\w.-]+")  # the name of a file in configs/, not a path


def check_plan(plan: Plan, parser: OverridesParser) -> None:
    """Raise ValueError, naming the word, for a sweep whose words would do more than set our keys."""
    jobs = [*plan.jobs, *([plan.base] if plan.base else [])]
    for word in dict.fromkeys([*plan.overrides, *(word for job in jobs for word in job.overrides)]):
        if problem := find_problem(word, parser):
            raise ValueError(f"{SWEEP} has {word}, which is not taken from a file: {problem}")
    keys = list_keys(TrainConfig)
    for key in plan.space:
        if key not in keys:
            raise ValueError(f"{SWEEP} searches {key}, which is not a key")


def check_added(jobs: list[PlannedJob]) -> None:
    """Raise ValueError for jobs that were added to sweep.json while it runs, as `check_plan` does."""
    check_plan(Plan([], [], [], jobs), OverridesParser.create())


def find_problem(word: str, parser: OverridesParser) -> str:
    """Return what is wrong with a saved override, "" if it sets a key of ours to a plain value."""
    key, value = split_override(word)
    if word != f"{key}={value}" or key not in (*list_keys(TrainConfig), "experiment") or key == "resume":
        return "it does not set a key of the configuration"
    if "${" in REFERENCE.sub("", value):  # however many backslashes are in front
        return "${…} may only refer to another key"
    try:
        override = parser.parse_override(word)
        names = _list_names(override) if key in GROUPS else []
    except (HydraException, ValueError):
        return "it cannot be read"
    if not all(isinstance(name, str) and OPTION.fullmatch(name) for name in names):
        return "an option has a plain name"
    params = override.value() if key == "sweep.params" else {}
    if not isinstance(params, dict) or not {str(name) for name in params} <= set(list_keys(TrainConfig)):
        return "it sweeps what is not a key"
    return ""


def _list_names(override: Override) -> list[Any]:
    """Return the options that an override chooses. Raises ValueError for more than a sweep may have."""
    if override.is_discrete_sweep():
        return [choice.partition("=")[2] for choice in list_choices(override)]
    return [] if override.value() is None else [override.value()]


def take_hydra(saved: Iterable[str], typed: Collection[str]) -> list[str]:
    """Return the words for Hydra of a saved sweep that are harmless, and not typed now.

    Folders are dropped, because the sweep has its own. Raises ValueError for others, unless they are typed again.
    """
    again = {name_key(word) for word in typed}
    left = [word for word in saved if name_key(word) not in again]
    if refused := list_untrusted(left):
        raise ValueError(_explain(refused))
    return [word for word in left if name_key(word) == "hydra/launcher"]


def take_flags(saved: list[str], typed: list[str]) -> list[str]:
    """Return the flags of a continued sweep. Raises ValueError for saved ones that are not typed again."""
    if typed or not saved:
        return typed
    raise ValueError(_explain(saved))


def _explain(words: list[str]) -> str:
    typed = shlex.join(words)
    return (
        f"{SWEEP} has {typed}, which could run code and is not taken from a file; if that is yours, type it again: "
        f"python train.py --multirun resume=… {typed}"
    )
