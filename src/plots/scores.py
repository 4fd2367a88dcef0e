"""What the jobs of a sweep reached, job by job and group by group."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from .style import Floats, finite


class Scores(NamedTuple):
    """What the jobs of each group reached, in %; NaN where none has finished, or no deviation is known."""

    percents: list[Floats]
    means: Floats
    deviations: Floats

    @property
    def best(self) -> int | None:
        """The group of the highest mean."""
        return int(np.nanargmax(self.means)) if np.isfinite(self.means).any() else None


def summarize(scores: Sequence[Sequence[float]]) -> Scores:
    """Return mean and sample standard deviation of each group, of the jobs whose accuracy is a number."""
    percents = [100 * finite(list(group)) for group in scores]
    percents = [group[np.isfinite(group)] for group in percents]
    means = np.array([group.mean() if len(group) else np.nan for group in percents])
    deviations = np.array([group.std(ddof=1) if len(group) > 1 else np.nan for group in percents])
    return Scores(percents, means, deviations)


def describe(percents: Floats) -> str:
    """Return the mean of some jobs, and from two on their deviation and number."""
    if len(percents) < 2:
        return f"{percents.mean():.2f} %"
    return f"mean {percents.mean():.2f} ± {percents.std(ddof=1):.2f} % (n = {len(percents)})"
