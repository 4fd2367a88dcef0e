"""A run's numbers, a row per epoch: metrics.csv, curves.png, TensorBoard."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .files import CURVES, METRICS, TENSORBOARD, format_csv, write_csv

Row = Mapping[str, Any]  # where None stands for a number that the epoch does not have


class History:
    """The files that show the rows. The rows themselves are the run's; here is nothing that could disagree."""

    def __init__(self, folder: Path, tensorboard: bool) -> None:
        self._folder = folder
        self._tensorboard = tensorboard
        self._events: Any = None

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
        self._log(rows[-1:])

    def rewrite(self, rows: Sequence[Row]) -> None:
        """Show these rows and no others, whatever the files held: torn lines, or epochs that are to be repeated."""
        self.close()
        for path in (self._folder / TENSORBOARD).glob("events.out.tfevents.*"):
            path.unlink()
        if rows:
            write_csv(self._folder / METRICS, rows)
            self._draw(rows)
            self._log(rows)
        else:
            for name in (METRICS, CURVES):
                (self._folder / name).unlink(missing_ok=True)

    def _draw(self, rows: Sequence[Row]) -> None:
        from ..plots import plot_curves

        names = dict.fromkeys(key for row in rows for key in row)
        columns = {name: [math.nan if row.get(name) is None else row[name] for row in rows] for name in names}
        plot_curves(columns, self._folder / CURVES)

    def _log(self, rows: Sequence[Row]) -> None:
        if not self._tensorboard:
            return
        if self._events is None:
            from torch.utils.tensorboard import SummaryWriter

            # The old files are gone; the mark lets a TensorBoard that has read them forget them too.
            self._events = SummaryWriter(str(self._folder / TENSORBOARD), purge_step=0)
        for row in rows:
            for key in [key for key in row if key != "epoch" and row[key] is not None]:
                self._events.add_scalar(key, row[key], int(row["epoch"]))
        self._events.flush()

    def close(self) -> None:
        events, self._events = self._events, None
        if events is not None:
            events.close()
