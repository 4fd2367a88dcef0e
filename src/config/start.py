"""From a command line to a job in a folder, and back to an exit code: Hydra, with clear errors.

Everything typed is composed and checked once before Hydra starts: a mistake costs no data set, no folder and
no traceback. In a sweep every job is checked before the first one begins. Under a launcher of several processes
(torchrun) the first one owns the folder, and a job that fails ends its process.
"""

import os
import signal
import sys
import tempfile
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import FrameType
from typing import Any

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig

from .compose import CONFIGS, quote, quote_path, read_composed, to_config
from .folders import claim_folder
from .jobs import expand
from .messages import explain, explain_flag
from .plan import Composer, plan_sweep
from .reopen import find_same, merge_typed, open_sweep, reopen_sweep
from .resume import check_typed, check_untyped, drop_resume, open_run, refuse_changes, register, typed_run
from .schema import AnyConfig, TrainConfig
from .task import USER_ERRORS, Job, JobFailed, Start, Task

# Seconds for the first process of a machine to tell of a mistake that all of them meet, and for the launcher to end the
# others. One that ended at once would have it ended before it has said a word; one that is alone with it tells.
PATIENCE = 10.0


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
                start.tell(f"error: {explain(error, schema, CONFIGS)}\n")
                return 1
            run = hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name=config_name)
            run(Task(main, start))()
    except JobFailed:
        return 1
    except KeyboardInterrupt as error:
        number = getattr(error, "signal", signal.SIGINT)
        if number == signal.SIGINT:
            print(file=sys.stderr)  # after the terminal's ^C
        return 128 + int(number)
    return 1 if start.failures else 0


def _begin(schema: type[AnyConfig], find_run: Callable[[str], Path] | None) -> Start:
    command = [Path(sys.argv[0]).name, *sys.argv[1:]]
    world_size = int(os.environ.get("WORLD_SIZE", 1)) if schema is TrainConfig else 1
    rank = int(os.environ.get("RANK", 0)) if world_size > 1 else 0
    local_rank = int(os.environ.get("LOCAL_RANK", rank)) if world_size > 1 else 0
    return Start(schema, command, rank, local_rank, world_size, find_run)


def _prepare(start: Start, config_name: str, cleanup: ExitStack) -> str:
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
    if arguments.cfg and arguments.multirun:
        raise ValueError("--cfg shows the configuration of one run; leave --multirun out")
    wanted = typed_run(overrides)
    if start.find_run and wanted is not None and arguments.multirun:
        arguments = _reopen_sweep(start, wanted, arguments, parser)
    elif start.find_run and wanted is not None:
        check_typed(wanted, arguments)
        start.run = open_run(start.find_run(wanted))
        config_name = register(start.run)
        arguments.overrides, sys.argv[1:] = drop_resume(arguments.overrides), drop_resume(sys.argv[1:])
    output = _check(start, arguments.config_name or config_name, arguments)
    if start.schema is TrainConfig and not arguments.cfg:
        sys.argv += _choose_folder(start, output, arguments, cleanup)
    return config_name


def _reopen_sweep(start: Start, wanted: str, arguments: Namespace, parser: ArgumentParser) -> Namespace:
    """Put the words that began a sweep in the place of those that continue it, and return them parsed."""
    folder, saved = open_sweep(wanted, Path("multirun"))
    overrides = merge_typed(saved, drop_resume(arguments.overrides))
    sys.argv[1:] = ["--multirun", *(_list_flags() or saved.flags), *overrides]
    start.reopened = folder, saved
    return parser.parse_args()


def _list_flags() -> list[str]:
    """Return the words with dashes, and what belongs to them, but for the one that makes a sweep."""
    return [word for word in sys.argv[1:] if not _is_override(word) and word not in ("-m", "--multirun")]


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


def _check(start: Start, config_name: str, arguments: Namespace) -> Path:
    """Compose and check every job; return the composed run folder (sweep folder with --multirun)."""
    overrides: list[str] = arguments.overrides
    extra = arguments.config_dir
    extra = [f"hydra.searchpath=[{quote('file://' + os.path.abspath(extra))}]"] if extra else []

    def compose(words: list[str]) -> DictConfig:
        return hydra.compose(config_name, overrides=[*extra, *words], return_hydra_config=True)

    def check(words: list[str]) -> tuple[Any, DictConfig]:
        cfg = compose(words)
        if start.run is not None:
            refuse_changes(start.run, read_composed(TrainConfig, cfg))
        config = to_config(start.schema, cfg, words)
        if start.find_run and start.run is None:
            check_untyped(config)
        return config, cfg

    with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3", job_name=config_name):
        parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
        if not arguments.multirun:
            if manner := [word for word in overrides if word.lstrip("+").startswith("sweep.")]:
                raise ValueError(f"{manner[0]} means nothing without --multirun")
            return Path(str(check(overrides)[1].hydra.run.dir))
        if start.schema is not TrainConfig:
            return Path(str([check(job) for job in expand(overrides, None, parser)][0][1].hydra.sweep.dir))
        composer = Composer(compose, check, parser)
        if start.reopened is not None:
            folder, saved = start.reopened
            start.sweep = reopen_sweep(saved, folder, overrides, composer)
            return folder
        start.sweep, folder = plan_sweep(overrides, _list_flags(), composer)
        typed = any(override.startswith("hydra.sweep.dir=") for override in overrides)
        if not start.sweep.settings.new and (same := find_same(start.sweep.plan, folder, typed)):
            start.sweep.folder, start.sweep.plan = same
        start.sweep.check_numbers()
        return folder


def _choose_folder(start: Start, output: Path, arguments: Namespace, cleanup: ExitStack) -> list[str]:
    """Return the overrides that name the folder of this process, made where it is new."""
    key = "hydra.sweep.dir" if arguments.multirun else "hydra.run.dir"
    if start.rank > 0:
        # The launcher ends the others of a process that failed; before the training takes over, that would leave it.
        cleanup.callback(signal.signal, signal.SIGTERM, signal.signal(signal.SIGTERM, _leave))
        folder = cleanup.enter_context(
            tempfile.TemporaryDirectory(prefix=f"rank-{start.rank}-", ignore_cleanup_errors=True)
        )
        return [f"{key}={quote(folder)}", "hydra.output_subdir=null"]
    if start.run is not None:
        return [f"{key}={quote(str(start.run.folder))}", "hydra.output_subdir=null"]
    if start.sweep is not None and start.sweep.folder is not None:
        return [f"{key}={quote(str(start.sweep.folder))}"]
    return [f"{key}={quote(claim_folder(str(output), key, arguments.overrides))}"]


def _leave(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)
