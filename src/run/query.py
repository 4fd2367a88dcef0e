"""Filter and sort saved runs: `filter=` and `sort=`, by their status and configuration.

Configurations are read only if a condition or the order uses one of their keys.
"""

import difflib
import functools
import operator
import re
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from ..config.compose import flatten, load_config, read_values
from ..config.keys import list_keys, suggest_keys
from ..config.overrides import show_value
from ..config.schema import TrainConfig
from .files import CONFIG
from .saved import SavedRun

# The columns of a table of runs, by the names that are typed.
FACTS: dict[str, Callable[[SavedRun], Any]] = {
    "started": lambda run: run.started or None,
    "dataset": lambda run: run.facts.get("dataset"),
    "model": lambda run: run.facts.get("model"),
    "parameters": lambda run: run.number("parameters"),
    "epoch": lambda run: run.number("epoch"),
    "val_acc": lambda run: run.number("best_val_acc"),
    "test_acc": lambda run: run.number("test_acc"),
    "seconds": lambda run: run.number("seconds"),
    "minutes": lambda run: run.minutes,
    "status": lambda run: run.status,
    "folder": lambda run: str(run.folder),
}
NAMES = {"dataset", "model", "status", "folder"}  # compared as text
SIGNS = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
EXAMPLE = "write NAME=VALUE, !=, >, <, >= or <=, e.g. filter='val_acc>0.9 status=finished'"


@dataclass(frozen=True)
class Condition:
    """A comparison of a value of runs, by its name, with what was typed."""

    name: str
    sign: str
    typed: str

    def holds(self, value: Any) -> bool:
        """Return whether a run's value meets the condition; a missing one (None) meets `=null`, and `!=` any value."""
        if self.sign in SIGNS:
            return value is not None and self._is_ordered(value)
        return self._equals(value) == (self.sign == "=")

    def _is_ordered(self, value: Any) -> bool:
        if self.name == "started":  # compared with the precision typed: a day, an hour
            moment = self.typed.replace(" ", "T")
            return SIGNS[self.sign](value[: len(moment)], moment)
        number, wanted = _as_number(value), _read_number(self.typed)
        return number is not None and wanted is not None and SIGNS[self.sign](number, wanted)

    def _equals(self, value: Any) -> bool:
        if self.name == "started" and value is not None:
            return value.startswith(self.typed.replace(" ", "T"))
        number, wanted = _as_number(value), _read_number(self.typed)
        if number is not None and wanted is not None:
            return number == wanted
        text, pattern = show_value(value).replace(", ", ","), self.typed.replace(", ", ",")
        return text == pattern or fnmatchcase(text, pattern)


def select_runs(runs: list[SavedRun], filter: str | None, sort: str) -> list[SavedRun]:  # noqa: A002 - the key's name
    """Return the runs that meet all conditions of `filter`, sorted by `sort`; runs without that value come last.

    Raises ValueError for unknown names and malformed conditions.
    """
    conditions = parse_filter(filter or "")
    name, reverse = sort.removeprefix("-"), sort.startswith("-")
    _check_name("sort", name)
    values = _Values({condition.name for condition in conditions} | {name})
    chosen = [run for run in runs if all(condition.holds(values(run, condition.name)) for condition in conditions)]
    return _sort(chosen, name, reverse, values)


def parse_filter(text: str) -> list[Condition]:
    """Return the conditions, separated by spaces or commas; values in quotes or brackets may contain both."""
    found, end = [], 0
    pattern = r"""([\w.]+)\s*(>=|<=|!=|==|=|>|<)\s*("[^"]*"|'[^']*'|\[[^\]]*\][^\s,]*|[^\s,]*)"""
    for match in re.finditer(pattern, text):
        _check_between(text[end : match.start()], text)
        end = match.end()
        name, sign, typed = match.groups()
        found.append(Condition(name, sign.replace("==", "="), _unquote(typed)))
        _check_condition(found[-1], match[0])
    _check_between(text[end:], text)
    return found


def _unquote(typed: str) -> str:
    return typed[1:-1] if len(typed) > 1 and typed[0] == typed[-1] and typed[0] in "'\"" else typed


def _check_between(text: str, whole: str) -> None:
    if rest := text.strip(" \t\n,"):
        raise ValueError(f"filter={whole}: '{rest}' is not a condition; {EXAMPLE}")


def _check_condition(condition: Condition, typed: str) -> None:
    name, number = condition.name, _read_number(condition.typed)
    _check_name("filter", name)
    if not condition.typed:
        raise ValueError(f"filter={typed} has no value; {EXAMPLE}; {name}=null finds runs without one")
    if condition.sign in SIGNS and name in NAMES:
        raise ValueError(f"filter={typed}: {name} is not a number; compare it with = or !=, where * matches any text")
    if condition.sign in SIGNS and name != "started" and number is None:
        raise ValueError(f"filter={typed}: {condition.typed} is not a number")
    if name in ("val_acc", "test_acc") and number is not None and number > 1:
        raise ValueError(f"filter={typed}: {name} is a fraction from 0 to 1; write {name}{condition.sign}{number:g}%")


def _check_name(key: str, name: str) -> None:
    """Raise ValueError, with similar names, for a name that is not in the table or the configuration."""
    keys = list_keys(TrainConfig)
    groups = {known.rpartition(".")[0] for known in keys}
    if name in FACTS or (name in keys and name not in groups):
        return
    if name in groups:
        near = [known for known in keys if known.startswith(f"{name}.")]
    else:
        shown = [] if "." in name else difflib.get_close_matches(name, FACTS, n=2)
        near = [*shown, *(known for known in suggest_keys(name, TrainConfig) if known not in groups)]
    hint = f" Did you mean {' or '.join(near[:3])}?" if near else ""
    wrong = f"there is no {name}" if name else "there is no name"
    raise ValueError(
        f"{key}={name}: {wrong}.{hint}\nallowed: {', '.join(FACTS)}, or a key of the configuration, such as training.lr"
    )


class _Values:
    """The values of runs by name. The configuration of a run is read at most once, when it is needed."""

    def __init__(self, names: Iterable[str]) -> None:
        self._keys = set(names) - FACTS.keys()
        self._read: dict[int, dict[str, Any]] = {}

    def __call__(self, run: SavedRun, name: str) -> Any:
        if name in FACTS:
            return FACTS[name](run)
        if id(run) not in self._read:
            self._read[id(run)] = self._read_config(run)
        return self._read[id(run)].get(name)

    def _read_config(self, run: SavedRun) -> dict[str, Any]:
        """Return a run's configuration, with the current defaults for keys added since; {} if it is damaged."""
        path = run.folder / CONFIG
        try:
            values = _read_values(path, path.stat().st_mtime_ns)
            return values if self._keys <= values.keys() else flatten(asdict(load_config(path)))
        except Exception:  # yaml and the schema raise various types
            return {}


@functools.lru_cache(maxsize=4096)
def _read_values(path: Path, changed: int) -> dict[str, Any]:
    """Read a configuration again only if it has changed: the page asks for the same table every few seconds."""
    return read_values(path)


def _sort(runs: list[SavedRun], name: str, reverse: bool, values: _Values) -> list[SavedRun]:
    """Sort by a value: numbers and times from the largest, names from A; or in reverse."""
    held = [(run, values(run, name)) for run in runs]
    present = [(run, value) for run, value in held if value is not None]
    lacking = [run for run, value in held if value is None]
    numbers = {id(run): _as_number(value) for run, value in present}
    if None in numbers.values():
        descending = name == "started"
        present.sort(key=lambda pair: show_value(pair[1]), reverse=descending != reverse)
    else:
        present.sort(key=lambda pair: numbers[id(pair[0])] or 0.0, reverse=not reverse)
    return [run for run, _ in present] + lacking


def _as_number(value: Any) -> float | None:
    """Return a value as a number, None if it is not one; a square size is its side, true and false are not numbers."""
    if isinstance(value, list | tuple) and len(set(map(str, value))) == 1:
        value = value[0]
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _read_number(typed: str) -> float | None:
    """Return what was typed as a number, None if it is not one; 90% is 0.9."""
    try:
        return float(typed.removesuffix("%")) / (100 if typed.endswith("%") else 1)
    except ValueError:
        return None
