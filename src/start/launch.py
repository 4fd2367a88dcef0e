"""From a command line to jobs in folders, and back to an exit code: Hydra, with clear errors.

Everything typed is composed and checked before Hydra starts, so that a mistake shows no traceback, makes no folder and
loads no data. Under torchrun, rank 0 owns the folder, and a job that fails ends its process.
"""

import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from ..config.compose import CONFIGS, USER_ERRORS
from ..config.schema import AnyConfig, TrainConfig
from ..distributed.torchrun import Place, read_place, report_error
from ..run.job import Job, JobFailed
from .command import Command, claim, parse_command
from .handover import hand_over
from .job import run_job
from .messages import explain, wants_traceback

# If the command is wrong, all processes find out. The first one of each machine reports it; the others wait so many
# seconds, because torchrun ends all processes as soon as one has ended, perhaps before the report.
REPORT_DELAY = 10.0


def launch(main: Callable[[Any, Job], Any], config_name: str, schema: type[AnyConfig]) -> int:
    """Compose `configs/<config_name>.yaml` with the command line, check it and call `main(config, job)`.

    `resume=VALUE` continues a run with its own configuration in its folder, which is then `config.resume`.

    Returns the exit code: 0; 1 after an error, which is reported on stderr; or 128 + the number of the signal that
    ended the run, for example 130 for Ctrl-C.
    """
    place = Place()
    with ExitStack() as cleanup:
        try:
            command = _prepare(config_name, schema, cleanup)
            if command is None:
                return 1
            place = command.place
            # A sweep is pickled for other processes with each job, so it must not contain itself.
            task: Any = partial(run_job, main, replace(command, sweep=None))
            if command.sweep is not None:
                folder = Path(os.path.abspath(str(command.folder)))
                task = replace(command.sweep, folder=folder, place=command.place, run_job=task)
            hand_over(command, task)
        except JobFailed:
            return 1
        except USER_ERRORS as error:  # of Hydra, before it has called a job
            if wants_traceback():
                raise
            report_error(f"error: {explain(error, schema, CONFIGS)}\n", place)
            return 1
        except KeyboardInterrupt as error:
            number = getattr(error, "signal", signal.SIGINT)
            if number == signal.SIGINT:
                print(file=sys.stderr)  # ends the line with the terminal's ^C
            return 128 + int(number)
    return 0


def _prepare(config_name: str, schema: type[Any], cleanup: ExitStack) -> Command | None:
    """Return the checked command with its folder made, or report what is wrong with it and return None."""
    place = Place()
    try:
        place = read_place() if schema is TrainConfig else place
        return claim(parse_command(sys.argv, config_name, schema, place), cleanup)
    except USER_ERRORS as error:
        if place.local_rank > 0:
            time.sleep(REPORT_DELAY)
        report_error(f"error: {explain(error, schema, CONFIGS)}\n", place)
        return None
