"""The run directory after training: what is in it, that it is true, and that finding runs is quick."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import TINY, compose, photo_overrides, train_run
from PIL import Image
from safetensors.torch import load_file

from src import evaluate
from src.config.compose import load_config
from src.engine.trainer import Trainer
from src.machine.disk import read_json, short_path, write_json
from src.model import VisionTransformer
from src.run import files
from src.run.files import remove_results
from src.run.history import History
from src.run.job import Job
from src.run.saved import SavedRun, best_run, choose_run, find_runs, read_run
from train import train

COLUMNS = "epoch,lr,train_loss,train_acc,val_loss,val_acc,val_precision,val_recall,val_f1,images_per_second,seconds"


def test_a_run_leaves_everything_the_design_promises(photo_run: SavedRun) -> None:
    for name in [
        "config.yaml",
        "classes.json",
        "preprocessing.json",
        "status.json",
        "environment.json",
        "metrics.csv",
        "curves.png",
        "train.log",
        "checkpoints/best.safetensors",
        "checkpoints/last.pt",
        "test/metrics.json",
        "test/predictions.csv",
        "test/per_class.csv",
        "test/confusion_matrix.png",
        "figures/predictions.png",
        "figures/attention.png",
        "figures/position_embeddings.png",
        "figures/patch_filters.png",
        "figures/augmentations.png",
    ]:
        assert (photo_run.folder / name).stat().st_size > 0, name
    assert list((photo_run.folder / "tensorboard").glob("events*"))
    assert not list(photo_run.folder.rglob("*.tmp"))
    for picture in photo_run.folder.rglob("*.png"):
        assert np.asarray(Image.open(picture).convert("L")).std() > 5, f"{picture} is blank"


def test_metrics_have_a_row_per_epoch_in_fractions(photo_run: SavedRun) -> None:
    lines = (photo_run.folder / "metrics.csv").read_text().splitlines()
    rows = [{key: float(value) for key, value in row.items()} for row in csv.DictReader(lines)]
    assert lines[0] == COLUMNS
    assert [row["epoch"] for row in rows] == [1, 2]
    assert all(0 <= row[key] <= 1 for row in rows for key in COLUMNS.split(",") if key.endswith(("acc", "f1")))
    assert rows[0]["seconds"] < rows[1]["seconds"]


def test_status_and_test_results_agree(photo_run: SavedRun) -> None:
    status = json.loads((photo_run.folder / "status.json").read_text())
    test = json.loads((photo_run.folder / "test/metrics.json").read_text())
    rows = list(csv.DictReader((photo_run.folder / "metrics.csv").read_text().splitlines()))
    assert status["status"] == "finished" and status["error"] is None and status["epoch"] == 2
    assert status["best_val_acc"] == max(float(row["val_acc"]) for row in rows)
    assert status["test_acc"] == test["accuracy"]
    interval = ["accuracy_low", "accuracy_high", "images"]
    means = ["mean_class_accuracy", "macro_precision", "macro_recall", "macro_f1"]
    assert list(test) == ["loss", "accuracy", *interval, *means]
    assert 0 < test["accuracy_low"] < test["accuracy"] <= test["accuracy_high"] <= 1
    per_class = list(csv.DictReader((photo_run.folder / "test/per_class.csv").read_text().splitlines()))
    assert [row["class"] for row in per_class] == ["blue", "green", "red"]
    assert np.mean([float(row["f1"]) for row in per_class]) == pytest.approx(test["macro_f1"])


def test_predictions_are_kept_for_each_test_image_by_its_path_below_the_root(photo_run: SavedRun) -> None:
    rows = list(csv.DictReader((photo_run.folder / "test/predictions.csv").read_text().splitlines()))
    test = json.loads((photo_run.folder / "test/metrics.json").read_text())
    root = Path(str(load_config(photo_run.folder / "config.yaml").dataset.root))
    assert list(rows[0]) == ["image", "file", "class", "predicted", "confidence", "correct"]
    assert all(Path(row["file"]).samefile(root / row["image"]) for row in rows), "as it can be opened from here"
    assert all((root / row["image"]).is_file() and row["image"].split("/")[0] == row["class"] for row in rows)
    assert len({row["image"] for row in rows}) == len(rows)
    assert [row["correct"] for row in rows] == [str(int(row["class"] == row["predicted"])) for row in rows]
    assert sum(row["correct"] == "1" for row in rows) / len(rows) == pytest.approx(test["accuracy"])
    assert all(1 / 3 < float(row["confidence"]) <= 1 and len(row["confidence"]) == 8 for row in rows)


def test_nothing_of_the_test_is_left_where_results_are_removed(photo_run: SavedRun, tmp_path: Path) -> None:
    shutil.copytree(photo_run.folder / "test", tmp_path / "test")
    remove_results(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("stem", ["conv", "overlap"])
def test_figures_are_drawn_for_the_other_kinds_of_model_too(stem: str, photos: Path, tmp_path: Path) -> None:
    kind = [f"model.stem={stem}", "model.pooling=mean", "model.position_embedding=sincos2d", "model.num_registers=2"]
    run = train_run(tmp_path / stem, *photo_overrides(photos), *kind, "training.epochs=1", "training.tensorboard=false")
    names = {path.name for path in (run.folder / "figures").iterdir()}
    kinds = ("augmentations", "predictions", "attention", "position_embeddings", "patch_filters")
    assert names == {f"{kind}.png" for kind in kinds}


@pytest.mark.usefixtures("empty_pictures")
def test_layer_decay_without_weights_is_warned_about(tmp_path: Path) -> None:
    given = ["init.layer_decay=0.75", "training.epochs=1", "training.batch_size=600", "training.tensorboard=false"]
    run = train_run(tmp_path / "scratch", *TINY, *given)
    assert "init.layer_decay without init.weights" in (run.folder / "train.log").read_text()


@pytest.mark.usefixtures("empty_pictures")
def test_patches_are_dropped_until_the_last_share_of_the_epochs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drop_patches, rates = VisionTransformer._drop_patches, []

    def watch(model: VisionTransformer, x: torch.Tensor) -> torch.Tensor:
        rates.append(model.patch_dropout)
        return drop_patches(model, x)

    monkeypatch.setattr(VisionTransformer, "_drop_patches", watch)
    given = ["training.patch_dropout=0.5", "training.patch_dropout_off_share=0.25", "training.batch_size=600"]
    train_run(tmp_path / "dropped", *TINY, *given, "training.epochs=4", "training.tensorboard=false")
    assert rates == [0.5] * (1 + 3 * 2), "a trial, and three of four epochs of two steps"


@pytest.mark.usefixtures("empty_pictures")
def test_top5_accuracy_is_there_for_more_than_five_classes(tmp_path: Path) -> None:
    run = train_run(tmp_path / "digits", "dataset=digits", *TINY, "training.epochs=1", "training.tensorboard=false")
    test = json.loads((run.folder / "test/metrics.json").read_text())
    assert test["accuracy"] < test["top5_accuracy"] < 1
    rows = list(csv.DictReader((run.folder / "test/predictions.csv").read_text().splitlines()))
    assert [row["image"] for row in rows] == [str(i) for i in range(len(rows))] and len(rows) > 300
    assert not (run.folder / "tensorboard").exists()


def test_checkpoints_load_without_executing_code(photo_run: SavedRun) -> None:
    last = torch.load(photo_run.folder / "checkpoints/last.pt", weights_only=True)
    best = load_file(photo_run.folder / "checkpoints/best.safetensors")
    assert set(last) == {"trainer", "run"} and [row["epoch"] for row in last["run"]["rows"]] == [1, 2]
    assert last["run"]["best"]["epoch"] == photo_run.facts["best_epoch"] and len(best) > 10


def test_the_saved_configuration_holds_what_the_data_told(photo_run: SavedRun) -> None:
    config = load_config(photo_run.folder / "config.yaml")
    assert (config.model.num_classes, config.model.in_channels, config.model.image_size) == (3, 3, (16, 16))
    assert config.dataset.root and config.dataset.root.endswith("photos [ä]")
    look = json.loads((photo_run.folder / "preprocessing.json").read_text())
    assert look["mean"] == config.dataset.mean and look["size"] == [16, 16]


def test_tensorboard_holds_each_epochs_metrics_and_rate_at_that_epoch(photo_run: SavedRun) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(photo_run.folder / "tensorboard"))
    events.Reload()
    for name in ("val_acc", "lr"):
        assert [event.step for event in events.Scalars(name)] == [1, 2]


@pytest.mark.usefixtures("empty_pictures")
def test_the_same_command_gives_the_same_numbers(photo_run: SavedRun, tmp_path: Path) -> None:
    root = load_config(photo_run.folder / "config.yaml").dataset.root
    again = train_run(tmp_path / "again", *photo_overrides(str(root)))
    first, second = (load_file(run.folder / "checkpoints/best.safetensors") for run in (photo_run, again))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_check_reports_and_leaves_no_run(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (photos / "red" / "broken.jpg").write_bytes(b"")
    (tmp_path / "run").mkdir()
    config = compose("dataset=image_folder", f"dataset.root='{photos}'", "check=true")
    train(config, Job(tmp_path / "run", [], {}))
    shown = capsys.readouterr().out
    assert "unreadable files: 1\n" in shown and "broken.jpg: not an image" in shown
    assert "notes.txt: not an image (.txt)" in shown and not list((tmp_path / "run").iterdir())


def test_a_check_into_a_folder_also_writes_what_it_prints_and_two_pictures(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (photos / "red" / "broken.jpg").write_bytes(b"")
    folder = tmp_path / "report"
    config = compose("dataset=image_folder", f"dataset.root='{photos}'", f"check='{folder}'")
    train(config, Job(tmp_path / "run", [], {}))
    shown, report = capsys.readouterr().out, read_json(folder / "report.json")
    assert shown.endswith(f"\n\nwritten   {short_path(folder)}\n") and not (tmp_path / "run").exists()
    counts = {row.pop("class"): row for row in report["counts"]}
    assert list(counts) == ["blue", "green", "red"] and counts["blue"] == {"train": 8, "val": 2, "test": 2}
    for section in report["sections"]:
        assert "\n".join([section["heading"], *(f"  {line}" for line in section["lines"])]) in shown
    assert report["sections"][2] == {
        "heading": "unreadable files: 1",
        "lines": [f"{photos}/red/broken.jpg: not an image"],
    }
    assert report["sections"][-1]["lines"] == report["warnings"]
    assert report["summary"].startswith("8 to 9 training images per class; 20 x 16 px")
    assert report["pictures"] == ["samples.png", "augmentations.png"] and report["left_out"] == {}
    assert {path.name for path in folder.iterdir()} == {"report.json", *report["pictures"]}
    assert all(np.asarray(Image.open(folder / name).convert("L")).std() > 5 for name in report["pictures"])


def test_a_check_without_readable_training_images_says_so_instead_of_pictures(photos: Path, tmp_path: Path) -> None:
    root, folder = tmp_path / "split", tmp_path / "report"
    for split in ("train", "val", "test"):
        shutil.copytree(photos, root / split)
    for path in (root / "train").rglob("*.png"):
        path.write_bytes(b"broken")
    folder.mkdir()
    (folder / "samples.png").touch()  # of an earlier check
    config = compose("dataset=image_folder", f"dataset.root='{root}'", "dataset.image_size=16", f"check='{folder}'")
    train(config, Job(tmp_path / "run", [], {}))
    report = read_json(folder / "report.json")
    assert [path.name for path in folder.iterdir()] == ["report.json"] and report["pictures"] == []
    why = "there is no readable training image"
    assert report["left_out"] == {"samples.png": why, "augmentations.png": why}
    assert report["counts"][0] == {"class": "blue", "train": 0, "val": 12, "test": 12}
    assert report["warnings"][0].startswith("the train split is empty: too few images (36 are unreadable")


@pytest.mark.usefixtures("empty_pictures")
def test_a_check_leaves_out_samples_that_can_no_longer_be_read(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, *_: object) -> bytes:
        raise PermissionError(f"{path.name}: Permission denied")

    monkeypatch.setattr("src.data.report.read_content", refuse)
    config = compose(*photo_overrides(photos), f"check='{tmp_path / 'report'}'")
    train(config, Job(tmp_path / "run", [], {}))
    report = read_json(tmp_path / "report" / "report.json")
    assert report["pictures"] == ["augmentations.png"]
    assert report["left_out"]["samples.png"].endswith(".png: Permission denied")


@pytest.mark.usefixtures("empty_pictures")
def test_samples_are_whole_pictures_of_every_class_as_their_files_have_them(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (photos / "rare").mkdir()
    for i in range(3):
        Image.new("RGB", (640, 320), (0, 0, 80 * i)).save(photos / "rare" / f"{i}.png")
    drawn: list[tuple[list[np.ndarray], list[str]]] = []
    monkeypatch.setattr(evaluate, "plot_samples", lambda images, names, path: drawn.append((images, names)))
    config = compose(*photo_overrides(photos), f"check='{tmp_path / 'report'}'")
    train(config, Job(tmp_path / "run", [], {}))
    ((images, names),) = drawn
    assert names == ["blue"] * 8 + ["green"] * 8 + ["rare"] + ["red"] * 8
    files = {np.asarray(Image.open(path)).tobytes() for path in photos.glob("[bgr]*[en]/*.png")}
    files |= {np.asarray(Image.open(path)).tobytes() for path in (photos / "red").glob("[0-9]*.png")}
    for image, name in zip(images, names, strict=True):
        assert image.shape == (128, 256, 3) if name == "rare" else image.tobytes() in files


@pytest.mark.usefixtures("empty_pictures")
def test_a_check_shows_the_first_batch_that_the_run_will_train_on(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[tuple[np.ndarray, list[list[tuple[str, float]]]]] = []
    trained: list[tuple[torch.Tensor, torch.Tensor]] = []
    forward = Trainer._forward

    def record(trainer: Trainer, images: torch.Tensor, targets: torch.Tensor, *rest: Any) -> Any:
        trained.append((images, targets))
        return forward(trainer, images, targets, *rest)

    monkeypatch.setattr(Trainer, "_forward", record)
    monkeypatch.setattr(evaluate, "plot_augmentations", lambda images, labels, path: drawn.append((images, labels)))
    augmentation = ["augmentation=strong", "augmentation.mixup=1", "augmentation.repeats=2", "seed=3"]
    learning = ["training.sampler=balanced", "training.batch_size=16", "training.epochs=1"]
    overrides = [*photo_overrides(photos), *augmentation, *learning]
    train(compose(*overrides, f"check='{tmp_path / 'report'}'"), Job(tmp_path / "run", [], {}))
    assert not trained
    run = train_run(tmp_path / "run", *overrides)
    (checked, labels), (again, same_labels) = drawn
    assert np.array_equal(checked, again) and labels == same_labels
    images, targets = trained[0]
    look = read_json(run.folder / "preprocessing.json")
    mean, std = (torch.tensor(look[key]).view(-1, 1, 1) for key in ("mean", "std"))
    levels = ((images * std + mean) * 255).clamp(0, 255).permute(0, 2, 3, 1).numpy()
    assert len(checked) == 16 and np.abs(checked - levels).max() < 0.51
    assert labels == [evaluate._describe_target(target, ["blue", "green", "red"]) for target in targets]
    assert any(len(label) == 2 for label in labels), "some are mixed"


@pytest.mark.parametrize(
    ("counts", "count", "expected"),
    [([50, 2, 50], 8, [3, 2, 3]), ([5, 0, 1], 32, [5, 0, 1]), ([3] * 9, 5, [1, 0] * 4 + [1]), ([0, 0], 8, [0, 0])],
)
def test_what_is_shown_is_spread_over_the_classes(counts: list[int], count: int, expected: list[int]) -> None:
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts)).flip(0)
    chosen, shown = evaluate._spread(labels, count)
    assert torch.equal(labels[chosen], shown) and torch.equal(shown, shown.sort().values)
    assert len(chosen.unique()) == len(chosen) and shown.bincount(minlength=len(counts)).tolist() == expected


@pytest.mark.usefixtures("empty_pictures")
@pytest.mark.parametrize("key", ["class_weights", "sampler"])
def test_balanced_classes_train_with_every_augmentation(key: str, photos: Path, tmp_path: Path) -> None:
    overrides = [*photo_overrides(photos), f"training.{key}=balanced", "augmentation=strong", "augmentation.repeats=2"]
    run = train_run(tmp_path / "uneven", *overrides, "training.epochs=1")
    assert run.status == "finished" and (run.folder / "figures/augmentations.png").is_file()


def test_broken_data_leaves_no_run(photos: Path, tmp_path: Path) -> None:
    (photos / "red" / "00.png").write_bytes(b"broken")
    folder = tmp_path / "run"
    folder.mkdir()
    with pytest.raises(OSError, match="unreadable"):
        train(compose("dataset=image_folder", f"dataset.root='{photos}'", *TINY), Job(folder, [], {}))
    assert not list(folder.iterdir())


def save_fake_run(
    folder: Path, started: str, val_acc: float, dataset: str = "digits", status: str = "finished"
) -> Path:
    facts = {"status": status, "started": started, "dataset": dataset, "root": None, "best_val_acc": val_acc}
    facts |= {"epoch": 1, "epochs": 1, "parameters": 5, "host": "elsewhere", "pid": 1}
    write_json(folder / files.STATUS, facts)
    (folder / files.BEST).parent.mkdir()
    (folder / files.BEST).touch()
    return folder


def test_latest_is_the_newest_and_best_the_best_of_its_data_set(tmp_path: Path) -> None:
    roots = [str(tmp_path / "outputs"), str(tmp_path / "multirun")]
    save_fake_run(tmp_path / "outputs/a", "2026-01-03T00:00:00", 0.9)
    best = save_fake_run(tmp_path / "multirun/x/0", "2026-01-02T00:00:00", 0.95)
    save_fake_run(tmp_path / "outputs/b", "2026-01-01T00:00:00", 0.99, dataset="mnist")
    runs = find_runs(roots)
    assert [run.started[8:10] for run in runs] == ["03", "02", "01"]
    assert choose_run("latest", roots).folder == tmp_path / "outputs/a"
    assert choose_run("best", roots).folder == best == best_run(runs).folder
    with pytest.raises(FileNotFoundError, match="is not a run"):
        choose_run(str(tmp_path), roots)
    with pytest.raises(FileNotFoundError, match="train one first: python train.py"):
        choose_run("latest", [str(tmp_path / "nothing")])


def test_of_runs_with_equal_accuracy_the_best_has_the_lower_loss_and_one_without_is_never_best(tmp_path: Path) -> None:
    for name, val_acc, loss in (("a", 0.9, 0.3), ("b", 0.9, 0.2), ("c", None, 0.1), ("d", float("nan"), 0.1)):
        folder = save_fake_run(tmp_path / name, "2026-01-01", 0.5)
        write_json(folder / files.STATUS, read_run(folder).facts | {"best_val_acc": val_acc, "best_val_loss": loss})
    assert choose_run("best", [str(tmp_path)]).folder == tmp_path / "b"


def test_a_folder_is_named_relative_to_the_working_directory_only_if_it_is_below(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    inside, outside = tmp_path / "work/outputs/..a", tmp_path / "workshop/a"
    assert [short_path(path) for path in (inside, outside, Path("outputs"), Path("../x"))] == [
        *("outputs/..a", str(outside), "outputs", "../x")
    ]


def test_damaged_and_weightless_runs_are_passed_over(tmp_path: Path) -> None:
    good = save_fake_run(tmp_path / "good", "2026-01-01", 0.5)
    (save_fake_run(tmp_path / "damaged", "2026-01-01", 0.5) / files.STATUS).write_text("{")
    (save_fake_run(tmp_path / "empty", "2026-01-01", 0.5) / files.BEST).unlink()
    assert [run.folder for run in find_runs([str(tmp_path)])] == [good]


def test_a_thousand_runs_are_found_newest_first(tmp_path: Path) -> None:
    for i in range(1000):
        save_fake_run(tmp_path / f"{i:04d}", f"2026-01-01T00:{i // 60:02d}:{i % 60:02d}", i / 1000)
    runs = find_runs([str(tmp_path)])
    assert len(runs) == 1000 and runs[0].val_acc == 0.999


def test_curves_of_short_epochs_are_drawn_at_times_and_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, drawn = [100.0], []

    def draw(columns: dict[str, list[float]], path: Path) -> None:
        drawn.append(len(columns["epoch"]))
        clock[0] += 1.0

    monkeypatch.setattr("src.plots.curves.plot_curves", draw)
    monkeypatch.setattr("src.run.history.time.monotonic", lambda: clock[0])
    history, rows = History(tmp_path, []), [{"epoch": float(number)} for number in range(1, 10)]
    for number in range(1, 9):
        history.append(rows[:number])
        clock[0] += 1.5
    assert drawn == [1, 4, 7], "a fifth of the time"
    history.append(rows)
    history.finish()
    history.finish()
    assert drawn == [1, 4, 7, 9]
