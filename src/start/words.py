"""Overrides that Hydra's grammar accepts, but that are not what was meant."""

import glob
import os
import re
import shlex
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

from ..config.checks import check
from ..config.keys import list_keys
from ..config.options import CONFIGS, list_options
from ..config.overrides import name_key, split_override
from ..config.recipe import SECTIONS
from ..config.schema import TrainConfig
from ..data.files import EXTENSIONS
from ..run.files import CONFIG

# Tokens of Hugging Face, GitHub, Kaggle, AWS, OpenAI and Slack; parts of addresses; and what is called so.
SECRET = re.compile(
    r"(?P<token>(?:hf_|KGAT_)\w{16,}|(?:gh[a-z]_|github_pat_)\w{20,}|AKIA[0-9A-Z]{16}|sk-[\w-]{20,}|xox[a-z]-[\w-]{10,})"
    r"|://[^/@:\s]*:(?P<password>[^/@\s]+)@"
    r"|[?&](?:token|key|api_?key|sig|signature|secret|password|access_token)=(?P<query>[^&\s'\"]{6,})"
    r"|^\W*hydra\.job\.env_set\.\w*(?:KEY|TOKEN|SECRET|PASSWORD)\w*=(?P<variable>.{6,})",
    re.IGNORECASE,
)
EXPLAINED = ("resume", "sweep.file", "init.weights")  # have an answer of their own to an empty value


def drop_plus(word: str) -> str:
    """Return `+experiment=digits`, as other projects want it typed, without the plus: each group has a default."""
    key = name_key(word)
    known = key.startswith("hydra/") or (CONFIGS / key).is_dir()
    return word.lstrip("+") if known else word


def explain_word(word: str, before: str, schema: type) -> str:
    """Return what to type instead of a word that is not of the form key=value; before: the word before it."""
    wrong = f"'{word}' is not of the form key=value"
    if before.endswith(",") and "=" in before:
        return f"{wrong}; a list has no spaces: {before}{word}"
    path, typed = Path(os.path.expanduser(word)), shlex.quote(word)
    if schema is not TrainConfig:
        known = path.exists() or glob.has_magic(word) or path.suffix.lower() in EXTENSIONS
        return f"{wrong}; to predict images: python inference.py input={typed}" if known else wrong
    if (path / CONFIG).is_file():
        return f"{wrong}; to continue that run: python train.py resume={typed}"
    if path.is_dir():
        return f"{wrong}; to train on your own images: {_own_images(typed)}"
    for group in ("experiment", *SECTIONS):
        if word in list_options(group):
            return f"{wrong}; did you mean {group}={word}?"
    return f"{wrong}; did you mean {word}=VALUE?" if word in list_keys(schema) else wrong


def _own_images(typed: str) -> str:
    return f"python train.py dataset=image_folder dataset.root={typed}"


def explain_folder(group: str, name: str) -> str:
    """Return what to type if the name of a data set that is not known is that of a folder, "" otherwise."""
    is_folder = group == "dataset" and os.path.isdir(os.path.expanduser(name))
    return f"{group}={name} is not an option, but a folder: {_own_images(shlex.quote(name))}" if is_folder else ""


def refuse_secrets(words: list[str]) -> None:
    """Raise ValueError, without showing it, for an access token in what is typed: a run writes that into six files."""
    for word in words:
        found = SECRET.search(word)
        if found is not None:
            start, end = next(found.span(name) for name, part in found.groupdict().items() if part)
            shown = f"{word[:start]}{word[start : start + 3]}…{word[end:]}"
            raise ValueError(
                f"{shown} contains what looks like an access token or password, which would be written into the files "
                "of the run; use a path without it, or set it in the environment"
            )


def refuse_repeated(words: list[str]) -> None:
    """Raise ValueError for a second `input=` or `query=`: only the last one would be read."""
    for key in ("input", "query"):
        given = [word for word in words if name_key(word) == key]
        if len(given) > 1:
            raise ValueError(
                f"{' '.join(given)}: only one {key} is read; name a folder, or a glob: {key}='photos/*.jpg'"
            )


def check_words(words: list[str], schema: type) -> None:
    """Raise ValueError for a removed key, and for a value that is missing or not the null of YAML."""
    keys = set(list_keys(schema))
    for word in words:
        key, value = split_override(word)
        if key in (*SECTIONS, "experiment") and not word.startswith("~") and value[:1] in ("", "[", "{"):
            why = f"{key} is one option, not a list or a mapping" if value else f"{key}= has no value"
            raise ValueError(f"{word}: {why}; it can be: {', '.join(list_options(key))}")
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
        switch = _find_kind(key, schema) is bool and re.fullmatch(r"[-+.\d]+", value) and value not in ("0", "1")
        check(not switch, f"{key}={value} is neither true nor false")


def is_none(value: Any) -> bool:
    """Return whether a value is what Python, not YAML, calls nothing."""
    return isinstance(value, str) and value.lower() == "none"


def accepts_null(key: str, schema: type) -> bool:
    if key not in list_keys(schema):
        return False
    kind = _find_kind(key, schema)
    return not is_dataclass(kind) and (kind is Any or type(None) in get_args(kind))


def _find_kind(key: str, schema: type) -> Any:
    kind: Any = schema
    for part in key.split("."):
        kind = get_type_hints(kind)[part]
    return kind
