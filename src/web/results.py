"""The test images of a run and what it predicted for them: counted, filtered, sorted."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..machine.disk import read_csv
from ..run.files import TEST_PREDICTIONS
from ..run.saved import SavedRun
from .cache import FileCache
from .errors import PageError

PAIRS = 10  # of confused classes


@dataclass(frozen=True)
class Tested:
    """A test image. index: its place in the table, which is its place in the split; file: "" if it has none."""

    index: int
    image: str
    file: str
    true: str
    predicted: str
    confidence: float
    correct: bool

    def describe(self) -> dict[str, Any]:
        return {
            "index": self.index,
            "image": self.image,
            "class": self.true,
            "predicted": self.predicted,
            "confidence": self.confidence,
            "correct": self.correct,
        }


def _read(folder: Path) -> list[Tested]:
    try:
        return [
            Tested(
                index,
                row["image"],
                row.get("file") or "",
                row["class"],
                row["predicted"],
                float(row["confidence"]),
                bool(int(row["correct"])),
            )
            for index, row in enumerate(read_csv(folder / TEST_PREDICTIONS))
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{folder / TEST_PREDICTIONS} is damaged: {error}") from error


_cached = FileCache(_read, (TEST_PREDICTIONS,), most=16)


def read_tested(run: SavedRun) -> list[Tested]:
    """Return the test images of a run. Raises PageError if it has none, or is older than their table."""
    try:
        return _cached(run.folder)
    except FileNotFoundError as error:
        raise PageError("the run has no test results yet: they are written at its end", 404) from error
    except (OSError, ValueError) as error:
        raise PageError(str(error), 409) from error


def count_confusion(tested: list[Tested], classes: list[str]) -> dict[str, Any]:
    """Return the confusion matrix as its cells that are not zero: true class, predicted class, count."""
    names = list(dict.fromkeys([*classes, *(name for row in tested for name in (row.true, row.predicted))]))
    place = {name: number for number, name in enumerate(names)}
    cells = Counter((place[row.true], place[row.predicted]) for row in tested)
    totals = Counter(place[row.true] for row in tested)
    return {
        "classes": names,
        "cells": [[true, predicted, count] for (true, predicted), count in sorted(cells.items())],
        "totals": [totals[number] for number in range(len(names))],
    }


def list_confused(tested: list[Tested]) -> list[dict[str, Any]]:
    """Return the pairs of classes that are confused most."""
    pairs = Counter((row.true, row.predicted) for row in tested if not row.correct)
    return [{"true": true, "predicted": guess, "count": count} for (true, guess), count in pairs.most_common(PAIRS)]


def select_tested(
    tested: list[Tested],
    true: str | None,
    predicted: str | None,
    correct: bool | None,
    order: str,
    page: int,
    size: int,
) -> dict[str, Any]:
    """Return a page of the images of these classes, the most or least confident first."""
    chosen = [
        row
        for row in tested
        if true in (None, row.true) and predicted in (None, row.predicted) and correct in (None, row.correct)
    ]
    chosen.sort(key=lambda row: row.confidence, reverse=order != "unsure")
    pages = max(1, -(-len(chosen) // size))
    page = min(max(page, 1), pages)
    rows = [row.describe() for row in chosen[(page - 1) * size : page * size]]
    return {"total": len(chosen), "page": page, "pages": pages, "rows": rows}
