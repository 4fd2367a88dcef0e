"""What Hydra calls for each job: from the composed configuration to `main(config, job)`, and error reports."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from ..config.compose import to_config
from ..distributed.torchrun import report_error
from ..machine.disk import remove_folder
from ..run.job import Job, JobFailed
from ..run.resume import read_config
from ..run.saved import SavedRun
from .command import Command
from .messages import format_error


def run_job(main: Callable[[Any, Job], Any], command: Command, cfg: DictConfig, **facts: Any) -> Any:
    """Call `main` with the job's configuration; facts: further fields of its `Job`.

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
    job = Job(folder, list(runtime.overrides.task), choices, command.typed, **facts)
    try:
        if run is not None and command.run is None:
            return main(replace(read_config(run), resume=str(run.folder)), job)
        return main(to_config(command.schema, cfg, job.overrides), job)
    except Exception as error:
        if os.environ.get("HYDRA_FULL_ERROR") and command.place.size == 1 and not command.sweeps:
            raise
        report_error(format_error(error), command.place)
        # Of several processes, the others wait for this one; torchrun ends them once this one has ended.
        if not command.sweeps or command.place.size > 1:
            raise JobFailed from None
        raise
    finally:
        # An error before the run starts, such as broken images, leaves no folder; Hydra has made one.
        new = command.trains and run is None and command.place.main
        if new and {path.name for path in folder.iterdir()} <= {".hydra"}:
            remove_folder(folder)
