"""The most similar images of others, by the cosine of the angle between their features.

Letters: q queries, n images of a batch, k neighbors, D features.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Image:
    """A file with the class that its folder is called after, if any, and the one that the run predicts."""

    path: Path
    true: str | None
    predicted: str
    confidence: float


@dataclass(frozen=True)
class Neighbor:
    """An image and the cosine similarity to a query, from -1 to 1."""

    image: Image
    similarity: float


class Nearest:
    """The k nearest images of each query among those that were added."""

    def __init__(self, queries: Sequence[Image], features: Tensor, k: int) -> None:
        """features: (q,D)."""
        self.queries = queries
        self._directions = F.normalize(features, dim=1)
        self._own = {query.path.resolve(): i for i, query in enumerate(queries)}
        self._k = k
        self._images: list[Image] = []
        self._similarities = torch.empty(len(queries), 0)  # (q, at most k), the highest first
        self._positions = torch.empty(len(queries), 0, dtype=torch.long)  # of these in the list of images

    def add(self, images: Sequence[Image], features: Tensor) -> None:
        """Consider images with their features (n,D); a query is no neighbor of itself, but a copy of it is."""
        similarities = self._directions @ F.normalize(features, dim=1).T  # (q, n)
        for place, image in enumerate(images):
            if (query := self._own.get(image.path.resolve())) is not None:
                similarities[query, place] = -torch.inf
        positions = len(self._images) + torch.arange(len(images)).expand_as(similarities)
        self._images.extend(images)
        candidates = torch.cat([self._similarities, similarities], dim=1)
        self._similarities, order = candidates.sort(dim=1, descending=True, stable=True)
        self._similarities, order = self._similarities[:, : self._k], order[:, : self._k]
        self._positions = torch.cat([self._positions, positions], dim=1).gather(1, order)

    def score(self) -> str:
        """Return a line about how many neighbors are of their query's class; "" if no folder names both."""
        pairs = [(query.true, near.image.true) for query, neighbors in self for near in neighbors]
        known = [one == other for one, other in pairs if one and other]
        if not known:
            return ""
        return f"{sum(known):,} of {len(known):,} neighbors are of their query's class ({sum(known) / len(known):.1%})"

    def __iter__(self) -> Iterator[tuple[Image, list[Neighbor]]]:
        """Iterate over the queries with their neighbors, the most similar first."""
        for query, values, places in zip(
            self.queries, self._similarities.tolist(), self._positions.tolist(), strict=True
        ):
            known = ((self._images[place], value) for place, value in zip(places, values, strict=True))
            yield query, [Neighbor(image, value) for image, value in known if value > -math.inf]
