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
    query: str | None
    output: str | None
    formats: Any
    web_runtime: str | None
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
            self.task.name = "predict" if self.query is None else "embed"
        check(self.task.name != "list" or self.input is None, "task=list shows runs; leave input or task=list out")
        check(
            self.filter is None or self.input is None,
            "filter chooses from a table of runs; with input=… write run=FOLDER, latest or best",
        )
        self.formats = [self.formats] if isinstance(self.formats, str) else self.formats
        named = isinstance(self.formats, list) and all(isinstance(name, str) for name in self.formats)
        check(named and bool(self.formats), f"formats={self.formats} names no format; write formats=[timm,hf], or all")
        check(
            self.task.name == "export" or self.formats == ["timm"],
            f"formats=[{','.join(self.formats)}] is what task=export writes; add task=export, or leave formats out",
        )
        pages = self.task.name == "export" and not {"web", "all"}.isdisjoint(self.formats)
        check(self.web_runtime is None or pages, "web_runtime is for task=export formats=[web]; leave it out otherwise")
        if self.task.name == "compare":
            self._check_comparison()
        elif self.task.name == "export":
            check(self.input is None, "task=export writes a model; leave input out")
        elif self.task.name == "embed":
            self._check_embedding()
        elif self.output is not None:
            features = "; task=embed writes features" if self._suffix() in (".npy", ".parquet") else ""
            self._check_output("", ".csv", ".json", more=features)
            check(self.input is not None, "output is given without input; write input=FILE, FOLDER or GLOB")
        if self.task.name == "serve":
            check(
                self.input is None and self.output is None,
                "task=serve predicts what the page is given; leave input and output out",
            )
        if self.task.name == "predict":
            check(self.input is not None, "task=predict needs input=FILE, FOLDER or GLOB")
        check(
            self.query is None or self.task.name == "embed",
            "query is what similar images are found for: write task=embed query=IMAGE input=FOLDER",
        )

    def _suffix(self) -> str:
        return Path(self.output or "").suffix.lower()

    def _check_output(self, when: str, *suffixes: str, more: str = "") -> None:
        """Raise ValueError for an output with another suffix, or in a folder that does not exist."""
        allowed = f"{', '.join(suffixes[:-1])} or {suffixes[-1]}"
        check(self._suffix() in suffixes, f"output={self.output} must end in {allowed}{when}{more}")
        folder = Path(os.path.expanduser(str(self.output))).absolute().parent
        check(folder.is_dir(), f"output={self.output}: the folder {folder} does not exist")

    def _check_embedding(self) -> None:
        check(self.input is not None, "task=embed needs input=FILE, FOLDER or GLOB")
        check(
            self.output is not None or self.query is not None,
            "task=embed needs output=features.npy (or .parquet, .csv), or query=IMAGE, whose neighbors it finds",
        )
        if self.output is not None and self.query is None:
            drawn = "; a picture of neighbors needs query=IMAGE" if self._suffix() == ".png" else ""
            self._check_output("", ".npy", ".parquet", ".csv", more=drawn)
        elif self.output is not None:
            self._check_output(" with query=…", ".png", ".csv", ".json")

    def _check_comparison(self) -> None:
        check(self.input is None, "task=compare reads what the runs have written; leave input out")
        if self.output is not None:
            folder = Path(os.path.expanduser(self.output))
            written = folder.suffix.lower() in (".csv", ".json", ".md", ".png")
            check(not written and not folder.is_file(), f"output={self.output}: task=compare writes into a folder")


AnyConfig = TypeVar("AnyConfig", TrainConfig, InferenceConfig)
