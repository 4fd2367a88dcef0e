"""Inference: the same numbers as in training, and an answer to whatever is typed."""

import csv
import errno
import importlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
import torch
from helpers import COLORS, make_picture
from test_data import save_variants

import inference
from src.config.compose import load_config
from src.config.inference import InferenceConfig
from src.engine.trial import Trial, Work
from src.machine.kernels import Kernels, Wanted
from src.predict.inputs import find_inputs
from src.predict.output import open_output
from src.predict.predictor import Predictor
from src.run.saved import SavedRun
from src.start.launch import launch

ROOT = Path(__file__).resolve().parents[1]


def infer(where: Path, *arguments: str, answers: str = "") -> subprocess.CompletedProcess[str]:
    """Run inference.py as a user does, in a folder whose outputs/ holds the run, but within this process."""
    output, errors = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(output), redirect_stderr(errors):
        patch.chdir(where)
        patch.setattr(sys, "argv", ["inference.py", *arguments])
        patch.setattr(sys, "stdin", io.StringIO(answers))
        code = launch(inference.infer, "inference", InferenceConfig)
    return subprocess.CompletedProcess(list(arguments), code, output.getvalue(), errors.getvalue())


def infer_in_a_process(where: Path, *arguments: str, answers: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, ROOT / "inference.py", *arguments],
        input=answers,
        cwd=where,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


@pytest.fixture(scope="module")
def place(photo_run: SavedRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("place")
    shutil.copytree(photo_run.folder, folder / "outputs" / "day" / "time")
    (folder / "pictures" / "deep").mkdir(parents=True)
    for name, color in COLORS.items():
        make_picture(color, 7, (50, 40)).save(folder / "pictures" / "deep" / f"{name}.JPG")
    (folder / "pictures" / "broken.png").write_bytes(b"not an image")
    (folder / "pictures" / "notes.txt").write_text("left out")
    return folder


def listing(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def test_validation_accuracy_through_inference_equals_the_logged_one(photo_run: SavedRun) -> None:
    """From the original files, by class folder: every step between file and metric is that of inference."""
    from src.data.load import load_data

    config = load_config(photo_run.folder / "config.yaml")
    data = load_data(config.dataset, config.model.image_size, lambda items, total, text: iter(items))
    predictor = Predictor(photo_run, "cpu")
    right = total = 0
    for read, probabilities, errors in predictor.predict_files(data.val.files, batch_size=4):
        assert not errors
        for path, row in zip(read, probabilities, strict=True):
            right += predictor.top(row, 1)[0][0] == path.parent.name
            total += 1
    assert total == len(data.val) and right / total == photo_run.val_acc


def test_preprocessing_and_classes_come_from_the_run_alone(photo_run: SavedRun, tmp_path: Path) -> None:
    copied = SavedRun(Path(shutil.copytree(photo_run.folder, tmp_path / "copy")), "finished", photo_run.facts)
    config = tmp_path / "copy" / "config.yaml"
    config.write_text(config.read_text().replace("photos [ä]", "gone"))
    images = torch.randint(256, (3, 3, 16, 16), dtype=torch.uint8)
    assert torch.equal(Predictor(copied, "cpu").predict(images), Predictor(photo_run, "cpu").predict(images))


def test_kernels_are_chosen_by_the_work_of_a_batch_and_of_all_images(
    photo_run: SavedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen: list[tuple[Work, Wanted]] = []

    def choose(model: object, work: Work, wanted: Wanted) -> Trial:
        chosen.append((work, wanted))
        return Trial(Kernels("float32", "torch", "fused", 1), "")

    monkeypatch.setattr("src.predict.predictor.choose_kernels", choose)
    predictor = Predictor(photo_run, "cpu", Wanted(attention="whole"))
    for batch_size in (1, 64):
        predictor.choose_computing(batch_size, 3)
    wanted = Wanted("float32", attention="whole")
    assert chosen == [(Work(size, 3, training=False), wanted) for size in (1, 3)]


def test_the_precision_is_that_of_the_training_where_the_processor_has_it(
    photo_run: SavedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied = SavedRun(Path(shutil.copytree(photo_run.folder, tmp_path / "copy")), "finished", photo_run.facts)
    config = copied.folder / "config.yaml"
    config.write_text(config.read_text().replace("precision: float32", "precision: bf16"))
    for has_bf16, wanted, expected in (
        (True, "auto", torch.bfloat16),
        (True, "float32", torch.float32),
        (False, "auto", torch.float32),
        (False, "bf16", torch.bfloat16),
    ):
        monkeypatch.setattr("src.machine.kernels.has_bf16", lambda device, answer=has_bf16: answer)
        assert Predictor(copied, "cpu", Wanted(wanted)).precision == expected
    config.write_text(config.read_text().replace("precision: bf16", "precision: fp16"))
    assert Predictor(copied, "cpu").precision == torch.float32, "fp16 is of a GPU"


def test_every_kind_of_image_file_is_predicted(photo_run: SavedRun, tmp_path: Path) -> None:
    files = list(save_variants(tmp_path).values())
    read, probabilities, errors = next(Predictor(photo_run, "cpu").predict_files(files, batch_size=64))
    assert read == files and not errors
    assert torch.allclose(probabilities.sum(1), torch.ones(len(files)))
    assert (probabilities - probabilities[0]).abs().max() < 0.05


def test_damaged_weights_are_named(photo_run: SavedRun, tmp_path: Path) -> None:
    copied = SavedRun(Path(shutil.copytree(photo_run.folder, tmp_path / "copy")), "finished", photo_run.facts)
    (copied.folder / "checkpoints" / "best.safetensors").write_bytes(b"damaged")
    with pytest.raises(ValueError, match="the weights of .* are damaged or of another model"):
        Predictor(copied, "cpu")


def test_a_damaged_run_is_explained_in_a_sentence(photo_run: SavedRun, tmp_path: Path) -> None:
    for name, text in (("config.yaml", "a: ["), ("preprocessing.json", '{"colour": 1}'), ("classes.json", "")):
        copied = SavedRun(Path(shutil.copytree(photo_run.folder, tmp_path / name)), "finished", photo_run.facts)
        (copied.folder / name).write_text(text)
        with pytest.raises(ValueError, match="the run .* is damaged"):
            Predictor(copied, "cpu")


def test_names_that_are_not_utf8_are_predicted(place: Path, tmp_path: Path) -> None:
    odd = os.fsencode(tmp_path) + b"/caf\xe9.png"
    with open(odd, "wb") as file:
        make_picture(COLORS["red"], 1).save(file, "png")
    result = infer(place, "run=latest", f"input={tmp_path}", f"output={tmp_path}/out.csv")
    assert result.returncode == 0, result.stderr
    assert odd in (tmp_path / "out.csv").read_bytes()
    assert "caf?.png" in infer(place, "run=latest", f"input={tmp_path}/caf*.png").stdout


def test_inputs_are_files_folders_and_globs(place: Path) -> None:
    pictures = place / "pictures"
    jpgs = sorted((pictures / "deep").iterdir())
    assert find_inputs(str(pictures)).files == [pictures / "broken.png", *jpgs]
    assert find_inputs(str(pictures / "deep" / "*.JPG")).files == jpgs
    assert find_inputs(str(pictures / "**" / "*.JPG")).files == jpgs
    assert find_inputs(str(jpgs[0])).files == [jpgs[0]]
    for nothing in ("*.tif", "nowhere"):
        with pytest.raises(FileNotFoundError, match=r"no image matches|there is no file or folder"):
            find_inputs(str(pictures / nothing))


def test_a_folder_is_predicted_into_a_table_and_nothing_else_is_written(place: Path, tmp_path: Path) -> None:
    before = listing(place)
    output = tmp_path / "out.csv"
    result = infer(place, "run=latest", "input=pictures", f"output={output}", "topk=2")
    assert result.returncode == 0, result.stderr
    rows = list(csv.DictReader(output.read_text().splitlines()))
    assert list(rows[0]) == ["file", "class", "confidence", "class_2", "confidence_2"]
    assert [row["file"] for row in rows] == [f"pictures/deep/{name}.JPG" for name in COLORS]
    assert all(float(row["confidence"]) >= float(row["confidence_2"]) for row in rows)
    assert "left out: pictures/broken.png: not an image" in result.stderr
    assert listing(place) == before
    assert infer(place, "run=best", "input=pictures", f"output={output.with_suffix('.json')}").returncode == 0
    records = json.loads(output.with_suffix(".json").read_text())
    assert [(r["file"], r["class"], round(r["confidence"], 3)) for r in records] == [
        (row["file"], row["class"], round(float(row["confidence"]), 3)) for row in rows
    ]


@pytest.fixture
def mixed(place: Path, tmp_path: Path) -> Path:
    """Six files that look like images, and what a folder of photos holds besides."""
    folder = tmp_path / "mixed"
    shutil.copytree(place / "pictures", folder)
    for name in ("a.png", "b.png"):
        make_picture(COLORS["blue"], 3).save(folder / name)
    for name in ("list.txt", "clip.mov", "README", ".DS_Store"):
        (folder / name).write_text("no image")
    return folder


def test_a_folder_is_accounted_for_file_by_file(place: Path, mixed: Path, tmp_path: Path) -> None:
    result = infer(place, "run=latest", f"input={mixed}", f"output={tmp_path}/out.csv")
    assert result.returncode == 0
    assert result.stdout.splitlines()[-2:] == [
        f"5 predictions written to {tmp_path}/out.csv",
        "5 images predicted, 1 unreadable, 5 other files",
    ]
    reasons = "2 not an image (.txt), 1 hidden, 1 not an image (.mov), 1 not an image (no extension)"
    counted, listed = result.stderr.splitlines()[0].split(" left out: ")
    assert counted == "5 files" and sorted(listed.split(", ")) == sorted(reasons.split(", "))
    assert f"left out: {mixed}/broken.png: not an image" in result.stderr
    matched = infer(place, "run=latest", f"input={mixed}/*")  # of the folder in it, too
    assert matched.stdout.splitlines()[-1] == "5 images predicted, 1 unreadable, 4 other files"
    answered = infer(place, "run=latest", answers=f"{mixed}\n")
    assert "5 images predicted, 1 unreadable, 5 other files" in answered.stdout
    nothing = infer(place, "run=latest", f"input={mixed}/*.txt")
    assert nothing.stderr == f"error: no image matches {mixed}/*.txt; 2 files left out: 2 not an image (.txt)\n"


@pytest.mark.parametrize("suffix", ["csv", "json"])
def test_rows_are_written_as_they_come_and_kept_at_ctrl_c(
    suffix: str, place: Path, mixed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / f"out.{suffix}"
    output.write_text("of yesterday, and longer than what is written today: " + 1000 * "x")
    seen: list[str] = []
    predict = Predictor.predict

    def press_later(self: Predictor, images: torch.Tensor) -> torch.Tensor:
        seen.append(output.read_text())
        if len(seen) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return predict(self, images)

    monkeypatch.setattr(Predictor, "predict", press_later)
    result = infer(place, "run=latest", f"input={mixed}", f"output={output}", "batch_size=2")
    assert result.returncode == 130 and "Traceback" not in result.stderr
    assert result.stdout.splitlines()[-3:] == [
        "stopped by Ctrl-C after 4 of 6 files",
        f"3 predictions written to {output}",
        "3 images predicted, 1 unreadable, 5 other files",
    ]
    rows = json.loads(output.read_text()) if suffix == "json" else csv.DictReader(output.read_text().splitlines())
    assert [Path(row["file"]).name for row in rows] == ["a.png", "b.png", "blue.JPG"]
    assert [text.count("\n") for text in seen] == ([0, 3, 4] if suffix == "csv" else [0, 0, 0])
    assert seen[0].startswith("of yesterday") and not list(tmp_path.glob(".*"))


def test_an_output_that_cannot_be_written_is_refused_before_the_model_is_loaded(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("src.run.best.load_file", lambda path: pytest.fail("the weights were read"))
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "link.csv").symlink_to(tmp_path / "nowhere" / "out.csv")
    for name, reason in (
        ("folder.csv", f"output={tmp_path}/folder.csv is a folder; name a file, such as"),
        ("link.csv", f"output={tmp_path}/link.csv cannot be written: No such file or directory"),
        ("no/out.json", f"output={tmp_path}/no/out.json: the folder {tmp_path}/no does not exist"),
        ("x" * 252 + ".json", f"output={tmp_path}/{'x' * 252}.json cannot be written: File name too long"),
    ):
        result = infer(place, "run=latest", "input=pictures", f"output={tmp_path / name}")
        assert result.returncode == 1 and result.stderr.startswith(f"error: {reason}")
    assert (tmp_path / "link.csv").is_symlink()


@pytest.mark.parametrize("suffix", ["csv", "json"])
def test_ctrl_c_while_the_model_is_imported_leaves_no_empty_output(
    suffix: str, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def import_slowly(*_: object) -> None:
        importlib.import_module("pressed_library")
        while True:
            pass

    (tmp_path / "pressed_library.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "pressed_library", raising=False)
    monkeypatch.setattr("src.predict.session.open_predictor", import_slowly)
    result = infer(place, "run=latest", "input=pictures", f"output={tmp_path}/out.{suffix}")
    assert result.returncode == 130 and not list(tmp_path.glob("*out*"))


@pytest.mark.parametrize("suffix", ["csv", "json"])
def test_without_a_prediction_the_output_is_as_before(suffix: str, place: Path, tmp_path: Path) -> None:
    output = tmp_path / f"out.{suffix}"
    for content in (None, "of yesterday"):
        if content:
            output.write_text(content)
        result = infer(place, "run=latest", "input=pictures/broken.png", f"output={output}")
        assert result.returncode == 1 and "none of 1 file(s) is a readable image" in result.stderr
        assert (output.read_text() if output.exists() else None) == content
        assert not list(tmp_path.glob(".*"))


def test_the_json_table_is_what_json_itself_writes(tmp_path: Path) -> None:
    rows: list[dict[str, str | float]] = [{"file": "a\u2028b \udce9.png", "class": "ä"}, {"file": "c", "confidence": 1}]
    with open_output(tmp_path / "out.json") as add:
        for part in (rows[:1], [], rows[1:]):
            add(part)
    expected = json.dumps(rows, indent=2, ensure_ascii=False) + "\n"
    assert (tmp_path / "out.json").read_bytes() == expected.encode("utf-8", "surrogateescape")


@pytest.mark.parametrize(("code", "expected"), [(errno.EPIPE, 0), (errno.ENOSPC, 1)])
def test_a_closed_pipe_ends_predictions_quietly_and_a_full_disk_with_a_sentence(
    code: int, expected: int, place: Path, mixed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("src.predict.session.write_error", lambda stream: OSError(code, os.strerror(code)))
    result = infer(place, "run=latest", f"input={mixed}", "batch_size=3")
    assert result.returncode == expected and "green.JPG" not in result.stdout, "only the first three files"
    assert ("error: the predictions cannot be printed: No space left" in result.stderr) == bool(expected)


def test_the_prediction_of_an_image_is_shown_with_bars(place: Path) -> None:
    result = infer(place, "run=outputs/day/time", "input=pictures/deep/red.JPG", "topk=3")
    assert result.returncode == 0
    lines = result.stdout.splitlines()
    assert lines[-4] == "pictures/deep/red.JPG" and all("%" in line for line in lines[-3:])


def test_answers_can_be_piped_in(place: Path) -> None:
    """Wrong number, wrong file, no image, an image, another run, the default run, the end of the input."""
    before = listing(place)
    answers = "7\n\nnowhere.png\npictures/broken.png\n'pictures/deep/red.JPG'\nr\nx\n1\npictures/deep\n"
    result = infer_in_a_process(place, answers=answers)
    assert result.returncode == 0, result.stderr
    for sentence in (
        "'7' is not a number in the table",
        "there is no file or folder nowhere.png",
        "left out: pictures/broken.png: not an image",
        "'x' is not a number in the table",
    ):
        assert sentence in result.stdout
    assert result.stdout.count("pictures/deep/red.JPG\n") == 2 and result.stdout.count("%") > 12
    assert result.stdout.count("data set") == 2, "the table is shown again for another run"
    assert listing(place) == before


def test_a_stopped_run_is_usable_and_marked(place: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(place / "outputs", tmp_path / "outputs") / "day" / "time"
    status = json.loads((folder / "status.json").read_text()) | {"status": "stopped", "epoch": 1}
    (folder / "status.json").write_text(json.dumps(status))
    assert "stopped" in infer(tmp_path, "task=list").stdout
    result = infer(tmp_path, "run=latest", f"input={place}/pictures/deep/red.JPG")
    assert "stopped in epoch 1 of 2" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((), "no runs in outputs or multirun; train one first: python train.py"),
        (("run=nowhere", "input=x.png"), "there is no file or folder x.png"),
        (("output=out.csv",), "output is given without input"),
        (("input=.", "output=out.xlsx"), "output=out.xlsx must end in .csv or .json"),
        (("input=https://a.b/c.jpg",), "input=https://a.b/c.jpg is an address, and nothing is downloaded; download it"),
        (("input=file:///tmp/c.jpg",), "input=file:///tmp/c.jpg is an address; type the path alone: input=/tmp/c.jpg"),
        (("topk=0",), "topk=0 must be at least 1"),
        (("top_k=3",), "top_k is not a key. Did you mean topk?"),
        (("task=prediction",), "task=prediction is not an option. Did you mean task=predict?"),
    ],
)
def test_mistakes_are_explained_in_a_sentence(arguments: tuple[str, ...], sentence: str, tmp_path: Path) -> None:
    result = infer(tmp_path, *arguments)
    assert result.returncode == 1 and f"error: {sentence}" in result.stderr
    assert "Traceback" not in result.stderr and not list(tmp_path.iterdir())
