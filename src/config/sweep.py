"""What decides a sweep: how values become jobs, and how the jobs are run. Nothing here changes what a job trains."""

import os
from dataclasses import dataclass
from typing import Any

from .checks import check, check_choice


@dataclass
class SweepConfig:
    zip: bool
    random: int | None
    file: str | None
    params: dict[str, Any]
    seed: int
    search: str | None
    trials: int
    pruner: str | None
    prune_after: int
    on_error: str
    isolate: bool
    gpus: Any
    parallel: int
    only: Any
    new: bool

    def __post_init__(self) -> None:
        for key in ("random", "trials", "prune_after", "parallel"):
            value = getattr(self, key)
            check(value is None or value >= 1, f"sweep.{key}={value} must be at least 1")
        if self.search is not None:
            check_choice("sweep.search", self.search, ("tpe", "random"))
        if self.pruner is not None:
            check_choice("sweep.pruner", self.pruner, ("median", "hyperband"))
        check_choice("sweep.on_error", self.on_error, ("continue", "stop"))
        ways = {
            "sweep.zip=true": self.zip,
            f"sweep.random={self.random}": self.random is not None,
            f"sweep.search={self.search}": self.search is not None,
        }
        chosen = [way for way, wanted in ways.items() if wanted]
        check(len(chosen) < 2, f"{' and '.join(chosen)} are different ways to choose the jobs; type only one")
        check(
            self.file is None or self.search is None,
            f"sweep.file={self.file} lists its jobs, sweep.search={self.search} looks for them; type only one",
        )
        check(self.file != "", "sweep.file= has no value; write a file of experiments, or leave it out")
        if self.file is not None:
            self.file = os.path.abspath(os.path.expanduser(self.file))
        if self.gpus is not None:
            self.gpus = _as_numbers(self.gpus)
            valid = len(self.gpus) > 0 and all(_is_count(gpu) for gpu in self.gpus)
            check(
                valid, f"sweep.gpus={self.gpus} must be numbers of CUDA devices, e.g. [0,1]; twice the same: two jobs"
            )
        if self.only is not None:
            self.only = _as_numbers(self.only)
            valid = len(self.only) > 0 and all(_is_count(number) for number in self.only)
            check(valid, f"sweep.only={self.only} must be numbers of jobs, e.g. 3 or [3,4]")

    @property
    def separate(self) -> bool:
        """Whether each job gets a process of its own."""
        return self.isolate or self.gpus is not None


def _as_numbers(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
