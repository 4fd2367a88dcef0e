"""Configuration: `schema` names and checks the keys, `resolve` fills in nulls, `compose` starts with Hydra.

`dataset` and `augmentation` are the schema's two large groups.
"""

from .augmentation import AugmentationConfig
from .compose import Job, compose_config, dump_config, launch, load_config
from .dataset import DatasetConfig
from .resolve import complete
from .schema import (
    InferenceConfig,
    InitConfig,
    ModelConfig,
    OptimizerConfig,
    SchedulerConfig,
    TaskConfig,
    TrainConfig,
    TrainingConfig,
)

__all__ = [
    "AugmentationConfig",
    "DatasetConfig",
    "InferenceConfig",
    "InitConfig",
    "Job",
    "ModelConfig",
    "OptimizerConfig",
    "SchedulerConfig",
    "TaskConfig",
    "TrainConfig",
    "TrainingConfig",
    "complete",
    "compose_config",
    "launch",
    "load_config",
    "dump_config",
]
