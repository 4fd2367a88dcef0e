"""Hydra's Compose API for one command: overrides become configurations, which are checked."""

import os
import shlex
from argparse import Namespace
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig

from ..config.compose import CONFIGS, read_composed, to_config
from ..config.overrides import quote
from ..config.schema import TrainConfig
from ..run.resume import read_config, refuse_changes
from ..run.saved import SavedRun


class Composer:
    """Compose configurations in a `with` block; run: the one that they continue, if any."""

    def __init__(self, schema: type[Any], config_name: str, arguments: Namespace, run: SavedRun | None) -> None:
        self._schema, self._run = schema, run
        self._saved = None if run is None else read_config(run)
        self._config_name = arguments.config_name or config_name
        folder = arguments.config_dir
        self._extra = [f"hydra.searchpath=[{quote('file://' + os.path.abspath(folder))}]"] if folder else []

    def __enter__(self) -> "Composer":
        self._context = hydra.initialize_config_dir(str(CONFIGS), version_base="1.3", job_name=self._config_name)
        self._context.__enter__()
        self.parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
        return self

    def __exit__(self, *error: Any) -> None:
        self._context.__exit__(*error)

    def compose(self, words: list[str]) -> DictConfig:
        """Return the configuration that Hydra composes, including its own section."""
        return hydra.compose(self._config_name, overrides=[*self._extra, *words], return_hydra_config=True)

    def check(self, words: list[str]) -> tuple[Any, DictConfig]:
        """Return the checked configuration, and the one that Hydra composed."""
        cfg = self.compose(words)
        if self._run is not None and self._saved is not None:
            refuse_changes(self._run, self._saved, read_composed(TrainConfig, cfg))
        config = to_config(self._schema, cfg, words)
        if self._run is None and isinstance(config, TrainConfig) and config.resume is not None:
            resume = f"resume={config.resume}"
            raise ValueError(f"{resume} is set in a file; type it instead: python train.py {shlex.quote(resume)}")
        return config, cfg
