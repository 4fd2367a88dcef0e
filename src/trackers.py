"""Trackers: programs that show the metrics of runs per epoch. Each is a class here and a line in TRACKERS."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

Row = Mapping[str, Any]  # the metrics of an epoch by column; None where the epoch has no value


class Tracker(Protocol):
    """What a run calls. A tracker is closed when the session ends, and built again when the run is resumed."""

    def log(self, rows: Sequence[Row]) -> None:
        """Add epochs."""

    def clear(self) -> None:
        """Remove all epochs; those that are still valid are logged again."""

    def close(self) -> None:
        """Flush and close."""


class TensorBoard:
    """Event files for `tensorboard --logdir`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "tensorboard"
        self._events: Any = None

    def log(self, rows: Sequence[Row]) -> None:
        if self._events is None:
            from torch.utils.tensorboard import SummaryWriter  # takes some seconds

            # After `clear` the old files are gone; purge_step makes a TensorBoard that has read them drop them, too.
            self._events = SummaryWriter(str(self._folder), purge_step=0)
        for row in rows:
            for key in [key for key in row if key != "epoch" and row[key] is not None]:
                self._events.add_scalar(key, row[key], int(row["epoch"]))
        self._events.flush()

    def clear(self) -> None:
        self.close()
        for path in self._folder.glob("events.out.tfevents.*"):
            path.unlink()

    def close(self) -> None:
        events, self._events = self._events, None
        if events is not None:
            events.close()


# Name -> builds the tracker of a run's folder.
TRACKERS: dict[str, Callable[[Path], Tracker]] = {"tensorboard": TensorBoard}
