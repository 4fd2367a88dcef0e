"""Whether the features of an image, what a frozen backbone makes of it, are the same in every epoch."""

import functools
from dataclasses import asdict

from .overrides import show_value
from .schema import TrainConfig

# The keys of `augmentation` that change nothing by themselves; all others change images unless they are 0 or null.
DETAILS = {
    *("crop_ratio", "posterize_bits", "solarize_threshold", "sharpness_factor", "num_ops", "magnitude"),
    *("erasing_area", "mix_prob", "mix_switch", "mix_off_share", "repeats"),
}
DROPOUT = ("model.dropout", "model.attention_dropout", "model.drop_path", "training.patch_dropout")


def freezes_backbone(config: TrainConfig) -> bool:
    return config.init.freeze == "backbone"


def list_random(config: TrainConfig) -> list[str]:
    """Return the settings, key=value, that change an image or its features from epoch to epoch."""
    values = {f"augmentation.{key}": value for key, value in asdict(config.augmentation).items() if key not in DETAILS}
    values |= {key: functools.reduce(getattr, key.split("."), config) for key in DROPOUT}
    return [f"{key}={show_value(value)}" for key, value in values.items() if value]


def describe_changing(changing: list[str]) -> str:
    """Return that these settings change the features, and with which none does; "" if there are none."""
    if not changing:
        return ""
    shown = [*changing[:3], *([f"{len(changing) - 3} more"] if len(changing) > 3 else [])]
    augmentation = ["augmentation=none"] * any(word.startswith("augmentation.") for word in changing)
    dropout = [f"{word.partition('=')[0]}=0" for word in changing if not word.startswith("augmentation.")]
    verb = "changes" if len(changing) == 1 else "change"
    return f"{', '.join(shown)} {verb} them; with {' '.join([*augmentation, *dropout])} they are computed once"
