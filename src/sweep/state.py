"""How far each job of a sweep is, as read from its folder; nothing else is stored about it."""

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..run.files import CONFIG
from ..run.limits import PRUNED
from ..run.saved import SavedRun, read_run
from .plan import Plan, PlannedJob

DONE = ("finished", "pruned")
FAILED = ("failed", "killed")


@dataclass
class JobState:
    """A job and its status: pending, running, stopped, failed, killed, finished, or pruned (stopped as unpromising)."""

    number: int
    planned: PlannedJob
    run: SavedRun

    @property
    def folder(self) -> Path:
        return self.run.folder

    @property
    def facts(self) -> dict[str, Any]:
        """The content of status.json, empty if there is none."""
        return self.run.facts

    @property
    def status(self) -> str:
        pruned = self.run.status == "finished" and self.facts.get("ended") == PRUNED
        return "pruned" if pruned else self.run.status

    @property
    def done(self) -> bool:
        return self.status in DONE

    @property
    def val_acc(self) -> float | None:
        return self.run.val_acc

    @property
    def error(self) -> str:
        """The first line of the error, empty if there is none."""
        if self.status == "killed" and not self.facts.get("error"):
            return "its process is gone and left no reason"
        lines = str(self.facts.get("error") or "").strip().splitlines() if self.status in FAILED else []
        return lines[0] if lines else ""

    def describe_start(self) -> str:
        """Return what happens to the job if it is run now."""
        if self.done:
            return f"is {self.status}"
        return "starts" if self.status == "pending" else f"was {self.status}, continues"

    def curve(self) -> tuple[list[float], list[float]]:
        """Return the epochs and the validation accuracy after each, the better one of the weights and their average."""
        columns: dict[str, list[float]] = {}
        with contextlib.suppress(OSError, ValueError):
            columns = self.run.history()
        plain, averaged = columns.get("val_acc", []), columns.get("ema_val_acc", [])
        best = [max(pair) for pair in zip(plain, averaged, strict=True)] if averaged else plain
        return columns.get("epoch", []), best


def read_state(sweep: Path, number: int, planned: PlannedJob) -> JobState:
    folder = sweep / planned.folder
    try:
        run = read_run(folder)
    except FileNotFoundError:
        run = SavedRun(folder, "killed" if (folder / CONFIG).is_file() else "pending", {})
    except (OSError, ValueError):
        run = SavedRun(folder, "killed", {})
    return JobState(number, planned, run)


def read_states(sweep: Path, plan: Plan) -> list[JobState]:
    return [read_state(sweep, number, planned) for number, planned in enumerate(plan.jobs)]
