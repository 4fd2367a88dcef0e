"""Seeded, stratified splits."""

from collections.abc import Sequence

import numpy as np


def stratified_split(labels: Sequence[int], shares: Sequence[float], seed: int) -> list[list[int]]:
    """Split positions into a part for each share, class by class, and the rest; the rest comes first.

    Every class keeps at least one sample in the rest, then gives at least one to each part while it has any.
    """
    labels_array = np.asarray(labels)
    parts: list[list[int]] = [[] for _ in range(len(shares) + 1)]
    random = np.random.default_rng(seed)
    for label in np.unique(labels_array):
        members = random.permutation(np.flatnonzero(labels_array == label)).tolist()
        for part, share in enumerate(shares, start=1):
            count = min(max(1, round(share * np.count_nonzero(labels_array == label))), len(members) - 1)
            parts[part] += [members.pop() for _ in range(count)]
        parts[0] += members
    return [sorted(part) for part in parts]
