"""A sweep: its jobs are run, each once, whatever is killed on the way, and ranked.

`carry_out` goes from a plan to finished jobs: one after the other in this process, through one of Hydra's launchers, or
in processes of their own (`processes`). `job` is what happens where a job runs, `search` chooses the next ones by what
came of those before, `state` reads how far each is, `ledger` ranks them.
"""

from .carry_out import run_sweep
from .job import SweepTask

__all__ = ["SweepTask", "run_sweep"]
