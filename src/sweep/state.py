"""How far a job of a sweep has come, as its folder tells; nothing else is kept about it."""

import contextlib
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..config.overrides import split_override
from ..run.files import CONFIG
from ..run.limits import PRUNED
from ..run.saved import SavedRun, read_run
from .plan import Plan, PlannedJob

DONE = ("finished", "pruned")
FAILED = ("failed", "killed")


@dataclass
class JobState:
    """A job and its status: pending, running, stopped, failed, killed, finished, or pruned: ended as hopeless."""

    number: int
    planned: PlannedJob
    run: SavedRun

    @property
    def folder(self) -> Path:
        return self.run.folder

    @property
    def facts(self) -> dict[str, Any]:
        """What status.json holds, empty where there is none."""
        return self.run.facts

    @property
    def status(self) -> str:
        ended = self.run.status == "finished" and self.facts.get("ended") == PRUNED
        return "pruned" if ended else self.run.status

    @property
    def done(self) -> bool:
        return self.status in DONE

    @property
    def val_acc(self) -> float | None:
        return self.facts.get("best_val_acc")

    @property
    def error(self) -> str:
        """The first line of what went wrong, empty where nothing did."""
        if self.status == "killed" and not self.facts.get("error"):
            return "its process is gone without a word"
        lines = str(self.facts.get("error") or "").strip().splitlines() if self.status in FAILED else []
        return lines[0] if lines else ""

    def beginning(self) -> str:
        """Say what happens to the job when it is run now."""
        if self.done:
            return f"is {self.status}"
        return "begins" if self.status == "pending" else f"was {self.status}, goes on"

    def values(self) -> dict[str, str]:
        """Return key -> value of the job's overrides."""
        return dict(map(split_override, self.planned.overrides))

    def curve(self) -> tuple[list[float], list[float]]:
        """Return the epochs, and the validation accuracy of each, of the averaged weights where they were better."""
        columns = self._columns()
        plain, averaged = columns.get("val_acc", []), columns.get("ema_val_acc", [])
        best = [max(pair) for pair in zip(plain, averaged, strict=True)] if averaged else plain
        return columns.get("epoch", []), best

    def images_per_second(self) -> float | None:
        """Return the median over the epochs."""
        rates = [rate for rate in self._columns().get("images_per_second", []) if rate > 0]
        return round(statistics.median(rates), 1) if rates else None

    def _columns(self) -> dict[str, list[float]]:
        with contextlib.suppress(OSError, ValueError):
            return self.run.history()
        return {}


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
