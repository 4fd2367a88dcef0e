"""Flags of Hydra, the words with dashes: told from overrides, checked, written so that they mean the same anywhere."""

import os
from argparse import ArgumentParser, Namespace
from typing import Any

from ..config.checks import check
from ..config.options import CONFIGS
from .messages import explain_flag


def split_words(words: list[str], parser: ArgumentParser) -> tuple[list[str], list[str]]:
    """Return flags with their values, and overrides, which may be typed in any order."""
    flags: list[str] = []
    overrides: list[str] = []
    for before, word in zip(["", *words], words, strict=False):
        flag = parser._option_string_actions.get(before)
        is_value = flag is not None and flag.nargs is None
        is_override = not word.startswith("-") and ("=" in word or word.startswith("~"))
        (overrides if is_override and not is_value else flags).append(word)
    return flags, overrides


def refuse_dashes(flags: list[str], typed: list[str], schema: type[Any], parser: ArgumentParser) -> None:
    """Raise ValueError for a setting typed with dashes, as in other tools; flags of Hydra may be abbreviated.

    typed: the overrides, which may stand after such a flag.
    """
    options = list(parser._option_string_actions)
    for flag in flags:
        name = flag.split("=", 1)[0]
        if name.startswith("--") and not any(option.startswith(name) for option in options):
            raise ValueError(explain_flag(flag, schema, typed))


def refuse_pairs(arguments: Namespace) -> None:
    """Raise ValueError for flags that exclude each other, or that cannot be used here."""
    chosen = [name for name in ("run", "multirun", "cfg", "info", "shell_completion") if getattr(arguments, name)]
    if arguments.cfg and arguments.multirun:
        raise ValueError("--cfg shows the configuration of one run; leave --multirun out")
    check(len(chosen) < 2, f"{' and '.join(f'--{name}' for name in chosen)} exclude each other; type only one")
    check(not arguments.resolve or arguments.cfg or arguments.help, "--resolve has no effect without --cfg")
    check(
        not arguments.experimental_rerun, "--experimental-rerun runs a pickled file; to continue a run, type resume=RUN"
    )


def list_flags(arguments: Namespace, parser: ArgumentParser) -> list[str]:
    """Return the flags in their long form, their folders absolute; Hydra reads --config-path beside train.py."""
    if arguments.config_dir is not None:
        arguments.config_dir = os.path.abspath(os.path.expanduser(arguments.config_dir))
    if arguments.config_path is not None and "://" not in arguments.config_path:
        arguments.config_path = os.path.join(CONFIGS.parent, os.path.expanduser(arguments.config_path))
    flags = []
    for action in parser._actions:
        value = getattr(arguments, action.dest, None)
        if action.option_strings and value:
            flags += [action.option_strings[0]] if value is True else [action.option_strings[0], value]
    return flags
