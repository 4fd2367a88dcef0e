"""Hand a checked command over to Hydra, which composes it again and calls the task for each job."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import hydra
from hydra._internal.utils import get_args_parser

from ..config.compose import CONFIGS
from .command import Command
from .composer import open_hydra


def hand_over(command: Command, task: Any) -> None:
    """Run the jobs of the command, or show what its flags ask for. Raises the errors of Hydra and of the task."""
    arguments = get_args_parser().parse_args(command.words)
    if any(getattr(arguments, name) for name in ("cfg", "help", "hydra_help", "info", "shell_completion")):
        with _replaced_argv(command.words):
            hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name=command.config_name)(task)()
        return
    words = arguments.overrides
    if command.sweeps:
        words += ["hydra/sweeper=resumable"]  # where a file of the user has Hydra's own
    if not command.trains:
        words += ["hydra.job.chdir=false"]  # paths are read where the user stands
    # Not through hydra.main: it would end the process after an error, with a traceback.
    with open_hydra(arguments) as opened:
        run, mode = (opened.multirun, "MULTIRUN") if arguments.multirun else (opened.run, "RUN")
        run(arguments.config_name or command.config_name, task, [*words, f"hydra.mode={mode}"])


@contextmanager
def _replaced_argv(words: list[str]) -> Iterator[None]:
    """Replace the arguments in sys.argv, which Hydra reads."""
    typed = sys.argv
    sys.argv = [typed[0], *words]
    try:
        yield
    finally:
        sys.argv = typed
