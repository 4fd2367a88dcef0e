"""The axis of a swept setting: the positions of its values, and which values get a tick."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, NullLocator

from .letters import MUTED, label, measure, shorten, text
from .style import Floats, in_points

LOG_RATIO = 20  # from this ratio on, most values on a linear axis would crowd at its lower end
LISTED_VALUES = 12  # up to this many numbers were chosen by hand and are the ticks; more were drawn at random
TICK_SIZE = 9
MARGIN = 0.06
NAME_WIDTH = 13.0  # ems
STACKED, SLANTED = 1.3, 2.6  # space of a tick label along its axis, in ems, unless it is the label's length


@dataclass(frozen=True)
class Scale:
    """Sorted numbers, or names in the order given."""

    kind: Literal["linear", "log", "category"]
    values: list[Any]

    def place(self, values: list[Any]) -> Floats:
        """Return coordinates on a matplotlib axis: numbers unchanged, names by their index."""
        if self.kind == "category":
            names = [spell(value) for value in self.values]
            return np.array([names.index(spell(value)) for value in values], dtype=float)
        return np.array(values, dtype=float)

    def share(self, values: list[Any]) -> Floats:
        """Return the positions of values along the axis, from 0 to 1."""
        ends, places = self.place([self.values[0], self.values[-1]]), self.place(values)
        if ends[0] == ends[1]:
            return np.full(len(values), 0.5)
        if self.kind == "log":
            ends, places = np.log10(ends), np.log10(places)
        return (places - ends[0]) / (ends[1] - ends[0])

    def limits(self) -> tuple[float, float]:
        """Return the limits of a matplotlib axis, with some space beyond the values."""
        low, high = self.place([self.values[0], self.values[-1]]).tolist()
        if self.kind == "category" or low == high:
            return low - 0.5, high + 0.5
        if self.kind == "log":
            margin = (high / low) ** MARGIN
            return low / margin, high * margin
        return low - MARGIN * (high - low), high + MARGIN * (high - low)

    def ticks(self, points: float, room: float | None = None) -> list[Any]:
        """Return values whose labels do not overlap on an axis `points` long; `room`: space of a label, in ems."""
        for values in self._candidates():
            widths = np.array([TICK_SIZE * (room or measure(tick(value)) + 0.9) for value in values])
            gaps = np.abs(np.diff(self.share(values))) * points
            if (gaps >= (widths[1:] + widths[:-1]) / 2).all():
                return values
        raise AssertionError("the last candidate is a single value")

    def _candidates(self) -> Iterator[list[Any]]:
        if self.kind == "category" or len(self.values) <= LISTED_VALUES:
            yield self.values
        if self.kind != "category":
            low, high = self.values[0], self.values[-1]
            for numbers in _round_numbers(low, high, self.kind == "log"):
                inside = [number for number in numbers if low <= number <= high]
                if len(inside) > 1:
                    yield inside
        for step in range(2, len(self.values)):
            yield self.values[::step]
        yield self.values[:1]


def build_scale(values: list[Any]) -> Scale:
    """Return the scale for these values: linear or log if all are numbers, otherwise categories."""
    if not all(_is_number(value) for value in values):
        names = [spell(value) for value in values]
        return Scale("category", [value for index, value in enumerate(values) if spell(value) not in names[:index]])
    numbers = sorted(set(values))
    log = bool(numbers) and numbers[0] > 0 and numbers[-1] >= LOG_RATIO * numbers[0]
    return Scale("log" if log else "linear", numbers)


def scale_axis(axes: Axes, side: Literal["x", "y"], scale: Scale, key: str) -> None:
    """Set an axis's scale, its ticks and the name of its setting."""
    axes.set(**{f"{side}scale": "log" if scale.kind == "log" else "linear", f"{side}lim": scale.limits()})
    axis, index = (axes.xaxis, 0) if side == "x" else (axes.yaxis, 1)
    ends = np.ones((2, 2))
    ends[:, index] = scale.place([scale.values[0], scale.values[-1]])
    points = 72 / axes.figure.dpi * float(np.diff(axes.transData.transform(ends)[:, index])[0])
    values, turn = scale.ticks(points, STACKED if side == "y" else None), {}
    if side == "x" and scale.kind == "category" and len(values) < len(scale.values):
        values = scale.ticks(points, SLANTED)
        turn = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"}
    axis.set_ticks(scale.place(values), labels=[tick(value) for value in values], **text(TICK_SIZE, MUTED, **turn))
    axis.set_minor_locator(NullLocator())
    axis.set_label_text(label(key, in_points(axes)[index] / TICK_SIZE), **text(TICK_SIZE, MUTED))


def spell(value: Any) -> str:
    """Return a value as written in YAML."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"{value:.12g}" if isinstance(value, float) else str(value)


def tick(value: Any, width: float = NAME_WIDTH) -> str:
    """Return a value's tick label."""
    if not isinstance(value, float):
        return shorten(spell(value), width)
    numbers = [f"{value:.{digits}g}".replace("e-0", "e-").replace("e+0", "e") for digits in (4, 3, 2, 1)]
    return next((number for number in numbers if measure(number) <= width), numbers[-1])


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _round_numbers(low: float, high: float, log: bool) -> Iterator[list[float]]:
    if not log:
        for count in (5, 3):
            yield [float(number) for number in MaxNLocator(count, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)]
        return
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for digits in ((1, 2, 5), (1, 3), (1,)):
        yield [float(f"{digit}e{decade}") for decade in decades for digit in digits]
