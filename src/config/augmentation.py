"""The keys of `augmentation=`, and what they may be."""

import math
from dataclasses import dataclass

from .checks import check, check_choice

# Key of the augmentation, what it is, smallest and largest value.
AUGMENTATION_RANGES = (
    ("random_resized_crop", "a share of the area", 0, 1),
    *((key, "an angle in degrees", 0, limit) for key, limit in (("rotation", 180), ("shear", 80))),
    ("translation", "a share of the side", 0, 1),
    *((key, "half the range of a factor about 1", 0, 1) for key in ("brightness", "contrast", "saturation")),
    ("hue", "a share of the color circle", 0, 0.5),
    *((key, "a probability", 0, 1) for key in ("horizontal_flip", "grey", "posterize", "solarize", "equalize")),
    *((key, "a probability", 0, 1) for key in ("autocontrast", "sharpness", "erasing", "mix_prob", "mix_switch")),
    ("posterize_bits", "a number of bits", 1, 8),
    ("solarize_threshold", "a level", 0, 255),
    ("sharpness_factor", "a factor", 0, 10),
    ("magnitude", "a strength", 0, 30),
    ("mix_off_share", "a share of the epochs", 0, 1),
)


@dataclass
class AugmentationConfig:
    """Keyword arguments of `Augmentation`, in its order, and how often and how long the training uses them."""

    random_resized_crop: float | None
    crop_ratio: list[float]
    pad_crop: float | None
    horizontal_flip: float | None
    rotation: float
    shear: float
    translation: float
    brightness: float
    contrast: float
    saturation: float
    hue: float
    grey: float
    posterize: float
    posterize_bits: int
    solarize: float
    solarize_threshold: float
    equalize: float
    autocontrast: float
    sharpness: float
    sharpness_factor: float
    policy: str | None
    num_ops: int
    magnitude: int
    erasing: float
    erasing_area: list[float]
    mixup: float
    cutmix: float
    mix_prob: float
    mix_switch: float
    mix_off_share: float
    repeats: int

    def __post_init__(self) -> None:
        if self.pad_crop is not None:
            check(0 <= self.pad_crop < 1, f"augmentation.pad_crop={self.pad_crop} is a share: at least 0, below 1")
        for key, meaning, low, high in AUGMENTATION_RANGES:
            value = getattr(self, key)
            message = f"augmentation.{key}={value} is {meaning}: from {low} to {high}"
            check(value is None or low <= value <= high, message)
        for key, high in (("crop_ratio", math.inf), ("erasing_area", 1.0)):
            value = getattr(self, key)
            valid = len(value) == 2 and 0 < value[0] <= value[1] <= high and value[1] < math.inf
            limits = "above 0" if high == math.inf else "above 0, at most 1"
            check(valid, f"augmentation.{key}={value} must be two numbers, the smaller first, {limits}")
        for key in ("mixup", "cutmix"):
            value = getattr(self, key)
            check(0 <= value < math.inf, f"augmentation.{key}={value} must not be negative; 0 turns it off")
        for key in ("num_ops", "repeats"):
            value = getattr(self, key)
            check(value >= 1, f"augmentation.{key}={value} must be at least 1")
        if self.policy is not None:
            check_choice("augmentation.policy", self.policy, ("randaugment", "trivialaugment"))
        check(
            not (self.random_resized_crop and self.pad_crop),
            f"augmentation.random_resized_crop={self.random_resized_crop} and augmentation.pad_crop={self.pad_crop} "
            "are two ways to crop; set one of them to 0",
        )
