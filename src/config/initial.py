"""What a new run takes from the run whose weights it starts from, `init.weights=RUN`: its model and its preprocessing.

Weights mean what they meant only in the same model, on images of the same kind; a run's folder tells both.
"""

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

from .options import SIZE, option_keys
from .overrides import show_value
from .schema import TrainConfig

CONFIG = "config.yaml"  # the configuration of a run, in its folder
# The keys of `model` that decide what the weights compute; rates of dropout do not, and classes follow the data.
PARTS = ("patch_size", "qkv_bias", "pooling", "position_embedding", "num_registers", "layer_scale", "qk_norm", "stem")
PREPROCESSING = ("channels", "resize", "interpolation", "mean", "std", "axes", "pages", "value_range")  # of `dataset`


def find_run(weights: str) -> Path | None:
    """Return the run's folder for `init.weights`: the folder itself, or that of a file in it; None for other files."""
    path = Path(weights)
    folders = [path] if path.is_dir() else path.parents[:2] if path.parent.name == "checkpoints" else path.parents[:1]
    return next((folder for folder in folders if (folder / CONFIG).is_file()), None)


def take_over(config: TrainConfig, saved: TrainConfig, folder: Path, typed: Collection[str]) -> TrainConfig:
    """Return `config` with the model and the preprocessing of a saved run, except for what was typed.

    Another image size and patch size may be typed: position and patch embeddings are resized. Raises ValueError, naming
    the keys, for other typed ones that contradict the weights, unless init.strict=false.
    """
    theirs = {key: getattr(saved.model, key) for key in (*SIZE, *PARTS)}
    ours = {key: getattr(config.model, key) for key in theirs}
    if "model.patch_size" in typed and resamples_patches(saved):
        del theirs["patch_size"]
    differing = [key for key in theirs if ours[key] != theirs[key]]
    contradicting = [key for key in differing if f"model.{key}" in typed or ("model" in typed and key in SIZE)]
    if contradicting and config.init.strict:
        here, there = (
            ", ".join(f"model.{key}={show_value(values[key])}" for key in contradicting) for values in (ours, theirs)
        )
        raise ValueError(
            f"{here} contradicts the weights of {folder}, which are those of {there}; leave it out to use the run's "
            "model, or write init.strict=false to load what fits"
        )
    model = {key: value for key, value in theirs.items() if key not in contradicting}
    if not {"model.image_size", "dataset.image_size"} & set(typed):
        model["image_size"] = saved.model.image_size
    look = _choose_preprocessing(config, saved, typed)
    return replace(config, model=replace(config.model, **model), dataset=replace(config.dataset, **look))


def resamples_patches(config: TrainConfig) -> bool:
    """Return whether a patch embedding of this kind can be resized: one linear map of pixels, not several layers."""
    return config.model.stem != "conv"


def _choose_preprocessing(config: TrainConfig, saved: TrainConfig, typed: Collection[str]) -> dict[str, Any]:
    """Return the keys of `dataset` to take from the saved run: what was not typed, and fits what was typed."""
    known = option_keys("dataset", config.dataset.name)
    keys = [key for key in PREPROCESSING if key in known and f"dataset.{key}" not in typed]
    values = {key: value for key in keys if (value := getattr(saved.dataset, key)) is not None}
    statistics = {"mean", "std"}
    other_channels = "dataset.channels" in typed and config.dataset.channels != saved.dataset.channels
    if other_channels or not statistics <= values.keys():
        values = {key: value for key, value in values.items() if key not in statistics}
    return values
