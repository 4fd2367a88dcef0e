"""Trackers: programs that show the numbers of runs, epoch by epoch. Each is a class here and a line in TRACKERS."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

Row = Mapping[str, Any]  # an epoch's numbers by column; None stands for one that the epoch does not have


class Tracker(Protocol):
    """What a run tells a tracker; it is closed at the end of a session, and opened again when the run is resumed."""

    def log(self, rows: Sequence[Row]) -> None:
        """Show further epochs."""

    def forget(self) -> None:
        """Forget all epochs: they are shown again from the first one, some of them repeated."""

    def close(self) -> None:
        """Write what is left."""


class TensorBoard:
    """Event files, read by `tensorboard --logdir`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "tensorboard"
        self._events: Any = None

    def log(self, rows: Sequence[Row]) -> None:
        if self._events is None:
            from torch.utils.tensorboard import SummaryWriter  # takes some seconds

            # After `forget` the old files are gone; the mark lets a TensorBoard that has read them forget them too.
            self._events = SummaryWriter(str(self._folder), purge_step=0)
        for row in rows:
            for key in [key for key in row if key != "epoch" and row[key] is not None]:
                self._events.add_scalar(key, row[key], int(row["epoch"]))
        self._events.flush()

    def forget(self) -> None:
        self.close()
        for path in self._folder.glob("events.out.tfevents.*"):
            path.unlink()

    def close(self) -> None:
        events, self._events = self._events, None
        if events is not None:
            events.close()


# Name -> what builds the tracker of a run's folder.
TRACKERS: dict[str, Callable[[Path], Tracker]] = {"tensorboard": TensorBoard}
