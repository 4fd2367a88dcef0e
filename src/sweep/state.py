"""How far a job of a sweep has come, as its folder tells; nothing else is kept about it."""

import contextlib
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..config import Plan, PlannedJob
from ..run import CONFIG, METRICS, PRUNED, read_run
from ..run.files import read_table

DONE = ("finished", "pruned")
FAILED = ("failed", "killed")


@dataclass
class JobState:
    """A job and its status: pending, running, stopped, failed, killed, finished, or pruned: ended as hopeless."""

    number: int
    planned: PlannedJob
    folder: Path
    status: str
    facts: dict[str, Any]  # of status.json

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
            return "killed: its process is gone without a word"
        lines = str(self.facts.get("error") or "").strip().splitlines() if self.status in FAILED else []
        return lines[0] if lines else ""

    def beginning(self) -> str:
        """Say what happens to the job when it is run now."""
        return "begins" if self.status == "pending" else f"was {self.status}, goes on"

    def values(self) -> dict[str, str]:
        """Return key -> value of the job's overrides."""
        return dict(override.lstrip("+").partition("=")[::2] for override in self.planned.overrides)

    def epochs(self) -> tuple[list[float], list[float]]:
        """Return the epochs and the validation accuracy of each, of the weights that were kept for it."""
        rows = self._rows()
        best = [max(filter(None, (row.get("val_acc"), row.get("ema_val_acc"))), default=0.0) for row in rows]
        return [row["epoch"] for row in rows], best

    def images_per_second(self) -> float | None:
        rates = [row["images_per_second"] for row in self._rows() if row.get("images_per_second")]
        return round(statistics.median(rates), 1) if rates else None

    def _rows(self) -> list[dict[str, float]]:
        with contextlib.suppress(OSError, ValueError, KeyError):
            return [row for row in read_table(self.folder / METRICS) if "epoch" in row]
        return []


def read_state(sweep: Path, number: int, planned: PlannedJob) -> JobState:
    folder = sweep / planned.folder
    try:
        run = read_run(folder)
    except FileNotFoundError:
        return JobState(number, planned, folder, "killed" if (folder / CONFIG).is_file() else "pending", {})
    except (OSError, ValueError):
        return JobState(number, planned, folder, "killed", {})
    pruned = run.status == "finished" and run.facts.get("ended") == PRUNED
    return JobState(number, planned, folder, "pruned" if pruned else run.status, run.facts)


def read_states(sweep: Path, plan: Plan) -> list[JobState]:
    return [read_state(sweep, number, planned) for number, planned in enumerate(plan.jobs)]
