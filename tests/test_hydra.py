"""Hydra's own ways: folders of configurations, hydra.mode, hydra.sweeper.params, launchers, hydra.job.chdir."""

import json
from pathlib import Path

import pytest
from test_checkpoint import make_data
from test_config import run_cli

from src.config.compose import compose_config, dump_config, load_config
from src.config.resolve import complete
from src.run.job import Job
from src.run.record import Run
from src.run.resume import read_config
from src.run.saved import SavedRun

FILES = {
    "mytrain": "defaults: [config, _self_]\ntraining: {epochs: 3}\n"
    "dataset: {cache_dir: '${hydra:runtime.cwd}/cache of ${hydra:job.name}'}\n",
    "many": "defaults: [config, _self_]\nhydra: {mode: MULTIRUN, sweeper: {params: {seed: '4,5'}}}\n",
    "none": "defaults: [config, _self_]\ntraining: {ema: None}\n",
    "experiment/swept": "# @package _global_\nhydra: {sweeper: {params: {model.num_layers: '4,6', seed: 1}}}\n",
    "experiment/far": "# @package _global_\ndefaults: [override /hydra/launcher: slurm_local]\n",
    "experiment/photos": "# @package _global_\ndefaults: [override /dataset: image_folder]\ndataset: {root: photos}\n",
    "model/wide": "defaults: [vit_nano, _self_]\nembedding_dim: 128\n",
}


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of configurations, ../own for a user who stands in an empty one."""
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "HYDRA_FULL_ERROR"):
        monkeypatch.delenv(name, raising=False)
    for name, text in FILES.items():
        path = tmp_path / "own" / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.setattr("src.plots.sweeps.plot_sweep", lambda *arguments: arguments[-1].touch())
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "own"


OWN = ("--config-dir", "../own")


def test_a_primary_file_of_ones_own_is_checked_and_trained_alike(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code, [(config, job)] = run_cli(monkeypatch, *OWN, "--config-name", "mytrain")
    assert code == 0 and config.training.epochs == 3
    assert config.dataset.cache_dir == f"{own.parent}/here/cache of train" and job.choices["model"] == "vit_nano"


def test_an_option_of_ones_own_wins_over_a_recipe_and_gives_the_name(
    own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, [(config, job)] = run_cli(monkeypatch, *OWN, "experiment=digits", "model=wide")
    assert (config.model.embedding_dim, job.choices["model"]) == (128, "wide")
    _, [(_, job)] = run_cli(monkeypatch, *OWN, "model=wide", "model.num_layers=2")
    assert job.choices["model"] == "wide, num_layers=2"


def test_the_folder_of_a_run_may_be_named_after_the_job(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, [(_, job)] = run_cli(monkeypatch, "hydra.run.dir=outputs/${hydra:job.name}")
    assert job.folder == own.parent / "here" / "outputs" / "train"


def test_a_sweep_with_files_of_ones_own_is_continued_from_another_folder(
    own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the relative folder of the files nor the relative path in one of them refers to that other folder."""
    (own.parent / "here" / "photos" / "cat").mkdir(parents=True)
    code, calls = run_cli(monkeypatch, "-m", *OWN, "experiment=photos", "seed=1,2", "dataset.cache_dir=cache")
    assert code == 0 and len(calls) == 2
    folder = calls[0][1].folder.parent
    plan = json.loads((folder / "sweep.json").read_text())
    assert plan["flags"] == ["--config-dir", str(own)] and plan["cwd"] == str(own.parent / "here")
    assert f"python train.py --multirun --config-dir {own} experiment=photos" in (folder / "sweep.md").read_text()
    (own.parent / "there").mkdir()
    monkeypatch.chdir(own.parent / "there")
    assert run_cli(monkeypatch, "-m", f"resume={folder}")[0] == 1, "a folder of files is not taken from sweep.json"
    code, again = run_cli(monkeypatch, "-m", f"resume={folder}", "--config-dir", str(own))
    assert code == 0
    for before, after in zip(calls, again, strict=True):
        assert before[0] == after[0]
        assert after[0].dataset.root == f"{own.parent}/here/photos"
        assert after[0].dataset.cache_dir == f"{own.parent}/here/cache"


def test_the_same_command_continues_a_sweep_of_an_earlier_version(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (own.parent / "here" / "photos" / "cat").mkdir(parents=True)
    words = ("-m", *OWN, "experiment=photos", "seed=1,2")
    folder = run_cli(monkeypatch, *words)[1][0][1].folder.parent
    plan = json.loads((folder / "sweep.json").read_text())
    del plan["cwd"]  # which was not stored, and the flags as typed
    (folder / "sweep.json").write_text(json.dumps({**plan, "flags": list(OWN)}))
    assert run_cli(monkeypatch, *words)[1][0][1].folder.parent == folder
    assert json.loads((folder / "sweep.json").read_text())["cwd"] == str(own.parent / "here")


@pytest.mark.parametrize(
    ("words", "settings"),
    [
        (["hydra.mode=MULTIRUN", "seed=1,2"], [(4, 1), (4, 2)]),
        ([*OWN, "--config-name=many"], [(4, 4), (4, 5)]),
        ([*OWN, "--config-name=many", "seed=8,9"], [(4, 8), (4, 9)]),
        ([*OWN, "--config-name=many", "hydra.mode=RUN"], [(4, 0)]),
        (["-m", *OWN, "experiment=swept"], [(4, 1), (6, 1)]),
        (["-m", "hydra.sweeper.params={seed:'3,4'}"], [(4, 3), (4, 4)]),
        (["-m", "hydra/sweeper=basic", "seed=1,2"], [(4, 1), (4, 2)]),
    ],
)
def test_hydras_own_keys_for_a_sweep_work(
    words: list[str], settings: list[tuple[int, int]], own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, calls = run_cli(monkeypatch, *words)
    assert code == 0 and [(config.model.num_layers, config.seed) for config, _ in calls] == settings
    assert len(list(Path().rglob("sweep.json"))) == (len(settings) > 1)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["experiment=far,digits", *OWN],
            "hydra/launcher=slurm_local is set in a file that only some jobs use, but",
        ),
        (
            ["experiment=swept,digits", *OWN],
            "hydra.sweeper.params is set in a file that only some jobs use, but",
        ),
        (["hydra/launcher=basic,slurm_local"], "hydra/launcher=basic,slurm_local: a key of Hydra has one value in all"),
        (
            ["seed=1,2", "+hydra.launcher.jobs=2"],
            "Error in call to target 'hydra._internal.core_plugins.basic",
        ),
        (
            ["seed=1,2", "+hydra.sweeper.max_batch_size=2"],
            "hydra.sweeper.max_batch_size is not known here; allowed:",
        ),
        (["seed=1,2", "hydra.sweeper.params=3"], "hydra.sweeper.params=3 is not of the form {KEY: VALUES}"),
        (["seed=1,2", "+hydra.callbacks.x._target_=no.Where"], "Error locating target 'no.Where'"),
        ([*OWN, "--config-name=nope"], "nope.yaml is not in "),
    ],
)
def test_what_hydra_cannot_do_with_a_sweep_is_told_in_a_sentence_and_leaves_no_folder(
    words: list[str], message: str, own: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    code, calls = run_cli(monkeypatch, "--multirun", *words)
    error = capsys.readouterr().err
    assert code == 1 and not calls and not list(Path().iterdir())
    assert error.startswith(f"error: {message}") and "Traceback" not in error


def test_none_in_a_file_is_answered_with_null(
    own: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    assert run_cli(monkeypatch, *OWN, "--config-name", "none")[0] == 1
    told = "error: training.ema=None is not a number; nothing is written as null (in configs/none.yaml)\n"
    assert capsys.readouterr().err == told


@pytest.mark.parametrize("mode", ["-r", "-m"])
def test_paths_mean_the_same_when_a_job_works_in_its_own_folder(
    mode: str, own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = own.parent / "here"
    (here / "photos" / "cat").mkdir(parents=True)
    words = ["dataset=image_folder", "dataset.root=photos", "hydra.job.chdir=true"]
    code, [(config, job)] = run_cli(monkeypatch, mode, *words)
    assert code == 0 and Path.cwd() == here
    assert (config.dataset.root, config.dataset.cache_dir) == (f"{here}/photos", f"{here}/data/cache")
    assert job.relative == {"dataset.cache_dir": "data/cache"} and job.cwd == str(here)


def test_a_run_keeps_the_relative_paths_of_files_and_finds_them_again(
    own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = own.parent / "here"
    config = complete(compose_config("dataset=cifar10"), 100, 10, 3, [0.5] * 3, [0.5] * 3)
    assert (config.dataset.root, config.dataset.cache_dir) == (f"{here}/data", f"{here}/data/cache")
    run = own.parent / "run"
    run.mkdir()
    (run / "config.yaml").write_text(dump_config(config, {"dataset.root": "data", "dataset.cache_dir": "data/cache"}))
    assert str(here) not in (run / "config.yaml").read_text()
    (run / "environment.json").write_text(json.dumps({"cwd": str(here)}))
    monkeypatch.chdir(own)
    assert read_config(SavedRun(run, "stopped", {})) == config
    code, [(resumed, job)] = run_cli(monkeypatch, f"resume={run}", "dataset.cache_dir=new")
    assert code == 0 and resumed.dataset.root == f"{here}/data" and resumed.dataset.cache_dir == f"{own}/new"
    assert job.relative == {"dataset.root": "data"}
    (run / "environment.json").unlink()  # an earlier version has absolute paths and does not say where it was
    (run / "config.yaml").write_text(dump_config(config))
    assert read_config(SavedRun(run, "stopped", {})) == config == load_config(run / "config.yaml")


def test_a_run_writes_the_relative_paths_of_files_and_the_folder_that_they_refer_to(own: Path) -> None:
    (own.parent / "run").mkdir()
    config = compose_config("training.tensorboard=false")
    job = Job(own.parent / "run", [], {}, relative={"dataset.cache_dir": "data/cache"})
    with Run.begin(job.folder, config, job, make_data(), 5):
        pass
    assert load_config(job.folder / "config.yaml").dataset.cache_dir == "data/cache"
    assert json.loads((job.folder / "environment.json").read_text())["cwd"] == f"{own.parent}/here"
    assert read_config(SavedRun(job.folder, "finished", {})) == config
