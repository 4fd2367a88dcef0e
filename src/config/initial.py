"""What a new run takes from the weights it starts from, `init.weights`: their model and their preprocessing.

Weights mean what they meant only in the same model, on images of the same kind. A run's folder tells both, and so do
the folders of timm and Hugging Face; of a file alone, shapes and names tell most.
"""

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from .checks import format_size
from .options import SIZE, option_keys
from .overrides import show_value
from .schema import TrainConfig

CONFIG = "config.yaml"  # the configuration of a run, in its folder
FACTS = "facts"  # the entry in the metadata of a run's best.safetensors
WEIGHT_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".npz", ".ckpt", ".pth.tar", ".index.json")
HUB = re.compile(r"(timm|hf-hub):(.*)")  # weights on the Hugging Face Hub, by the model's name or the repository's
# The keys of `model` that decide what the weights compute; rates of dropout do not, and classes follow the data.
PARTS = (
    *("patch_size", "qkv_bias", "pooling", "position_embedding", "num_registers", "layer_scale", "qk_norm", "pre_norm"),
    *("norm_eps", "stem"),
)
PREPROCESSING = ("channels", "resize", "interpolation", "mean", "std", "axes", "pages", "value_range")  # of `dataset`


@dataclass(frozen=True)
class Origin:
    """What weights tell about themselves: keys of `model` and of `dataset` with their values.

    name: for messages; assumed: the keys of `model` whose values are only the usual ones; a typed value replaces them.
    """

    name: str
    model: dict[str, Any]
    dataset: dict[str, Any] = field(default_factory=dict)
    assumed: tuple[str, ...] = ()

    @property
    def resamples_patches(self) -> bool:
        """Whether the patch embedding can be resized: one linear map of pixels, not several layers."""
        return self.model.get("stem") != "conv"

    @property
    def grid(self) -> tuple[int, int] | None:
        """The rows and columns of patches that the weights were trained with, None if they are unknown."""
        size, patch = self.model.get("image_size"), self.model.get("patch_size")
        return None if size is None or patch is None else (size[0] // patch, size[1] // patch)


ReadOrigin = Callable[[TrainConfig], Origin | None]


def find_run(weights: str) -> Path | None:
    """Return the run's folder for `init.weights`: the folder itself, or that of a file in it; None for other files."""
    if HUB.match(weights):
        return None
    path = Path(weights)
    folders = [path] if path.is_dir() else path.parents[:2] if path.parent.name == "checkpoints" else path.parents[:1]
    return next((folder for folder in folders if _is_run(folder / CONFIG)), None)


def _is_run(config: Path) -> bool:
    """Return whether a file is the configuration of a run: other programs have files of this name, too."""
    try:
        text = config.read_text(encoding="utf-8", errors="replace")[: 2**20]
    except OSError:
        return False
    return all(re.search(rf"^{section}:", text, re.MULTILINE) for section in ("model", "dataset", "training"))


def describe_run(folder: Path, saved: TrainConfig) -> Origin:
    """Return what a saved run tells about its weights."""
    model = {key: getattr(saved.model, key) for key in ("image_size", *SIZE, *PARTS)}
    look = {key: value for key in PREPROCESSING if (value := getattr(saved.dataset, key)) is not None}
    return Origin(str(folder), model, look)


def take_over(config: TrainConfig, origin: Origin, typed: Collection[str]) -> TrainConfig:
    """Return `config` with the model and the preprocessing of the weights, except for what was typed.

    Another image size and patch size may be typed: position and patch embeddings are resized. Raises ValueError, naming
    the keys, for other typed ones that contradict the weights, unless init.strict=false.
    """
    if "num_heads" not in origin.model and not _is_typed("num_heads", typed):
        raise ValueError(
            f"nothing in {origin.name} tells its number of heads, and no published model has embedding dimension "
            f"{origin.model.get('embedding_dim')}; type it: model.num_heads=N"
        )
    typed_instead = {key for key in origin.assumed if _is_typed(key, typed)}
    theirs = {key: value for key, value in origin.model.items() if key not in ("image_size", *typed_instead)}
    ours = {key: getattr(config.model, key) for key in theirs}
    if "model.patch_size" in typed and origin.resamples_patches:
        theirs.pop("patch_size", None)
    differing = [key for key in theirs if not _same(key, ours[key], theirs[key])]
    contradicting = [key for key in differing if _is_typed(key, typed)]
    if contradicting and config.init.strict:
        here, there = (
            ", ".join(f"model.{key}={show_value(values[key])}" for key in contradicting) for values in (ours, theirs)
        )
        raise ValueError(
            f"{here} contradicts the weights of {origin.name}, which have {there}; leave it out to use their "
            "model, or write init.strict=false to load what fits"
        )
    model = {key: value for key, value in theirs.items() if key not in contradicting}
    size = origin.model.get("image_size")
    if size is not None and not {"model.image_size", "dataset.image_size"} & set(typed):
        model["image_size"] = size
    elif "patch_size" in model:
        _check_size(config, model["patch_size"], typed)
    look = _choose_preprocessing(config, origin, typed)
    return replace(config, model=replace(config.model, **model), dataset=replace(config.dataset, **look))


def _check_size(config: TrainConfig, patch: int, typed: Collection[str]) -> None:
    """Refuse an image size that was typed and is no multiple of the weights' patches, and name some that are."""
    key = "model.image_size" if "model.image_size" in typed else "dataset.image_size"
    size = config.model.image_size if key == "model.image_size" else config.dataset.image_size
    if size is None or all(side % patch == 0 for side in size):
        return
    smaller, larger = ([max(1, side // patch + more) * patch for side in size] for more in (0, 1))
    near = " or ".join(f"{key}={format_size((sides[0], sides[1]))}" for sides in (smaller, larger))
    raise ValueError(
        f"{key}={format_size(size)} does not fit the patches of the weights, {patch} px; write {near}, or another "
        "model.patch_size, to which they are resampled"
    )


def _is_typed(key: str, typed: Collection[str]) -> bool:
    """Return whether a key of `model` was typed, or a model that stands for it."""
    return f"model.{key}" in typed or ("model" in typed and key in SIZE)


def _same(key: str, ours: Any, theirs: Any) -> bool:
    """Return whether two values of a key mean the same model; LayerScale's initial value does not matter."""
    return (ours is None) == (theirs is None) if key == "layer_scale" else bool(ours == theirs)


def _choose_preprocessing(config: TrainConfig, origin: Origin, typed: Collection[str]) -> dict[str, Any]:
    """Return the keys of `dataset` to take from the weights: what was not typed, and fits what was typed."""
    known = option_keys("dataset", config.dataset.name)
    values = {key: value for key, value in origin.dataset.items() if key in known and f"dataset.{key}" not in typed}
    statistics = {"mean", "std"}
    channels = origin.dataset.get("channels")
    other_channels = "dataset.channels" in typed and config.dataset.channels != channels
    if other_channels or not statistics <= values.keys():
        values = {key: value for key, value in values.items() if key not in statistics}
    return values
