"""Configuration: `schema` names and checks the keys, `compose` reads their values, `resolve` fills in nulls.

`start` goes from a command line to a job in a folder, `resume` from a run's folder to its configuration. `dataset` and
`augmentation` are the schema's two large groups.
"""

from .augmentation import AugmentationConfig
from .compose import compose_config, dump_config, flatten, load_config, read_values, show_value
from .dataset import DatasetConfig
from .messages import list_keys, suggest_keys
from .resolve import WEIGHT_SUFFIXES, complete
from .resume import list_changes
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
from .start import Job, launch

__all__ = [
    "WEIGHT_SUFFIXES",
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
    "flatten",
    "list_changes",
    "list_keys",
    "read_values",
    "show_value",
    "suggest_keys",
]
