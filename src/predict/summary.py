"""Many predictions in a few lines: how many images of each class, and how many are right where folders name classes."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..data.names import normalize
from ..tables import format_percent, wilson
from .inputs import fixed_part

NAMED = 10  # wrong images that are named


@dataclass
class Summary:
    """The predictions so far.

    classes: those of the run; wanted: the input as typed, below which folders may be called like classes.
    """

    classes: Sequence[str]
    wanted: str
    _confidences: dict[str, list[float]] = field(default_factory=dict)
    _right: int = 0
    _wrong: list[str] = field(default_factory=list)
    _unnamed: int = 0  # images in no folder of a class

    def __post_init__(self) -> None:
        self._known = {normalize(name): name for name in self.classes}
        root = Path(os.path.expanduser(self.wanted))
        root = root if root.exists() else fixed_part(root)
        self._root = root.resolve() if root.is_dir() else None

    def add(self, path: Path, predicted: str, confidence: float) -> None:
        """Add an image with its most probable class."""
        self._confidences.setdefault(predicted, []).append(confidence)
        true = self.find_class(path)
        if true is None:
            self._unnamed += 1
        elif true == predicted:
            self._right += 1
        else:
            self._wrong.append(f"{path}: {predicted} ({format_percent(confidence)}), in a folder called {true}")

    def find_class(self, path: Path) -> str | None:
        """Return the class that a folder of the input is called after, the outermost one; None if there is none."""
        if self._root is None:
            return None
        parents = [parent for parent in path.resolve().parents if parent.is_relative_to(self._root)]
        names = [self._known.get(normalize(parent.name)) for parent in reversed(parents)]
        return next((name for name in names if name is not None), None)

    def table(self) -> tuple[Sequence[str], list[list[str]], Sequence[str]]:
        """Return columns, rows and the columns that are right-aligned: a row for each class that was predicted."""
        rows = [
            [name, f"{len(values):,}", format_percent(sum(values) / len(values)), format_percent(min(values))]
            for name, values in sorted(self._confidences.items(), key=lambda item: -len(item[1]))
        ]
        columns = ("class", "images", "mean confidence", "lowest")
        return columns, rows, columns[1:]

    def score(self) -> list[str]:
        """Return lines about right and wrong, if most images are in folders called like classes."""
        named = self._right + len(self._wrong)
        if named <= self._unnamed:
            return []
        low, high = wilson(self._right / named, named)
        lines = [
            f"{self._right:,} of {named:,} are what their folder is called: {self._right / named:.2%} "
            f"(95 % interval {low:.1%} to {high:.1%})"
        ]
        lines += [f"  wrong: {line}" for line in self._wrong[:NAMED]]
        return lines + ([f"  … and {len(self._wrong) - NAMED:,} more wrong"] if len(self._wrong) > NAMED else [])
