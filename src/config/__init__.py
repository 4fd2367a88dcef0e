"""Configuration: `schema` names, types and checks the keys; `compose` starts an application with Hydra."""

from .compose import Job, launch, load_config, save_config
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
    "save_config",
]
