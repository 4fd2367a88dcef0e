"""The ledger of a sweep: a row per job, ranked, as a table, a page, a picture, and in the terminal.

It is made anew from the jobs' folders each time, so that it is right whoever wrote it last, and whatever was killed.
"""

import math
import shlex
import statistics
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from .. import terminal
from ..distributed.torchrun import name_launcher, read_place
from ..machine.disk import short_path, write_csv, write_text
from ..run.files import LEDGER_LOCK, SWEEP_PICTURE, SWEEP_REPORT, SWEEP_TABLE
from .plan import Plan
from .state import JobState, read_states

REDRAWN = 30.0  # seconds after which a picture is drawn again while a sweep is at work
SHOWN = 20  # jobs in the terminal's table; the files hold all


@dataclass
class Group:
    """Jobs that differ in nothing but their seed: the settings, and the accuracies of those that are finished."""

    settings: dict[str, str]
    val: list[float]
    test: list[float]
    jobs: list[JobState]

    @property
    def mean(self) -> float:
        return statistics.fmean(self.val) if self.val else -math.inf


def rank_jobs(states: Sequence[JobState]) -> list[JobState]:
    """Return the jobs, those of the highest validation accuracy first, of equal ones those of the lowest loss."""

    def key(state: JobState) -> tuple[float, float, int]:
        accuracy, loss = state.val_acc, state.facts.get("best_val_loss")
        return (-math.inf if accuracy is None else accuracy, -(loss or 0.0), -state.number)

    return sorted(states, key=key, reverse=True)


def group_jobs(states: Sequence[JobState]) -> list[Group]:
    """Return the jobs by what they have in common apart from `seed`, the highest mean accuracy first."""
    groups: dict[tuple[tuple[str, str], ...], Group] = {}
    for state in states:
        settings = {key: value for key, value in state.values().items() if key != "seed"}
        group = groups.setdefault(tuple(settings.items()), Group(settings, [], [], []))
        group.jobs.append(state)
        if state.status == "finished":
            group.val += [] if state.val_acc is None else [state.val_acc]
            group.test += [] if state.facts.get("test_acc") is None else [state.facts["test_acc"]]
    return sorted(groups.values(), key=lambda group: group.mean, reverse=True)


def write_ledger(sweep: Path, plan: Plan, redraw_after: float | None) -> None:
    """Write sweep.csv, sweep.md and, unless it was drawn less than so many seconds ago, sweep.png; None: no picture."""
    with FileLock(sweep / LEDGER_LOCK):
        states = read_states(sweep, plan)
        ranked = rank_jobs(states)
        write_csv(sweep / SWEEP_TABLE, [_describe(state, rank, sweep) for rank, state in enumerate(ranked, start=1)])
        write_text(sweep / SWEEP_REPORT, _write_page(sweep, plan, ranked))
        if redraw_after is not None and _age(sweep / SWEEP_PICTURE) >= redraw_after:
            try:
                _draw(sweep, plan, states)
            except Exception as error:  # whatever it is, no sweep ends for a picture
                terminal.say(f"warning   {SWEEP_PICTURE} could not be drawn: {type(error).__name__}: {error}")


def _age(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except OSError:
        return math.inf


def _describe(state: JobState, rank: int, sweep: Path) -> dict[str, Any]:
    """Return a job's row; accuracies are fractions, memory is in MiB, what is not known is empty."""
    facts = state.facts
    seconds, memory = facts.get("seconds"), facts.get("peak_memory")
    return {
        "rank": rank if state.val_acc is not None else None,
        "job": state.number,
        **state.values(),
        "status": state.status,
        "val_acc": state.val_acc,
        "best_epoch": facts.get("best_epoch"),
        "test_acc": facts.get("test_acc"),
        "epochs": facts.get("epoch"),
        "minutes": round(seconds / 60, 2) if seconds else None,
        "images_per_second": state.images_per_second(),
        "peak_memory_mb": round(memory / 2**20) if memory else None,
        "error": state.error or None,
        "folder": str(state.folder.relative_to(sweep)),
    }


def _write_page(sweep: Path, plan: Plan, ranked: Sequence[JobState]) -> str:
    swept = plan.list_swept()
    lines = [f"# {sweep.name}", "", f"`python train.py --multirun {shlex.join([*plan.overrides, *plan.hydra])}`", ""]
    lines += [count_states(ranked), ""]
    groups = group_jobs(ranked)
    if any(len(group.jobs) > 1 for group in groups):
        lines += [*_as_markdown(*tabulate_groups(groups, swept)), ""]
    lines += [*_as_markdown(*tabulate_jobs(ranked, swept)), ""]
    if failed := [state for state in ranked if state.error]:
        lines += [*(f"- job {state.number}: {state.error}" for state in failed), ""]
    if ranked and ranked[0].val_acc is not None:
        lines += [f"Best: `{ranked[0].folder.relative_to(sweep)}`, by validation accuracy.", ""]
    return "\n".join([*lines, f"![settings and validation curves]({SWEEP_PICTURE})", ""])


def _as_markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    cells = [columns, ["---"] * len(columns), *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in cells]


def tabulate_jobs(ranked: Sequence[JobState], swept: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """Return columns and rows for people: the swept keys and what came of them."""
    columns = ["rank", "job", *swept, "val acc", "test acc", "epochs", "minutes", "images/s", "status"]
    rows = []
    for rank, state in enumerate(ranked, start=1):
        facts, values, rate = state.facts, state.values(), state.images_per_second()
        rows.append(
            [
                str(rank) if state.val_acc is not None else "",
                str(state.number),
                *(values.get(key, "") for key in swept),
                _percent(state.val_acc),
                _percent(facts.get("test_acc")),
                f"{facts['epoch']}/{facts['epochs']}" if facts.get("epochs") else "",
                f"{facts['seconds'] / 60:.1f}" if facts.get("seconds") else "",
                f"{rate:,.0f}" if rate else "",
                state.status,
            ]
        )
    return columns, rows


def tabulate_groups(groups: Sequence[Group], swept: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    keys = [key for key in swept if key != "seed"]
    rows = [
        [*(group.settings.get(key, "") for key in keys), describe_mean(group.val), describe_mean(group.test)]
        for group in groups
    ]
    return [*keys, "val acc, mean ± sd (n)", "test acc, mean ± sd (n)"], rows


def describe_mean(accuracies: Sequence[float]) -> str:
    """Return the mean with the sample standard deviation, in per cent, and of how many."""
    if not accuracies:
        return ""
    deviation = f" ± {100 * statistics.stdev(accuracies):.2f}" if len(accuracies) > 1 else ""
    return f"{100 * statistics.fmean(accuracies):.2f}{deviation} % ({len(accuracies)})"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.2%}"


def count_states(states: Sequence[JobState]) -> str:
    """Return how many jobs are in which state, e.g. "12 jobs: 9 finished, 1 failed, 2 pending"."""
    counts = Counter(state.status for state in states)
    order = ("finished", "pruned", "running", "stopped", "failed", "killed", "pending")
    known = [f"{counts[status]} {status}" for status in order if counts[status]]
    return f"{len(states)} {'job' if len(states) == 1 else 'jobs'}: {', '.join(known)}"


def _draw(sweep: Path, plan: Plan, states: Sequence[JobState]) -> None:
    from ..plots.sweeps import plot_sweep

    swept = plan.list_swept()
    keys = [key for key in swept if key != "seed"] or swept
    groups = group_jobs(states) if keys != ["seed"] else [Group(s.values(), _known(s), [], [s]) for s in states]
    shown = [group for group in groups if group.val]
    settings = {key: [_read_value(group.settings.get(key)) for group in shown] for key in keys}
    curves = {_name(state, swept): state.curve() for state in states}
    curves = {name: curve for name, curve in curves.items() if curve[0]}
    ranked = [state for state in rank_jobs(states) if state.val_acc is not None]
    best = (_name(ranked[0], swept), float(ranked[0].facts.get("best_epoch") or 0)) if ranked else None
    plot_sweep(settings, [group.val for group in shown], curves, best, sweep / SWEEP_PICTURE)


def _known(state: JobState) -> list[float]:
    return [state.val_acc] if state.val_acc is not None and state.status == "finished" else []


def _name(state: JobState, swept: Sequence[str]) -> str:
    values = state.values()
    settings = " ".join(f"{key.rsplit('.', 1)[-1]}={values[key]}" for key in swept if key in values)
    return f"{state.number}: {settings}" if settings else str(state.number)


def _read_value(text: str | None) -> Any:
    """Return a typed value as a picture's axis takes it: a number where it is one."""
    if text is None:
        return None
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text.strip("'\"")


def show_ranking(sweep: Path, plan: Plan, states: Sequence[JobState]) -> None:
    """Print the ranking, what failed, the repeats' means, the best run and the commands to use it."""
    ranked, swept = rank_jobs(states), plan.list_swept()
    terminal.console.print()
    columns, rows = tabulate_jobs(ranked[:SHOWN], swept)
    terminal.show_table(columns, rows, right=[name for name in columns if name not in ("status", *swept)])
    if len(ranked) > SHOWN:
        terminal.say(f"… and {len(ranked) - SHOWN} more in {SWEEP_TABLE}")
    groups = group_jobs(states)
    if any(len(group.val) > 1 for group in groups) and len(groups) > 0:
        terminal.console.print()
        columns, rows = tabulate_groups([group for group in groups if group.val][:SHOWN], swept)
        terminal.show_table(columns, rows, right=columns[-2:])
    folder = Path(short_path(sweep))
    pairs = [("sweep", f"{folder / SWEEP_TABLE}, {SWEEP_REPORT}, {SWEEP_PICTURE}"), ("jobs", count_states(states))]
    pairs += [(f"job {state.number}", f"{state.status}: {state.error}") for state in states if state.error]
    if ranked and ranked[0].val_acc is not None:
        best = shlex.quote(short_path(ranked[0].folder))
        pairs += [("best", best), ("predict", f"python inference.py run={best} input=IMAGE")]
    if any(not state.done for state in states):
        pairs += [("continue", f"{name_launcher(read_place())} train.py --multirun resume={shlex.quote(str(folder))}")]
    terminal.show_pairs(pairs)
