"""Paths of a configuration: absolute in a program, and in a run's config.yaml as the user or a file wrote them.

Relative paths refer to the folder in which a command was started. They become absolute when its configuration is made,
so they mean the same in a job that works elsewhere (`hydra.job.chdir=true`, a cluster) and in a resumed run.
"""

import functools
import os
from collections.abc import Collection
from dataclasses import replace
from typing import Any

from .checks import check, explain_address
from .initial import HUB
from .schema import TrainConfig

PATHS = ("dataset.root", "dataset.table", "dataset.cache_dir", "init.weights", "sweep.file", "sweep.after", "check")


def anchor(config: TrainConfig, folder: str) -> TrainConfig:
    """Return `config` with absolute paths: relative ones refer to `folder`, an absolute path.

    Raises ValueError for addresses such as https://….
    """
    for key, value in read_paths(config).items():
        address = explain_address(key, value)
        check(not address, address)
    paths = {key: os.path.expanduser(value) for key, value in read_paths(config).items()}
    return replace_paths(config, {key: os.path.normpath(os.path.join(folder, path)) for key, path in paths.items()})


def list_relative(config: TrainConfig, typed: Collection[str]) -> dict[str, str]:
    """Return the relative paths that were not typed, by key: those that a file has, such as `data/cache`."""
    paths = read_paths(config)
    return {
        key: path for key, path in paths.items() if key not in typed and not os.path.isabs(os.path.expanduser(path))
    }


def read_paths(config: Any) -> dict[str, str]:
    """Return the paths by key, without those that are not set, and weights on the Hugging Face Hub."""
    values = {key: functools.reduce(getattr, key.split("."), config) for key in PATHS}
    return {key: value for key, value in values.items() if isinstance(value, str) and value and not HUB.match(value)}


def replace_paths(config: TrainConfig, paths: dict[str, str]) -> TrainConfig:
    for key, path in paths.items():
        group, dot, name = key.partition(".")
        value: Any = replace(getattr(config, group), **{name: path}) if dot else path
        config = replace(config, **{group: value})
    return config
