"""From a command line to jobs in folders, and back to an exit code: Hydra, with clear errors.

Everything typed is composed and checked before Hydra starts: a mistake costs no data set, no folder and no traceback.
Under a launcher of several processes (torchrun) the first one owns the folder, and a job that fails ends its process.
"""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import hydra

from ..config.compose import CONFIGS, USER_ERRORS
from ..config.schema import AnyConfig, TrainConfig
from ..distributed.torchrun import Place, read_place, report_error
from ..run.job import Job, JobFailed
from .command import claim, parse_command
from .job import run_job
from .messages import explain

# Seconds that the other processes of a machine wait before they report a mistake that all of them meet: the first one
# reports it, and then the launcher ends them. One that ended at once could have the first one ended before its message.
PATIENCE = 10.0


def launch(main: Callable[[Any, Job], Any], config_name: str, schema: type[AnyConfig]) -> int:
    """Compose `configs/<config_name>.yaml` with the command line, check it and call `main(config, job)`.

    `resume=VALUE` continues a run: from its own configuration, in its folder, which is then `config.resume`.

    Returns the exit code: 0, 1 after an error (reported in one to three lines on stderr), 128 + the number of the
    signal that ended the run: 130 for Ctrl-C.
    """
    place = Place()
    with ExitStack() as cleanup:
        try:
            try:
                place = read_place() if schema is TrainConfig else place
                command = claim(parse_command(sys.argv, config_name, schema, place), cleanup)
            except USER_ERRORS as error:
                if place.local_rank > 0:
                    time.sleep(PATIENCE)
                report_error(f"error: {explain(error, schema, CONFIGS)}\n", place)
                return 1
            # The sweep goes to other processes with each job, so what a job needs of the command goes without it.
            task: Any = partial(run_job, main, replace(command, sweep=None))
            if command.sweep is not None:
                folder = Path(os.path.abspath(str(command.folder)))
                task = replace(command.sweep, folder=folder, place=place, run_job=task)
            with _replaced_argv(command.words):
                hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name=command.config_name)(task)()
        except JobFailed:
            return 1
        except KeyboardInterrupt as error:
            number = getattr(error, "signal", signal.SIGINT)
            if number == signal.SIGINT:
                print(file=sys.stderr)  # after the terminal's ^C
            return 128 + int(number)
    return 0


@contextmanager
def _replaced_argv(words: list[str]) -> Iterator[None]:
    """Let Hydra, which reads sys.argv itself, find these words there."""
    typed = sys.argv
    sys.argv = [typed[0], *words]
    try:
        yield
    finally:
        sys.argv = typed
