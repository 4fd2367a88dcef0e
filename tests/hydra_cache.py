"""Make configurations fast for tests, which need some thousand: what was read, merged or composed is copied.

A composition takes 0.2 s, most of it for the same few files. Nothing is copied where a test has files of its own, in a
folder for `--config-dir`.
"""

import io
import os
import pickle
from collections.abc import Callable, Hashable, Iterable
from pathlib import Path
from typing import Any

from hydra._internal import config_loader_impl
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import IConfigRepository
from hydra._internal.defaults_list import DefaultsList
from hydra.core.config_store import ConfigStore
from hydra.core.default_element import ResultDefault
from hydra.core.override_parser.types import Override
from hydra.core.utils import JobRuntime
from omegaconf import DictConfig, OmegaConf

from src.config import compose as configurations
from src.config.options import CONFIGS

_made: dict[Hashable, bytes] = {}
_read, _list, _merge, _compose, _give_types = (
    OmegaConf.load,
    config_loader_impl.create_defaults_list,
    ConfigLoaderImpl._compose_config_from_defaults_list,
    ConfigLoaderImpl.load_configuration,
    configurations.give_types,
)


def install() -> None:
    """Replace what reads, merges and composes. What Hydra stores is not copied twice: each use copies it anyway."""
    for owner, name, function in (
        (ConfigStore, "__deepcopy__", lambda store, memo: store),
        (OmegaConf, "load", staticmethod(read)),
        (config_loader_impl, "create_defaults_list", list_defaults),
        (ConfigLoaderImpl, "_compose_config_from_defaults_list", merge),
        (ConfigLoaderImpl, "load_configuration", compose),
        (configurations, "give_types", give_types),
    ):
        setattr(owner, name, function)


def _make_once(key: Hashable, make: Callable[[], Any]) -> Any:
    """Return a copy of what `make` returned for the key."""
    if key not in _made:
        _made[key] = pickle.dumps(make())
    return pickle.loads(_made[key])


def read(file: Any) -> Any:
    """Parse a YAML file, the same text once."""
    text = Path(file).read_text(encoding="utf-8") if isinstance(file, str | os.PathLike) else file.read()
    return _make_once(("read", text), lambda: _read(io.StringIO(text)))


def list_defaults(
    repo: IConfigRepository, config_name: str, overrides_list: list[Override], **more: Any
) -> DefaultsList:
    """List the files to merge, the same for all values of keys that are no groups."""
    source = _identify(config_name, [source.path for source in repo.get_sources()])
    if source is None:
        return _list(repo, config_name, overrides_list, **more)
    words = [word for word in overrides_list if not word.is_sweep_override()]
    values = [word for word in words if isinstance(word.value(), dict) or not repo.group_exists(word.key_or_group)]
    groups = [word for word in words if word not in values]
    key = ("list", source, *(word.input_line for word in groups), str(more))
    listed = _make_once(key, lambda: _list(repo, config_name, groups, **more))
    listed.config_overrides = values
    return listed


def merge(self: ConfigLoaderImpl, defaults: list[ResultDefault], repo: IConfigRepository) -> DictConfig:
    """Merge the files of a defaults list, before the values that were typed."""
    primary = next(default.config_path for default in defaults if default.primary)
    source = _identify(primary, [source.path for source in repo.get_sources()])
    if source is None:
        return _merge(self, defaults, repo)
    return _make_once(("merge", source, *map(repr, defaults)), lambda: _merge(self, defaults, repo))


def compose(self: ConfigLoaderImpl, config_name: str, overrides: list[str], *rest: Any, **more: Any) -> DictConfig:
    """Compose the configuration for some words; only the working directory may be another one."""
    source = _identify(config_name, [source.path for source in self.config_search_path.get_path()])
    if source is None or any("searchpath" in word for word in overrides):
        return _compose(self, config_name, overrides, *rest, **more)
    key = ("compose", source, *overrides, *map(str, rest), str(more), str(JobRuntime.instance().get("name")))
    cfg = _make_once(key, lambda: _compose(self, config_name, overrides, *rest, **more))
    cfg.hydra.runtime.cwd = os.getcwd()
    return cfg


def give_types(schema: type, plain: Any) -> DictConfig:
    """Merge plain values into the schema, the same ones once."""
    return _make_once(("types", schema, repr(plain)), lambda: _give_types(schema, plain))


def _identify(config_name: str | None, folders: Iterable[str | None]) -> str | None:
    """Return the configuration and, if it is not a file, its content; None if a test's own files are read."""
    own = {"hydra.conf", "", str(CONFIGS)}
    if not own.issuperset(str(folder).split("://")[-1] for folder in folders):
        return None
    stored = ConfigStore.instance().repo.get(f"{config_name}.yaml")
    return f"{config_name} {stored.node if stored else ''}"
