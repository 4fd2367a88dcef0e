"""The keys of `sweep`: how values become jobs, and how the jobs are run. None of them changes what a job trains."""

from dataclasses import dataclass, field
from typing import Any

from .checks import at_least, check, check_fields, one_of


@dataclass
class SweepConfig:
    zip: bool
    random: int | None = field(metadata=at_least(1, most=10_000, null="all combinations"))
    file: str | None
    params: dict[str, Any]
    seed: int = field(metadata=at_least(0, below=2**63))
    search: str | None = field(metadata=one_of("tpe", "random", null="no search"))
    trials: int = field(metadata=at_least(1, most=10_000))
    pruner: str | None = field(metadata=one_of("median", "hyperband", null="no pruning"))
    prune_after: int = field(metadata=at_least(1, most=1_000_000))
    on_error: str = field(metadata=one_of("continue", "stop"))
    isolate: bool
    gpus: Any
    parallel: int = field(metadata=at_least(1, most=1000))
    only: Any
    append: bool
    after: str | None
    new: bool

    def __post_init__(self) -> None:
        check_fields("sweep", self)
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
        check(self.after != "", "sweep.after= has no value; write a run's folder, or leave it out")
        self.gpus = _as_numbers(
            self.gpus,
            f"sweep.gpus={self.gpus} must be numbers of CUDA devices, e.g. [0,1], or [0,0] for two jobs on one device",
        )
        self.only = _as_numbers(self.only, f"sweep.only={self.only} must be numbers of jobs, e.g. 3 or [3,4]")

    @property
    def separate(self) -> bool:
        """Whether each job runs in its own process."""
        return self.isolate or self.gpus is not None


def _as_numbers(value: Any, message: str) -> list[int] | None:
    """Return one number or several as a list. Raises ValueError with `message` for anything else but null."""
    if value is None:
        return None
    numbers = list(value) if isinstance(value, list | tuple) else [value]
    check(bool(numbers) and all(type(number) is int and number >= 0 for number in numbers), message)
    return numbers
