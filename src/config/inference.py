"""What `configs/inference.yaml` composes to: names, types and checks, as in `schema.py`."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from .checks import at_least, check, check_choice, check_compile, check_device, check_fields, one_of
from .options import list_options
from .schema import TrainConfig
from .serve import ServeConfig


@dataclass
class TaskConfig:
    name: str

    def __post_init__(self) -> None:
        check_choice("task", self.name, list_options("task"))


@dataclass
class InferenceConfig:
    """What `configs/inference.yaml` composes to."""

    task: TaskConfig
    run: str | None
    input: str | None
    output: str | None
    filter: str | None
    sort: str
    topk: int = field(metadata=at_least(1, most=1_000_000))
    batch_size: int = field(metadata=at_least(1, most=1_000_000))
    device: str
    precision: str = field(metadata=one_of("auto", "bf16", "fp16", "float32"))
    kernels: str = field(metadata=one_of("auto", "torch", "onednn"))
    attention: str = field(metadata=one_of("auto", "fused", "whole"))
    threads: int | None = field(metadata=at_least(1, most=1024, null="a trial's choice"))
    compile: Any
    roots: list[str]
    serve: ServeConfig

    def __post_init__(self) -> None:
        check_fields("", self)
        check_device(self.device)
        check_compile("compile", self.compile)
        if self.task.name == "interactive" and self.input is not None:
            self.task.name = "predict"
        check(self.task.name != "list" or self.input is None, "task=list shows runs; leave input or task=list out")
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
        if self.task.name == "serve":
            check(
                self.input is None and self.output is None,
                "task=serve predicts what the page is given; leave input and output out",
            )
        if self.task.name == "predict":
            check(self.input is not None, "task=predict needs input=FILE, FOLDER or GLOB")

    def _check_comparison(self) -> None:
        check(self.input is None, "task=compare reads what the runs have written; leave input out")
        if self.output is not None:
            folder = Path(os.path.expanduser(self.output))
            written = folder.suffix.lower() in (".csv", ".json", ".md", ".png")
            check(not written and not folder.is_file(), f"output={self.output}: task=compare writes into a folder")


AnyConfig = TypeVar("AnyConfig", TrainConfig, InferenceConfig)
