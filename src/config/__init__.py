"""Configuration: `schema` names and checks the keys, `compose` reads their values, `resolve` fills in nulls.

`start` goes from a command line to a job in a folder (`folders`, `task`), `resume` from a run's folder to its
configuration, `jobs` from the words of a sweep to its jobs, which `plan` checks and `reopen` knows again. `dataset`,
`augmentation` and `sweep` are the schema's large groups.
"""

from .augmentation import AugmentationConfig
from .compose import compose_config, dump_config, flatten, load_config, read_values, show_value
from .dataset import DatasetConfig
from .jobs import format_number
from .messages import list_keys, suggest_keys
from .plan import Plan, PlannedJob, Sweep, split_override
from .reopen import SWEEP
from .resolve import WEIGHT_SUFFIXES, complete
from .resume import changes_nothing, list_changes
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
from .start import launch
from .sweep import SweepConfig
from .task import Job, JobFailed, Start, Task

__all__ = [
    "AugmentationConfig",
    "DatasetConfig",
    "InferenceConfig",
    "InitConfig",
    "Job",
    "JobFailed",
    "ModelConfig",
    "OptimizerConfig",
    "Plan",
    "PlannedJob",
    "SWEEP",
    "SchedulerConfig",
    "Start",
    "Sweep",
    "SweepConfig",
    "Task",
    "TaskConfig",
    "TrainConfig",
    "TrainingConfig",
    "WEIGHT_SUFFIXES",
    "changes_nothing",
    "complete",
    "compose_config",
    "dump_config",
    "flatten",
    "format_number",
    "launch",
    "list_changes",
    "list_keys",
    "load_config",
    "read_values",
    "show_value",
    "split_override",
    "suggest_keys",
]
