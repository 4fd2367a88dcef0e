"""Training and evaluation: one step, one epoch, one pass over a split. No files, no plots, no configuration layout."""

from .devices import (
    autocast,
    choose_algorithms,
    choose_device,
    choose_kernels,
    choose_precision,
    compile_network,
    keep_freed_memory,
    limit_threads,
)
from .epoch import Epoch, Pulse, StepWatch, TimeLimit, summarize, train_steps
from .evaluation import Evaluation, choose_best, count_gflops, evaluate, validate
from .memory import (
    OutOfMemory,
    fit_memory,
    forget_peak_memory,
    halve_micro_batch,
    is_out_of_memory,
    peak_memory,
)
from .profile import StepProfiler
from .trainer import Progress, Trainer, balanced_weights, weighted_cross_entropy

__all__ = [
    "autocast",
    "Epoch",
    "Evaluation",
    "OutOfMemory",
    "Progress",
    "Pulse",
    "StepProfiler",
    "StepWatch",
    "TimeLimit",
    "Trainer",
    "balanced_weights",
    "choose_algorithms",
    "choose_best",
    "choose_device",
    "choose_kernels",
    "choose_precision",
    "compile_network",
    "count_gflops",
    "evaluate",
    "fit_memory",
    "forget_peak_memory",
    "halve_micro_batch",
    "is_out_of_memory",
    "keep_freed_memory",
    "limit_threads",
    "peak_memory",
    "summarize",
    "train_steps",
    "validate",
    "weighted_cross_entropy",
]
