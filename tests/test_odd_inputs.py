"""All odd inputs of `odd_inputs.py`, through checking, training and predicting."""

from pathlib import Path

import odd_inputs
import pytest
from helpers import TINY, compose, train_run
from test_predict import infer

from src.data.load import load_data
from src.data.report import inspect_data
from src.machine.disk import read_csv
from src.predict.inputs import find_inputs
from src.run.saved import read_run

SMALL = [*TINY, "dataset.image_size=8", "training.epochs=1", "training.batch_size=32"]
pytestmark = pytest.mark.usefixtures("empty_pictures")


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("odd")
    for title, make in odd_inputs.MAKERS.items():
        make(root / title)
    return root


def folder(root: Path) -> list[str]:
    return ["dataset=image_folder", f"dataset.root='{root}'"]


def test_every_good_picture_is_trained_on_and_predicted_and_nothing_else(odd: Path, tmp_path: Path) -> None:
    count = len(odd_inputs.CLASSES) * len(odd_inputs.GOOD)
    run = train_run(tmp_path / "run", *folder(odd / "photos"), *SMALL, "dataset.on_error=refuse")
    log = (run.folder / "train.log").read_text()
    assert read_run(run.folder).status == "finished"
    tested = read_csv(run.folder / "test" / "predictions.csv")
    result = infer(tmp_path, f"run={run.folder}", f"input={odd / 'photos'}", f"output={tmp_path}/all.csv")
    predicted = read_csv(tmp_path / "all.csv")
    assert result.returncode == 0 and len(predicted) == count
    others = len(odd_inputs.CLASSES) * (len(odd_inputs.OTHER_FILES) + 1) + 2 * len(odd_inputs.SYSTEM_FOLDERS)
    assert result.stdout.splitlines()[-1] == f"{count} images predicted, {others} other files"
    by_file = {row["file"].removeprefix(f"{odd}/photos/"): row["class"] for row in predicted}
    for pattern in ("*", "**/*.*"):  # the second one names the files itself
        inputs = find_inputs(f"{odd / 'photos'}/{pattern}")
        assert len(inputs.files) == count - (pattern != "*") * len(odd_inputs.CLASSES)  # those without extension
    assert tested and all(by_file[row["image"]] == row["predicted"] for row in tested), "the same pixels"
    for note in ("WebP files end in zeros", "metadata cannot be read"):
        assert note in log


def test_every_broken_file_is_named_and_no_other(odd: Path, tmp_path: Path) -> None:
    root = tmp_path / "mixed"
    for name in ("a", "b"):
        odd_inputs.make_broken(root / name)
        for i in range(6):
            odd_inputs.picture((90, 90, 90), i).save(root / name / f"good_{i}.png")
    config = compose(*folder(root), *SMALL, f"dataset.cache_dir='{tmp_path}/cache'")
    data = load_data(config.dataset, (8, 8), lambda items, total, text: iter(items), inspecting=True)
    unreadable = inspect_data(data, 32).unreadable
    expected = {str(root / name / file) for name in ("a", "b") for file in odd_inputs.BROKEN}
    assert {line.partition(": ")[0] for line in unreadable} == expected


@pytest.mark.parametrize(
    ("kind", "key", "channels"),
    [
        ("last_axis", "dataset.axes=null", 6),
        ("first_axis", "dataset.axes=null", 6),
        ("pages", "dataset.pages=bands", 6),
        ("near_infrared", "dataset.channels=4", 4),
    ],
)
def test_the_band_that_tells_the_classes_apart_is_read(
    kind: str, key: str, channels: int, odd: Path, tmp_path: Path
) -> None:
    options = [*SMALL, "training.epochs=8", "training.lr=0.01", "augmentation=none"]
    run = train_run(tmp_path / "run", *folder(odd / "bands" / kind), *options, key)
    _, classes, look = run.load()
    assert look.channels == channels and run.val_acc == 1.0
    result = infer(tmp_path, f"run={run.folder}", f"input={odd / 'bands' / kind}", f"output={tmp_path}/all.csv")
    assert result.returncode == 0
    rows = read_csv(tmp_path / "all.csv")
    assert [row["class"] for row in rows] == [Path(row["file"]).parent.name for row in rows] and len(rows) == 16


@pytest.mark.parametrize("kind", ["12_bits", "16_bits"])
def test_classes_that_differ_in_a_few_of_many_levels_are_told_apart(kind: str, odd: Path, tmp_path: Path) -> None:
    options = [*SMALL, "training.epochs=8", "training.lr=0.01", "augmentation=none"]
    run = train_run(tmp_path / "run", *folder(odd / "depths" / kind), *options)
    result = infer(tmp_path, f"run={run.folder}", f"input={odd / 'depths' / kind}", f"output={tmp_path}/all.csv")
    rows = read_csv(tmp_path / "all.csv")
    right = [row["class"] == Path(row["file"]).parent.name for row in rows]
    assert result.returncode == 0 and len(right) == 16 and sum(right) >= 15
    other = infer(tmp_path, f"run={run.folder}", f"input={odd / 'depths' / '16_bits'}", f"output={tmp_path}/other.csv")
    clipped = "levels outside dataset.value_range are clipped to it (16 images)"
    assert (clipped in other.stdout + other.stderr) == (kind == "12_bits")


def test_every_table_says_the_same(odd: Path, tmp_path: Path) -> None:
    said = set()
    for table in odd_inputs.make_tables(tmp_path / "tables"):
        words = ["dataset=csv", f"dataset.table='{tmp_path}/tables/{table}'", "dataset.path_column=image"]
        config = compose(*words, *SMALL, f"dataset.cache_dir='{tmp_path}/cache'")
        data = load_data(config.dataset, (8, 8), lambda items, total, text: iter(items))
        said.add((tuple(data.classes), data.fingerprint()))
    assert len(said) == 1 and next(iter(said))[0] == ("cat", "dog, small")
