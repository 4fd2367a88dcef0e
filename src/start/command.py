"""The command line: parsed and checked once, then an immutable value."""

import os
import sys
from argparse import Namespace
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, is_dataclass, replace
from pathlib import Path
from typing import Any, get_type_hints

from hydra._internal.utils import get_args_parser
from hydra.core.config_store import ConfigStore
from hydra.types import RunMode

from ..config.checks import check, read_switch
from ..config.overrides import escape, is_quoted, name_key, quote, quote_path, split_override
from ..config.recipe import plain_words
from ..config.schema import TrainConfig
from ..config.sweep import SweepConfig
from ..distributed.torchrun import Place
from ..machine.disk import short_path
from ..machine.streams import printable
from ..run.claim import hold_folder
from ..run.files import SWEEP_OPEN
from ..run.resume import ROOTS, open_resumable, read_config
from ..run.saved import SavedRun
from ..sweep.plan import JOB_PROCESS, Plan, Sweep, lock_plan, open_sweep
from .append import SweepBusyError, add_or_claim, is_starting, join_sweep
from .composer import Composer, open_hydra
from .expand import expand
from .flags import list_flags, refuse_dashes, refuse_pairs, split_words
from .folders import claim_folder, make_rank_folder
from .plan import plan_sweep
from .reopen import find_same, merge_typed, reopen_sweep
from .trust import take_flags
from .words import drop_plus, explain_word, is_none, refuse_repeated, refuse_secrets

RESUMED_CONFIG = "configuration_of_the_run"  # the name of a resumed run's configuration in Hydra's ConfigStore


@dataclass(frozen=True)
class Command:
    """What was typed, and the arguments that Hydra gets instead.

    typed: the script's name and arguments; flags, overrides: the arguments for Hydra with and without dashes; added:
    overrides before those, so that typed options win over a recipe; cwd: the folder that relative paths refer to; run:
    the run to continue; sweep: the new or continued sweep; folder: of the run or sweep, None if the command needs none.
    """

    schema: type[Any]
    config_name: str
    place: Place
    typed: list[str]
    flags: list[str]
    overrides: list[str]
    added: list[str] = field(default_factory=list)
    cwd: str = field(default_factory=os.getcwd)
    run: SavedRun | None = None
    sweep: Sweep | None = None
    folder: Path | None = None

    @property
    def trains(self) -> bool:
        return self.schema is TrainConfig

    @property
    def sweeps(self) -> bool:
        """Whether this is a sweep of training runs."""
        return self.trains and bool({"-m", "--multirun"} & set(self.flags))

    @property
    def words(self) -> list[str]:
        """The arguments for Hydra."""
        return [*self.flags, *self.added, *plain_words(self.overrides)]


def parse_command(argv: list[str], config_name: str, schema: type[Any], place: Place) -> Command:
    """Return the command that was typed, with all of its jobs composed and checked.

    Raises an error if anything is wrong with them, before any folder is made.
    """
    parser = get_args_parser()
    flags, typed = split_words(argv[1:], parser)
    refuse_dashes(flags, typed, schema, parser)
    arguments = parser.parse_args(flags)
    if arguments.overrides:
        word = arguments.overrides[0]
        raise ValueError(explain_word(word, argv[argv.index(word, 1) - 1], schema))
    refuse_repeated(typed)
    refuse_secrets(typed)
    typed = typed if arguments.config_name else [drop_plus(word) for word in typed]
    modes = [split_override(word)[1].upper() for word in typed if name_key(word) == "hydra.mode"]
    arguments.multirun |= modes[-1:] == ["MULTIRUN"]
    if arguments.multirun:
        typed = [word for word in typed if name_key(word) != "hydra.mode"]
    refuse_pairs(arguments)
    flags = list_flags(arguments, parser)
    overrides = [quote_path(word, arguments.multirun) for word in typed]
    command = Command(schema, config_name, place, [Path(argv[0]).name, *argv[1:]], flags, overrides)
    if arguments.shell_completion:
        _offer_latest()
    if arguments.help or arguments.hydra_help or arguments.info or arguments.shell_completion:
        return command
    wanted = _read_resume(typed) if command.trains else None
    plan = None
    if wanted is not None and arguments.multirun:
        command, plan = _reopen_sweep(command, wanted)
    elif wanted is not None:
        _check_resume(wanted, arguments, overrides)
        command = _resume_run(command, wanted)
    try:
        command = _check(command, plan)
    except _IsSweep:
        return parse_command([argv[0], "--multirun", *argv[1:]], config_name, schema, place)
    return command if command.trains and not arguments.cfg else replace(command, folder=None)


class _IsSweep(Exception):  # noqa: N818 - not an error
    """A file sets hydra.mode=MULTIRUN."""


def _offer_latest() -> None:
    """Let TAB complete `resume=latest`: Hydra completes only options of groups, so `resume` becomes a group."""
    if os.environ.get("COMP_LINE", "").split(" ")[-1].startswith("resume="):
        ConfigStore.instance().store(group="resume", name="latest", node={})


def _read_resume(typed: list[str]) -> str | None:
    """Return the value of `resume=`, the last one if there are several; None if it is null or not typed.

    Raises ValueError if it is empty, for example from an unset variable in a script.
    """
    values = [override.partition("=")[2] for override in typed if _is_resume(override)]
    value = values[-1] if values else "null"
    check(not is_none(value), f"resume={value}: nothing is written as null; leave resume out")
    value = value[1:-1] if is_quoted(value) else value
    if not value:
        raise ValueError("resume= has no value; type latest or a run's folder, or leave it out")
    return None if value == "null" else value


def _is_resume(override: str) -> bool:
    return override.partition("=")[0].lstrip("+") == "resume"


def _drop_resume(overrides: list[str]) -> list[str]:
    return [override for override in overrides if not _is_resume(override)]


def _reopen_sweep(command: Command, wanted: str) -> tuple[Command, tuple[Path, Plan]]:
    """Return the command with the overrides that started the sweep instead of `resume=`; and its folder and plan."""
    folder, saved = open_sweep(wanted, Path("multirun"))
    overrides = merge_typed(saved, _drop_resume(command.overrides))
    flags = take_flags(saved.flags, _drop_multirun(command.flags))
    cwd = saved.cwd if os.path.isdir(saved.cwd) else command.cwd
    words = ["--multirun", *flags]
    return replace(command, flags=words, overrides=overrides, cwd=cwd), (folder, replace(saved, flags=flags))


def _drop_multirun(flags: list[str]) -> list[str]:
    return [flag for flag in flags if flag not in ("-m", "--multirun")]


def _check_resume(wanted: str, arguments: Namespace, overrides: list[str]) -> None:
    """Raise ValueError for what cannot be combined with `resume=`: another folder, options of groups, a check."""
    resume = f"resume={wanted}"
    if arguments.config_name:
        raise ValueError(f"{resume} uses the run's own configuration; leave --config-name out")
    groups = {key for key, kind in get_type_hints(TrainConfig).items() if is_dataclass(kind)} - {"training", "init"}
    for override in overrides:
        key, value = name_key(override), override.partition("=")[2]
        if key == "hydra.run.dir":
            raise ValueError(f"{resume} continues in the run's own folder; leave {key} out")
        if key.split("@")[0] in groups | {"experiment"}:
            hint = f", e.g. {key}.KEY=VALUE" if key in groups else ""
            raise ValueError(f"{resume} takes single keys, not {override}, which sets a whole group{hint}")
        if key == "check" and read_switch(value) is not False:
            raise ValueError(f"{resume} continues training, but {override} does not train; type only one of them")


def _resume_run(command: Command, wanted: str) -> Command:
    """Return the command with the run's configuration as Hydra's primary configuration.

    Its values are escaped, so that Hydra interpolates nothing: the run may come from a stranger.
    """
    found = open_resumable(wanted, ROOTS)
    run = replace(found, folder=found.folder.absolute())
    node = {
        "defaults": [
            "train_schema",
            "_self_",
            {"override hydra/job_logging": "none"},
            {"override hydra/hydra_logging": "none"},
        ],
        **escape({**asdict(read_config(run)), "resume": str(run.folder)}),
        "hydra": {"job": {"name": "train"}},
    }
    ConfigStore.instance().store(name=RESUMED_CONFIG, node=node)
    return replace(command, run=run, config_name=RESUMED_CONFIG, overrides=_drop_resume(command.overrides))


def _check(command: Command, plan: tuple[Path, Plan] | None) -> Command:
    """Compose and check all jobs; return the command with its folder and sweep.

    plan: folder and plan of the sweep to continue, if any. Raises _IsSweep if a file makes it a sweep.
    """
    arguments = get_args_parser().parse_args(command.flags)
    with open_hydra(arguments) as hydra:
        name = arguments.config_name or command.config_name
        composer = Composer(hydra, command.schema, name, arguments.multirun, command.cwd, command.run)
        if arguments.multirun:
            command = _check_multirun(command, plan, composer)
        else:
            _refuse_sweep(command, composer, bool(arguments.cfg))
            _, settled = composer.check(command.overrides)
            if settled.cfg.hydra.mode == RunMode.MULTIRUN and not arguments.cfg:
                raise _IsSweep
            folder = Path(str(settled.cfg.hydra.run.dir))
            command = replace(command, added=settled.added, folder=folder)
    if command.place.main and plan is None:
        for note in composer.notes:
            print(printable(f"note      {note}"), file=sys.stderr)
    return command


def _check_multirun(command: Command, plan: tuple[Path, Plan] | None, composer: Composer) -> Command:
    overrides = command.overrides
    if not command.trains:
        for job in expand(overrides, None, composer.parser):
            composer.check(job)
        return command
    if plan is not None:
        sweep = reopen_sweep(plan[1], plan[0], overrides, composer)
        _refuse_torchrun(sweep.settings, command.place)
    else:
        sweep = plan_sweep(overrides, _drop_multirun(command.flags), composer)
        _refuse_torchrun(sweep.settings, command.place)
        sweep.plan.cwd = command.cwd
        if sweep.added:
            sweep, overrides = join_sweep(sweep, overrides, composer)
        elif not (sweep.settings.new or sweep.settings.append):
            sweep = find_same(sweep, typed=any(word.startswith("hydra.sweep.dir=") for word in overrides))
        sweep.check_numbers()
    after = sweep.settings.after
    itself = after is not None and sweep.folder.is_dir() and os.path.samefile(after, sweep.folder)
    check(not itself, f"sweep.after={after} is the folder of the sweep itself, which would wait for its own end")
    return replace(command, overrides=overrides, sweep=sweep, folder=sweep.folder)


def _refuse_torchrun(settings: SweepConfig, place: Place) -> None:
    """Raise ValueError for settings of a sweep that only its main process would follow."""
    followed = {"sweep.append=true": settings.append, f"sweep.after={settings.after}": settings.after is not None}
    for word in (word for word, chosen in followed.items() if chosen and place.size > 1):
        raise ValueError(f"{word} is for a sweep in one process: python train.py --multirun …, without torchrun")


def _refuse_sweep(command: Command, composer: Composer, shown: bool) -> None:
    """Raise ValueError for several values of a key and for settings of a sweep, which need --multirun.

    Raises _IsSweep if a file sets that, and the configuration is not just to be shown.
    """
    pairs = list(zip(command.overrides, composer.parser.parse_overrides(command.overrides), strict=True))
    for word, override in pairs:
        if not override.is_sweep_override() and not name_key(word).startswith("sweep."):
            continue
        one_valued = [word for word, override in pairs if not override.is_sweep_override()]
        if not shown and composer.compose(one_valued).hydra.mode == RunMode.MULTIRUN:
            raise _IsSweep
        if name_key(word).startswith("sweep."):
            raise ValueError(f"{word} has no effect without --multirun")
        sweep = "add --multirun to train with each, or " if command.trains else ""
        raise ValueError(
            f"{word} gives several values: {sweep}type [a,b] for a list and quote text that contains a comma"
        )


def claim(command: Command, cleanup: ExitStack) -> Command:
    """Take this process's folder, and make it if it is new; return the command with overrides that make Hydra use it.

    No other process can have the folder until the clean-up. Raises ValueError if one has it.
    """
    if command.folder is None:
        return command
    key = "hydra.run.dir" if command.sweep is None else "hydra.sweep.dir"
    folder, sweep, extra = command.folder, command.sweep, []
    if not command.place.main:
        folder, extra = Path(cleanup.enter_context(make_rank_folder(command.place.rank))), ["hydra.output_subdir=null"]
    elif command.run is not None:
        folder, extra = command.run.folder, ["hydra.output_subdir=null"]
        refusal = f"resume={short_path(folder)} is in use by another process; wait for it, or stop it first"
        cleanup.enter_context(hold_folder(folder, refusal, deep=True))
    elif sweep is None or sweep.is_new:
        try:
            folder, made = claim_folder(folder, key, command.overrides, cleanup)
        except ValueError as error:
            if sweep is not None and sweep.settings.append and is_starting(folder):
                raise SweepBusyError(str(error), folder) from error
            raise
        sweep = sweep and replace(sweep, made=made)
    elif sweep.added:
        sweep = add_or_claim(sweep, cleanup)
    elif not os.environ.get(JOB_PROCESS):  # the process that runs the sweep has it
        refusal = f"another process is running the sweep {short_path(folder)}; wait for it, or type sweep.new=true"
        with lock_plan(folder.absolute()):
            cleanup.enter_context(hold_folder(folder.absolute(), refusal))
            (folder / SWEEP_OPEN).unlink(missing_ok=True)  # of a process that was killed
    words = [*command.overrides, f"{key}={quote(str(folder))}", *extra]
    return replace(command, folder=folder, sweep=sweep, overrides=words)
