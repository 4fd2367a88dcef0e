"""The accuracies of a sweep's jobs, by job and by group."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from .style import Floats, finite


class Scores(NamedTuple):
    """The accuracies of each group, in %; NaN if no job has finished, or if too few have for a standard deviation."""

    percents: list[Floats]
    means: Floats
    deviations: Floats

    @property
    def best(self) -> int | None:
        """The group with the highest mean."""
        return int(np.nanargmax(self.means)) if np.isfinite(self.means).any() else None


def summarize(scores: Sequence[Sequence[float]]) -> Scores:
    """Return the mean and sample standard deviation of each group, over jobs with a finite accuracy."""
    percents = [100 * finite(list(group)) for group in scores]
    percents = [group[np.isfinite(group)] for group in percents]
    means = np.array([group.mean() if len(group) else np.nan for group in percents])
    deviations = np.array([group.std(ddof=1) if len(group) > 1 else np.nan for group in percents])
    return Scores(percents, means, deviations)


def describe(percents: Floats) -> str:
    """Return the mean of some jobs and, if there are several, their standard deviation and number."""
    if len(percents) < 2:
        return f"{percents.mean():.2f} %"
    return f"mean {percents.mean():.2f} ± {percents.std(ddof=1):.2f} % (n = {len(percents)})"
