"""From a command line to jobs in folders, and back to an exit code: Hydra, with clear errors.

Everything typed is composed and checked before Hydra starts, so that a mistake shows no traceback, makes no folder and
loads no data. Under torchrun, rank 0 owns the folder, and a job that fails ends its process.

Only what is light is imported at the top, so that signals are handled before Hydra is imported.
"""

import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config.inference import AnyConfig
from ..config.schema import TrainConfig
from ..distributed.torchrun import Place, read_place, report_error
from ..machine.disk import read_object
from ..machine.streams import make_streams_safe, printable
from ..run.files import STATUS, SWEEP
from ..run.job import Job, JobFailed
from ..signals import Interrupts, name_signal

if TYPE_CHECKING:
    from .command import Command

# If the command is wrong, all processes find out. The first one of each machine reports it; the others wait so many
# seconds, because torchrun ends all processes as soon as one has ended, perhaps before the report.
REPORT_DELAY = 10.0


def launch(main: Callable[[Any, Job], Any], config_name: str, schema: type[AnyConfig]) -> int:
    """Compose `configs/<config_name>.yaml` with the command line, check it and call `main(config, job)`.

    `resume=VALUE` continues a run with its own configuration in its folder, which is then `config.resume`.

    Returns the exit code: 0; 1 after an error, which is reported on stderr; or 128 + the number of the signal that
    ended the run, for example 130 for Ctrl-C.
    """
    make_streams_safe()
    command = None
    with ExitStack() as cleanup:

        def leave(number: int) -> None:
            with suppress(RuntimeError):  # the signal came while the stream was written to
                _report_interrupt(number, command, schema)
            cleanup.close()

        with Interrupts(defer=True, leave=leave) as interrupts:
            try:
                interrupts.release()
                command = _prepare(config_name, schema, interrupts, cleanup)
                return 1 if command is None else _start(main, command)
            except KeyboardInterrupt as error:
                number = getattr(error, "signal", signal.SIGINT)
                interrupts.defer = True  # a second one shall not end the clean-up
                _report_interrupt(number, command, schema)
                return 128 + int(number)


def _prepare(config_name: str, schema: type[Any], interrupts: Interrupts, cleanup: ExitStack) -> "Command | None":
    """Return the checked command with its folder made, or report what is wrong with it and return None."""
    from ..config.compose import CONFIGS, USER_ERRORS
    from .append import PATIENCE, SweepBusyError, wait_for_runner
    from .command import claim, parse_command
    from .messages import explain

    place, deadline = Place(), time.monotonic() + PATIENCE
    try:
        place = read_place() if schema is TrainConfig else place
        while True:
            try:
                command = parse_command(sys.argv, config_name, schema, place)
                interrupts.defer = True  # until the clean-up knows the folder
                command = claim(command, cleanup)
                interrupts.release()
                return command
            except SweepBusyError as error:
                interrupts.release()
                if time.monotonic() > deadline:
                    raise ValueError(str(error)) from None
                wait_for_runner(error.folder)
    except USER_ERRORS as error:
        if place.local_rank > 0:
            time.sleep(REPORT_DELAY)
        report_error(printable(f"error: {explain(error, schema, CONFIGS)}\n"), place)
        return None


def _start(main: Callable[[Any, Job], Any], command: "Command") -> int:
    """Let Hydra compose the job, or jobs, and call `main`; return the exit code."""
    from ..config.compose import CONFIGS, USER_ERRORS
    from ..sweep.job import refresh_ledger
    from .append import describe_added
    from .handover import hand_over
    from .job import run_job
    from .messages import explain, wants_traceback
    from .trust import check_added

    if command.sweep is not None and command.sweep.elsewhere:
        refresh_ledger(command.sweep, redraw_after=None)
        print(printable(describe_added(command.sweep)))
        return 0
    # A sweep is pickled for other processes with each job, so it must not contain itself.
    task: Any = partial(run_job, main, replace(command, sweep=None))
    if command.sweep is not None:
        folder = Path(os.path.abspath(str(command.folder)))
        task = replace(command.sweep, folder=folder, place=command.place, run_job=task, check_added=check_added)
    try:
        hand_over(command, task)
    except JobFailed:
        return 1
    except USER_ERRORS as error:  # of Hydra, before it has called a job
        if wants_traceback():
            raise
        report_error(printable(f"error: {explain(error, command.schema, CONFIGS)}\n"), command.place)
        return 1
    return 0


def _report_interrupt(number: int, command: "Command | None", schema: type[Any]) -> None:
    """Say what a signal ended, unless the run or sweep has said so itself."""
    if number == signal.SIGINT:
        print(file=sys.stderr)  # ends the line with the terminal's ^C
    if schema is TrainConfig and (command is None or (command.place.main and not _has_begun(command))):
        print(f"stopped by {name_signal(number)} before training began", file=sys.stderr)


def _has_begun(command: "Command") -> bool:
    if command.folder is None:
        return False
    if command.sweep is not None:
        return (command.folder / SWEEP).is_file()
    return read_object(command.folder / STATUS).get("pid") == os.getpid()
