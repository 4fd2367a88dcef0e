"""The training form: every key of the schema with its type, range, default and comment, for any key to be typed."""

import dataclasses
import math
import types
import typing
from typing import Any, get_args, get_type_hints

from ..config.checks import Rule
from ..config.comments import describe_option, read_comments
from ..config.options import GROUPS, list_options, option_keys
from ..config.schema import TrainConfig
from ..run.changes import compose_defaults

CHOICES = ("dataset", "model", "experiment", "optimizer", "scheduler", "augmentation")
LEFT_OUT = ("sweep", "resume", "check")  # sections and keys that mean nothing for one new run
FIXED = ("training", "init", "")  # sections whose defaults do not depend on the chosen options
SIZES = ("model.image_size", "dataset.image_size")
TYPES = {int: "int", float: "float", bool: "bool", str: "text"}


def describe_form() -> dict[str, Any]:
    """Return the options of each group, and the fields of all keys."""
    return {
        "groups": {
            group: [{"name": name, "help": describe_option(group, name)} for name in list_options(group)]
            for group in CHOICES
        },
        "fields": list(_list_fields(TrainConfig, "", compose_defaults())),
        "keys": {
            group: {
                name: [f"{group}.{key}" for key in sorted(option_keys(group, name) | {"name"})]
                for name in list_options(group)
            }
            for group in GROUPS
        },
    }


def _list_fields(schema: Any, prefix: str, defaults: dict[str, Any]) -> typing.Iterator[dict[str, Any]]:
    kinds = get_type_hints(schema)
    for field in dataclasses.fields(schema):
        key, kind = f"{prefix}{field.name}", kinds[field.name]
        if key in LEFT_OUT or field.name == "name":
            continue
        if dataclasses.is_dataclass(kind):
            yield from _list_fields(kind, f"{key}.", defaults)
        else:
            yield _describe(key, kind, field.metadata.get("rule"), defaults.get(key))


def _describe(key: str, kind: Any, rule: Rule | None, default: Any) -> dict[str, Any]:
    nullable = kind is Any or type(None) in get_args(kind)
    plain = next((part for part in get_args(kind) if part is not type(None)), kind) if _is_union(kind) else kind
    name = TYPES.get(plain, "list" if typing.get_origin(plain) is list else "text")
    choices = list(rule.choices) if rule and rule.choices else None
    section = key.rpartition(".")[0]
    return {
        "key": key,
        "section": section or "run",
        "type": "choice" if choices else "size" if key in SIZES else name,
        "choices": choices,
        "low": rule.low if rule and math.isfinite(rule.low) else None,
        "high": rule.most if rule and math.isfinite(rule.most) else None,
        "nullable": nullable,
        "null": rule.null if rule else "",
        "default": default if section in FIXED and default != "???" else None,
        "help": read_comments().get(key, ""),
    }


def _is_union(kind: Any) -> bool:
    return typing.get_origin(kind) in (typing.Union, types.UnionType)
