"""A job: what `train` and `infer` get besides their configuration, and the exception for a job that failed."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Job:
    """One job of a run or sweep: its folder, its overrides as typed, and the chosen option of each group."""

    folder: Path
    overrides: list[str]
    choices: dict[str, str]
    command: list[str] = field(default_factory=list)  # as typed
    quiet: bool = False  # show nothing, because other jobs run at the same time
    stop: Path | None = None  # a file that asks the job to stop once it is not empty
    should_prune: Callable[[int, float], bool] | None = None  # (epoch, validation accuracy) -> whether to end the job


class JobFailed(BaseException):  # noqa: N818 - not an Exception, so that Hydra lets it through
    """A job failed, its error was reported, and this process must end."""
