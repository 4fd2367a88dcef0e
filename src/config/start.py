"""From a command line to a job in a folder, and back to an exit code: Hydra, with clear errors.

Everything typed is composed and checked once before Hydra starts: a mistake costs no data set, no folder and
no traceback. In a sweep every job is checked before the first one begins. Under a launcher of several processes
(torchrun) the first one owns the folder, and a job that fails ends its process.
"""

import contextlib
import itertools
import json
import os
import shutil
import signal
import sys
import tempfile
import textwrap
import time
import traceback
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import hydra
import yaml
from hydra._internal.utils import get_args_parser
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from .compose import CONFIGS, quote, quote_path, read_composed, to_config
from .messages import explain, explain_flag
from .resume import ResumedRun, check_typed, check_untyped, drop_resume, open_run, refuse_changes, register, typed_run
from .schema import AnyConfig, TrainConfig

# What a user can mend; anything else is a defect of ours and shows its traceback.
USER_ERRORS = (ValueError, OSError, FloatingPointError, HydraException, OmegaConfBaseException, yaml.YAMLError)
# Seconds for the first process of a machine to tell of a mistake that all of them meet, and for the launcher to end the
# others. One that ended at once would have it ended before it has said a word; one that is alone with it tells.
PATIENCE = 10.0


@dataclass
class Job:
    """One job of a run or sweep: its folder, what was typed for it, and the option chosen of each group."""

    folder: Path
    overrides: list[str]
    choices: dict[str, str]
    command: list[str] = field(default_factory=list)  # as typed


class _JobFailed(BaseException):  # noqa: N818 - no Exception, so that Hydra lets it through
    """A job failed, was told, and must end this process."""


@dataclass
class _Start:
    """What all jobs of a start share."""

    schema: type[Any]
    command: list[str]
    rank: int
    local_rank: int
    world_size: int
    find_run: Callable[[str], Path] | None = None
    run: ResumedRun | None = None
    failures: list[str] = field(default_factory=list)  # names alone: an exception would keep its job's data alive


def launch(
    main: Callable[[Any, Job], Any],
    config_name: str,
    schema: type[AnyConfig],
    find_run: Callable[[str], Path] | None = None,
) -> int:
    """Compose `configs/<config_name>.yaml` with the command line, check it and call `main(config, job)`.

    With `find_run`, `resume=VALUE` continues the run in the folder `find_run(VALUE)`: from its own configuration, in
    that folder, which is then `config.resume`.

    Returns the exit code: 0, 1 after an error (told in one to three lines on stderr), 128 + the number of the signal
    after one that ended the run: 130 for Ctrl-C. Of several processes those after the first get a temporary folder.
    """
    start = _begin(schema, find_run)
    try:
        with ExitStack() as cleanup:
            try:
                config_name = _prepare(start, config_name, cleanup)
            except USER_ERRORS as error:
                if start.local_rank > 0:
                    time.sleep(PATIENCE)
                _tell(f"error: {explain(error, schema, CONFIGS)}\n", start)
                return 1
            run = hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name=config_name)
            run(lambda cfg: _run_job(main, start, cfg))()
    except _JobFailed:
        return 1
    except KeyboardInterrupt as error:
        number = getattr(error, "signal", signal.SIGINT)
        if number == signal.SIGINT:
            print(file=sys.stderr)  # after the terminal's ^C
        return 128 + int(number)
    return 1 if start.failures else 0


def _begin(schema: type[AnyConfig], find_run: Callable[[str], Path] | None) -> _Start:
    command = [Path(sys.argv[0]).name, *sys.argv[1:]]
    world_size = int(os.environ.get("WORLD_SIZE", 1)) if schema is TrainConfig else 1
    rank = int(os.environ.get("RANK", 0)) if world_size > 1 else 0
    local_rank = int(os.environ.get("LOCAL_RANK", rank)) if world_size > 1 else 0
    return _Start(schema, command, rank, local_rank, world_size, find_run)


def _prepare(start: _Start, config_name: str, cleanup: ExitStack) -> str:
    """Rewrite the command line as Hydra takes it, check it and make the folder; return the configuration's name."""
    multirun = bool({"-m", "--multirun"} & set(sys.argv))
    overrides = [word for word in sys.argv[1:] if _is_override(word)]
    flags = [word for word in sys.argv[1:] if not _is_override(word)]
    sys.argv[1:] = flags + [quote_path(override, multirun) for override in overrides]
    parser = get_args_parser()
    if dashed := [flag for flag in flags if _is_setting(flag, list(parser._option_string_actions))]:
        raise ValueError(explain_flag(dashed[0], start.schema))
    arguments = parser.parse_args()
    if arguments.shell_completion:
        _offer_latest()
    if arguments.help or arguments.hydra_help or arguments.info or arguments.shell_completion:
        return config_name
    wanted = typed_run(overrides)
    if start.find_run and wanted is not None:
        check_typed(wanted, arguments)
        start.run = open_run(start.find_run(wanted))
        config_name = register(start.run)
        arguments.overrides, sys.argv[1:] = drop_resume(arguments.overrides), drop_resume(sys.argv[1:])
    output = _check(start, arguments.config_name or config_name, arguments)
    if start.schema is TrainConfig and not arguments.cfg:
        sys.argv += _choose_folder(start, output, arguments, cleanup)
    return config_name


def _is_override(word: str) -> bool:
    return not word.startswith("-") and ("=" in word or word.startswith("~"))


def _is_setting(flag: str, options: list[str]) -> bool:
    """Tell a setting typed with dashes, as other tools take it, from an option of Hydra's (or its beginning)."""
    name = flag.split("=", 1)[0]
    return name.startswith("--") and not any(option.startswith(name) for option in options)


def _offer_latest() -> None:
    """Let TAB complete `resume=latest`: Hydra offers the options of groups alone, so it is one for that moment."""
    if os.environ.get("COMP_LINE", "").split(" ")[-1].startswith("resume="):
        ConfigStore.instance().store(group="resume", name="latest", node={})


def _check(start: _Start, config_name: str, arguments: Namespace) -> str:
    """Compose and check every job; return the composed run folder (sweep folder with --multirun)."""
    output = ""
    multirun: bool = arguments.multirun
    overrides: list[str] = arguments.overrides
    if arguments.config_dir:
        overrides = [f"hydra.searchpath=[{quote('file://' + os.path.abspath(arguments.config_dir))}]", *overrides]
    with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3", job_name=config_name):
        for job in _split_sweep(overrides) if multirun else [overrides]:
            try:
                cfg = hydra.compose(config_name, overrides=job, return_hydra_config=True)
                if start.run is not None:
                    refuse_changes(start.run, read_composed(TrainConfig, cfg))
                config = to_config(start.schema, cfg, job)
                if start.find_run and start.run is None:
                    check_untyped(config)
            except USER_ERRORS as error:
                if multirun:
                    error.add_note(f"in the job {' '.join(job)}")
                raise
            output = str(cfg.hydra.sweep.dir if multirun else cfg.hydra.run.dir)
    return output


def _split_sweep(overrides: list[str]) -> Iterator[list[str]]:
    """Yield the overrides of each job, in the order of Hydra's basic sweeper."""
    parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
    lists = []
    for override in parser.parse_overrides(overrides):
        if override.is_discrete_sweep():
            key = override.get_key_element()
            lists.append([f"{key}={value}" for value in override.sweep_string_iterator()])
        elif not override.is_sweep_override():
            lists.append([str(override.input_line)])
    for job in itertools.product(*lists):
        yield list(job)


def _choose_folder(start: _Start, output: str, arguments: Namespace, cleanup: ExitStack) -> list[str]:
    """Return the overrides that name the folder of this process, made where it is new."""
    key = "hydra.sweep.dir" if arguments.multirun else "hydra.run.dir"
    if start.rank > 0:
        # The launcher ends the others of a process that failed; before the training takes over, that would leave it.
        cleanup.callback(signal.signal, signal.SIGTERM, signal.signal(signal.SIGTERM, _leave))
        folder = cleanup.enter_context(
            tempfile.TemporaryDirectory(prefix=f"rank-{start.rank}-", ignore_cleanup_errors=True)
        )
        # Nor does this process tell of the jobs, as Hydra does on starting each of a sweep.
        return [f"{key}={quote(folder)}", "hydra.output_subdir=null", "++hydra.hydra_logging.root.level=ERROR"]
    if start.run is not None:
        return [f"{key}={quote(str(start.run.folder))}", "hydra.output_subdir=null"]
    return [f"{key}={quote(_claim_folder(output, key, arguments.overrides))}"]


def _leave(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def _claim_folder(path: str, key: str, overrides: list[str]) -> str:
    """Make the run's (or sweep's) folder, so that no other run can get it, and return it.

    Two runs started in the same second get two folders. Raises ValueError where the user named one in use.
    """
    typed = any(override.startswith(f"{key}=") for override in overrides)
    folder = Path(path)
    for number in itertools.count(2):
        try:
            folder.mkdir(parents=True)
            break
        except FileExistsError:
            if typed and folder.is_dir() and not any(folder.iterdir()):
                break
            if typed:
                raise ValueError(f"{key}={path} exists; nothing is overwritten, choose another folder") from None
            folder = Path(f"{path}-{number}")
    return str(folder)


def _run_job(main: Callable[[Any, Job], Any], start: _Start, cfg: DictConfig) -> Any:
    runtime = HydraConfig.get()
    # Not asked of Hydra: it would interpolate the name of a folder.
    folder = start.run.folder if start.run and start.rank == 0 else Path(runtime.runtime.output_dir)
    choices = start.run.choices if start.run else dict(runtime.runtime.choices)
    job = Job(folder, list(runtime.overrides.task), choices, start.command)
    try:
        return main(to_config(start.schema, cfg, job.overrides), job)
    except Exception as error:
        if os.environ.get("HYDRA_FULL_ERROR") and start.world_size == 1:
            raise
        start.failures.append(type(error).__name__)
        _report(error, start)
        if start.world_size > 1:  # the others wait for this process; the launcher ends them when it has ended
            raise _JobFailed from None
        return None
    finally:
        # What failed before the run began (a broken data set, say) leaves no folder; Hydra had made it.
        new = start.schema is TrainConfig and start.run is None and start.rank == 0
        if new and {path.name for path in folder.iterdir()} <= {".hydra"}:
            _remove_folder(folder)


def _report(error: Exception, start: _Start) -> None:
    """Tell what a user can mend in a line, a defect of ours with its traceback."""
    full = bool(os.environ.get("HYDRA_FULL_ERROR")) or not isinstance(error, USER_ERRORS)
    _tell("".join(traceback.format_exception(error)) if full else f"error: {error}\n", start)


def _tell(text: str, start: _Start) -> None:
    """Print what ends a job, and leave it to torchrun, which closes with the words of the process that failed first."""
    if path := os.environ.get("TORCHELASTIC_ERROR_FILE"):
        facts = {"py_callstack": text.strip(), "timestamp": str(int(time.time()))}  # the first is what it shows
        with contextlib.suppress(OSError):
            Path(path).write_text(json.dumps({"message": {"message": text.strip(), "extraInfo": facts}}))
    if start.rank > 0:
        text = textwrap.indent(text, f"[rank {start.rank}] ", lambda line: True)
    print(text, end="", file=sys.stderr, flush=True)


def _remove_folder(folder: Path) -> None:
    """Remove a folder, and those above it that are then empty, up to the one where the user stands."""
    shutil.rmtree(folder)
    for parent in folder.parents:
        if parent == Path.cwd() or not parent.is_relative_to(Path.cwd()) or any(parent.iterdir()):
            break
        parent.rmdir()
