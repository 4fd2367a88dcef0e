"""The configuration's names, types and checks: one dataclass per group of `configs/`.

No defaults here, because every value lives in YAML; what null means is said there too, and done in `resolve.py`.
Imports nothing heavy, so that a typo is answered at once.
"""

from dataclasses import dataclass, field
from typing import Any

from .augmentation import AugmentationConfig
from .checks import (
    above,
    above_up_to,
    as_check,
    as_size,
    at_least,
    check,
    check_compile,
    check_device,
    check_fields,
    common_divisors,
    format_size,
    one_of,
    pair,
)
from .dataset import DatasetConfig
from .options import check_option
from .sweep import SweepConfig


@dataclass
class ModelConfig:
    """Keyword arguments of `VisionTransformer`, in its order.

    The model, which can be used without a configuration, checks its sizes and options itself. They are checked here as
    well, so that a mistake is answered before torch is imported, and in a sweep before the first job starts.
    """

    image_size: Any
    patch_size: int | None = field(metadata=at_least(1, most=1024, null="follows the image size"))
    in_channels: int | None = field(metadata=at_least(1, most=4096, null="follows the data"))
    num_classes: int | None = field(metadata=at_least(1, most=1_000_000, null="follows the data"))
    embedding_dim: int = field(metadata=at_least(1, most=65_536))
    num_layers: int = field(metadata=at_least(1, most=1000))
    num_heads: int = field(metadata=at_least(1, most=1024))
    mlp_ratio: float = field(metadata=above(0, most=100))
    qkv_bias: bool
    dropout: float = field(metadata=at_least(0, below=1))
    attention_dropout: float = field(metadata=at_least(0, below=1))
    drop_path: float = field(metadata=at_least(0, below=1))
    pooling: str = field(metadata=one_of("cls", "mean"))
    position_embedding: str = field(metadata=one_of("learned", "sincos2d"))
    num_registers: int = field(metadata=at_least(0, most=1000))
    layer_scale: float | None = field(metadata=at_least(1e-9, null="no LayerScale", most=100))
    qk_norm: bool
    pre_norm: bool
    norm_eps: float = field(metadata=at_least(1e-30, most=1))
    stem: str = field(metadata=one_of("patch", "conv", "overlap"))
    zero_init_head: bool

    def __post_init__(self) -> None:
        check_fields("model", self)
        self.image_size = as_size("model.image_size", self.image_size)
        dim, heads = self.embedding_dim, self.num_heads
        fitting = ", ".join(str(n) for n in range(1, 33) if dim % n == 0)
        check(
            dim % heads == 0,
            f"model.embedding_dim={dim} is not divisible by model.num_heads={heads}; heads that fit: {fitting}",
        )
        check(int(dim * self.mlp_ratio) > 0, f"model.mlp_ratio={self.mlp_ratio} leaves no neurons in the MLP")
        check(
            self.position_embedding != "sincos2d" or dim % 4 == 0,
            f"model.embedding_dim={dim} is not divisible by 4, which model.position_embedding=sincos2d needs; "
            f"next that fits: {dim // 4 * 4 + 4}",
        )
        if self.image_size is not None and self.patch_size is not None:
            self._check_patches(self.image_size, self.patch_size)

    def _check_patches(self, size: tuple[int, int], patch: int) -> None:
        divisors = common_divisors(size)
        check(
            patch in divisors,
            f"model.image_size={format_size(size)} is not divisible by model.patch_size={patch}; "
            f"patch sizes that fit: {', '.join(map(str, divisors))}",
        )
        if self.stem == "conv":
            check(
                patch & (patch - 1) == 0,
                f"model.patch_size={patch} is not a power of two, which model.stem=conv needs; "
                "patch sizes that fit: 1, 2, 4, 8, 16, 32",
            )
            check(patch > 1, "model.stem=conv has no effect with model.patch_size=1; patch sizes that fit: 2, 4, 8, …")


@dataclass
class OptimizerConfig:
    name: str
    lr: float = field(metadata=above(0, most=1e30))
    weight_decay: float = field(metadata=at_least(0, most=100))
    betas: list[float] | None = field(metadata=pair(at_least(0, below=1)))
    eps: float | None = field(metadata=at_least(1e-16, most=1))
    momentum: float | None = field(metadata=at_least(0, below=1))
    nesterov: bool | None

    def __post_init__(self) -> None:
        check_option("optimizer", self)
        check(
            self.name != "sgd" or not self.nesterov or bool(self.momentum),
            "optimizer.nesterov=true needs optimizer.momentum above 0",
        )


@dataclass
class SchedulerConfig:
    name: str
    warmup_epochs: float | None = field(metadata=at_least(0, most=1_000_000, null="10 % of the run"))
    min_lr: float | None = field(metadata=at_least(0, most=100))
    decay_share: float | None = field(metadata=above_up_to(0, 1))

    def __post_init__(self) -> None:
        check_option("scheduler", self)


@dataclass
class TrainingConfig:
    epochs: int | None = field(metadata=at_least(1, most=1_000_000, null="follows the number of images"))
    max_minutes: float | None = field(metadata=above(0, most=1_000_000, null="no limit"))
    early_stopping: int | None = field(metadata=at_least(1, most=1_000_000, null="off"))
    batch_size: int | None = field(metadata=at_least(1, most=1_000_000, null="follows the size of the data"))
    micro_batch_size: int | None = field(
        metadata=at_least(1, most=1_000_000, null="the whole batch, less when out of memory")
    )
    accumulate: int | None = field(metadata=at_least(1, most=1_000_000, null="1, more when out of memory"))
    lr: float | None = field(metadata=above(0, most=1e30, null="the optimizer's"))
    clip_norm: float | None = field(metadata=at_least(1e-9, null="no clipping", most=1e9))
    label_smoothing: float = field(metadata=at_least(0, below=1))
    patch_dropout: float | None = field(metadata=at_least(0, below=1, null="follows the images"))
    patch_dropout_off_share: float = field(metadata=at_least(0, below=1))
    class_weights: str | None = field(metadata=one_of("balanced", null="all classes weigh the same"))
    sampler: str = field(metadata=one_of("shuffled", "balanced"))
    ema: float | None = field(metadata=above(0, below=1, null="no averaging"))
    best: str = field(metadata=one_of("better", "ema"))
    precision: str = field(metadata=one_of("auto", "bf16", "fp16", "float32"))
    kernels: str = field(metadata=one_of("auto", "torch", "onednn"))
    attention: str = field(metadata=one_of("auto", "fused", "whole"))
    threads: int | None = field(metadata=at_least(1, most=1024, null="a trial's choice"))
    compile: Any
    gradient_checkpointing: bool
    deterministic: bool
    strategy: str = field(metadata=one_of("ddp", "fsdp"))
    checkpoint_minutes: float = field(metadata=above(0, most=1_000_000))
    profile: bool
    tensorboard: bool

    def __post_init__(self) -> None:
        check_fields("training", self)
        check_compile("training.compile", self.compile)
        check(
            self.micro_batch_size is None or self.accumulate is None,
            "training.micro_batch_size and training.accumulate set the same thing; type only one",
        )
        check(
            self.class_weights is None or self.sampler == "shuffled",
            "training.class_weights=balanced and training.sampler=balanced would favor rare classes twice; use one",
        )
        check(self.best == "better" or self.ema is not None, "training.best=ema needs training.ema, e.g. 0.999")


@dataclass
class InitConfig:
    weights: str | None
    strict: bool
    freeze: Any
    layer_decay: float | None = field(metadata=above_up_to(0, 1, null="the same learning rate for all layers"))
    lora_rank: int | None = field(metadata=at_least(1, most=65_536, null="no adapters"))

    def __post_init__(self) -> None:
        check_fields("init", self)
        number = isinstance(self.freeze, int) and not isinstance(self.freeze, bool)
        valid = self.freeze in (None, "backbone") or (number and self.freeze >= 0)
        check(valid, f"init.freeze={self.freeze} is not known; allowed: backbone, a number of layers, null")
        lora = f"init.lora_rank={self.lora_rank}"
        check(
            self.lora_rank is None or self.weights is not None,
            f"{lora} adapts trained weights, but there are none; name a run or a file: init.weights=RUN",
        )
        check(
            self.lora_rank is None or self.freeze is None,
            f"{lora} freezes the backbone by itself, but for its adapters; leave init.freeze out, or write "
            "init.freeze=null",
        )


@dataclass
class TrainConfig:
    """Everything that decides a training run: what `configs/config.yaml` composes to."""

    model: ModelConfig
    dataset: DatasetConfig
    optimizer: OptimizerConfig
    scheduler: SchedulerConfig
    augmentation: AugmentationConfig
    training: TrainingConfig
    init: InitConfig
    sweep: SweepConfig
    seed: int
    device: str
    resume: str | None
    check: bool | int | str  # 0 and 1 become false and true

    def __post_init__(self) -> None:
        self.check = as_check(self.check)
        check(0 <= self.seed < 2**63, f"seed={self.seed} must be at least 0 and below 2^63")
        check_device(self.device)
        check(
            self.training.strategy == "ddp" or self.optimizer.name != "muon",
            "training.strategy=fsdp shards the matrices that optimizer=muon needs whole; use training.strategy=ddp",
        )
        check(
            self.training.strategy == "ddp" or self.init.lora_rank is None,
            "training.strategy=fsdp shards the matrices that init.lora_rank adapts; use training.strategy=ddp",
        )
        frozen, layers = self.init.freeze, self.model.num_layers
        check(
            not isinstance(frozen, int) or frozen <= layers,
            f"init.freeze={frozen} is more than model.num_layers={layers}; init.freeze=backbone freezes all layers",
        )
