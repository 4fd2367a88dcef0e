"""The ledger of a sweep: its jobs, ranked, as a CSV table, a Markdown page, a picture, and in the terminal.

It is rebuilt from the jobs' folders each time, so it is correct no matter who wrote it last and what was killed.
"""

import math
import shlex
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock

from .. import terminal
from ..config.overrides import unquote_path
from ..distributed.torchrun import name_launcher, read_place
from ..machine.disk import short_path, write_csv, write_text
from ..run.files import LEDGER_LOCK, SWEEP_PICTURE, SWEEP_REPORT, SWEEP_TABLE
from ..tables import Table, describe_mean, escape_markdown, format_percent, group_by_seed, mean, rank_key
from .plan import Plan, list_untrusted
from .state import JobState, read_states

REDRAW_AFTER = 30.0  # seconds between two drawings of the picture while a sweep is running
SHOWN = 20  # rows of a table in the terminal; the files hold all


def rank_jobs(states: Sequence[JobState]) -> list[JobState]:
    """Return the jobs by validation accuracy, the best first; among equal ones the lowest loss decides."""
    return sorted(states, key=lambda state: rank_key(state.val_acc, state.run.number("best_val_loss")))


def group_jobs(states: Sequence[JobState]) -> list[list[JobState]]:
    """Return the jobs in groups that differ only in `seed`, the highest mean validation accuracy first."""
    groups = group_by_seed(states, lambda state: state.planned.values())
    return sorted(groups, key=lambda group: rank_key(mean(_list_finished(group, "best_val_acc"))))


def find_best(states: Sequence[JobState]) -> tuple[JobState | None, str]:
    """Return the job to use, and why: the best of the group with the best mean over seeds, or else the best job."""
    groups = [group for group in group_jobs(states) if len(_list_finished(group, "best_val_acc")) > 1]
    ranked = [state for state in rank_jobs(groups[0] if groups else states) if state.val_acc is not None]
    why = "by validation accuracy"
    if groups:
        means = describe_mean(_list_finished(groups[0], "best_val_acc"))
        why = f"of those whose settings have the best mean over seeds, {means}"
    return (ranked[0] if ranked else None), why


def _list_finished(states: Sequence[JobState], fact: str) -> list[float]:
    """Return a fact of those jobs that have finished and know it."""
    numbers = [state.run.number(fact) for state in states if state.status == "finished"]
    return [number for number in numbers if number is not None]


def write_ledger(sweep: Path, plan: Plan, redraw_after: float | None) -> None:
    """Write sweep.csv, sweep.md, and sweep.png if it is older than `redraw_after` seconds; None: no picture."""
    with FileLock(sweep / LEDGER_LOCK):
        states = read_states(sweep, plan)
        ranked = rank_jobs(states)
        write_csv(sweep / SWEEP_TABLE, [_build_row(state, rank, sweep) for rank, state in enumerate(ranked, start=1)])
        write_text(sweep / SWEEP_REPORT, _build_page(sweep, plan, ranked))
        if redraw_after is not None and _read_age(sweep / SWEEP_PICTURE) >= redraw_after:
            try:
                _draw(sweep, plan, states)
            except Exception as error:  # whatever it is, a picture does not end a sweep
                terminal.say(f"warning   {SWEEP_PICTURE} could not be drawn: {type(error).__name__}: {error}")


def _read_age(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except OSError:
        return math.inf


def _build_row(state: JobState, rank: int, sweep: Path) -> dict[str, Any]:
    """Return a job's row of sweep.csv; accuracies are fractions, memory is in MiB, unknown values are None."""
    facts, minutes, memory = state.facts, state.run.minutes, state.run.number("peak_memory")
    return {
        "rank": rank if state.val_acc is not None else None,
        "job": state.number,
        **state.planned.texts(),
        "status": state.status,
        "val_acc": state.val_acc,
        "best_epoch": facts.get("best_epoch"),
        "test_acc": facts.get("test_acc"),
        "epochs": facts.get("epoch"),
        "minutes": round(minutes, 2) if minutes else None,
        "images_per_second": state.run.images_per_second(),
        "peak_memory_mb": round(memory / 2**20) if memory else None,
        "error": state.error or None,
        "folder": str(state.folder.relative_to(sweep)),
    }


def _build_page(sweep: Path, plan: Plan, ranked: Sequence[JobState]) -> str:
    command = describe_command(plan)
    swept = plan.list_swept()
    tables = [tabulate_means(ranked, swept), tabulate_jobs(ranked, swept)]
    errors = [f"- job {state.number}: {escape_markdown(state.error)}" for state in ranked if state.error]
    blocks = [f"# {sweep.name}", f"`{command}`", count_states(ranked)]
    blocks += [table.to_markdown() for table in tables if table]
    blocks += ["\n".join(errors)] if errors else []
    best, why = find_best(ranked)
    if best is not None:
        blocks.append(f"Best: `{best.folder.relative_to(sweep)}`, {why}.")
    return "\n\n".join([*blocks, f"![settings and validation curves]({SWEEP_PICTURE})"]) + "\n"


def describe_command(plan: Plan) -> str:
    """Return the command that has started a sweep."""
    words = [*plan.flags, *map(unquote_path, plan.overrides), *plan.hydra]
    return f"python train.py --multirun {shlex.join(words)}"


def tabulate_jobs(ranked: Sequence[JobState], swept: Sequence[str]) -> Table:
    """Return a row per job: the values of the swept keys and the results."""
    results = ["val acc", "test acc", "epochs", "minutes", "images/s"]
    rows = [_tabulate_job(rank, state, swept) for rank, state in enumerate(ranked, start=1)]
    return Table(["rank", "job", *swept, *results, "status"], rows, right=["rank", "job", *results])


def _tabulate_job(rank: int, state: JobState, swept: Sequence[str]) -> list[str]:
    facts, values, minutes, rate = state.facts, state.planned.texts(), state.run.minutes, state.run.images_per_second()
    return [
        str(rank) if state.val_acc is not None else "",
        str(state.number),
        *(values.get(key, "") for key in swept),
        format_percent(state.val_acc),
        format_percent(state.run.number("test_acc")),
        f"{facts.get('epoch', 0)}/{facts['epochs']}" if facts.get("epochs") else "",
        terminal.format_minutes(minutes) if minutes else "",
        f"{rate:,.0f}" if rate else "",
        state.status,
    ]


def tabulate_means(states: Sequence[JobState], swept: Sequence[str]) -> Table | None:
    """Return a row per group of seeds with its mean accuracies; None if no group has two finished jobs."""
    groups = [group for group in group_jobs(states) if _list_finished(group, "best_val_acc")]
    if all(len(_list_finished(group, "best_val_acc")) < 2 for group in groups):
        return None
    keys = [key for key in swept if key != "seed"]
    means = ["val acc, mean ± sd (n)", "test acc, mean ± sd (n)"]
    rows = []
    for group in groups:
        values = group[0].planned.texts()
        accuracies = [describe_mean(_list_finished(group, fact)) for fact in ("best_val_acc", "test_acc")]
        rows.append([*(values.get(key, "") for key in keys), *accuracies])
    return Table([*keys, *means], rows, right=means)


def count_states(states: Sequence[JobState]) -> str:
    """Return how many jobs have each status, such as "12 jobs: 9 finished, 1 failed, 2 pending"."""
    counts = Counter(state.status for state in states)
    order = ("finished", "pruned", "running", "stopped", "failed", "killed", "pending")
    known = [f"{counts[status]} {status}" for status in order if counts[status]]
    return f"{len(states)} {'job' if len(states) == 1 else 'jobs'}: {', '.join(known)}"


def _draw(sweep: Path, plan: Plan, states: Sequence[JobState]) -> None:
    from ..plots.sweeps import plot_sweep

    swept = plan.list_swept()
    keys = [key for key in swept if key != "seed"] or swept
    groups = [[state] for state in states] if keys == ["seed"] else group_jobs(states)
    scores = [_list_finished(group, "best_val_acc") for group in groups]
    shown = [group[0].planned.values() for group, score in zip(groups, scores, strict=True) if score]
    settings = {key: [values.get(key) for values in shown] for key in keys}
    curves = {_name_job(state, swept): state.curve() for state in states}
    curves = {name: curve for name, curve in curves.items() if curve[0]}
    first = next((state for state in rank_jobs(states) if state.val_acc is not None), None)
    best = (_name_job(first, swept), float(first.run.number("best_epoch") or 0)) if first else None
    plot_sweep(settings, [score for score in scores if score], curves, best, sweep / SWEEP_PICTURE)


def _name_job(state: JobState, swept: Sequence[str]) -> str:
    values = state.planned.texts()
    settings = " ".join(f"{key.rsplit('.', 1)[-1]}={values[key]}" for key in swept if key in values)
    return f"{state.number}: {settings}" if settings else str(state.number)


def show_ranking(sweep: Path, plan: Plan, states: Sequence[JobState]) -> None:
    """Print the ranking, the means over seeds, the errors, the best job and the commands to use it or to continue."""
    ranked, swept = rank_jobs(states), plan.list_swept()
    _show_table(tabulate_jobs(ranked, swept))
    if means := tabulate_means(states, swept):
        _show_table(means)
    folder = Path(short_path(sweep))
    pairs = [("sweep", f"{folder / SWEEP_TABLE}, {SWEEP_REPORT}, {SWEEP_PICTURE}"), ("jobs", count_states(states))]
    pairs += [(f"job {state.number}", f"{state.status}: {state.error}") for state in states if state.error]
    best, why = find_best(states)
    if best is not None:
        name = shlex.quote(short_path(best.folder))
        pairs += [
            ("best", name),
            ("because", f"it is the best {why}"),
            ("predict", f"python inference.py run={name} input=IMAGE"),
        ]
    if any(not state.done for state in states):
        pairs += [("continue", continue_command(sweep, plan))]
    terminal.show_pairs(pairs)


def continue_command(sweep: Path, plan: Plan) -> str:
    """Return the command that continues a sweep, with what is not taken from its files."""
    words = ["--multirun", f"resume={short_path(sweep)}", *plan.flags, *list_untrusted(plan.hydra)]
    return f"{name_launcher(read_place())} train.py {shlex.join(words)}"


def _show_table(table: Table) -> None:
    terminal.console.print()
    terminal.show_table(table.columns, table.rows[:SHOWN], table.right)
    if len(table.rows) > SHOWN:
        terminal.say(f"… and {len(table.rows) - SHOWN} more in {SWEEP_REPORT}")
