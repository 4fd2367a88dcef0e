"""The search for good settings: Optuna proposes the next job from earlier results, and prunes unpromising jobs.

Its study is a file in the sweep's folder; trial n is job n. It is told validation accuracies only, never those on the
test images. Optuna is imported only for a search, as most sweeps do not need it.
"""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config.overrides import format_number
from ..config.sweep import SweepConfig
from ..machine.disk import write_bytes
from ..run.files import SEARCH_HISTORY, SEARCH_IMPORTANCE, STUDY
from .plan import PlannedJob, Sweep
from .state import JobState

if TYPE_CHECKING:
    import optuna

STARTUP = 10  # random trials before TPE uses its model; at most a third of all trials
NAME = "sweep"


class Search:
    """An Optuna study that chooses the jobs of a plan; the plan lists them in the order of the study's trials.

    Tree-structured Parzen estimator: Bergstra et al., "Algorithms for Hyper-Parameter Optimization", NeurIPS 2011.
    """

    def __init__(self, sweep: Sweep) -> None:
        folder = sweep.folder
        self._folder, self._plan, self._settings = folder, sweep.plan, sweep.settings
        if self._plan.jobs and not (folder / STUDY).exists():
            raise ValueError(
                f"{folder / STUDY}, the record of the search, is missing; start a new search: sweep.new=true"
            )
        _cut_torn_line(folder / STUDY)
        self._study = _open_study(folder, self._settings, create=True)
        # The sweep may have been killed during a proposal, or after it and before the plan was written.
        self._plan.jobs = [self._plan_job(number) for number in range(len(self._study.trials))]

    def ask(self) -> int:
        """Add a job to the plan and return its number; random draws depend only on the seed and the number."""
        number = len(self._plan.jobs)
        self._study.ask()
        self._plan.jobs.append(self._plan_job(number))
        return number

    def _plan_job(self, number: int) -> PlannedJob:
        """Return the job of a trial, with a value for each key of the space; Optuna proposes missing ones now."""
        assert self._plan.base is not None
        fixed = [word for word in self._plan.base.overrides if word.partition("=")[0] not in self._plan.space]
        trial = self._study.trials[number]
        values = trial.params
        if len(values) < len(self._plan.space):
            self._study.sampler = _build_sampler(self._settings, number)
            asked = _open_trial(self._study, number)
            values = {key: _suggest(asked, key, values) for key, values in self._plan.space.items()}
        self._check_proposed(values)
        typed = [f"{key}={value if isinstance(value, str) else format_number(value)}" for key, value in values.items()]
        return PlannedJob([*fixed, *typed], str(number), {})

    def _check_proposed(self, values: dict[str, Any]) -> None:
        """Raise ValueError for values that the plan does not offer: the record of the study may be a stranger's."""
        for key, value in values.items():
            offered = self._plan.space.get(key, {"choices": []})
            if value not in offered["choices"] if "choices" in offered else isinstance(value, str):
                raise ValueError(f"{self._folder / STUDY} is damaged: it proposes {key}={value}, which is not searched")

    def tell(self, state: JobState) -> None:
        """Tell the study the result of a job that is done; a failed or stopped one may still finish later."""
        import optuna

        if not state.done or self._study.trials[state.number].state.is_finished():
            return
        if state.status == "pruned":
            self._study.tell(state.number, state=optuna.trial.TrialState.PRUNED)
        else:
            self._study.tell(state.number, state.val_acc)

    def draw(self) -> None:
        """Draw the trials in order, and the importance of each setting."""
        import optuna

        from ..plots.search import plot_importances, plot_search_history

        trials = [trial for trial in self._study.trials if trial.state.is_finished()]
        pruned = [trial.state == optuna.trial.TrialState.PRUNED for trial in trials]
        if trials:
            plot_search_history([trial.value for trial in trials], pruned, self._folder / SEARCH_HISTORY)
        values = {trial.value for trial, was_pruned in zip(trials, pruned, strict=True) if not was_pruned}
        if len(values) > 1:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about the small number of trials
                importances = optuna.importance.get_param_importances(self._study)
            plot_importances(importances, pruned.count(False), self._folder / SEARCH_IMPORTANCE)


def open_pruner(sweep: Sweep, number: int) -> Callable[[int, float], bool] | None:
    """Return `should_prune` for a job of a search, to be called after each epoch; None without a pruner."""
    if not sweep.plan.space or sweep.settings.pruner is None:
        return None
    trial = _open_trial(_open_study(sweep.folder, sweep.settings, create=False), number)

    def should_prune(epoch: int, val_acc: float) -> bool:
        trial.report(val_acc, epoch)
        return trial.should_prune()

    return should_prune


def _cut_torn_line(path: Path) -> None:
    """Remove an incomplete last line, as a kill or a full disk leaves it; Optuna would not read the file."""
    content = path.read_bytes() if path.exists() else b""
    if content and not content.endswith(b"\n"):
        write_bytes(path, content[: content.rfind(b"\n") + 1])


def _open_trial(study: "optuna.Study", number: int) -> "optuna.Trial":
    """Return a trial that another process may have created; Optuna has no public function for that."""
    import optuna

    return optuna.trial.Trial(study, study.trials[number]._trial_id)


def _suggest(trial: "optuna.Trial", key: str, values: dict[str, Any]) -> Any:
    if "choices" in values:
        return trial.suggest_categorical(key, values["choices"])
    suggest = trial.suggest_int if values["whole"] else trial.suggest_float
    return suggest(key, values["low"], values["high"], log=values["log"])


def _open_study(folder: Path, settings: SweepConfig, create: bool) -> "optuna.Study":
    try:
        import optuna
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend
    except ImportError as error:
        raise ValueError(
            f"sweep.search={settings.search} needs Optuna: pip install -r requirements-sweep.txt"
        ) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        storage = JournalStorage(JournalFileBackend(str(folder / STUDY)))
    except ValueError as error:
        raise ValueError(f"{folder / STUDY} is damaged: {error}") from error
    pruner = _build_pruner(settings)
    if create:
        return optuna.create_study(
            storage=storage, study_name=NAME, direction="maximize", pruner=pruner, load_if_exists=True
        )
    return optuna.load_study(storage=storage, study_name=NAME, pruner=pruner)


def _build_sampler(settings: SweepConfig, number: int) -> "optuna.samplers.BaseSampler":
    from optuna.samplers import RandomSampler, TPESampler

    seed = (1_000_003 * settings.seed + number) % 2**32
    if settings.search == "random":
        return RandomSampler(seed=seed)
    return TPESampler(seed=seed, n_startup_trials=min(STARTUP, -(-settings.trials // 3)))


def _build_pruner(settings: SweepConfig) -> "optuna.pruners.BasePruner":
    """Median: prunes a job that is below the median of the others at its epoch. Hyperband: arXiv 1603.06560."""
    from optuna.pruners import HyperbandPruner, MedianPruner, NopPruner

    if settings.pruner == "median":
        return MedianPruner(n_startup_trials=5, n_warmup_steps=settings.prune_after)
    if settings.pruner == "hyperband":
        return HyperbandPruner(min_resource=settings.prune_after)
    return NopPruner()
