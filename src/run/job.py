"""A job: what `train` and `infer` get besides their configuration, and the exception for a job that failed."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Job:
    """One job of a run or sweep: its folder, its overrides as typed, and the chosen option of each group."""

    folder: Path
    overrides: list[str]
    choices: dict[str, str]
    chosen: list[str] = field(default_factory=list)  # overrides by which the images chose what was not typed
    command: list[str] = field(default_factory=list)  # as typed
    cwd: str = field(default_factory=os.getcwd)  # the folder that relative paths refer to
    relative: dict[str, str] = field(default_factory=dict)  # paths by key as files have them, absolute in the config
    quiet: bool = False  # show nothing, because other jobs run at the same time
    stop: Path | None = None  # a file that asks the job to stop once it is not empty
    should_prune: Callable[[int, float], bool] | None = None  # (epoch, validation accuracy) -> whether to end the job


class JobFailed(BaseException):  # noqa: N818 - not an Exception, so that Hydra lets it through
    """A job failed, its error was reported, and this process must end."""
