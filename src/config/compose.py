"""From the command line to checked dataclasses, and from there to a run folder: Hydra, with clear errors.

Everything typed is composed and checked once before Hydra starts: a mistake costs no data set, no folder and
no traceback. In a sweep every job is checked before the first one begins.
"""

import itertools
import os
import re
import shutil
import sys
import traceback
from argparse import Namespace
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

import hydra
import yaml
from hydra._internal.utils import get_args_parser
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from .messages import explain, explain_flag
from .resolve import resolve
from .schema import AnyConfig, InferenceConfig, TrainConfig

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
# Taken literally, without Hydra's grammar; a regular expression needs that as much as a path.
PATH_KEYS = (
    *("dataset.root", "dataset.table", "dataset.cache_dir", "dataset.subfolder", "dataset.group_pattern"),
    *("input", "output", "run", "resume", "init.weights"),
)
# What a user can mend; anything else is a defect of ours and shows its traceback.
USER_ERRORS = (ValueError, OSError, FloatingPointError, HydraException, OmegaConfBaseException, yaml.YAMLError)

ConfigStore.instance().store(name="train_schema", node=TrainConfig)
ConfigStore.instance().store(name="inference_schema", node=InferenceConfig)


@dataclass
class Job:
    """One job of a run or sweep: its folder, what was typed for it, and the option chosen of each group."""

    folder: Path
    overrides: list[str]
    choices: dict[str, str]
    command: list[str] = field(default_factory=list)  # as typed


def launch(main: Callable[[Any, Job], Any], config_name: str, schema: type[AnyConfig]) -> int:
    """Compose `configs/<config_name>.yaml` with the command line, check it and call `main(config, job)`.

    Returns the exit code: 0, 1 after an error (told in one to three lines on stderr), 130 after Ctrl-C.
    """
    command = [Path(sys.argv[0]).name, *sys.argv[1:]]
    multirun = bool({"-m", "--multirun"} & set(sys.argv))
    overrides = [word for word in sys.argv[1:] if _is_override(word)]
    flags = [word for word in sys.argv[1:] if not _is_override(word)]
    sys.argv[1:] = flags + [quote_path(override, multirun) for override in overrides]
    parser = get_args_parser()
    if dashed := [flag for flag in flags if _is_setting(flag, list(parser._option_string_actions))]:
        print(f"error: {explain_flag(dashed[0], schema)}", file=sys.stderr)
        return 1
    arguments = parser.parse_args()
    runs = not (arguments.help or arguments.hydra_help or arguments.info or arguments.shell_completion)
    if runs:
        try:
            output = _check(arguments.config_name or config_name, schema, arguments)
            if schema is TrainConfig and not arguments.cfg:
                sys.argv.append(_claim_folder(output, arguments))
        except USER_ERRORS as error:
            print(f"error: {explain(error, schema, CONFIGS)}", file=sys.stderr)
            return 1
    failures: list[str] = []  # names alone: an exception would keep its job's model and data alive
    start = hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name=config_name)
    try:
        start(lambda cfg: _run_job(main, schema, cfg, command, failures))()
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return 130
    return 1 if failures else 0


def _is_override(word: str) -> bool:
    return not word.startswith("-") and ("=" in word or word.startswith("~"))


def _is_setting(flag: str, options: list[str]) -> bool:
    """Tell a setting typed with dashes, as other tools take it, from an option of Hydra's (or its beginning)."""
    name = flag.split("=", 1)[0]
    return name.startswith("--") and not any(option.startswith(name) for option in options)


def _check(config_name: str, schema: type[AnyConfig], arguments: Namespace) -> str:
    """Compose and check every job; return the composed run folder (sweep folder with --multirun)."""
    output = ""
    multirun: bool = arguments.multirun
    overrides: list[str] = arguments.overrides
    if arguments.config_dir:
        overrides = [f"hydra.searchpath=[{_quote('file://' + os.path.abspath(arguments.config_dir))}]", *overrides]
    with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3", job_name=config_name):
        for job in _split_sweep(overrides) if multirun else [overrides]:
            try:
                cfg = hydra.compose(config_name, overrides=job, return_hydra_config=True)
                to_config(schema, cfg, job)
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


def _run_job(
    main: Callable[[Any, Job], Any], schema: type[AnyConfig], cfg: DictConfig, command: list[str], failures: list[str]
) -> Any:
    runtime = HydraConfig.get()
    folder = Path(runtime.runtime.output_dir)
    job = Job(folder, list(runtime.overrides.task), dict(runtime.runtime.choices), command)
    try:
        return main(to_config(schema, cfg, job.overrides), job)
    except Exception as error:
        if os.environ.get("HYDRA_FULL_ERROR"):
            raise
        failures.append(type(error).__name__)
        if isinstance(error, USER_ERRORS):
            print(f"error: {error}", file=sys.stderr)
        else:
            traceback.print_exc()
        return None
    finally:
        # What failed before the run began (a broken data set, say) leaves no folder; Hydra had made it.
        if schema is TrainConfig and {path.name for path in folder.iterdir()} <= {".hydra"}:
            _remove_folder(folder)


def _remove_folder(folder: Path) -> None:
    """Remove a folder, and those above it that are then empty, up to the one where the user stands."""
    shutil.rmtree(folder)
    for parent in folder.parents:
        if parent == Path.cwd() or not parent.is_relative_to(Path.cwd()) or any(parent.iterdir()):
            break
        parent.rmdir()


def to_config(schema: type[AnyConfig], cfg: DictConfig, overrides: list[str]) -> AnyConfig:
    """Return plain, checked dataclasses. Raises for keys that got past Hydra (`+model.typo=1`) too."""
    container = OmegaConf.to_container(cfg, resolve=False)
    assert isinstance(container, dict)
    container.pop("hydra", None)
    plain = OmegaConf.to_container(OmegaConf.create(container), resolve=True)
    config = _into_schema(schema, plain)
    if not isinstance(config, TrainConfig):
        return config
    # mypy does not narrow the type variable by isinstance.
    return resolve(config, typed={override.split("=", 1)[0].lstrip("+~") for override in overrides})  # type: ignore[return-value]


def _into_schema(schema: type[AnyConfig], plain: Any) -> AnyConfig:
    """Merge plain values into the schema; keys that an option's file leaves out, as unused there, become None."""
    values = _map_leaves(_fill_unused(schema, plain), _escape)
    config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), values))
    assert isinstance(config, schema)
    return config


def _fill_unused(schema: Any, plain: Any) -> Any:
    filled = dict(plain)
    for key, kind in get_type_hints(schema).items():
        value = filled.get(key, "???")
        if is_dataclass(kind) and isinstance(value, dict):
            filled[key] = _fill_unused(kind, value)
        elif value == "???" and type(None) in get_args(kind):
            filled[key] = None
    return filled


def _map_leaves(value: Any, function: Callable[[Any], Any]) -> Any:
    if isinstance(value, dict):
        return {key: _map_leaves(item, function) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_map_leaves(item, function) for item in value]
    return function(value)


def _escape(value: Any) -> Any:
    """Keep text that looks like an interpolation as it is: a folder may be called `${x}`, a run be a stranger's."""
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", value) if isinstance(value, str) and value != "???" else value


def compose_config(*overrides: str) -> TrainConfig:
    """Compose and check a training configuration from overrides, as the command line does."""
    with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3", job_name="compose"):
        cfg = hydra.compose("config", overrides=list(overrides))
    return to_config(TrainConfig, cfg, list(overrides))


def dump_config(config: TrainConfig) -> str:
    """Return the text of a run's `config.yaml`, which `load_config` reads back equal."""
    return yaml.safe_dump(asdict(config), sort_keys=False, allow_unicode=True, default_flow_style=None)


def load_config(path: Path) -> TrainConfig:
    """Read a run's `config.yaml`. Values only: nothing in it is interpolated, imported or executed."""
    return _into_schema(TrainConfig, yaml.safe_load(path.read_text(encoding="utf-8")))


def quote_path(argument: str, multirun: bool = False) -> str:
    """Quote the value of a path key, so that Hydra's grammar takes brackets, spaces, `=` or quotes literally.

    With `multirun` a comma separates values, unless a file of that whole name exists.
    """
    key, equals, value = argument.partition("=")
    quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "'\""
    if key.lstrip("+") not in PATH_KEYS or not equals or value in ("", "null"):
        return argument
    if quoted and not os.path.exists(value):
        return argument
    values = value.split(",") if multirun and not os.path.exists(os.path.expanduser(value)) else [value]
    return f"{key}=" + ",".join(_quote(item) for item in values)


def _quote(value: str) -> str:
    escaped = re.sub(r"(\\*)'", r"\1\1\\'", _escape(value))
    trailing = len(escaped) - len(escaped.rstrip("\\"))
    return "'" + escaped + "\\" * trailing + "'"


def _claim_folder(path: str, arguments: Namespace) -> str:
    """Make the run's (or sweep's) folder, so that no other run can get it, and return the override naming it.

    Two runs started in the same second get two folders. Raises ValueError where the user named one in use.
    """
    key = "hydra.sweep.dir" if arguments.multirun else "hydra.run.dir"
    typed = any(override.startswith(f"{key}=") for override in arguments.overrides)
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
    return f"{key}={_quote(str(folder))}"
