"""A job: what `train` and `infer` are given beside their configuration, and how they say that it failed."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Job:
    """One job of a run or sweep: its folder, what was typed for it, and the option chosen of each group."""

    folder: Path
    overrides: list[str]
    choices: dict[str, str]
    command: list[str] = field(default_factory=list)  # as typed
    quiet: bool = False  # nothing is shown, as other jobs run at the same time
    stop: Path | None = None  # a file that asks the job to end, once something is written in it
    judge: Callable[[int, float], bool] | None = None  # epoch, validation accuracy -> whether the job is hopeless


class JobFailed(BaseException):  # noqa: N818 - no Exception, so that Hydra lets it through
    """A job failed, the user has been told, and this process must end."""
