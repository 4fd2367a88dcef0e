"""A run's numbers, a row per epoch: metrics.csv, curves.png, and the trackers."""

import math
from collections.abc import Sequence
from pathlib import Path

from ..machine.disk import format_csv, write_csv
from ..trackers import Row, Tracker
from .files import CURVES, METRICS


class History:
    """The files that show the rows. The rows themselves are the run's; here is nothing that could disagree."""

    def __init__(self, folder: Path, trackers: Sequence[Tracker]) -> None:
        self._folder = folder
        self._trackers = trackers

    def append(self, rows: Sequence[Row]) -> None:
        """Add the last row; the others are there."""
        path = self._folder / METRICS
        columns = list(rows[0])
        if path.exists() and all(list(row) == columns for row in rows):
            with path.open("a", newline="", encoding="utf-8") as file:
                file.write(format_csv(rows[-1:], columns))
        else:  # the first row, or one with other columns, after a run was continued with another configuration
            write_csv(path, rows)
        self._draw(rows)
        for tracker in self._trackers:
            tracker.log(rows[-1:])

    def rewrite(self, rows: Sequence[Row]) -> None:
        """Show these rows and no others, whatever the files held: torn lines, or epochs that are to be repeated."""
        for tracker in self._trackers:
            tracker.forget()
        if rows:
            write_csv(self._folder / METRICS, rows)
            self._draw(rows)
            for tracker in self._trackers:
                tracker.log(rows)
        else:
            for name in (METRICS, CURVES):
                (self._folder / name).unlink(missing_ok=True)

    def _draw(self, rows: Sequence[Row]) -> None:
        from ..plots.curves import plot_curves

        names = dict.fromkeys(key for row in rows for key in row)
        columns = {name: [math.nan if row.get(name) is None else row[name] for row in rows] for name in names}
        plot_curves(columns, self._folder / CURVES)

    def close(self) -> None:
        for tracker in self._trackers:
            tracker.close()
