"""Hydra for one command: the configurations that are checked and those that are trained are composed by the same."""

import os
import shlex
import sys
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from hydra import version
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, read_write
from omegaconf.errors import OmegaConfBaseException

from ..config.checks import check
from ..config.compose import CONFIGS, read_composed, to_config
from ..config.recipe import Settled, settle
from ..config.schema import TrainConfig
from ..data.survey import survey
from ..run.resume import read_config, refuse_changes
from ..run.saved import SavedRun
from .origin import read_origin
from .words import check_words


@contextmanager
def open_hydra(arguments: Namespace) -> Iterator[Hydra]:
    """Make Hydra as its own command line does: with the folders of --config-dir and --config-path, if any."""
    version.setbase("1.3")
    main = arguments.config_path or str(CONFIGS)
    check("://" in main or os.path.isdir(main), f"--config-path={main} is not a folder")
    path = create_config_search_path(main)
    if arguments.config_dir is not None:
        check(os.path.isdir(arguments.config_dir), f"--config-dir={arguments.config_dir} is not a folder")
        folder = f"file://{os.path.abspath(arguments.config_dir)}"
        path.prepend(provider="command-line", path=folder, anchor=SearchPathQuery(provider="schema"))
    active, configured = GlobalHydra.instance().hydra, HydraConfig.instance().cfg
    GlobalHydra.instance().clear()
    try:
        yield Hydra.create_main_hydra2(task_name=Path(sys.argv[0]).stem, config_search_path=path)
    finally:
        GlobalHydra.instance().hydra = active
        HydraConfig.instance().cfg = configured


class Composer:
    """Compose configurations for the check.

    config_name: of the primary one; folder: the one that relative paths refer to; run: the one that they continue, if
    any; notes: what a recipe lost to typed options; common: what Hydra reads once for all jobs of a sweep.
    """

    def __init__(
        self, hydra: Hydra, schema: type[Any], config_name: str, multirun: bool, folder: str, run: SavedRun | None
    ) -> None:
        self._hydra, self._schema, self._run = hydra, schema, run
        self._saved = None if run is None else read_config(run)
        self._config_name, self._multirun, self.folder = config_name, multirun, folder
        self.parser = OverridesParser.create(config_loader=hydra.config_loader)
        self.notes: dict[str, None] = {}
        self.common: dict[str, Any] = {}

    def compose(self, words: list[str]) -> DictConfig:
        """Return the configuration that Hydra composes, including its own section."""
        return self._settle(words).cfg

    def _settle(self, words: list[str]) -> Settled:
        settled = settle(words, self._compose, partial(survey, folder=self.folder))
        self.notes |= dict.fromkeys(settled.notes)
        return settled

    def _compose(self, words: list[str]) -> DictConfig:
        try:
            cfg = self._hydra.compose_config(self._config_name, words, RunMode.RUN, from_shell=False)
        except RecursionError:
            raise ValueError("the files of the configuration name each other in a circle: see their defaults") from None
        except TypeError as error:  # of a list where the name of an option belongs
            raise ValueError(f"{' '.join(words)}: an option is one name, not a list or a number ({error})") from error
        except yaml.MarkedYAMLError as error:
            raise ValueError(self._explain_yaml(error)) from error
        except KeyError as error:  # the only one that Hydra does not explain
            raise ValueError(f"hydra.job.env_copy: the environment has no variable {error}") from error
        # As for a job, so that `${hydra:runtime.cwd}` has a value.
        HydraConfig.instance().set_config(cfg)
        keys = ("hydra.sweep.dir", "hydra.sweep.subdir") if self._multirun else ("hydra.run.dir",)
        with suppress(OmegaConfBaseException):  # of a sweep without the number of a job
            folder = os.path.join(*(str(OmegaConf.select(cfg, key)) for key in keys))
            both: Any = (cfg.hydra.runtime, HydraConfig.get().runtime)
            for runtime in both:
                with read_write(runtime):
                    runtime.output_dir = os.path.abspath(folder)
        return cfg

    def _explain_yaml(self, error: yaml.MarkedYAMLError) -> str:
        """Return which file is not YAML, and where: Hydra's error does not say it."""
        line = error.problem_mark.line + 1 if error.problem_mark else 0
        roots = [found.path for found in self._hydra.config_loader.get_search_path().get_path()]
        for root in (Path(str(path).removeprefix("file://")) for path in roots if path):
            for path in sorted(root.rglob("*.yaml")):
                try:
                    yaml.safe_load(path.read_text(encoding="utf-8"))
                except (yaml.YAMLError, OSError, ValueError):
                    return f"{path}, line {line}, is not valid YAML: {error.problem}"
        return f"line {line} of a file of the configuration is not valid YAML: {error.problem}"

    def check(self, words: list[str]) -> tuple[Any, Settled]:
        """Return the checked configuration, and what Hydra composed."""
        check_words(words, self._schema)
        settled = self._settle(words)
        if self._run is not None and self._saved is not None:
            refuse_changes(self._run, self._saved, read_composed(TrainConfig, settled.cfg))
        config = to_config(self._schema, settled.cfg, words, self.folder, read_origin)
        if self._run is None and isinstance(config, TrainConfig) and config.resume is not None:
            resume = f"resume={config.resume}"
            raise ValueError(f"{resume} is set in a file; type it instead: python train.py {shlex.quote(resume)}")
        return config, settled
