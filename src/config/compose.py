"""From overrides to checked dataclasses: Hydra composes the values from `configs/`, the schema has names and types."""

import functools
import os
import re
import stat
from collections.abc import Iterable, Iterator
from dataclasses import asdict, is_dataclass
from functools import partial
from pathlib import Path
from typing import Any, get_args, get_type_hints

import hydra
import yaml
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from .inference import AnyConfig, InferenceConfig
from .initial import CONFIG, ReadOrigin, describe_run, find_run, take_over
from .keys import list_keys
from .options import CONFIGS, GROUPS, list_options
from .overrides import escape, name_key
from .paths import anchor, replace_paths
from .photos import Survey
from .recipe import plain_words, settle
from .resolve import check_weights, resolve
from .schema import TrainConfig

LARGEST = 2**20  # bytes of a run's configuration, which has some thousands
UNUSUAL = re.compile(r"\*|- - - |\? \? |^ {40}", re.MULTILINE)  # in YAML of a run

# Errors that a user can fix; any other is a bug.
USER_ERRORS = (ValueError, OSError, FloatingPointError, HydraException, OmegaConfBaseException, yaml.YAMLError)


class NewerVersionError(ValueError):
    """A run has keys that this version does not know."""

    def __init__(self, name: str, keys: Iterable[str]) -> None:
        super().__init__(
            f"{name} has keys that this version does not know ({', '.join(sorted(keys))}): a newer one wrote it; "
            "update this one (git pull)"
        )


ConfigStore.instance().store(name="train_schema", node=TrainConfig)
ConfigStore.instance().store(name="inference_schema", node=InferenceConfig)


def to_config(
    schema: type[AnyConfig],
    cfg: DictConfig,
    overrides: list[str],
    folder: str = "",
    read_origin: ReadOrigin = lambda config: None,
) -> AnyConfig:
    """Return checked dataclasses, with every null filled in that follows from other keys.

    folder: the one that relative paths refer to; "": the working directory. read_origin: describes initial weights
    that are not a run's.
    """
    config = read_composed(schema, cfg)
    if not isinstance(config, TrainConfig):
        return config
    typed = {name_key(override) for override in overrides}
    # mypy does not narrow the type variable by isinstance.
    anchored = anchor(config, folder or os.getcwd())
    check_weights(anchored)
    return resolve(_take_over(anchored, typed, read_origin), typed)  # type: ignore[return-value]


def _take_over(config: TrainConfig, typed: set[str], read_origin: ReadOrigin) -> TrainConfig:
    """Return `config` with the model and the preprocessing of the weights that `init.weights` names, if any."""
    if not config.init.weights or config.resume is not None:
        return config
    folder = find_run(config.init.weights)
    origin = read_origin(config) if folder is None else describe_run(folder, load_config(folder / CONFIG))
    return config if origin is None else take_over(config, origin, typed)


def read_composed(schema: type[AnyConfig], cfg: DictConfig) -> AnyConfig:
    """Return what Hydra composed as dataclasses. Raises for unknown keys that it accepts, such as `+model.typo=1`."""
    return into_schema(schema, to_plain(cfg))


def to_plain(cfg: DictConfig) -> dict[str, Any]:
    """Return the values with interpolations resolved, without Hydra's own section."""
    plain: dict[str, Any] = {}
    for key in (str(key) for key in cfg if key != "hydra"):
        value = "???" if OmegaConf.is_missing(cfg, key) else cfg[key]
        plain[key] = OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
    return plain


def into_schema(schema: type[AnyConfig], plain: Any) -> AnyConfig:
    """Return plain values as the schema's dataclasses; keys that an option does not have become None."""
    config = OmegaConf.to_object(give_types(schema, plain))
    assert isinstance(config, schema)
    return config


def give_types(schema: type, plain: Any) -> DictConfig:
    """Merge plain values into the schema, which converts them to its types. Raises OmegaConf's errors."""
    # Both are made here, so nothing has to be copied first, which takes as long as the merge.
    merged = OmegaConf.unsafe_merge(OmegaConf.structured(schema), escape(_fill_unused(schema, plain)))
    assert isinstance(merged, DictConfig)
    return merged


def _fill_unused(schema: Any, plain: Any) -> Any:
    filled = dict(plain)
    for key, kind in get_type_hints(schema).items():
        value = filled.get(key, "???")
        if is_dataclass(kind) and isinstance(value, dict):
            filled[key] = _fill_unused(kind, value)
        elif value == "???" and type(None) in get_args(kind):
            filled[key] = None
    return filled


def compose_config(*overrides: str) -> TrainConfig:
    """Compose and check a training configuration from overrides, as the command line does."""
    return to_config(TrainConfig, compose_values(*overrides), list(overrides))


def compose_values(*overrides: str) -> DictConfig:
    """Compose `configs/config.yaml`, within a Hydra job too, although Hydra supports one composition at a time."""
    active = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3", job_name="compose"):
            cfg = settle(list(overrides), partial(hydra.compose, "config", return_hydra_config=True)).cfg
        with open_dict(cfg):
            del cfg["hydra"]
        return cfg
    finally:
        GlobalHydra.instance().hydra = active


def list_words(typed: list[str], context: list[str], config_name: str, survey: Survey) -> list[str]:
    """Return the overrides with which a running Hydra composes what is checked for those that were typed.

    context: overrides for Hydra itself.
    """
    compose = partial(hydra.compose, config_name, return_hydra_config=True)
    added = settle([*context, *typed], compose, survey).added
    return [*added, *plain_words(typed)]


def dump_config(config: TrainConfig, relative: dict[str, str] | None = None) -> str:
    """Return the text of a run's `config.yaml`, which `load_config` reads back equal.

    relative: paths by key that are written as they are in the files of `configs/`, so without folders of this machine.
    """
    config = replace_paths(config, relative or {})
    return yaml.safe_dump(asdict(config), sort_keys=False, allow_unicode=True, default_flow_style=None)


def load_config(path: Path) -> TrainConfig:
    """Read a run's `config.yaml`; keys that did not exist when it was written get today's values.

    Nothing in it is interpolated, imported or executed. Raises ValueError if it has no keys, or keys that no version up
    to this one had.
    """
    saved = _read(path)
    if unknown := list(_list_unknown(TrainConfig, saved)):
        raise NewerVersionError(path.name, unknown)
    return into_schema(TrainConfig, _fill_missing(saved))


def _list_unknown(schema: Any, values: dict[str, Any], prefix: str = "") -> Iterator[str]:
    kinds = get_type_hints(schema)
    for key, value in values.items():
        if key not in kinds:
            yield f"{prefix}{key}"
        elif is_dataclass(kinds[key]) and isinstance(value, dict):
            yield from _list_unknown(kinds[key], value, f"{prefix}{key}.")


def _fill_missing(saved: dict[str, Any]) -> dict[str, Any]:
    if set(list_keys(TrainConfig)) <= set(_list_given(saved)):
        return saved
    # A momentum comes from the file of the run's optimizer, not of the default one.
    overrides = []
    for group in GROUPS:
        name = saved[group].get("name") if isinstance(saved.get(group), dict) else None
        if name in list_options(group):
            overrides.append(f"{group}={name}")
    return _fill(saved, _compose_plain(*overrides))


@functools.cache
def _compose_plain(*overrides: str) -> dict[str, Any]:
    """Compose today's values, once for all the old runs of a table."""
    return to_plain(compose_values(*overrides))


def read_values(path: Path) -> dict[str, Any]:
    """Return the values of a run's `config.yaml` by dotted key, unchecked: 30 times as fast as `load_config`.

    Raises ValueError if it has no keys.
    """
    return flatten(_read(path))


def _read(path: Path) -> dict[str, Any]:
    status = path.stat()
    if not stat.S_ISREG(status.st_mode) or status.st_size > LARGEST:
        raise ValueError(f"{path.name} is not a file of at most {LARGEST:,} bytes")
    text = path.read_text(encoding="utf-8")
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    if UNUSUAL.search(text) or text.count("[") + text.count("{") > 200:
        _refuse_traps(text, loader)
    try:
        saved = yaml.load(text, loader)
    except yaml.YAMLError:  # libyaml refuses what stands for a byte of a file name that is not UTF-8: "\uDCE9"
        saved = yaml.load(text, yaml.SafeLoader)
    if not isinstance(saved, dict):
        raise ValueError("it is empty or damaged")
    return saved


def _refuse_traps(text: str, loader: Any) -> None:
    """Raise ValueError for YAML that no run writes: parts that refer to each other, which can grow without end."""
    depth = 0
    for event in yaml.parse(text, loader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if isinstance(event, yaml.AliasEvent) or depth > 20:
            raise ValueError("it refers to parts of itself, or is nested too deeply")


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested values by dotted key."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def _list_given(values: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in values.items():
        yield f"{prefix}{key}"
        if isinstance(value, dict):
            yield from _list_given(value, f"{prefix}{key}.")


def _fill(values: dict[str, Any], missing: dict[str, Any]) -> dict[str, Any]:
    """Return `values`, with those of `missing` for keys that they lack."""
    filled = dict(values)
    for key, value in missing.items():
        mine = values.get(key, value)
        filled[key] = _fill(mine, value) if isinstance(mine, dict) and isinstance(value, dict) else mine
    return filled
