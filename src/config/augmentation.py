"""The keys of `augmentation=`, and what they may be."""

from dataclasses import dataclass, field

from .checks import above, above_up_to, at_least, between, check, check_fields, one_of, pair

FRACTION = between(0, 1, "a fraction")
PROBABILITY = between(0, 1, "a probability")


@dataclass
class AugmentationConfig:
    """Keyword arguments of `Augmentation`, in its order, and how often and how long the training uses them."""

    random_resized_crop: float | None = field(metadata=between(0, 1, "a fraction", null="follows the image size"))
    crop_ratio: list[float] = field(metadata=pair(above(0, most=1000), ascending=True))
    pad_crop: float | None = field(metadata=at_least(0, below=1, null="follows the image size"))
    horizontal_flip: float | None = field(metadata=between(0, 1, "a probability", null="follows dataset.flips"))
    rotation: float = field(metadata=between(0, 180, "an angle in degrees"))
    shear: float = field(metadata=between(0, 80, "an angle in degrees"))
    translation: float = field(metadata=FRACTION)
    brightness: float = field(metadata=between(0, 1))
    contrast: float = field(metadata=between(0, 1))
    saturation: float = field(metadata=between(0, 1))
    hue: float = field(metadata=between(0, 0.5, "a fraction"))
    grey: float = field(metadata=PROBABILITY)
    posterize: float = field(metadata=PROBABILITY)
    posterize_bits: int = field(metadata=between(1, 8))
    solarize: float = field(metadata=PROBABILITY)
    solarize_threshold: float = field(metadata=between(0, 255))
    equalize: float = field(metadata=PROBABILITY)
    autocontrast: float = field(metadata=PROBABILITY)
    sharpness: float = field(metadata=PROBABILITY)
    sharpness_factor: float = field(metadata=between(0, 10))
    policy: str | None = field(metadata=one_of("randaugment", "trivialaugment", null="no policy"))
    num_ops: int = field(metadata=at_least(1, most=100))
    magnitude: int = field(metadata=between(0, 30))
    erasing: float = field(metadata=PROBABILITY)
    erasing_area: list[float] = field(metadata=pair(above_up_to(0, 1), ascending=True))
    mixup: float = field(metadata=at_least(0, most=1000))
    cutmix: float = field(metadata=at_least(0, most=1000))
    mix_prob: float = field(metadata=PROBABILITY)
    mix_switch: float = field(metadata=PROBABILITY)
    mix_off_share: float = field(metadata=FRACTION)
    repeats: int = field(metadata=at_least(1, most=1000))

    def __post_init__(self) -> None:
        check_fields("augmentation", self)
        check(
            not (self.random_resized_crop and self.pad_crop),
            f"augmentation.random_resized_crop={self.random_resized_crop} and augmentation.pad_crop={self.pad_crop} "
            "are two ways to crop; set one of them to 0",
        )

    def mix_until(self, total_steps: int) -> int:
        """Return the step of a schedule of that length from which on images are not mixed."""
        return round((1 - self.mix_off_share) * total_steps)
