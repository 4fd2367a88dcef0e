"""Make configurations fast for tests, which need some thousand: what was read, merged, composed, converted is copied.

A composition takes 0.2 s, two thirds of it for the same few files. Nothing is copied for a configuration that a test
wrote itself: that of a run to resume, or a folder for `--config-dir`.
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
from hydra.core.default_element import ResultDefault
from hydra.core.override_parser.types import Override
from hydra.core.utils import JobRuntime
from omegaconf import DictConfig, OmegaConf

from src.config import compose as configurations
from src.config.options import CONFIGS
from src.config.schema import AnyConfig

_made: dict[Hashable, bytes] = {}
_read, _list, _merge, _compose, _convert = (
    OmegaConf.load,
    config_loader_impl.create_defaults_list,
    ConfigLoaderImpl._compose_config_from_defaults_list,
    ConfigLoaderImpl.load_configuration,
    configurations.into_schema,
)


def install() -> None:
    for owner, name, function in (
        (OmegaConf, "load", staticmethod(read)),
        (config_loader_impl, "create_defaults_list", list_defaults),
        (ConfigLoaderImpl, "_compose_config_from_defaults_list", merge),
        (ConfigLoaderImpl, "load_configuration", compose),
        (configurations, "into_schema", convert),
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
    if not _is_ours(config_name, [source.path for source in repo.get_sources()]):
        return _list(repo, config_name, overrides_list, **more)
    words = [word for word in overrides_list if not word.is_sweep_override()]
    values = [word for word in words if isinstance(word.value(), dict) or not repo.group_exists(word.key_or_group)]
    groups = [word for word in words if word not in values]
    key = ("list", config_name, *(word.input_line for word in groups), str(more))
    listed = _make_once(key, lambda: _list(repo, config_name, groups, **more))
    listed.config_overrides = values
    return listed


def merge(self: ConfigLoaderImpl, defaults: list[ResultDefault], repo: IConfigRepository) -> DictConfig:
    """Merge the files of a defaults list, before the values that were typed."""
    primary = next(default.config_path for default in defaults if default.primary)
    if _is_ours(primary, [source.path for source in repo.get_sources()]):
        return _make_once(("merge", *map(repr, defaults)), lambda: _merge(self, defaults, repo))
    return _merge(self, defaults, repo)


def compose(self: ConfigLoaderImpl, config_name: str, overrides: list[str], *rest: Any, **more: Any) -> DictConfig:
    """Compose the configuration for some words; only the working directory may be another one."""
    folders = [source.path for source in self.config_search_path.get_path()]
    if not _is_ours(config_name, folders) or any("searchpath" in word for word in overrides):
        return _compose(self, config_name, overrides, *rest, **more)
    key = ("compose", config_name, *overrides, *map(str, rest), str(more), str(JobRuntime.instance().get("name")))
    cfg = _make_once(key, lambda: _compose(self, config_name, overrides, *rest, **more))
    cfg.hydra.runtime.cwd = os.getcwd()
    return cfg


def convert(schema: type[AnyConfig], plain: Any) -> AnyConfig:
    """Convert plain values to checked dataclasses, the same ones once; relative paths become absolute."""
    return _make_once(("convert", schema, repr(plain), os.getcwd()), lambda: _convert(schema, plain))


def _is_ours(config_name: str | None, folders: Iterable[str | None]) -> bool:
    """Return whether only Hydra's files and those in `configs/` are read."""
    own = {"hydra.conf", "", str(CONFIGS)}
    return config_name in ("config", "inference") and own.issuperset(str(folder).split("://")[-1] for folder in folders)
