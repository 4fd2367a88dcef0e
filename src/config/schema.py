"""The configuration's names, types and checks: one dataclass per group of `configs/`.

No defaults here, because every value lives in YAML. Null means "infer", which is done in `resolve.py`. Imports
nothing heavy, so that a typo is answered at once.
"""

import dataclasses
import math
import os
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

# Keys beside `name` that mean something to each option; any other key of the group is an error for it.
OPTIMIZER_KEYS = {
    "adamw": {"lr", "weight_decay", "betas", "eps"},
    "adam": {"lr", "weight_decay", "betas", "eps"},
    "sgd": {"lr", "weight_decay", "momentum", "nesterov"},
    "lion": {"lr", "weight_decay", "betas"},
    "muon": {"lr", "weight_decay", "betas", "eps", "momentum", "nesterov"},
}
SCHEDULER_KEYS = {
    "cosine": {"warmup_epochs", "min_lr"},
    "linear": {"warmup_epochs", "min_lr"},
    "wsd": {"warmup_epochs", "min_lr", "decay_share"},
    "constant": {"warmup_epochs"},
}
_IMAGE_KEYS = {"image_size", "channels", "resize", "interpolation", "mean", "std", "flips", "cache", "cache_dir"}
_ARRAY_KEYS = _IMAGE_KEYS | {"root", "val_share", "split_seed"}  # images in one file, an official test split
_SPLIT_KEYS = {"val_share", "split_seed", "split", "group_pattern", "block_size"}
_FILE_KEYS = _IMAGE_KEYS | {"root", "on_error"}  # an image a file, all splits official
_FOLDER_KEYS = _FILE_KEYS | _SPLIT_KEYS | {"test_share"}  # an image a file, perhaps no split at all
_TABLE_KEYS = {"table", "path_column", "label_column", "split_column", "group_column"}
_KAGGLE_KEYS = _FOLDER_KEYS - {"root"} | {"handle", "subfolder"}
DATASET_KEYS = {
    "digits": _ARRAY_KEYS - {"root"} | {"test_share"},
    "emnist": _ARRAY_KEYS | {"variant"},
    **dict.fromkeys(("mnist", "fashion_mnist", "cifar10", "cifar100", "svhn", "stl10"), _ARRAY_KEYS),
    **dict.fromkeys(("gtsrb", "oxford_pets", "food101", "stanford_cars"), _FILE_KEYS | _SPLIT_KEYS),
    **dict.fromkeys(("imagenette", "tiny_imagenet", "imagenet"), _FILE_KEYS | _SPLIT_KEYS),
    **dict.fromkeys(("dtd", "flowers102", "fgvc_aircraft"), _FILE_KEYS),
    **dict.fromkeys(("caltech101", "eurosat", "image_folder"), _FOLDER_KEYS),
    "csv": _FOLDER_KEYS | _TABLE_KEYS,
    **dict.fromkeys(("kaggle", "tom_and_jerry"), _KAGGLE_KEYS),
}
EMNIST_VARIANTS = ("balanced", "byclass", "bymerge", "letters", "digits", "mnist")
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


def check(condition: bool, message: str) -> None:
    """Raise ValueError with `message`, which names the key to change, unless `condition` holds."""
    if not condition:
        raise ValueError(message)


def check_choice(key: str, value: str, allowed: Collection[str]) -> None:
    check(value in allowed, f"{key}={value} is not known; allowed: {', '.join(allowed)}")


def check_channels(dataset: "DatasetConfig", channels: int) -> None:
    """Refuse statistics for another number of channels than the images have."""
    mean, std = dataset.mean or [], dataset.std or []
    fits = len(mean) == len(std) == channels
    check(fits, f"dataset.mean={mean} and dataset.std={std} must have one number for each of {channels} channel(s)")


def check_option(group: str, config: Any, keys: dict[str, set[str]]) -> None:
    """Refuse an unknown `name`, and a key that the named option of the group would silently ignore."""
    check_choice(f"{group}.name", config.name, keys)
    for field in dataclasses.fields(config):
        if field.name != "name" and field.name not in keys[config.name]:
            known = ", ".join(sorted(keys[config.name]))
            check(
                getattr(config, field.name) is None,
                f"{group}.{field.name} means nothing for {group}={config.name}; its keys: {known}",
            )


def as_size(key: str, value: Any) -> tuple[int, int] | None:
    """Return (height, width) from null, one number or a pair; config files hold either."""
    if value is None:
        return None
    pair = list(value) if isinstance(value, list | tuple) else [value, value]
    valid = len(pair) == 2 and all(isinstance(side, int) and side > 0 for side in pair)
    check(valid, f"{key}={value} is not a size; write one number of pixels or [height,width]")
    return (pair[0], pair[1])


def common_divisors(size: tuple[int, int]) -> list[int]:
    common = math.gcd(*size)
    return [patch for patch in range(1, common + 1) if common % patch == 0]


def format_size(size: tuple[int, int]) -> str:
    return str(size[0]) if size[0] == size[1] else f"[{size[0]},{size[1]}]"


@dataclass
class ModelConfig:
    """Keyword arguments of `VisionTransformer`, in its order."""

    image_size: Any
    patch_size: int | None
    in_channels: int | None
    num_classes: int | None
    embedding_dim: int
    num_layers: int
    num_heads: int
    mlp_ratio: float
    qkv_bias: bool
    dropout: float
    attention_dropout: float
    drop_path: float
    pooling: str
    position_embedding: str
    num_registers: int
    layer_scale: float | None
    qk_norm: bool
    stem: str
    zero_init_head: bool

    def __post_init__(self) -> None:
        self.image_size = as_size("model.image_size", self.image_size)
        for key in ("patch_size", "in_channels", "num_classes", "embedding_dim", "num_layers", "num_heads"):
            value = getattr(self, key)
            check(value is None or value >= 1, f"model.{key}={value} must be at least 1")
        check(self.mlp_ratio > 0, f"model.mlp_ratio={self.mlp_ratio} must be above 0")
        check(self.num_registers >= 0, f"model.num_registers={self.num_registers} must not be negative")
        for key in ("dropout", "attention_dropout", "drop_path"):
            value = getattr(self, key)
            check(0 <= value < 1, f"model.{key}={value} is a probability: at least 0, below 1")
        check_choice("model.pooling", self.pooling, ("cls", "mean"))
        check_choice("model.position_embedding", self.position_embedding, ("learned", "sincos2d"))
        check_choice("model.stem", self.stem, ("patch", "conv"))
        dim, heads = self.embedding_dim, self.num_heads
        if dim % heads:
            fitting = ", ".join(str(n) for n in range(1, 33) if dim % n == 0)
            raise ValueError(
                f"model.embedding_dim={dim} is not divisible by model.num_heads={heads}; heads that fit: {fitting}"
            )
        check(
            self.position_embedding != "sincos2d" or dim % 4 == 0,
            f"model.embedding_dim={dim} must be a multiple of 4 for model.position_embedding=sincos2d",
        )
        if self.layer_scale is not None:
            check(0 < self.layer_scale < math.inf, f"model.layer_scale={self.layer_scale} must be above 0; null: none")
        if self.image_size is not None and self.patch_size is not None:
            divisors = common_divisors(self.image_size)
            check(
                self.patch_size in divisors,
                f"model.image_size={format_size(self.image_size)} is not divisible by model.patch_size="
                f"{self.patch_size}; patch sizes that fit: {', '.join(map(str, divisors))}",
            )
            power_of_two = self.patch_size > 1 and self.patch_size & (self.patch_size - 1) == 0
            check(
                self.stem != "conv" or power_of_two,
                f"model.stem=conv halves the image step by step: model.patch_size={self.patch_size} must be 2, 4, 8, …",
            )


@dataclass
class DatasetConfig:
    name: str
    root: str | None
    image_size: Any
    channels: int | None
    resize: str
    interpolation: str
    mean: list[float] | None
    std: list[float] | None
    flips: bool
    val_share: float | None
    test_share: float | None
    split: str | None
    group_pattern: str | None
    block_size: int | None
    split_seed: int | None
    on_error: str | None
    cache: str
    cache_dir: str
    variant: str | None
    table: str | None
    path_column: str | None
    label_column: str | None
    split_column: str | None
    group_column: str | None
    handle: str | None
    subfolder: str | None

    def __post_init__(self) -> None:
        check_option("dataset", self, DATASET_KEYS)
        self._check_images()
        self._check_shares()
        self._check_grouping()
        self._check_source()
        for key in ("root", "cache_dir", "table"):
            if getattr(self, key) is not None:
                setattr(self, key, os.path.abspath(os.path.expanduser(getattr(self, key))))

    def _check_images(self) -> None:
        self.image_size = as_size("dataset.image_size", self.image_size)
        check(self.image_size is not None, "dataset.image_size must not be null; write a number of pixels")
        check(self.channels is None or self.channels >= 1, f"dataset.channels={self.channels} must be at least 1")
        check_choice("dataset.resize", self.resize, ("crop", "squash"))
        check_choice("dataset.interpolation", self.interpolation, ("bicubic", "bilinear", "nearest"))
        check((self.mean is None) == (self.std is None), "dataset.mean and dataset.std go together")
        if self.mean is not None and self.std is not None:
            check(all(std > 0 for std in self.std), f"dataset.std={self.std}: each must be above 0")
            check_channels(self, self.channels or len(self.mean))
        check_choice("dataset.cache", self.cache, ("auto", "device", "memory", "disk", "off"))
        if self.on_error is not None:
            check_choice("dataset.on_error", self.on_error, ("refuse", "skip"))

    def _check_shares(self) -> None:
        for key in ("val_share", "test_share", "split_seed", "block_size"):
            needed = key in DATASET_KEYS[self.name] and getattr(self, key) is None
            check(not needed, f"dataset.{key} must not be null")
        if self.split_seed is not None:
            check(self.split_seed >= 0, f"dataset.split_seed={self.split_seed} must not be negative")
        for key in ("val_share", "test_share"):
            value = getattr(self, key)
            check(value is None or 0 < value < 1, f"dataset.{key}={value} must lie between 0 and 1")
        total = (self.val_share or 0) + (self.test_share or 0)
        check(total < 1, f"dataset.val_share + dataset.test_share = {total:g} leaves nothing to train on")

    def _check_grouping(self) -> None:
        if "split" in DATASET_KEYS[self.name]:
            check_choice("dataset.split", str(self.split), ("stratified", "grouped", "blocks"))
        if self.block_size is not None:
            check(self.block_size >= 1, f"dataset.block_size={self.block_size} must be at least 1 (frames)")
        if self.group_pattern is not None:
            try:
                num_groups = re.compile(self.group_pattern).groups
            except re.error as error:
                message = f"dataset.group_pattern={self.group_pattern} is not a regular expression: {error}"
                raise ValueError(message) from error
            check(num_groups >= 1, f"dataset.group_pattern={self.group_pattern} has no group in parentheses")
        if self.split == "grouped":
            column = " or dataset.group_column" if self.name == "csv" else ""
            sources = (self.group_pattern is not None) + (self.group_column is not None)
            check(sources > 0, f"dataset.split=grouped needs dataset.group_pattern{column}")
            check(sources < 2, "dataset.group_pattern and dataset.group_column both name groups; give only one")

    def _check_source(self) -> None:
        if self.name == "emnist":
            check_choice("dataset.variant", str(self.variant), EMNIST_VARIANTS)
        if self.name == "csv":
            check(self.table is not None, "dataset.table is not set; write dataset.table=FILE.csv")
            for key in ("path_column", "label_column"):
                check(getattr(self, key) is not None, f"dataset.{key} is not set; write the name of a column")
        if self.name in ("kaggle", "tom_and_jerry"):
            check(self.handle is not None, "dataset.handle is not set; write dataset.handle=OWNER/NAME")
            valid = re.fullmatch(r"[\w-]+/[\w.-]+(/versions/[1-9]\d*)?", str(self.handle))
            check(
                valid is not None,
                f"dataset.handle={self.handle} is not of the form OWNER/NAME or OWNER/NAME/versions/3, "
                "as in the address kaggle.com/datasets/OWNER/NAME",
            )


@dataclass
class OptimizerConfig:
    name: str
    lr: float
    weight_decay: float
    betas: list[float] | None
    eps: float | None
    momentum: float | None
    nesterov: bool | None

    def __post_init__(self) -> None:
        check_option("optimizer", self, OPTIMIZER_KEYS)
        check(0 < self.lr < math.inf, f"optimizer.lr={self.lr} must be above 0 and finite")
        check(self.weight_decay >= 0, f"optimizer.weight_decay={self.weight_decay} must not be negative")
        if self.betas is not None:
            valid = len(self.betas) == 2 and all(0 <= beta < 1 for beta in self.betas)
            check(valid, f"optimizer.betas={self.betas} must be two numbers from 0 to below 1")
        if self.momentum is not None:
            check(0 <= self.momentum < 1, f"optimizer.momentum={self.momentum} must lie from 0 to below 1")
        if self.eps is not None:
            check(self.eps > 0, f"optimizer.eps={self.eps} must be above 0")
        if self.name == "sgd" and self.nesterov:
            check(bool(self.momentum), "optimizer.nesterov=true needs optimizer.momentum above 0")


@dataclass
class SchedulerConfig:
    name: str
    warmup_epochs: float | None
    min_lr: float | None
    decay_share: float | None

    def __post_init__(self) -> None:
        check_option("scheduler", self, SCHEDULER_KEYS)
        if self.warmup_epochs is not None:
            check(self.warmup_epochs >= 0, f"scheduler.warmup_epochs={self.warmup_epochs} must not be negative")
        if self.min_lr is not None:
            check(self.min_lr >= 0, f"scheduler.min_lr={self.min_lr} must not be negative")
        if self.decay_share is not None:
            check(0 < self.decay_share <= 1, f"scheduler.decay_share={self.decay_share} must lie in (0, 1]")


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


@dataclass
class TrainingConfig:
    epochs: int
    batch_size: int | None
    lr: float | None
    clip_norm: float | None
    label_smoothing: float
    class_weights: str | None
    sampler: str
    precision: str
    tensorboard: bool

    def __post_init__(self) -> None:
        check(self.epochs >= 1, f"training.epochs={self.epochs} must be at least 1")
        check(
            self.batch_size is None or self.batch_size >= 1, f"training.batch_size={self.batch_size} must be at least 1"
        )
        check(self.lr is None or 0 < self.lr < math.inf, f"training.lr={self.lr} must be above 0 and finite")
        if self.clip_norm is not None:
            check(self.clip_norm > 0, f"training.clip_norm={self.clip_norm} must be above 0; null turns it off")
        smoothing = self.label_smoothing
        check(0 <= smoothing < 1, f"training.label_smoothing={smoothing} must lie from 0 to below 1")
        if self.class_weights is not None:
            check_choice("training.class_weights", self.class_weights, ("balanced",))
        check_choice("training.sampler", self.sampler, ("shuffled", "balanced"))
        check_choice("training.precision", self.precision, ("auto", "bf16", "float32"))


@dataclass
class TrainConfig:
    """Everything that decides a training run; what `configs/config.yaml` composes to."""

    model: ModelConfig
    dataset: DatasetConfig
    optimizer: OptimizerConfig
    scheduler: SchedulerConfig
    augmentation: AugmentationConfig
    training: TrainingConfig
    seed: int
    device: str
    check: bool

    def __post_init__(self) -> None:
        check(0 <= self.seed < 2**63, f"seed={self.seed} must lie from 0 to below 2^63")
        check_device(self.device)


@dataclass
class TaskConfig:
    name: str

    def __post_init__(self) -> None:
        check_choice("task", self.name, ("interactive", "list", "predict"))


@dataclass
class InferenceConfig:
    """What `configs/inference.yaml` composes to."""

    task: TaskConfig
    run: str | None
    input: str | None
    output: str | None
    topk: int
    batch_size: int
    device: str
    roots: list[str]

    def __post_init__(self) -> None:
        check(self.topk >= 1, f"topk={self.topk} must be at least 1")
        check(self.batch_size >= 1, f"batch_size={self.batch_size} must be at least 1")
        check_device(self.device)
        if self.output is not None:
            suffix = Path(self.output).suffix.lower()
            check(suffix in (".csv", ".json"), f"output={self.output} must end in .csv or .json")
            folder = Path(os.path.expanduser(self.output)).absolute().parent
            check(folder.is_dir(), f"output={self.output}: the folder {folder} does not exist")
            check(self.input is not None, "output is given without input; write input=FILE, FOLDER or GLOB")
        if self.task.name == "predict":
            check(self.input is not None, "task=predict needs input=FILE, FOLDER or GLOB")


def check_device(device: str) -> None:
    name, _, index = device.partition(":")
    known = name in ("auto", "cpu", "cuda", "mps") and (not index or index.isdigit())
    check(known, f"device={device} is not known; allowed: auto, cpu, cuda, cuda:N, mps")


AnyConfig = TypeVar("AnyConfig", TrainConfig, InferenceConfig)
