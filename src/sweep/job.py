"""A job of a sweep in the process that runs it: begun once, continued where it was left, its failure written down."""

import contextlib
import gc
import os
import shutil
import sys
import traceback
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from filelock import FileLock, Timeout
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from .. import terminal
from ..config import SWEEP, JobFailed, Start, Sweep, Task, split_override
from ..run import CONFIG, JOB_CLAIM, LOG, STATUS, SWEEP_STOP, read_object, write_json
from ..run.environment import now
from .ledger import REDRAWN, write_ledger
from .search import open_judge
from .state import JobState, read_state

POLL = 1.0  # seconds between two looks at a job that another process holds


@dataclass
class Outcome:
    """What a job's process tells of it: a status as in `state`, the best validation accuracy, an error's first line."""

    number: int
    status: str
    val_acc: float | None = None
    error: str = ""


@dataclass
class SweepTask:
    """What a launcher calls for each job, in whatever process; it does nothing for one that is done or being done.

    shared: other jobs run at the same time, so that little is shown.
    """

    task: Task
    folder: Path
    shared: bool
    pid: int = field(default_factory=os.getpid)

    @classmethod
    def create(cls, task: Task, config: DictConfig) -> "SweepTask":
        shared = not str(config.hydra.launcher._target_).endswith("BasicLauncher")
        return cls(task, Path(os.path.abspath(str(config.hydra.sweep.dir))), shared)

    @property
    def start(self) -> Start:
        return self.task.start

    @property
    def sweep(self) -> Sweep:
        assert self.start.sweep is not None
        return self.start.sweep

    def __call__(self, cfg: DictConfig) -> Outcome:
        folder = Path(HydraConfig.get().runtime.output_dir)
        if self.start.rank > 0:  # works in a folder of its own, and follows the first process
            self.task(cfg)
            return Outcome(-1, "finished")
        jobs = self.sweep.plan.jobs
        numbers = {self.folder / job.folder: number for number, job in enumerate(jobs)}
        assert folder in numbers, f"{folder} is none of the sweep's jobs"
        number = numbers[folder]
        with _claim(folder, number):
            state = read_state(self.folder, number, jobs[number])
            # Of several processes the others go through a job that is done as well.
            skipped = state.status == "running" or (state.done and self.start.world_size == 1)
            if skipped or (self.folder / SWEEP_STOP).exists():
                return Outcome(number, state.status, state.val_acc)
            terminal.say(self.describe(number, state.beginning()))
            self._prepare(folder, cfg)
            outcome = self._run(state, cfg)
            if outcome.status == "failed" and self.sweep.settings.on_error == "stop":
                (self.folder / SWEEP_STOP).touch()
            return outcome

    def _prepare(self, folder: Path, cfg: DictConfig) -> None:
        """Let a job that was begun go on; of one that failed before it had a configuration nothing is left."""
        if (folder / CONFIG).is_file():
            cfg.resume = str(folder)
        else:
            (folder / STATUS).unlink(missing_ok=True)
        self.write_ledger(redraw_after=None)

    def _run(self, state: JobState, cfg: DictConfig) -> Outcome:
        before = read_object(state.folder / STATUS)
        error: BaseException | None = None
        try:
            judge = open_judge(self.folder, state.number, self.sweep)
            self.task(cfg, quiet=self.shared, stop=self.folder / SWEEP_STOP if self.shared else None, judge=judge)
        except KeyboardInterrupt as interrupt:
            error = interrupt
        except (Exception, SystemExit, JobFailed) as failure:
            error = failure
            if read_object(state.folder / STATUS) == before:
                _record_failure(state, failure)
        if isinstance(error, JobFailed) or (isinstance(error, KeyboardInterrupt) and os.getpid() == self.pid):
            self.write_ledger()
            raise error
        terminal.console.quiet = False  # as it was before the job
        told = "" if error is None else f"{type(error).__name__}: {error}".splitlines()[0]
        del error
        _release()
        self.write_ledger()
        after = read_state(self.folder, state.number, state.planned)
        # A main that leaves no status has done what it had to when it returns.
        status = after.status if after.status != "pending" else "failed" if told else "finished"
        if self.shared:
            accuracy = "" if after.val_acc is None else f", validation accuracy {after.val_acc:.2%}"
            terminal.say(self.describe(state.number, f"{status}{accuracy}"))
        return Outcome(state.number, status, after.val_acc, told)

    def describe(self, number: int, what: str) -> str:
        """Return a line about a job, with the settings that are not the same in all."""
        plan = self.sweep.plan
        values, swept = dict(map(split_override, plan.jobs[number].overrides)), plan.list_swept()
        settings = " ".join(f"{key}={values[key]}" for key in swept if key in values)
        return f"job {number:<5} {what}  {settings}"

    def store(self) -> None:
        """Write the plan."""
        write_json(self.folder / SWEEP, asdict(self.sweep.plan))

    def store_search(self) -> None:
        """Write the plan where a search has added to it."""
        if self.sweep.settings.search:
            self.store()

    def lighten(self) -> None:
        """Leave the configurations out of the plan that each worker gets: they are in sweep.json."""
        self.sweep.plan.jobs = [replace(job, config={}) for job in self.sweep.plan.jobs]

    def write_ledger(self, redraw_after: float | None = REDRAWN) -> None:
        """Write how far all jobs are. No sweep ends for that: the next try may succeed, and runs tell themselves."""
        try:
            write_ledger(self.folder, self.sweep.plan, redraw_after)
        except OSError as error:
            terminal.say(f"warning   the table of the sweep cannot be written: {error}")


@contextlib.contextmanager
def _claim(folder: Path, number: int) -> Iterator[None]:
    """Hold the job for this process, when no other does any more. A kill releases it."""
    lock = FileLock(folder / JOB_CLAIM, poll_interval=POLL)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        terminal.say(f"job {number:<5} is being run by another process, which is waited for")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _record_failure(state: JobState, error: BaseException) -> None:
    """Write down an error that came before the run could: while data was read, or a checkpoint was looked at."""
    folder, config = state.folder, state.planned.config
    if not (folder / CONFIG).is_file():
        shutil.rmtree(folder / ".hydra", ignore_errors=True)
    facts = {
        "started": now(),
        "dataset": config.get("dataset", {}).get("name"),
        "root": config.get("dataset", {}).get("root"),
        "epoch": 0,
        "epochs": config.get("training", {}).get("epochs"),
        **read_object(folder / STATUS),
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
