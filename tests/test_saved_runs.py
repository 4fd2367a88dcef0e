"""Runs and sweeps that an earlier version wrote (tests/saved): listed, predicted with, resumed, compared."""

import csv
import json
import os
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from helpers import compose

from inference import infer
from src.config.compose import dump_config, load_config
from src.config.inference import InferenceConfig
from src.config.schema import TrainConfig
from src.data.load import load_data
from src.machine.disk import write_text
from src.predict.predictor import Predictor
from src.run.saved import SavedRun, choose_run, find_all_runs, read_run
from src.start.launch import launch
from src.start.reopen import merge_typed
from src.sweep.plan import read_plan
from train import train

pytestmark = pytest.mark.usefixtures("empty_pictures")
SAVED = Path(__file__).parent / "saved"
TIMES = {"seconds", "images_per_second"}


@pytest.fixture
def saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's folder, as the earlier version has left it."""
    shutil.copytree(SAVED, tmp_path / "work")
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


def start(monkeypatch: pytest.MonkeyPatch, main: Callable[..., Any], *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["x.py", *words])
    return launch(main, "config", TrainConfig) if main is train else launch(main, "inference", InferenceConfig)


def read_rows(run: Path) -> list[list[float]]:
    with (run / "metrics.csv").open() as file:
        return [[float(row[key]) for key in row if key not in TIMES] for row in csv.DictReader(file)]


def test_old_runs_are_listed(saved: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    runs, problems = find_all_runs(["outputs", "multirun"])
    assert {str(run.folder): run.status for run in runs} == {
        "outputs/finished": "finished",
        "outputs/stopped": "stopped",
        "multirun/sweep/0": "stopped",
    }
    assert not problems
    assert start(monkeypatch, infer, "task=list", "filter=status=finished model.embedding_dim=16") == 0
    shown = capsys.readouterr().out
    assert "outputs/finished" in shown and "outputs/stopped" not in shown


def test_an_old_run_predicts_what_it_wrote_down(saved: Path) -> None:
    predictor = Predictor(choose_run("outputs/finished", []), "cpu")
    test = load_data(compose().dataset, (8, 8), lambda items, *_: items).test
    with (saved / "outputs/finished/test/predictions.csv").open() as file:
        written = list(csv.DictReader(file))
    confidences, predicted = predictor.predict(test.images.take(torch.arange(len(test)))).max(1)
    assert [predictor.classes[label] for label in predicted.tolist()] == [row["predicted"] for row in written]
    assert confidences.tolist() == pytest.approx([float(row["confidence"]) for row in written], abs=1e-5)


def test_an_old_run_that_was_stopped_continues_to_the_end_of_the_one_left_alone(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert start(monkeypatch, train, "resume=outputs/stopped") == 0
    run = read_run(Path("outputs/stopped"))
    assert run.status == "finished"
    for resumed, alone in zip(read_rows(run.folder), read_rows(Path("outputs/finished")), strict=True):
        assert resumed == pytest.approx(alone, rel=1e-3)  # other processors and versions of torch round differently
    assert run.facts["test_acc"] == pytest.approx(read_run(Path("outputs/finished")).facts["test_acc"], abs=0.01)


def test_an_old_sweep_goes_on_and_its_runs_are_compared(
    saved: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    assert start(monkeypatch, train, "--multirun", "resume=latest") == 0
    with Path("multirun/sweep/sweep.csv").open() as file:
        assert [row["status"] for row in csv.DictReader(file)] == ["finished"] * 2
    assert start(monkeypatch, infer, "task=compare", "run=[outputs/finished,multirun/sweep]") == 0
    table = Path("comparison/comparison.csv").read_text()
    assert all(name in table for name in ("finished", "sweep/0", "sweep/1"))
    assert "McNemar" in capsys.readouterr().out


def test_a_sweep_of_a_launcher_that_is_gone_goes_on_in_processes(saved: Path) -> None:
    path = saved / "multirun/sweep/sweep.json"
    plan = json.loads(path.read_text())
    plan["hydra"] = ["hydra/launcher=processes", "hydra.launcher.n_jobs=3", "hydra.sweep.dir=multirun/sweep"]
    path.write_text(json.dumps(plan))
    merged = merge_typed(read_plan(path.parent), ["sweep.on_error=stop"])
    assert merged[-3:] == ["sweep.isolate=true", "sweep.parallel=3", "sweep.on_error=stop"]
    assert not any("launcher" in word for word in merged)


NEEDED = ("config.yaml", "classes.json", "preprocessing.json", "checkpoints/best.safetensors")


def copy_needed(run: Path, copy: Path) -> Path:
    """Copy what the README says that inference needs."""
    (copy / "checkpoints").mkdir(parents=True)
    for name in NEEDED:
        shutil.copy(run / name, copy / name)
    return copy


def test_a_copy_of_what_inference_needs_predicts_the_same(
    photo_run: SavedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    copy = copy_needed(photo_run.folder, tmp_path / "copy")
    image = next(Path(str(photo_run.facts["root"])).rglob("00.png"))
    for folder in (photo_run.folder, copy):
        assert start(monkeypatch, infer, f"run={folder}", f"input={image}") == 0
    lines = capsys.readouterr().out.splitlines()
    half = len(lines) // 2
    assert lines[1:half] == lines[half + 1 :] and lines[0].split(": ")[1] == lines[half].split(": ")[1]
    for name in NEEDED:
        (copy / name).rename(tmp_path / "away")
        with pytest.raises(FileNotFoundError, match=f"has no {name}|there is no .*{name}"):
            choose_run(str(copy), [])
        (tmp_path / "away").rename(copy / name)


@pytest.mark.parametrize(
    ("wanted", "answer"),
    [
        (
            "outputs",
            "it has no config.yaml; the newest below it: run=outputs/stopped, run=outputs/finished",
        ),
        ("multirun/sweep", "it has no config.yaml; the newest below it: run=multirun/sweep/0"),
        ("outputs/finished/checkpoints", "it has no config.yaml; did you mean run=outputs/finished?"),
        ("outputs/finished/checkpoints/best.safetensors", "it has no config.yaml; did you mean run=outputs/finished?"),
        ("run.zip", "is an archive; unpack it first and type the run's folder"),
        ("nowhere", "it has no config.yaml; type the folder of a run, or run=latest for the newest"),
        (
            "https://a.b/run",
            "download it first and type the path of the copy",
        ),
    ],
)
def test_what_is_no_run_is_answered_with_the_run_that_was_meant(wanted: str, answer: str, saved: Path) -> None:
    (saved / "run.zip").touch()
    with pytest.raises(FileNotFoundError) as error:
        choose_run(wanted, [])
    assert str(error.value).startswith(f"run={wanted} ") and str(error.value).endswith(answer)


def test_a_run_of_a_newer_version_is_called_so(
    saved: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    run = saved / "outputs" / "finished"
    preprocessing, config = (run / name for name in ("preprocessing.json", "config.yaml"))
    preprocessing.write_text(json.dumps({**json.loads(preprocessing.read_text()), "sharpen": 2}))
    with pytest.raises(ValueError, match=r"preprocessing.json has keys .* \(sharpen\): a newer one wrote it"):
        read_run(run).load()
    values = yaml.safe_load(config.read_text())
    values["model"]["rope"] = True
    values["teacher"] = {"temperature": 2}
    values["sweep"]["params"] = {"training.lr": "1,2"}  # free to name any key
    config.write_text(yaml.safe_dump(values))
    sentence = r"config.yaml has keys that this version does not know \(model.rope, teacher\): a newer one wrote it"
    with pytest.raises(ValueError, match=f"outputs/finished cannot be used: {sentence}"):
        read_run(run).load()
    assert start(monkeypatch, train, "resume=outputs/finished") == 1
    assert re.search(sentence, capsys.readouterr().err)
    plan = saved / "multirun/sweep/sweep.json"
    plan.write_text(json.dumps({**json.loads(plan.read_text()), "budget": 3}))
    with pytest.raises(ValueError, match=r"sweep.json is damaged or was written by a newer version .*budget"):
        read_plan(plan.parent)


def test_the_configuration_of_a_run_on_a_folder_whose_name_is_not_utf8_is_read_back(tmp_path: Path) -> None:
    config = compose("dataset=image_folder", f"dataset.root='{tmp_path}'")
    config.dataset.root = os.fsdecode(b"/photos/caf\xe9")
    write_text(tmp_path / "config.yaml", dump_config(config))
    assert load_config(tmp_path / "config.yaml") == config
