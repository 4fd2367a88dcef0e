"""Overrides that Hydra's grammar accepts, but that are not what was meant."""

from dataclasses import is_dataclass
from typing import Any, get_args, get_type_hints

from ..config.checks import check
from ..config.keys import list_keys
from ..config.options import CONFIGS, list_options
from ..config.overrides import name_key, split_override
from ..config.recipe import SECTIONS

EXPLAINED = ("resume", "sweep.file", "init.weights")  # have an answer of their own to an empty value


def drop_plus(word: str) -> str:
    """Return `+experiment=digits`, as other projects want it typed, without the plus: each group has a default."""
    key = name_key(word)
    known = key.startswith("hydra/") or (CONFIGS / key).is_dir()
    return word.lstrip("+") if known else word


def check_words(words: list[str], schema: type) -> None:
    """Raise ValueError for a removed key, and for a value that is missing or not the null of YAML."""
    keys = set(list_keys(schema))
    for word in words:
        key, value = split_override(word)
        if key not in keys:
            continue
        null = f"write {key}=null" if accepts_null(key, schema) else ""
        if word.startswith("~"):
            raise ValueError(f"~{key} would remove a key that each run has; {null or f'leave ~{key} out'}")
        if key in SECTIONS and value in ("", "null"):
            raise ValueError(f"{key}={value} chooses nothing; {key} can be: {', '.join(list_options(key))}")
        check(
            value not in ("", "''", '""') or key in EXPLAINED,
            f"{key}= has no value; {null or 'write one'}, or leave it out",
        )
        check(not null or not is_none(value), f"{key}={value}: nothing is written as null; {null}")


def is_none(value: Any) -> bool:
    """Return whether a value is what Python, not YAML, calls nothing."""
    return isinstance(value, str) and value.lower() == "none"


def accepts_null(key: str, schema: type) -> bool:
    if key not in list_keys(schema):
        return False
    kind: Any = schema
    for part in key.split("."):
        kind = get_type_hints(kind)[part]
    return not is_dataclass(kind) and (kind is Any or type(None) in get_args(kind))
