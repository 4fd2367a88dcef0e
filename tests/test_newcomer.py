"""An afternoon of somebody who does not know the program: words, choices and results that would mislead."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import compose, make_folder, photo_overrides, train_run
from test_predict import infer
from test_query import save_fake_run

from src.config.inference import InferenceConfig
from src.config.schema import TrainConfig
from src.machine.disk import read_csv
from src.plots import matrix, scales
from src.plots.letters import measure, shorten
from src.predict.summary import Summary
from src.run.log import LogFile, start_log
from src.run.record import ALONE, Run
from src.run.saved import SavedRun, choose_run, list_bests, name_others
from src.start.launch import launch
from src.sweep.ledger import find_best
from src.sweep.plan import PlannedJob
from src.sweep.state import JobState
from src.tables import wilson


def answer(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, *words: str, trains: bool = True) -> str:
    """Return what a command that cannot work is answered."""
    monkeypatch.setattr(sys, "argv", ["train.py" if trains else "inference.py", *words])
    name, schema = ("config", TrainConfig) if trains else ("inference", InferenceConfig)
    assert launch(lambda config, job: None, name, schema) == 1  # type: ignore[type-var]
    error = capsys.readouterr().err
    assert error.startswith("error: ") and "Traceback" not in error and len(error.splitlines()) < 4
    return error.removeprefix("error: ")


# words without key=


def test_each_wrong_word_gets_the_line_to_type(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    make_folder(tmp_path / "photos")
    (tmp_path / "outputs" / "a").mkdir(parents=True)
    (tmp_path / "outputs" / "a" / "config.yaml").touch()
    for words, part in (
        (["photos"], "python train.py dataset=image_folder dataset.root=photos"),
        (
            ["dataset=photos"],
            "is not an option, but a folder: python train.py dataset=image_folder dataset.root=photos",
        ),
        (["dataset.root=photos"], "to train on your own images: dataset=image_folder dataset.root=photos"),
        (["digits"], "did you mean experiment=digits?"),
        (["vit_tiny"], "did you mean model=vit_tiny?"),
        (["training.epochs"], "did you mean training.epochs=VALUE?"),
        (["outputs/a"], "to continue that run: python train.py resume=outputs/a"),
        (["--multirun", "model.num_layers=4,", "6"], "a list has no spaces: model.num_layers=4,6"),
        (["--set", "training.epochs=5"], "settings are typed without it: training.epochs=5"),
        (["device=gpu"], "did you mean device=cuda?"),
        (["device=gpu:1"], "did you mean device=cuda:1?"),
        (["model.pooling=mean("], "put it in quotes: "),
        (["model.num_layers=[4"], "[4 is not a whole number, or a bracket or quote is not closed"),
        (["model=[vit_tiny]"], "model is one option, not a list"),
        (["experiment="], "experiment= has no value"),
        (["what"], "'what' is not of the form key=value"),
    ):
        assert part in answer(monkeypatch, capsys, *words)
    for words, part in (
        (["photos/red/00.png"], "to predict images: python inference.py input=photos/red/00.png"),
        (["car.JPG"], "to predict images: python inference.py input=car.JPG"),
        (["input=a.jpg", "input=b.jpg"], "only one input is read; name a folder, or a glob"),
    ):
        assert part in answer(monkeypatch, capsys, *words, trains=False)


def test_a_report_on_the_images_goes_into_a_folder_that_can_be_made_and_is_not_theirs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    make_folder(tmp_path / "photos")
    (tmp_path / "notes.txt").touch()
    for typed, wanted in (
        ("notes.txt", f"check={tmp_path}/notes.txt is a file; type true or a folder\n"),
        ("a/b", f"check={tmp_path}/a/b: the folder {tmp_path}/a does not exist\n"),
        ("photos/red", f"check={tmp_path}/photos/red is in dataset.root={tmp_path}/photos, where its pictures"),
        ("2", "check=2 is neither true nor false; a folder of that name is typed check=./2\n"),
        ("None", "check=None is neither true nor false; a folder of that name is typed check=./None\n"),
        ("null", "check must not be null\n"),
        ("", "check= has no value; write one, or leave it out\n"),
    ):
        shown = answer(monkeypatch, capsys, "dataset=image_folder", "dataset.root=photos", f"check={typed}")
        assert shown.startswith(wanted) and shown.count("\n") == 1
    monkeypatch.setattr("os.access", lambda path, mode: Path(path) != tmp_path)
    shown = answer(monkeypatch, capsys, "check=report")
    assert shown == f"check={tmp_path}/report: the folder {tmp_path} cannot be written to\n"
    assert {path.name for path in tmp_path.iterdir()} == {"notes.txt", "photos"}


def test_a_broken_file_of_settings_is_named_with_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine" / "model").mkdir(parents=True)
    (tmp_path / "mine" / "model" / "small.yaml").write_text("embedding_dim: 16\nnum_layers: [1\n")
    shown = answer(monkeypatch, capsys, "model=small", "--config-dir", "mine")
    assert "small.yaml, line 3, is not valid YAML: " in shown


# which run answers


def test_with_runs_on_several_data_sets_the_run_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    roots = ["outputs"]
    for name, day, accuracy, dataset in (("a", 1, 0.7, "photos"), ("b", 2, 0.9, "digits"), ("c", 3, 0.8, "digits")):
        folder = save_fake_run(tmp_path / "outputs" / name, f"2026-01-0{day}", accuracy)
        facts = json.loads((folder / "status.json").read_text()) | {"dataset": dataset}
        (folder / "status.json").write_text(json.dumps(facts))
        (folder / "checkpoints").mkdir(exist_ok=True)
        for file in ("checkpoints/best.safetensors", "config.yaml", "classes.json", "preprocessing.json"):
            (folder / file).touch()
    with pytest.raises(ValueError, match="which run") as asked:
        choose_run(None, roots)
    assert "run=outputs/b  digits, validation accuracy 90.00%" in str(asked.value)
    assert "run=outputs/a  photos, validation accuracy 70.00%" in str(asked.value)
    for wanted, name in (("best", "b"), ("latest", "c"), ("1", "c"), ("3", "a"), ("outputs/a", "a")):
        assert choose_run(wanted, roots).folder.name == name
    with pytest.raises(FileNotFoundError, match="run=9: the table has 3 runs"):
        choose_run("9", roots)
    assert len(list_bests([choose_run("1", roots), choose_run("2", roots)])) == 1
    assert "run=outputs/a  photos" in name_others(choose_run("best", roots), roots)[1]
    result = infer(tmp_path, "input=x.png")
    assert result.returncode == 1 and ("which run" in result.stderr or "no file" in result.stderr)


# what to do with the result


def test_a_folder_whose_folders_are_classes_is_scored_and_summed_up(photo_run: SavedRun, tmp_path: Path) -> None:
    root = make_folder(tmp_path / "new", per_class=6)
    shown = infer(tmp_path, f"run={photo_run.folder}", f"input={root}").stdout
    assert "█" not in shown, "no bars for many images"
    table = {line.split()[0]: line.split()[1] for line in shown.splitlines() if line.split()[:1] and "%" in line}
    assert sum(int(table[name]) for name in ("blue", "green", "red") if name in table) == 18
    assert " of 18 are what their folder is called: " in shown and "(95 % interval " in shown
    infer(tmp_path, f"run={photo_run.folder}", f"input={root}", f"output={tmp_path}/out.csv")
    rows = read_csv(tmp_path / "out.csv")
    right = sum(Path(row["file"]).parent.name == row["class"] for row in rows)
    assert f"{right} of 18 are what" in shown
    wrong = [row["file"] for row in rows if Path(row["file"]).parent.name != row["class"]]
    assert all(f"wrong: {file}: " in shown for file in wrong[:10])
    few = infer(tmp_path, f"run={photo_run.folder}", f"input={root / 'red'}").stdout
    assert "█" in few and " of 6 are what" in few, "up to twelve images, each has its bars"


def test_other_folders_are_not_scored(tmp_path: Path) -> None:
    summary = Summary(["cat", "dog"], str(tmp_path))
    for name in ("cat", "holidays", "holidays", "x"):
        (tmp_path / name).mkdir(exist_ok=True)
        summary.add(tmp_path / name / "1.jpg", "cat", 0.9)
    assert summary.score() == [] and summary.table()[1] == [["cat", "4", "90.00%", "90.00%"]]
    assert Summary(["cat"], "photos/*.jpg").score() == []


@pytest.mark.parametrize(
    ("share", "count", "low", "high"), [(1.0, 9, 0.7009, 1.0), (0.0, 9, 0.0, 0.2991), (0.5, 100, 0.4038, 0.5962)]
)
def test_intervals_are_wilsons(share: float, count: int, low: float, high: float) -> None:
    assert wilson(share, count) == pytest.approx((low, high), abs=1e-4)
    assert wilson(0.0, 0) == (0.0, 1.0)


@pytest.mark.usefixtures("empty_pictures")
def test_a_tiny_test_split_is_said_to_tell_little(photos: Path, tmp_path: Path) -> None:
    run = train_run(tmp_path / "run", *photo_overrides(photos), "training.epochs=1")
    log = (run.folder / "train.log").read_text()
    assert "WARNING 6 test images tell little: on other images of this kind it would be " in log
    assert "of 6, listed in " in log and "*: the best so far" in log


# means, not luck


def test_the_best_settings_have_the_best_mean() -> None:
    states: list[JobState] = []
    for layers, accuracies in ((2, (0.95, 0.60, 0.70)), (4, (0.90, 0.91, 0.92))):
        for seed, accuracy in enumerate(accuracies):
            planned = PlannedJob([f"model.num_layers={layers}", f"seed={seed}"], f"{layers}-{seed}", {})
            facts = {"status": "finished", "best_val_acc": accuracy}
            states.append(JobState(len(states), planned, SavedRun(Path(planned.folder), "finished", facts)))
    best, why = find_best(states)
    assert best is not None and best.folder.name == "4-2" and "mean over seeds, 91.00 ± 1.00 % (3)" in why
    best, why = find_best(states[:1])
    assert best is not None and why == "by validation accuracy" and find_best([]) == (None, why)


@pytest.mark.usefixtures("empty_pictures")
@pytest.mark.parametrize(("dropout", "words"), [(0.0, "with the same result"), (0.2, "the result differs a little")])
def test_smaller_pieces_promise_only_what_is_true(dropout: float, words: str, photos: Path, tmp_path: Path) -> None:
    extra = [f"model.dropout={dropout}", "training.epochs=1"]
    folder = train_run(tmp_path / "run", *photo_overrides(photos), *extra).folder
    run = Run(folder, compose(*photo_overrides(photos), *extra), ALONE)
    start_log(shown=False)
    file = LogFile(folder / "train.log")
    run.report_memory(2, 4)
    file.close()
    assert words in (folder / "train.log").read_text()


def test_weights_of_a_run_are_fine_tuned_as_the_readme_says(
    photo_run: SavedRun, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    composed: list[Any] = []
    words = [
        "experiment=finetune",
        "dataset=image_folder",
        f"dataset.root={photos}",
        f"init.weights={photo_run.folder}",
    ]
    monkeypatch.setattr(sys, "argv", ["train.py", *words])
    assert launch(lambda config, job: composed.append(config), "config", TrainConfig) == 0
    assert composed[0].model.embedding_dim == 16


# pictures


def test_numbers_are_never_cut() -> None:
    name = "12: lr=0.00123456 weight_decay=0.0123456 num_layers=12 patch_dropout=0.123456 — 91.23 %"
    short = shorten(name, 30)
    assert measure(short) <= 30 and " … " in short and set(short.split()) <= {*name.split(), "…"}
    assert scales.tick(0.000123456789, 3.2) in ("1.2e-4", "1e-4", "0.0001") and scales.tick(0.5) == "0.5"
    assert "…" not in scales.tick(123456.789, 4)


def test_a_large_matrix_names_what_is_confused_most() -> None:
    confusion = np.diag(np.full(101, 20))
    confusion[3, 7], confusion[90, 2] = 9, 5
    classes = [f"class {number}" for number in range(101)]
    sentence = matrix._list_confusions(confusion, classes)
    assert sentence == "Most often: class 3 taken for class 7 (9), class 90 taken for class 2 (5)."
    assert matrix._list_confusions(np.diag([3, 4]), ["a", "b"]) == "No image was confused."
