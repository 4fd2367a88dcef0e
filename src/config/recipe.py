"""What is typed for a group wins over a recipe: `experiment=digits model=vit_base` trains a ViT-B.

Hydra merges a recipe over the files of the options, typed or not. So the keys in which a recipe would overrule a typed
option get the option's values, as overrides before those that are typed.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from omegaconf import DictConfig, OmegaConf

from .options import GROUPS, list_options, read_option
from .overrides import name_key, show_value, split_override, type_value
from .photos import LEFT, Survey, choose_for_pictures

SECTIONS = ("model", "dataset", "optimizer", "scheduler", "augmentation")
# Of these, nothing of the recipe is left. Of the others, keys stay in which the options do not differ: a patch size
# suits each model, a warm-up each schedule.
WHOLE = ("dataset", "augmentation")

Compose = Callable[[list[str]], DictConfig]  # returns the configuration with Hydra's own section


@dataclass
class Settled:
    """A composed configuration.

    added: overrides that Hydra needs before the given ones; notes: what a recipe lost to typed options.
    """

    cfg: DictConfig
    added: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def settle(words: list[str], compose: Compose, survey: Survey | None = None) -> Settled:
    """Compose a configuration in which typed options win over a recipe.

    survey: looks at your own images; with it, what is left to them is chosen: see `photos.py`.
    """
    words = plain_words(words)
    settled = _settle(words, compose)
    chosen = choose_for_pictures(settled.cfg, {name_key(word) for word in words}, survey) if survey else []
    if not chosen:
        return settled
    added = [*chosen, *settled.added]
    return replace(settled, cfg=compose([*added, *words]), added=added)


def _settle(words: list[str], compose: Compose) -> Settled:
    cfg = compose(words)
    recipe = cfg.hydra.runtime.choices.get("experiment")
    chosen = {name_key(word): word for word in words if chooses_option(word)}
    if recipe is None or not chosen:
        return Settled(cfg)
    recipes = [word for word in words if name_key(word) == "experiment"]
    base = [word for word in words if name_key(word) == "hydra.searchpath"]
    without = base if any(word.startswith("+") for word in recipes) else [*base, "~experiment"]
    plain = compose([*without, *chosen.values()])
    typed = {name_key(word) for word in words}
    added: list[str] = []
    notes: list[str] = []
    for group, word in chosen.items():
        lost = {key: pair for key, pair in _list_lost(group, cfg, plain).items() if key not in typed}
        if "optimizer.lr" in typed:
            lost.pop("training.lr", None)
        if not lost or (group in GROUPS and _suits(group, cfg, [*base, *recipes], without, compose)):
            continue
        added += [f"{key}={'???' if new == '???' else type_value(new)}" for key, (_, new) in lost.items()]
        values = ", ".join(f"{key}={show_value(old)}" for key, (old, _) in lost.items())
        notes.append(f"{word} wins over experiment={recipe}, which has {values}")
    return Settled(compose([*added, *words]) if added else cfg, added, notes)


def plain_words(words: list[str]) -> list[str]:
    """Return words for Hydra, which knows no null for a group: `experiment=null`; without an `auto` that is default."""
    words = ["~experiment" if split_override(word) == ("experiment", "null") else word for word in words]
    if any(name_key(word) == "experiment" for word in words):
        return words
    return [word for word in words if split_override(word) not in [(group, "auto") for group in LEFT]]


def chooses_option(word: str) -> bool:
    """Return whether an override chooses the option of a group, such as `model=vit_base`."""
    key, value = split_override(word)
    return key in SECTIONS and not word.startswith("~") and value != "" and not value.startswith("{")


def _suits(group: str, cfg: DictConfig, recipe: list[str], default: list[str], compose: Compose) -> bool:
    """Return whether what a recipe says of a data set, an optimizer or a schedule is about the typed one.

    A recipe that leaves the data set open says it about each.
    """
    own, typed = (composed.hydra.runtime.choices[group] for composed in (compose(recipe), cfg))
    return own == typed or (group == "dataset" and own == compose(default).hydra.runtime.choices[group])


def _list_lost(group: str, cfg: DictConfig, plain: DictConfig) -> dict[str, tuple[Any, Any]]:
    """Return the values of a recipe, and those without it, of the keys that the typed option of a group decides."""
    lost = {key: pair for key, pair in _list_differing(group, cfg, plain).items() if _decides(key, pair[1])}
    if group == "optimizer":  # whose learning rate recipes spell training.lr
        lost |= {key: pair for key, pair in _list_differing("training", cfg, plain).items() if key == "training.lr"}
    return lost


def _list_differing(group: str, cfg: DictConfig, plain: DictConfig) -> dict[str, tuple[Any, Any]]:
    before: Any = OmegaConf.to_container(cfg[group])
    after: Any = OmegaConf.to_container(plain[group])
    return {f"{group}.{key}": (before.get(key), new) for key, new in after.items() if before.get(key, new) != new}


def _decides(key: str, value: Any) -> bool:
    """Return whether a key is what an option with this value is chosen for: another option has another value."""
    group, _, name = key.partition(".")
    options = [read_option(group, option) for option in list_options(group)]
    return group in WHOLE or value == "???" or any(option.get(name, value) != value for option in options)
