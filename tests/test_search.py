"""The search: what Optuna is asked and told, what it prunes, and that a search continues; training is simulated."""

import math
import os
import signal
import sys
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from src.config.compose import dump_config
from src.config.schema import TrainConfig
from src.machine.disk import read_object, write_json, write_text
from src.run.files import CONFIG, STATUS
from src.run.job import Job
from src.run.limits import PRUNED
from src.signals import Interrupted
from src.start.launch import launch

WORDS = [
    *("sweep.search=tpe", "sweep.trials=12", "sweep.prune_after=2", "training.epochs=6"),
    *("training.lr=tag(log,interval(1e-4,1e-1))", "model.num_layers=choice(2,4)", "model.dropout=interval(0,0.2)"),
]


class Trainer:
    """A main function with the best validation accuracy, and the worst test accuracy, at lr 0.01 and four layers."""

    def __init__(self) -> None:
        self.lrs: list[float] = []
        self.pruned: list[int] = []
        self.stop_at: int | None = None
        self.epochs = 0

    def __call__(self, config: TrainConfig, job: Job) -> None:
        self.lrs.append(config.training.lr or 0.0)
        write_text(job.folder / CONFIG, dump_config(config))
        goal = 0.9 - 0.2 * abs(math.log10(config.optimizer.lr) + 2) - 0.05 * (config.model.num_layers == 2)
        facts: dict[str, Any] = {"epochs": 6, "pid": os.getpid(), "ended": None, "test_acc": 1 - goal, "seconds": 1.0}
        for epoch in range(1, 7):
            accuracy = goal * epoch / 6
            facts |= {"epoch": epoch, "best_val_acc": accuracy, "best_epoch": epoch}
            self.epochs += 1
            if epoch < 6 and job.should_prune and job.should_prune(epoch, accuracy):
                facts["ended"] = PRUNED
                self.pruned.append(int(job.folder.name))
                break
            if len(self.lrs) == self.stop_at and epoch == 3:
                write_json(job.folder / STATUS, {**facts, "status": "stopped"})
                raise Interrupted(signal.SIGTERM)
        write_json(job.folder / STATUS, {**facts, "status": "finished"})


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_pictures: None) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def sweep(monkeypatch: pytest.MonkeyPatch, main: Trainer, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["train.py", "--multirun", *words])
    return launch(main, "config", TrainConfig)


def the_sweep() -> Path:
    (plan,) = Path("multirun").rglob("sweep.json")
    return plan.parent


def load_study() -> optuna.Study:
    return optuna.load_study(
        study_name="sweep", storage=JournalStorage(JournalFileBackend(str(the_sweep() / "study.log")))
    )


def test_a_search_finds_good_settings_by_validation_and_prunes_unpromising_jobs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    main = Trainer()
    assert sweep(monkeypatch, main, *WORDS) == 0
    study = load_study()
    assert [trial.number for trial in study.trials] == list(range(12)) == [int(p) for p in sorted_jobs()]
    assert study.best_value > 0.8 and 1e-3 < float(study.best_params["training.lr"]) < 1e-1
    states = {trial.number: trial.state for trial in study.trials}
    pruned = [number for number, state in states.items() if state == optuna.trial.TrialState.PRUNED]
    assert pruned == main.pruned and 0 < len(pruned) < 12
    assert all(number >= 5 for number in pruned)  # earlier there is no reliable median
    assert all(read_object(the_sweep() / str(number) / STATUS)["epoch"] >= 2 for number in pruned)
    for trial in study.trials:
        status = read_object(the_sweep() / str(trial.number) / STATUS)
        assert trial.number in pruned or trial.value == status["best_val_acc"] != status["test_acc"]
    assert (the_sweep() / "search_history.png").is_file() and (the_sweep() / "search_importance.png").is_file()
    assert f"jobs      12 jobs: {12 - len(pruned)} finished, {len(pruned)} pruned" in capsys.readouterr().out


def sorted_jobs() -> list[str]:
    return sorted((path.name for path in the_sweep().iterdir() if path.name.isdigit()), key=int)


def test_a_search_that_was_stopped_proposes_the_same_as_without_the_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    words = [*WORDS, "sweep.trials=7", "sweep.pruner=null"]
    assert sweep(monkeypatch, Trainer(), *words) == 0
    params = [trial.params for trial in load_study().trials]
    the_sweep().rename("elsewhere")
    stopped = Trainer()
    stopped.stop_at = 4
    assert sweep(monkeypatch, stopped, *words) == 143
    assert len(sorted_jobs()) == 4 and read_object(the_sweep() / "3" / STATUS)["status"] == "stopped"
    assert load_study().trials[3].state == optuna.trial.TrialState.RUNNING
    assert sweep(monkeypatch, stopped, *words) == 0
    assert [trial.params for trial in load_study().trials] == params
    assert len(stopped.lrs) == 8 and all(trial.state.is_finished() for trial in load_study().trials)


def test_a_search_can_be_made_longer_and_a_finished_one_runs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    main = Trainer()
    assert sweep(monkeypatch, main, *WORDS, "sweep.trials=3") == 0
    assert sweep(monkeypatch, main, *WORDS, "sweep.trials=3") == 0 and len(main.lrs) == 3
    assert sweep(monkeypatch, main, "resume=latest", "sweep.trials=5") == 0 and len(main.lrs) == 5
    assert len(load_study().trials) == 5


def test_a_job_that_was_proposed_just_before_a_kill_is_run(monkeypatch: pytest.MonkeyPatch) -> None:
    main = Trainer()
    assert sweep(monkeypatch, main, *WORDS, "sweep.trials=3") == 0
    study = load_study()
    study.ask({"training.lr": optuna.distributions.FloatDistribution(1e-4, 1e-1, log=True)})
    assert sweep(monkeypatch, main, "resume=latest", "sweep.trials=4") == 0
    assert len(load_study().trials) == 4 and load_study().trials[3].state.is_finished() and len(main.lrs) == 4


def test_an_incomplete_line_of_the_study_is_removed_and_a_missing_study_is_reported(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    main = Trainer()
    assert sweep(monkeypatch, main, *WORDS, "sweep.trials=2") == 0
    study = the_sweep() / "study.log"
    with study.open("a") as file:
        file.write('{"op_code": 4, "worker')
    assert sweep(monkeypatch, main, "resume=latest", "sweep.trials=3") == 0 and len(main.lrs) == 3
    study.unlink()
    assert sweep(monkeypatch, main, "resume=latest", "sweep.trials=4") == 1 and len(main.lrs) == 3
    assert (
        "study.log, the record of the search, is missing; start a new search: sweep.new=true" in capsys.readouterr().err
    )


def test_an_invalid_combination_is_a_failed_job_and_the_search_continues(monkeypatch: pytest.MonkeyPatch) -> None:
    main = Trainer()
    words = ["sweep.search=random", "sweep.trials=8", "training.epochs=6"]
    words += ["model.embedding_dim=choice(48,80)", "model.num_heads=choice(2,6,8)"]  # 80 is not divisible by six heads
    assert sweep(monkeypatch, main, *words) == 1
    states = [read_object(the_sweep() / number / STATUS) for number in sorted_jobs()]
    failed = [state for state in states if state["status"] == "failed"]
    assert len(main.lrs) + len(failed) == 8 and len(main.lrs) > 0 < len(failed)
    assert all("model.embedding_dim=80 is not divisible by model.num_heads=6" in state["error"] for state in failed)
    assert sweep(monkeypatch, main, "resume=latest", "sweep.trials=9") == 1 and len(sorted_jobs()) == 9


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["sweep.search=tpe"], "sweep.search=tpe has nothing to choose from; type values"),
        (["sweep.search=tpe", "seed=0,1"], "seed=0,1: a search trains each job once; type one seed"),
        (
            ["sweep.search=tpe", "model.dropout=interval(0,2)"],
            "model.dropout=2.0 must be at least 0 and below 1\n  in the job model.dropout=2.0",
        ),
    ],
)
def test_an_invalid_search_is_refused(
    words: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    assert sweep(monkeypatch, Trainer(), *words) == 1
    assert capsys.readouterr().err.startswith(f"error: {message}") and not list(Path.cwd().iterdir())


def test_without_optuna_a_search_names_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert sweep(monkeypatch, Trainer(), *WORDS) == 1
    assert "sweep.search=tpe needs Optuna: pip install -r requirements-sweep.txt" in capsys.readouterr().err


def test_each_kind_of_value_has_its_own_distribution(monkeypatch: pytest.MonkeyPatch) -> None:
    words = [*WORDS, "model.num_registers=int(interval(0,4))", "sweep.trials=2"]
    assert sweep(monkeypatch, Trainer(), *words) == 0
    assert load_study().trials[0].distributions == {
        "training.lr": optuna.distributions.FloatDistribution(1e-4, 0.1, log=True),
        "model.num_layers": optuna.distributions.CategoricalDistribution(["2", "4"]),
        "model.dropout": optuna.distributions.FloatDistribution(0, 0.2),
        "model.num_registers": optuna.distributions.IntDistribution(0, 4),
    }


def test_hyperband_prunes_jobs_too(monkeypatch: pytest.MonkeyPatch) -> None:
    main = Trainer()
    assert sweep(monkeypatch, main, *WORDS, "sweep.trials=8", "sweep.pruner=hyperband", "sweep.prune_after=1") == 0
    assert main.epochs < 8 * 6
