"""Comparisons and rankings, as tables and curves."""

import math
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..config.inference import InferenceConfig
from ..run.files import SWEEP_PICTURE
from ..run.saved import SavedRun
from ..sweep.ledger import continue_command, describe_command, find_best, rank_jobs, tabulate_means
from ..tables import Table
from .errors import PageError
from .index import RunIndex, SavedSweep, make_id

CURVES = 20  # in one chart


def compare(config: InferenceConfig, runs: Sequence[SavedRun]) -> dict[str, Any]:
    """Return what `task=compare` prints about these runs, and their curves. Raises PageError for fewer than two."""
    # It draws curves in the terminal's version, so it imports matplotlib, which the first page does not wait for.
    from ..compare.choose import choose_entries
    from ..compare.compare import describe_comparison
    from ..compare.mcnemar import compare_with_best

    wanted = "[" + ",".join(str(run.folder) for run in runs) + "]"
    task = replace(config.task, name="compare")
    try:
        entries, left_out = choose_entries(replace(config, task=task, run=wanted, filter=None))
        sections = describe_comparison(entries, left_out, *compare_with_best(entries))
    except ValueError as error:
        raise PageError(str(error).splitlines()[0]) from error
    return {
        "title": f"Comparison of {len(entries)} runs",
        "sections": [
            {"heading": part.heading, "sentences": part.sentences, "table": part.table and to_json(part.table)}
            for part in sections
        ],
        "curves": [
            {
                "label": entry.label,
                "id": make_id(entry.saved.folder),
                "epoch": entry.history.get("epoch", []),
                "val_acc": [v if math.isfinite(v) else None for v in entry.history.get("val_acc", [])],
            }
            for entry in entries[:CURVES]
        ],
    }


def describe_sweep(index: RunIndex, sweep: SavedSweep) -> dict[str, Any]:
    """Return what the page of a sweep shows: its ranking as in sweep.md."""
    ranked, swept = rank_jobs(sweep.states), sweep.plan.list_swept()
    best, why = find_best(sweep.states)
    means = tabulate_means(ranked, swept)
    picture = sweep.folder / SWEEP_PICTURE
    return {
        **index.describe_sweep(sweep),
        "command": describe_command(sweep.plan),
        "resume_command": continue_command(Path(os.path.abspath(sweep.folder)), sweep.plan),
        "tables": [{"heading": "Means over seeds", **to_json(means)}] if means else [],
        "runs": [
            {
                **index.describe(state.run, None, sweep.folder),
                "job": state.number,
                "settings": {key: text for key, text in state.planned.texts().items() if key in swept},
            }
            for state in ranked
        ],
        "errors": [f"job {state.number}: {state.error}" for state in ranked if state.error],
        "best": None if best is None else {"id": make_id(best.folder), "why": why},
        "picture": f"/api/sweeps/{make_id(sweep.folder)}/picture?v={picture.stat().st_mtime_ns}"
        if picture.is_file()
        else None,
    }


def to_json(table: Table) -> dict[str, Any]:
    return {"columns": list(table.columns), "rows": [list(row) for row in table.rows], "right": list(table.right)}
