"""Overrides as they are typed, `key=value`: split, quoted for Hydra's grammar, and formatted."""

import json
import os
import re
from typing import Any

from .checks import read_switch

# Their values are taken literally, without Hydra's grammar: paths, a regular expression, conditions.
PATH_KEYS = (
    *("dataset.root", "dataset.table", "dataset.cache_dir", "dataset.subfolder", "dataset.group_pattern"),
    *("input", "query", "output", "web_runtime", "run", "filter", "resume"),
    *("init.weights", "sweep.file", "sweep.after"),
    "check",  # a path, unless it is true or false
)
PATH_LISTS = ("roots", "serve.roots")  # [~,/data] or one folder, taken literally, too


def escape(value: Any) -> Any:
    """Escape text that looks like an interpolation: a folder may be named `${x}`, and a run may be a stranger's."""
    if isinstance(value, dict):
        return {key: escape(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [escape(item) for item in value]
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", value) if isinstance(value, str) and value != "???" else value


def show_value(value: Any) -> str:
    """Format a value for people, as on the command line but without the quotes that Hydra's grammar may need."""
    return value if isinstance(value, str) else json.dumps(value)


def type_value(value: Any) -> str:
    """Return a value as Hydra's grammar reads it back."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{','.join(map(type_value, value))}]"
    text = str(value)
    return text if not isinstance(value, str) or re.fullmatch(r"[\w./:+-]+", text) else quote(text)


def quote_path(argument: str, multirun: bool = False) -> str:
    """Quote the value of a path key, so that Hydra takes brackets, spaces, `=` and quotes literally.

    With `multirun`, commas separate values, unless a file with the whole name exists.
    """
    key, equals, value = argument.partition("=")
    if key.lstrip("+") in PATH_LISTS and value and not re.search("['\"]", value):
        items = value[1:-1].split(",") if value[0] == "[" and value[-1] == "]" else [value]
        return f"{key}=[{','.join(quote(item.strip()) for item in items if item.strip())}]"
    if key.lstrip("+") not in PATH_KEYS or not equals or value.lower() in ("", "null", "none") or is_quoted(value):
        return argument
    if key.lstrip("+") == "check" and (switch := read_switch(value)) is not None:
        return f"{key}={type_value(switch)}"
    values = value.split(",") if multirun and not os.path.exists(os.path.expanduser(value)) else [value]
    return f"{key}=" + ",".join(quote(item) for item in values)


def unquote_path(word: str) -> str:
    """Return an override as it was typed before `quote_path`."""
    key, _, value = word.partition("=")
    plain = value[1:-1]
    return f"{key}={plain}" if key in PATH_KEYS and value == quote(plain) else word


def is_quoted(value: str) -> bool:
    """Tell whether the quotes around a path are for Hydra's grammar, not part of a file name."""
    return len(value) > 1 and value[0] == value[-1] and value[0] in "'\"" and not os.path.exists(value)


def quote(value: str) -> str:
    escaped = re.sub(r"(\\*)'", r"\1\1\\'", escape(value))
    trailing = len(escaped) - len(escaped.rstrip("\\"))
    return "'" + escaped + "\\" * trailing + "'"


def split_override(override: str) -> tuple[str, str]:
    return name_key(override), override.partition("=")[2]


def is_for_hydra(override: str) -> bool:
    return name_key(override).startswith(("hydra.", "hydra/"))


def name_key(override: str) -> str:
    return override.split("=", 1)[0].lstrip("+~")


def format_number(value: float) -> str:
    """Format a number as it is typed; six digits distinguish random draws and keep names readable."""
    return str(value) if isinstance(value, int) else f"{value:.6g}"
