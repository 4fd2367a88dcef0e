"""Connects Hydra to `src/sweep`: Hydra loads sweepers only from the package `hydra_plugins`.

It does so whenever a program starts, so nothing slow is imported here.
"""

from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class ResumableSweeper(Sweeper):
    """Run the jobs of a sweep that are not done yet, and rank all of them.

    params: values of keys, as for Hydra's own sweeper; they are in the plan of the sweep already.
    """

    def __init__(self, params: dict[str, Any] | None = None) -> None:
        pass

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        from src.sweep.plan import Sweep

        assert isinstance(task_function, Sweep)
        self.planned = task_function
        self.planned.shared = not str(config.hydra.launcher._target_).endswith("BasicLauncher")
        self.launcher: Launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        from src.sweep.carry_out import run_sweep

        return run_sweep(self.planned, self.launcher)


ConfigStore.instance().store(
    group="hydra/sweeper",
    name="resumable",
    node={"_target_": f"{__name__}.ResumableSweeper", "params": None},
    provider="resumable_sweeper",
)
