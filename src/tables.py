"""Tables of results, for sweeps, comparisons and the list of runs: Markdown, percentages, mean ± sd, seeds, ranking."""

import math
import re
import statistics
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from .machine.streams import printable_cell

Item = TypeVar("Item")


@dataclass(frozen=True)
class Table:
    """Rows of text below column headings; `right` names the columns that are right-aligned."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    right: Collection[str] = ()

    def pick(self, positions: Sequence[int]) -> "Table":
        """Return the columns at these positions."""
        columns, *rows = ([cells[position] for position in positions] for cells in (self.columns, *self.rows))
        return Table(columns, rows, self.right)

    def turn(self, corner: str) -> "Table":
        """Return the table with rows and columns swapped; corner: the new heading of the first column."""
        columns, *rows = map(list, zip([corner, *self.columns[1:]], *self.rows, strict=True))
        return Table(columns, rows)

    def to_markdown(self) -> str:
        marks = ["---:" if name in self.right else "---" for name in self.columns]
        columns, *rows = ([escape_markdown(cell) for cell in cells] for cells in (self.columns, *self.rows))
        return "\n".join(f"| {' | '.join(cells)} |" for cells in (columns, marks, *rows))


def escape_markdown(text: str) -> str:
    """Return text that Markdown shows as it is, also within a table: folders may be called `a|b` or `*`."""
    # An underscore within a word is no markup, and keys with escaped ones would be hard to read.
    return re.sub(r"[\\|*`<\[~]|(?<![^\W_])_|_(?![^\W_])", r"\\\g<0>", printable_cell(text.replace("\n", " ")))


def format_percent(fraction: float | None) -> str:
    """Return 0.976 as 97.60%, and an unknown number as an empty text."""
    return "" if fraction is None else f"{fraction:.2%}"


def describe_mean(fractions: Iterable[float | None]) -> str:
    """Return mean, sample standard deviation and number of the known ones, such as `97.60 ± 0.60 % (5)`."""
    percents = [100 * fraction for fraction in fractions if fraction is not None]
    if not percents:
        return ""
    deviation = f" ± {statistics.stdev(percents):.2f}" if len(percents) > 1 else ""
    return f"{statistics.fmean(percents):.2f}{deviation} % ({len(percents)})"


def wilson(share: float, count: int) -> tuple[float, float]:
    """Return the 95 % interval of a share found among `count`: Wilson, J. Am. Stat. Assoc. 22 (1927).

    Unlike mean ± 2 sd, it is right for few and for shares near 0 and 1.
    """
    if not count:
        return 0.0, 1.0
    z = 1.959964  # of the normal distribution
    middle, scale = (share + z**2 / (2 * count)), 1 + z**2 / count
    reach = z * math.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    return max(0.0, (middle - reach) / scale), min(1.0, (middle + reach) / scale)


def mean(numbers: Iterable[float | None]) -> float | None:
    """Return the mean of the known ones, None if there are none."""
    known = [number for number in numbers if number is not None]
    return statistics.fmean(known) if known else None


def rank_key(accuracy: float | None, loss: float | None = None) -> tuple[float, float]:
    """Return a sort key: the highest accuracy first, the lowest loss among equal ones, unknown or NaN last."""
    ascending = (None if accuracy is None else -accuracy, loss)
    first, second = (math.inf if number is None or math.isnan(number) else number for number in ascending)
    return first, second


def group_by_seed(items: Iterable[Item], settings: Callable[[Item], Mapping[str, Any]]) -> list[list[Item]]:
    """Return groups of items whose settings differ only in `seed`, compared by value; each item is in one group."""
    groups: dict[Hashable, list[Item]] = {}
    for item in items:
        key = _freeze({name: value for name, value in settings(item).items() if name != "seed"})
        groups.setdefault(key, []).append(item)
    return list(groups.values())


def list_differing(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the keys whose values are not equal everywhere; where a key is missing, it differs."""
    keys = dict.fromkeys(key for values in settings for key in values)
    return [key for key in keys if len({_freeze(values[key]) if key in values else () for values in settings}) > 1]


def _freeze(value: Any) -> Hashable:
    """Return a hashable that is equal for equal values: 1 equals 1.0, but not true."""
    if isinstance(value, Mapping):
        return frozenset((key, _freeze(item)) for key, item in value.items())
    if isinstance(value, list | tuple):
        return "list", *map(_freeze, value)
    return isinstance(value, bool), value
