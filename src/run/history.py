"""A run's metrics, a row per epoch: metrics.csv, curves.png, and the trackers."""

import errno
import math
import os
import time
from collections.abc import Sequence
from pathlib import Path

from ..machine.disk import append_text, format_csv, write_csv
from ..trackers import Row, Tracker
from .files import CURVES, METRICS

DRAWING_SHARE = 0.2  # of the time, for drawing the curves; of short epochs, several are drawn at once


class History:
    """The files that show the rows. The run holds the rows themselves, so that the files cannot disagree with them."""

    def __init__(self, folder: Path, trackers: Sequence[Tracker]) -> None:
        self._folder = folder
        self._trackers = trackers
        self._draw_from = 0.0  # a time of the monotonic clock
        self._undrawn: Sequence[Row] = ()

    def append(self, rows: Sequence[Row]) -> None:
        """Add the last row; the others were added before."""
        path = self._folder / METRICS
        columns = list(rows[0])
        if path.exists() and all(list(row) == columns for row in rows):
            append_text(path, format_csv(rows[-1:], columns))
        elif self._folder.is_dir():
            # The first row, or the columns changed because the run was continued with other settings.
            write_csv(path, rows)
        else:  # if a user deletes it during the run, it must stay deleted
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self._folder))
        if time.monotonic() >= self._draw_from:
            self._draw(rows)
        else:
            self._undrawn = rows
        for tracker in self._trackers:
            tracker.log(rows[-1:])

    def finish(self) -> None:
        """Draw the curves of the last epochs, if they are not drawn yet."""
        if self._undrawn and self._folder.is_dir():
            self._draw(self._undrawn)

    def rewrite(self, rows: Sequence[Row]) -> None:
        """Replace the contents by these rows: the files may have incomplete lines, or epochs that will be repeated."""
        self._undrawn = ()
        for tracker in self._trackers:
            tracker.clear()
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
        started, self._undrawn = time.monotonic(), ()
        plot_curves(columns, self._folder / CURVES)
        ended = time.monotonic()
        self._draw_from = ended + (ended - started) * (1 / DRAWING_SHARE - 1)

    def close(self) -> None:
        for tracker in self._trackers:
            tracker.close()
