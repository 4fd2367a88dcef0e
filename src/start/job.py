"""What Hydra calls for each job: from the composed configuration to `main(config, job)`, and error reports."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from ..config.compose import load_config, read_composed, to_config
from ..config.options import describe_model, name_option
from ..config.overrides import name_key
from ..config.paths import list_relative
from ..config.photos import list_chosen
from ..config.schema import TrainConfig
from ..distributed.torchrun import report_error
from ..run.files import CONFIG
from ..run.job import Job, JobFailed
from ..run.resume import read_config
from ..run.saved import SavedRun
from .command import Command
from .messages import format_error, wants_traceback
from .origin import read_origin


def run_job(
    main: Callable[[Any, Job], Any], command: Command, cfg: DictConfig, words: list[str] | None = None, **facts: Any
) -> Any:
    """Call `main` with the job's configuration.

    words: the overrides of a job of a sweep, as typed; facts: further fields of its `Job`.
    An error is reported to the user. In a sweep it is raised again, for the sweep to record; otherwise JobFailed is
    raised.
    """
    runtime = HydraConfig.get()
    run = command.run
    if command.sweeps and cfg.resume is not None:  # a job that was started in an earlier session
        run = SavedRun(Path(cfg.resume), "stopped", {})
    # The folder of a resumed run is not read from Hydra, which would interpolate its name.
    folder = command.run.folder if command.run and command.place.main else Path(runtime.runtime.output_dir)
    choices = run.choices() if run else dict(runtime.runtime.choices)
    choices |= {group: name_option(group, option) for group, option in choices.items() if option == "auto"}
    if words is None:
        words = list(runtime.overrides.task)[len(command.added) :]
    chosen = [] if run else list_chosen(runtime.overrides.task, words)
    job = Job(folder, words, choices, chosen, command.typed, command.cwd, **facts)
    try:
        if run is not None and command.run is None:
            config = replace(read_config(run), resume=str(run.folder))
        else:
            config = to_config(command.schema, cfg, words, command.cwd, read_origin)
        if isinstance(config, TrainConfig) and "model" in choices:
            choices["model"] = describe_model(choices["model"], config.model, _list_sources(runtime))
        if isinstance(config, TrainConfig):
            written = read_composed(command.schema, cfg) if run is None else load_config(run.folder / CONFIG)
            job.relative = list_relative(written, typed={name_key(word) for word in words})
        return main(config, job)
    except Exception as error:
        if wants_traceback() and command.place.size == 1 and not command.sweeps:
            raise
        report_error(format_error(error), command.place)
        # Of several processes, the others wait for this one; torchrun ends them once this one has ended.
        if not command.sweeps or command.place.size > 1:
            raise JobFailed from None
        raise
    finally:
        # An error before the run starts, such as broken images, leaves no folder: it is removed by the clean-up.
        if command.trains and run is None and Path.cwd().is_relative_to(folder):  # hydra.job.chdir=true
            os.chdir(command.cwd)


def _list_sources(hydra: Any) -> tuple[str, ...]:
    """Return the folders with the files of options."""
    return tuple(str(source.path) for source in hydra.runtime.config_sources if source.schema == "file")
