"""A job of a sweep, in the process that runs it: started once, continued where it stopped, its errors recorded."""

import contextlib
import gc
import os
import shutil
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from .. import terminal
from ..machine.disk import read_object, write_json
from ..machine.processes import end_with_parent
from ..machine.streams import make_streams_safe
from ..run.claim import refuse_linked_path, refuse_links
from ..run.environment import now
from ..run.files import CONFIG, LOCK, LOG, STATUS, SWEEP_STOP
from ..run.job import JobFailed
from .ledger import REDRAW_AFTER, write_ledger
from .plan import JOB_PROCESS, Sweep
from .search import open_pruner
from .state import JobState, read_state

POLL = 1.0  # seconds between two attempts to claim a job that another process is running


def run_planned_job(sweep: Sweep, cfg: DictConfig) -> str:
    """Run the job that Hydra composed, unless it is done or another process runs it; return its status."""
    assert sweep.run_job is not None
    make_streams_safe()  # of a launcher's worker
    is_worker = os.getppid() == sweep.pid and not os.environ.get(JOB_PROCESS)
    if is_worker:
        end_with_parent()  # joblib's workers would wait forever for one that was killed
    if not sweep.place.main:  # works in a temporary folder, and follows the main process
        sweep.run_job(cfg, sweep.plan.jobs[HydraConfig.get().job.num].overrides)
        return "finished"
    folder = Path(HydraConfig.get().runtime.output_dir)
    number = [sweep.folder / job.folder for job in sweep.plan.jobs].index(folder)
    refuse_linked_path(sweep.folder, sweep.plan.jobs[number].folder)
    with _claim(folder, number):
        state = read_state(sweep.folder, number, sweep.plan.jobs[number])
        # The other processes of torchrun run a done job again, so this one has to run it with them.
        skipped = state.status == "running" or (state.done and sweep.place.size == 1)
        if skipped or (sweep.folder / SWEEP_STOP).exists():
            return state.status
        terminal.say(describe_job(sweep, number, state.describe_start()))
        _prepare(state, cfg)
        refresh_ledger(sweep, redraw_after=None)
        status = _run(sweep, state, cfg)
        if is_worker and os.getppid() != sweep.pid:  # the signal of its end has stopped the job, which is saved
            os._exit(1)
        if status == "failed" and sweep.settings.on_error == "stop":
            (sweep.folder / SWEEP_STOP).touch()
        return status


@contextlib.contextmanager
def _claim(folder: Path, number: int) -> Iterator[None]:
    """Hold the job's lock, after waiting for another process that has it. A killed process releases it."""
    refuse_links(folder)
    lock = FileLock(folder / LOCK, poll_interval=POLL)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        terminal.say(f"job {number:<5} waiting for another process that is running it")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _prepare(state: JobState, cfg: DictConfig) -> None:
    """Continue a job that was started before; if it failed before writing its configuration, remove the status."""
    if (state.folder / CONFIG).is_file():
        cfg.resume = str(state.folder)
    else:
        (state.folder / STATUS).unlink(missing_ok=True)


def _run(sweep: Sweep, state: JobState, cfg: DictConfig) -> str:
    """Train the job and return its status. Raises only what ends the whole sweep."""
    before = read_object(state.folder / STATUS)
    failed = False
    try:
        _train(sweep, state, cfg)
    except (JobFailed, KeyboardInterrupt) as error:
        _record(state, error, before)
        # An interrupt in a launcher's worker ends only its job; in the sweep's own process it ends the sweep.
        if isinstance(error, JobFailed) or os.getpid() == sweep.pid:
            refresh_ledger(sweep)
            raise
    except (Exception, SystemExit) as error:
        _record(state, error, before)
        failed = True
    terminal.console.quiet = False  # the job may have set it
    _free_memory()  # out here, where no traceback refers to the job's tensors any more
    refresh_ledger(sweep)
    status = read_state(sweep.folder, state.number, state.planned).status
    if status == "pending":  # the main function writes no status
        return "failed" if failed else "finished"
    return status


def _train(sweep: Sweep, state: JobState, cfg: DictConfig) -> None:
    assert sweep.run_job is not None
    should_prune = open_pruner(sweep, state.number)
    stop = sweep.folder / SWEEP_STOP if sweep.shared else None
    sweep.run_job(cfg, state.planned.overrides, quiet=sweep.shared, stop=stop, should_prune=should_prune)


def _record(state: JobState, error: BaseException, before: dict) -> None:
    """Write an error to log and status unless the run has done so: it came while data or a checkpoint was read."""
    folder, config = state.folder, state.planned.config
    if isinstance(error, KeyboardInterrupt) or read_object(folder / STATUS) != before:
        return
    if not (folder / CONFIG).is_file():
        shutil.rmtree(folder / ".hydra", ignore_errors=True)
    facts = {
        "started": now(),
        "dataset": config.get("dataset", {}).get("name"),
        "root": config.get("dataset", {}).get("root"),
        "epoch": 0,
        "epochs": config.get("training", {}).get("epochs"),
        **before,
        "status": "failed",
        "error": f"{type(error).__name__}: {error}",
    }
    with contextlib.suppress(OSError):
        with (folder / LOG).open("a", encoding="utf-8", errors="backslashreplace") as log:
            log.write("".join(traceback.format_exception(error)))
        write_json(folder / STATUS, facts)


def _free_memory() -> None:
    """Free what a job leaves behind in a process that the next job shares: GPU memory, compiled code."""
    gc.collect()
    if "torch" in sys.modules:
        torch = sys.modules["torch"]
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()
        if "torch._dynamo" in sys.modules:  # it stops compiling after eight models
            torch._dynamo.reset()


def describe_job(sweep: Sweep, number: int, what: str) -> str:
    """Return a line about a job, with the settings that are not the same in all jobs."""
    values, swept = sweep.plan.jobs[number].texts(), sweep.plan.list_swept()
    settings = " ".join(f"{key}={values[key]}" for key in swept if key in values)
    return f"job {number:<5} {what}  {settings}"


def refresh_ledger(sweep: Sweep, redraw_after: float | None = REDRAW_AFTER) -> None:
    """Write the ledger. An error is only reported: the next attempt may succeed, and jobs keep their own records."""
    try:
        write_ledger(sweep.folder, sweep.plan, redraw_after)
    except OSError as error:
        terminal.say(f"warning   the table of the sweep cannot be written: {error}")
