"""What a run's configuration has that the chosen options do not bring: for the page, and for the card of an export."""

import contextlib
import functools
import json
import math
import threading
from typing import Any

from ..config.compose import USER_ERRORS, compose_values, flatten, read_values, to_plain
from ..config.options import list_options
from ..config.overrides import name_key
from ..machine.streams import printable_cell
from .files import CONFIG
from .saved import SavedRun

HIDDEN = ("sweep.", "resume", "check")  # keys that do not say what a run is
_composing = threading.Lock()  # Hydra composes one configuration at a time


def read_settings(run: SavedRun) -> dict[str, Any]:
    """Return the values of a run's configuration by dotted key; {} if it cannot be read."""
    try:
        values = read_values(run.folder / CONFIG)
    except Exception:  # yaml raises various types
        return {}
    return {key: value for key, value in values.items() if not key.startswith(HIDDEN)}


def list_changes(run: SavedRun, settings: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return the keys with other values than those of the chosen options, each with its value and the option's."""
    choices = [
        f"{group}={option.split(',')[0]}"
        for group, option in sorted(run.choices().items())
        if group != "experiment" and option.split(",")[0] in list_options(group)
    ]
    defaults = compose_defaults(*choices)
    typed = {name_key(str(word)) for word in run.environment().get("overrides") or []}
    return {
        key: (value, defaults.get(key))
        for key, value in settings.items()
        if _differs(value, defaults.get(key)) and (key in typed or defaults.get(key) is not None)
    }


def compose_defaults(*choices: str) -> dict[str, Any]:
    """Return the values of `configs/` for these options by dotted key; {} if they do not go together."""
    with contextlib.suppress(*USER_ERRORS), _composing:
        return _compose(*choices)
    return {}


@functools.lru_cache(maxsize=32)
def _compose(*choices: str) -> dict[str, Any]:
    return flatten(to_plain(compose_values(*choices)))


def _differs(value: Any, default: Any) -> bool:
    if default == "???":  # a key that must be typed, or that the option does not have
        return value is not None
    if isinstance(value, float) and isinstance(default, float | int):
        return not math.isclose(value, default, rel_tol=1e-9)
    return show_setting(value) != show_setting(default)


def show_setting(value: Any) -> str:
    """Return a value as it is typed, on one line."""
    if isinstance(value, str):
        return printable_cell(value)
    if isinstance(value, float):
        return f"{value:.6g}"
    return printable_cell(json.dumps(value, ensure_ascii=False, default=str))
