"""Which of the saved runs, and in what order: `filter=` and `sort=`, over their status and their configurations.

Configurations are read only where a condition or the order names one of their keys.
"""

import difflib
import operator
import re
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from typing import Any

from ..config.compose import flatten, load_config, read_values
from ..config.keys import list_keys, suggest_keys
from ..config.overrides import show_value
from ..config.schema import TrainConfig
from .files import CONFIG
from .saved import SavedRun

# What a table of runs shows, by the names that are typed.
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
NAMES = {"dataset", "model", "status", "folder"}  # of these, compared as text and sorted from A
SIGNS = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
EXAMPLE = "write NAME=VALUE, !=, >, <, >= or <=, e.g. filter='val_acc>0.9 status=finished'"


@dataclass(frozen=True)
class Condition:
    """A comparison of what runs have by a name with what was typed."""

    name: str
    sign: str
    typed: str

    def holds(self, value: Any) -> bool:
        """Tell whether a run's value meets it; one that a run lacks (None) meets `=null` and any other `!=`."""
        if self.sign in SIGNS:
            return value is not None and self._is_ordered(value)
        return self._equals(value) == (self.sign == "=")

    def _is_ordered(self, value: Any) -> bool:
        if self.name == "started":  # up to the precision typed: a day, an hour
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
    """Return the runs that meet all conditions of `filter`, in the order of `sort`; runs that lack its value come last.

    Raises ValueError for names that are none and for what is no condition.
    """
    conditions = parse_filter(filter or "")
    name, turned = sort.removeprefix("-"), sort.startswith("-")
    _check_name("sort", name)
    values = _Values({condition.name for condition in conditions} | {name})
    chosen = [run for run in runs if all(condition.holds(values(run, condition.name)) for condition in conditions)]
    return _sort(chosen, name, turned, values)


def parse_filter(text: str) -> list[Condition]:
    """Return the conditions, which spaces or commas separate; a value in quotes or brackets may hold either."""
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
        raise ValueError(f"filter={whole}: '{rest}' is no condition; {EXAMPLE}")


def _check_condition(condition: Condition, typed: str) -> None:
    name, number = condition.name, _read_number(condition.typed)
    _check_name("filter", name)
    if not condition.typed:
        raise ValueError(f"filter={typed} has no value; {EXAMPLE}; {name}=null: runs that have none")
    if condition.sign in SIGNS and name in NAMES:
        raise ValueError(f"filter={typed}: {name} is no number; compare it by = or !=, * stands for any letters")
    if condition.sign in SIGNS and name != "started" and number is None:
        raise ValueError(f"filter={typed}: {condition.typed} is no number")
    if name in ("val_acc", "test_acc") and number is not None and number > 1:
        raise ValueError(f"filter={typed}: {name} is a share from 0 to 1; write {name}{condition.sign}{number:g}%")


def _check_name(key: str, name: str) -> None:
    """Refuse a name that neither a table nor a configuration has; similar ones are named, and what is allowed."""
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
    """What runs have by the names that are asked for; the configuration of each is read once, if at all."""

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
        """Return the values of a run's configuration, with today's for keys that are younger; none if it is damaged."""
        path = run.folder / CONFIG
        try:
            values = read_values(path)
            return values if self._keys <= values.keys() else flatten(asdict(load_config(path)))
        except Exception:  # of yaml, the schema: whatever is wrong with the file
            return {}


def _sort(runs: list[SavedRun], name: str, turned: bool, values: _Values) -> list[SavedRun]:
    """Sort by a value: numbers and times from the largest, names from A, or the other way round."""
    held = [(run, values(run, name)) for run in runs]
    present = [(run, value) for run, value in held if value is not None]
    lacking = [run for run, value in held if value is None]
    numbers = {id(run): _as_number(value) for run, value in present}
    if None in numbers.values():
        from_the_largest = name == "started"
        present.sort(key=lambda pair: show_value(pair[1]), reverse=from_the_largest != turned)
    else:
        present.sort(key=lambda pair: numbers[id(pair[0])] or 0.0, reverse=not turned)
    return [run for run, _ in present] + lacking


def _as_number(value: Any) -> float | None:
    """Return a value as a number where it is one: a size of equal sides is, true and false are not."""
    if isinstance(value, list | tuple) and len(set(map(str, value))) == 1:
        value = value[0]
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _read_number(typed: str) -> float | None:
    """Return what was typed as a number where it is one; 90% is 0.9."""
    try:
        return float(typed.removesuffix("%")) / (100 if typed.endswith("%") else 1)
    except ValueError:
        return None
