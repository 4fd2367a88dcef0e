"""A job of a sweep in the process that runs it: started once, continued where it stopped, its failure recorded."""

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
from ..config.overrides import split_override
from ..machine.disk import read_object, write_json
from ..run.environment import now
from ..run.files import CONFIG, JOB_CLAIM, LOG, STATUS, SWEEP_STOP
from ..run.job import JobFailed
from .ledger import REDRAWN, write_ledger
from .plan import Sweep
from .search import open_judge
from .state import JobState, read_state

POLL = 1.0  # seconds between two looks at a job that another process holds


def run_planned_job(sweep: Sweep, cfg: DictConfig) -> str:
    """Run the job that Hydra has composed, unless it is done or running elsewhere; return its status, as in `state`."""
    assert sweep.run_job is not None
    if not sweep.place.main:  # works in a folder of its own, and follows the first process
        sweep.run_job(cfg)
        return "finished"
    folder = Path(HydraConfig.get().runtime.output_dir)
    number = [sweep.folder / job.folder for job in sweep.plan.jobs].index(folder)
    with _claim(folder, number):
        state = read_state(sweep.folder, number, sweep.plan.jobs[number])
        # Of several processes the others go through a job that is done as well.
        skipped = state.status == "running" or (state.done and sweep.place.size == 1)
        if skipped or (sweep.folder / SWEEP_STOP).exists():
            return state.status
        terminal.say(describe_job(sweep, number, state.beginning()))
        _prepare(sweep, folder, cfg)
        status = _run(sweep, state, cfg)
        if status == "failed" and sweep.settings.on_error == "stop":
            (sweep.folder / SWEEP_STOP).touch()
        return status


@contextlib.contextmanager
def _claim(folder: Path, number: int) -> Iterator[None]:
    """Hold the job for this process, once no other does. A kill releases it."""
    lock = FileLock(folder / JOB_CLAIM, poll_interval=POLL)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        terminal.say(f"job {number:<5} waiting for another process that is running it")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _prepare(sweep: Sweep, folder: Path, cfg: DictConfig) -> None:
    """Let a job that was started before go on; of one that failed before it had a configuration nothing is left."""
    if (folder / CONFIG).is_file():
        cfg.resume = str(folder)
    else:
        (folder / STATUS).unlink(missing_ok=True)
    refresh_ledger(sweep, redraw_after=None)


def _run(sweep: Sweep, state: JobState, cfg: DictConfig) -> str:
    before = read_object(state.folder / STATUS)
    failed = False
    try:
        _train(sweep, state, cfg)
    except (JobFailed, KeyboardInterrupt) as error:
        _record(state, error, before)
        # An interrupt in a launcher's worker ends its job; in the sweep's own process it ends the sweep.
        if isinstance(error, JobFailed) or os.getpid() == sweep.pid:
            refresh_ledger(sweep)
            raise
    except (Exception, SystemExit) as error:
        _record(state, error, before)
        failed = True
    terminal.console.quiet = False  # as it was before the job
    _release()
    refresh_ledger(sweep)
    status = read_state(sweep.folder, state.number, state.planned).status
    # A main that leaves no status has done what it had to when it returns.
    return status if status != "pending" else "failed" if failed else "finished"


def _train(sweep: Sweep, state: JobState, cfg: DictConfig) -> None:
    assert sweep.run_job is not None
    judge = open_judge(sweep, state.number)
    stop = sweep.folder / SWEEP_STOP if sweep.shared else None
    sweep.run_job(cfg, quiet=sweep.shared, stop=stop, judge=judge)


def _record(state: JobState, error: BaseException, before: dict) -> None:
    """Write down an error that came before the run could: while data was read, or a checkpoint was looked at."""
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


def _release() -> None:
    """Give back what a job leaves in a process that the next one shares: memory, compiled code."""
    gc.collect()
    if "torch" in sys.modules:
        torch = sys.modules["torch"]
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()
        if "torch._dynamo" in sys.modules:  # after eight networks it would compile no further one
            torch._dynamo.reset()


def describe_job(sweep: Sweep, number: int, what: str) -> str:
    """Return a line about a job, with the settings that are not the same in all."""
    values, swept = dict(map(split_override, sweep.plan.jobs[number].overrides)), sweep.plan.list_swept()
    settings = " ".join(f"{key}={values[key]}" for key in swept if key in values)
    return f"job {number:<5} {what}  {settings}"


def refresh_ledger(sweep: Sweep, redraw_after: float | None = REDRAWN) -> None:
    """Write how far all jobs are. No sweep ends for that: the next try may succeed, and runs record themselves."""
    try:
        write_ledger(sweep.folder, sweep.plan, redraw_after)
    except OSError as error:
        terminal.say(f"warning   the table of the sweep cannot be written: {error}")
