"""The options of a group are its files in `configs/`, and an option has the keys that its file has."""

import functools
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

from .checks import check, check_fields

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
GROUPS = ("dataset", "optimizer", "scheduler")  # whose options differ in their keys
SIZE = ("embedding_dim", "num_layers", "num_heads", "mlp_ratio")  # what the name of a model stands for


def list_options(group: str) -> list[str]:
    return sorted(path.stem for path in (CONFIGS / group).glob("*.yaml"))


@functools.cache
def read_option(group: str, option: str, folders: tuple[str, ...] = (str(CONFIGS),)) -> dict[str, Any]:
    """Return the values of an option's file, which inherits others; {} if it is in none of the folders.

    They are read as Hydra reads them, by OmegaConf: for PyYAML, 1e-3 is a text.
    """
    path = next((path for folder in folders if (path := Path(folder, group, f"{option}.yaml")).is_file()), None)
    if path is None:
        return {}
    values: Any = OmegaConf.to_container(OmegaConf.load(path))
    bases = [base for base in values.pop("defaults", []) if isinstance(base, str) and base != "_self_"]
    inherited: dict[str, Any] = {}
    for base in bases:
        inherited |= read_option(group, base, folders)
    return inherited | values


def name_option(group: str, option: str) -> str:
    """Return the option that `auto` means where nothing else was chosen, and any other one as it is."""
    if option != "auto":
        return option
    base: str = yaml.safe_load((CONFIGS / group / "auto.yaml").read_text(encoding="utf-8"))["defaults"][0]
    return base


def describe_model(name: str, model: Any, folders: tuple[str, ...] = (str(CONFIGS),)) -> str:
    """Return the name of a model's file with the sizes in which the model differs: `vit_small, num_layers=9`.

    name: that of the file, or an earlier result; it is returned as it is if there is no such file.
    """
    option = name.split(",")[0]
    file, built = read_option("model", option, folders), {key: getattr(model, key) for key in SIZE}
    sizes = [f"{key}={value:g}" for key, value in built.items() if file.get(key, value) != value]
    return ", ".join([option, *sizes]) if file else name


@functools.cache
def option_keys(group: str, option: str) -> frozenset[str]:
    """Return the keys that an option has besides `name`: those of its file and of the files that it inherits.

    An inherited key that the file sets to null does not apply. Any other null is a value, explained in the file.
    """
    values: dict[str, Any] = yaml.safe_load((CONFIGS / group / f"{option}.yaml").read_text(encoding="utf-8"))
    bases = [base for base in values.pop("defaults", []) if base != "_self_"]
    inherited = frozenset[str]().union(*(option_keys(group, base) for base in bases))
    unused = {key for key in inherited & values.keys() if values[key] is None}
    return (inherited | values.keys()) - unused - {"name"}


def check_option(group: str, config: Any) -> None:
    """Refuse keys that the option `config.name` does not have, and check those that it has.

    An old run may name an option whose file is gone; its keys are then those with a value. A new run must name an
    option that has a file, which `resolve` checks.
    """
    given = [key for key, value in vars(config).items() if value is not None and key != "name"]
    keys = option_keys(group, config.name) if config.name in list_options(group) else given
    known = ", ".join(sorted(keys))
    for key in given:
        if (group, key) == ("dataset", "root") and key not in keys:
            root = config.root
            raise ValueError(
                f"dataset.root={root} means nothing for dataset={config.name}; to train on your own images: "
                f"dataset=image_folder dataset.root={root}"
            )
        check(key in keys, f"{group}.{key} means nothing for {group}={config.name}; its keys: {known}")
    check_fields(group, config, keys)
