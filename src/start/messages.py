"""Error messages for users: the key, what is wrong with it, and what to type instead."""

import difflib
import os
import re
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    MissingMandatoryValue,
    OmegaConfBaseException,
    ValidationError,
)

from ..config.compose import USER_ERRORS
from ..config.keys import list_keys, suggest_keys
from ..config.options import CONFIGS
from ..config.overrides import quote
from ..machine.streams import printable
from .words import accepts_null, explain_folder, is_none

# Launcher plugins used by configs/hydra/launcher/, and the arguments of pip that install them.
LAUNCHERS = {
    **dict.fromkeys(("submitit_slurm", "submitit_local"), "-r requirements-sweep.txt"),
    "ray": "-r requirements-ray.txt",
}
# Options of earlier versions, and their replacements.
REPLACED = {"hydra/launcher/processes": "sweep.isolate=true sweep.parallel=2"}
INTRODUCING = ("set", "opt", "opts", "options", "override", "overrides", "cfg_options", "config_override")
KINDS: dict[Any, str] = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


def wants_traceback() -> bool:
    """Return whether errors are to be shown in full, as Hydra reads its variable."""
    return os.environ.get("HYDRA_FULL_ERROR") == "1"


def format_error(error: Exception) -> str:
    """Return the report of a job's error: a line for what a user can fix, a traceback for a bug."""
    full = wants_traceback() or not isinstance(error, USER_ERRORS)
    if full:
        return printable("".join(traceback.format_exception(error)), own_lines=True)
    return printable(f"error: {error}\n")


def explain_flag(flag: str, schema: type, typed: Sequence[str] = ()) -> str:
    """Return what to type instead of a setting with dashes, such as --epochs=5 or --epochs; typed: all overrides."""
    name, _, value = flag.lstrip("-").partition("=")
    name = name.replace("-", "_")
    if name in INTRODUCING and typed:
        return f"{flag} is not an option; settings are typed without it: {' '.join(typed)}"
    key = name if name in list_keys(schema) else (suggest_keys(name, schema) or [name])[0]
    return f"{flag} is not an option; settings are typed without dashes: {key}={value or 'VALUE'}"


def explain(error: BaseException, schema: type, configs: Path) -> str:
    """Return one to three lines about a configuration error: key, reason, what to type."""
    return "\n".join([_explain(error, schema, configs), *getattr(error, "__notes__", [])])


def _explain(error: BaseException, schema: type, configs: Path) -> str:
    # Errors of our checks and of the system are clear already. Hydra's may be OSErrors, too.
    if type(error) is ValueError or (isinstance(error, OSError) and not isinstance(error, HydraException)):
        return str(error)
    causes = list(_list_causes(error))
    where = _name_file(causes, configs)
    for cause in causes:
        if isinstance(cause, MissingConfigException):
            return _explain_option(cause)
        if isinstance(cause, OverrideParseException) and "missing EQUAL" in cause.message:
            return f"'{cause.override}' is not of the form key=value"
        if isinstance(cause, OverrideParseException) and str(cause.override).endswith("=~"):
            return f"{cause.override}: nothing is written as null; write {str(cause.override)[:-1]}null"
        if isinstance(cause, OverrideParseException):
            key, _, value = str(cause.override).partition("=")
            kind = _name_kind(key.lstrip("+"), schema)
            quotes = f'; put it in quotes: "{key}={quote(value)}"' if kind == "text" else ""
            return (
                f"{cause.override} cannot be read: {value} is not {kind}, or a bracket or quote is not closed{quotes}"
            )
    for cause in causes:
        if isinstance(cause, OmegaConfBaseException) and (text := _explain_value(cause, schema, where)):
            return text
    for cause in causes:
        if found := re.match(r"Multiple values for ([^ ]+)\.", str(cause)):
            return f"+{found[1]}=… would be a second value of {found[1]}; leave the + out{where}"
    lines = [line for cause in causes for line in str(cause).splitlines() if line.strip() and "hydra.cc" not in line]
    return "\n".join(dict.fromkeys(lines[:2])) + where


def _list_causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _name_file(causes: list[BaseException], configs: Path) -> str:
    """Return the file with the error, which Hydra gives only in its message; "" for what was typed."""
    found = next((match for cause in causes if (match := re.match(r"In '([^']+)': \w+Error raised", str(cause)))), None)
    return f" (in {configs.name}/{found[1]}.yaml)" if found else ""


def _explain_value(error: OmegaConfBaseException, schema: type, where: str) -> str:
    """Return what is wrong with a key or its value; "" if the error does not contain it."""
    key = error.full_key or ""
    if isinstance(error, ConfigKeyError | ConfigAttributeError):
        return f"{key} is not a key{where}.{_did_you_mean(suggest_keys(key, schema))}"
    if isinstance(error, MissingMandatoryValue):
        return f"{key} has no value{where}"
    if not isinstance(error, ValidationError) or not key:
        return ""
    value = getattr(error, "value", None)
    if value is None:
        return f"{key} must not be null{where}"
    if inner := [inner for inner in list_keys(schema) if inner.startswith(f"{key}.")]:
        return f"{key}={value}: {key} has keys of its own, such as {inner[0]} and {inner[-1]}; set one of them{where}"
    hint = "; nothing is written as null" if is_none(value) and accepts_null(key, schema) else ""
    return f"{key}={value} is not {_name_kind(key, schema)}{hint}{where}"


def _name_kind(key: str, schema: type) -> str:
    """Return a description of the values that a key of the schema, or an item of its list, takes."""
    name, item, _ = key.partition("[")
    kind: Any = schema
    for part in name.split("."):
        if not is_dataclass(kind) or part not in get_type_hints(kind):  # Hydra's own
            return "of its type"
        kind = get_type_hints(kind)[part]
    kinds = [part for part in get_args(kind) or (kind,) if part is not type(None)]  # int | None
    while get_origin(kinds[0]) is list:
        if not item:
            return "a list, e.g. [a,b]"
        kinds = [get_args(kinds[0])[0]] if get_args(kinds[0]) else kinds
    return KINDS.get(kinds[0], "of its type")


def _explain_option(error: MissingConfigException) -> str:
    group, _, name = str(error.missing_cfg_file).rpartition("/")
    if group == "hydra/launcher" and name in LAUNCHERS:
        return f"hydra/launcher={name} is not installed: pip install {LAUNCHERS[name]}"
    if replaced := REPLACED.get(f"{group}/{name}"):
        return f"{group}={name} is no longer an option; use {replaced}"
    if not group:
        folders = re.findall(r"path=(?:file://)?(/.*)", str(error))
        where = [folder for folder in folders if Path(folder) != CONFIGS]
        return f"{name}.yaml is not in {' or '.join(folders)}" if where else f"configs/{name}.yaml does not exist"
    if folder := explain_folder(group, name):
        return folder
    available = list(error.options or [])
    near = difflib.get_close_matches(name, available, n=1)
    hint = f" Did you mean {group}={near[0]}?" if near else ""
    return f"{group}={name} is not an option.{hint}\n{group} can be: {', '.join(available) or 'nothing'}"


def _did_you_mean(suggestions: list[str]) -> str:
    if not suggestions:
        return " `--cfg job` shows all keys."
    return f" Did you mean {' or '.join(suggestions)}?"
