"""Configuration: `schema` names, types and checks the keys; `compose` starts an application with Hydra."""

from .compose import Job, dump_config, launch, load_config
from .schema import (
    AugmentationConfig,
    DatasetConfig,
    InferenceConfig,
    ModelConfig,
    OptimizerConfig,
    SchedulerConfig,
    TaskConfig,
    TrainConfig,
    TrainingConfig,
    complete,
)

__all__ = [
    "AugmentationConfig",
    "DatasetConfig",
    "InferenceConfig",
    "Job",
    "ModelConfig",
    "OptimizerConfig",
    "SchedulerConfig",
    "TaskConfig",
    "TrainConfig",
    "TrainingConfig",
    "complete",
    "launch",
    "load_config",
    "dump_config",
]
