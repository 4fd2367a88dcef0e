"""The configuration's names, types and checks: one dataclass per group of `configs/`.

No defaults here, because every value lives in YAML. Null means "infer", which is done in `resolve.py`. Imports
nothing heavy, so that a typo is answered at once.
"""

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from .augmentation import AugmentationConfig
from .checks import as_size, check, check_choice, check_device, check_option, common_divisors, format_size
from .dataset import DatasetConfig
from .sweep import SweepConfig

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
        check_choice("model.stem", self.stem, ("patch", "conv", "overlap"))
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
class TrainingConfig:
    epochs: int
    max_minutes: float | None
    early_stopping: int | None
    batch_size: int | None
    micro_batch_size: int | None
    accumulate: int | None
    lr: float | None
    clip_norm: float | None
    label_smoothing: float
    patch_dropout: float
    patch_dropout_off_share: float
    class_weights: str | None
    sampler: str
    ema: float | None
    best: str
    precision: str
    compile: bool
    gradient_checkpointing: bool
    deterministic: bool
    strategy: str
    checkpoint_minutes: float
    profile: bool
    tensorboard: bool

    def __post_init__(self) -> None:
        for key in ("epochs", "early_stopping", "batch_size", "micro_batch_size", "accumulate"):
            value = getattr(self, key)
            check(value is None or value >= 1, f"training.{key}={value} must be at least 1")
        check(
            self.micro_batch_size is None or self.accumulate is None,
            "training.micro_batch_size and training.accumulate say the same; type only one",
        )
        minutes = self.max_minutes
        check(
            minutes is None or 0 < minutes < math.inf, f"training.max_minutes={minutes} must be above 0; null: no limit"
        )
        check(self.checkpoint_minutes > 0, f"training.checkpoint_minutes={self.checkpoint_minutes} must be above 0")
        check(self.lr is None or 0 < self.lr < math.inf, f"training.lr={self.lr} must be above 0 and finite")
        if self.clip_norm is not None:
            check(self.clip_norm > 0, f"training.clip_norm={self.clip_norm} must be above 0; null turns it off")
        smoothing = self.label_smoothing
        check(0 <= smoothing < 1, f"training.label_smoothing={smoothing} must lie from 0 to below 1")
        check(0 <= self.patch_dropout < 1, f"training.patch_dropout={self.patch_dropout} must lie from 0 to below 1")
        share = self.patch_dropout_off_share
        check(0 <= share < 1, f"training.patch_dropout_off_share={share} must lie from 0 to below 1")
        if self.class_weights is not None:
            check_choice("training.class_weights", self.class_weights, ("balanced",))
        check_choice("training.sampler", self.sampler, ("shuffled", "balanced"))
        check(
            self.class_weights is None or self.sampler == "shuffled",
            "training.class_weights=balanced and training.sampler=balanced together favour rare classes twice; use one",
        )
        if self.ema is not None:
            check(0 < self.ema < 1, f"training.ema={self.ema} is a decay: above 0, below 1; null turns it off")
        check_choice("training.best", self.best, ("better", "ema"))
        check(self.best == "better" or self.ema is not None, "training.best=ema needs training.ema, e.g. 0.999")
        check_choice("training.precision", self.precision, ("auto", "bf16", "fp16", "float32"))
        check_choice("training.strategy", self.strategy, ("ddp", "fsdp"))


@dataclass
class InitConfig:
    weights: str | None
    freeze: Any
    layer_decay: float | None

    def __post_init__(self) -> None:
        number = isinstance(self.freeze, int) and not isinstance(self.freeze, bool)
        valid = self.freeze in (None, "backbone") or (number and self.freeze >= 0)
        check(valid, f"init.freeze={self.freeze} is not known; allowed: backbone, a number of layers, null")
        if self.weights:
            self.weights = os.path.abspath(os.path.expanduser(self.weights))
        decay = self.layer_decay
        check(decay is None or 0 < decay <= 1, f"init.layer_decay={decay} must lie above 0, up to 1; null: none")


@dataclass
class TrainConfig:
    """Everything that decides a training run; what `configs/config.yaml` composes to."""

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
    check: bool

    def __post_init__(self) -> None:
        check(0 <= self.seed < 2**63, f"seed={self.seed} must lie from 0 to below 2^63")
        check_device(self.device)
        check(
            self.training.strategy == "ddp" or self.optimizer.name != "muon",
            "training.strategy=fsdp shares out matrices that optimizer=muon needs whole; use training.strategy=ddp",
        )
        layers = self.init.freeze if isinstance(self.init.freeze, int) else 0
        check(
            layers <= self.model.num_layers,
            f"init.freeze={layers}, but model.num_layers={self.model.num_layers}; init.freeze=backbone: all of them",
        )


@dataclass
class TaskConfig:
    name: str

    def __post_init__(self) -> None:
        check_choice("task", self.name, ("interactive", "list", "predict", "compare"))


@dataclass
class InferenceConfig:
    """What `configs/inference.yaml` composes to."""

    task: TaskConfig
    run: str | None
    input: str | None
    output: str | None
    filter: str | None
    sort: str
    topk: int
    batch_size: int
    device: str
    roots: list[str]

    def __post_init__(self) -> None:
        check(self.topk >= 1, f"topk={self.topk} must be at least 1")
        check(self.batch_size >= 1, f"batch_size={self.batch_size} must be at least 1")
        check_device(self.device)
        if self.task.name == "interactive" and self.input is not None:
            self.task.name = "predict"
        check(self.task.name != "list" or self.input is None, "task=list shows runs; leave input out, or task=list")
        check(
            self.filter is None or self.input is None,
            "filter chooses from a table of runs; with input=… write run=FOLDER, latest or best",
        )
        if self.task.name == "compare":
            self._check_comparison()
        elif self.output is not None:
            suffix = Path(self.output).suffix.lower()
            check(suffix in (".csv", ".json"), f"output={self.output} must end in .csv or .json")
            folder = Path(os.path.expanduser(self.output)).absolute().parent
            check(folder.is_dir(), f"output={self.output}: the folder {folder} does not exist")
            check(self.input is not None, "output is given without input; write input=FILE, FOLDER or GLOB")
        if self.task.name == "predict":
            check(self.input is not None, "task=predict needs input=FILE, FOLDER or GLOB")

    def _check_comparison(self) -> None:
        check(self.input is None, "task=compare reads what the runs have written; leave input out")
        if self.output is not None:
            folder = Path(os.path.expanduser(self.output))
            written = folder.suffix.lower() in (".csv", ".json", ".md", ".png")
            check(not written and not folder.is_file(), f"output={self.output}: task=compare writes into a folder")


AnyConfig = TypeVar("AnyConfig", TrainConfig, InferenceConfig)
