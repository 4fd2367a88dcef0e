"""`task=embed`: features in files, and the nearest neighbors of images, as a table and as a picture."""

import csv
import errno
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import COLORS, make_picture
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image
from pyarrow import parquet
from test_predict import infer

from src.plots.images import Shown, _draw_neighbors
from src.plots.style import RIGHT, WRONG
from src.predict.features import ROW_GROUP, open_features
from src.predict.load import load_model
from src.predict.neighbors import Image as Embedded
from src.predict.neighbors import Nearest
from src.predict.predictor import Predictor
from src.run.saved import SavedRun


@pytest.fixture(scope="module")
def place(photo_run: SavedRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run and, below `photos`, seven pictures in folders of classes, a broken one and other files."""
    folder = tmp_path_factory.mktemp("place")
    shutil.copytree(photo_run.folder, folder / "outputs" / "day" / "time")
    for name, color in COLORS.items():
        (folder / "photos" / name).mkdir(parents=True)
        for i in range(2):
            make_picture(color, i, (30, 20 + 10 * i)).save(folder / "photos" / name / f"{i}.png")
    make_picture(COLORS["red"], 5).save(folder / "photos" / "elsewhere.png")
    (folder / "photos" / "blue" / "broken.png").write_bytes(b"not an image")
    (folder / "photos" / "notes.txt").write_text("left out")
    return folder


@pytest.fixture
def here(place: Path, tmp_path: Path) -> Path:
    """A folder of its own for what a test writes, with the run and the photos."""
    for name in ("outputs", "photos"):
        (tmp_path / name).symlink_to(place / name)
    return tmp_path


def embed(here: Path, *words: str, code: int = 0) -> tuple[list[str], str]:
    """Return the lines on standard output, and standard error."""
    result = infer(here, "task=embed", "run=latest", *words)
    assert result.returncode == code, result.stderr
    return result.stdout.splitlines(), result.stderr


def read_table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_features_are_what_the_head_gets_in_the_order_of_the_table_beside_them(here: Path) -> None:
    lines, errors = embed(here, "input=photos", "output=features.npy")
    features, rows = np.load(here / "features.npy"), read_table(here / "features.files.csv")
    assert features.dtype == np.float32 and features.shape == (7, 16)
    files = sorted(path for path in (here / "photos").rglob("*.png") if path.stem != "broken")
    assert sorted(here / row["file"] for row in rows) == files
    model, preprocess, classes = load_model(here / "outputs" / "day" / "time")
    with torch.no_grad():
        expected = model.pool(model.forward_features(preprocess([here / row["file"] for row in rows])))
        probabilities = model.head(torch.from_numpy(features)).softmax(1)
    torch.testing.assert_close(torch.from_numpy(features), expected)
    for row, (confidence, index) in zip(rows, zip(*probabilities.max(1), strict=True), strict=True):
        assert row["predicted"] == classes[index] and float(row["confidence"]) == pytest.approx(confidence.item(), 1e-4)
        assert row["class"] == ("" if "elsewhere" in row["file"] else Path(row["file"]).parent.name)
    assert "left out: photos/blue/broken.png: not an image" in errors
    assert lines[-2:] == [
        "7 × 16 features written to features.npy, the files in the same order to features.files.csv",
        "7 images embedded, 1 unreadable, 1 other file",
    ]


def test_every_format_holds_the_same_numbers_to_the_bit(here: Path) -> None:
    for suffix in ("npy", "csv", "parquet"):
        embed(here, "input=photos", f"output=features.{suffix}", "batch_size=2")
    features, rows = np.load(here / "features.npy"), read_table(here / "features.files.csv")
    table = read_table(here / "features.csv")
    numbers = [[row.pop(f"feature_{i}") for i in range(16)] for row in table]
    assert table == rows and np.array_equal(np.array(numbers, np.float32), features)
    columns: dict[str, Any] = parquet.read_table(here / "features.parquet").to_pydict()
    assert np.array_equal(np.array(columns["embedding"], np.float32), features)
    assert columns["file"] == [row["file"] for row in rows]
    assert [name or "" for name in columns["class"]] == [row["class"] for row in rows]
    assert columns["confidence"] == pytest.approx([float(row["confidence"]) for row in rows])


def test_many_rows_are_written_in_parts_and_any_name_is_allowed(tmp_path: Path) -> None:
    features = np.random.default_rng(0).normal(size=(ROW_GROUP + 1900, 3)).astype(np.float32)
    names = [f"{i}.png" for i in range(len(features) - 1)] + ["\udce9,\n.png"]
    rows = [{"file": name, "class": "", "predicted": "a", "confidence": 0.5} for name in names]
    for suffix in ("npy", "csv", "parquet"):
        with open_features(tmp_path / f"x.{suffix}") as add:
            for first in range(0, len(rows), 1000):
                add(rows[first : first + 1000], features[first : first + 1000])
    assert np.array_equal(np.load(tmp_path / "x.npy"), features)
    table = parquet.ParquetFile(tmp_path / "x.parquet")
    assert table.num_row_groups == 2 and table.metadata.num_rows == len(rows)
    assert table.read()["file"][-1].as_py() == "\\udce9,\n.png"
    for name in ("x.csv", "x.files.csv"):
        with (tmp_path / name).open(encoding="utf-8", errors="surrogateescape", newline="") as file:
            assert [row["file"] for row in csv.DictReader(file)] == names
    assert len(list(tmp_path.iterdir())) == 4


@pytest.mark.parametrize("suffix", ["npy", "csv", "parquet"])
def test_ctrl_c_keeps_the_images_that_are_done(suffix: str, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls, compute = [], Predictor.embed_and_predict

    def press_later(self: Predictor, images: torch.Tensor) -> Any:
        calls.append(len(images))
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return compute(self, images)

    monkeypatch.setattr(Predictor, "embed_and_predict", press_later)
    lines, _ = embed(here, "input=photos", f"output=f.{suffix}", "batch_size=2", code=130)
    done = sum(calls[:2])
    assert lines[-3] == "stopped by Ctrl-C after 4 of 8 files" and lines[-2].startswith(f"{done} × 16 features")
    rows = {
        "npy": lambda: np.load(here / "f.npy").tolist(),
        "csv": lambda: read_table(here / "f.csv"),
        "parquet": lambda: parquet.read_table(here / "f.parquet").to_pylist(),
    }[suffix]()
    assert len(rows) == done and not list(here.glob(".*"))
    if suffix == "npy":
        assert len(read_table(here / "f.files.csv")) == done


@pytest.mark.parametrize("suffix", ["png", "csv", "json"])
def test_ctrl_c_leaves_no_neighbors_among_a_part_of_the_images(
    suffix: str, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add = Nearest.add

    def press(self: Nearest, *batch: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        add(self, *batch)

    monkeypatch.setattr(Nearest, "add", press)
    embed(here, "input=photos", "query=photos/red", f"output=n.{suffix}", "batch_size=2", code=130)
    assert sorted(path.name for path in here.iterdir()) == ["outputs", "photos"]


@pytest.mark.parametrize("suffix", ["npy", "csv", "parquet"])
def test_without_a_result_an_older_file_is_as_before(suffix: str, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / f"f.{suffix}").write_text("of yesterday")
    _, errors = embed(here, "input=photos/blue/broken.png", f"output=f.{suffix}", code=1)
    assert "error: input=photos/blue/broken.png: none of 1 file(s) is a readable image" in errors
    monkeypatch.setattr(Predictor, "embed_and_predict", lambda *_: os.kill(os.getpid(), signal.SIGINT))
    embed(here, "input=photos", f"output=f.{suffix}", code=130)
    assert (here / f"f.{suffix}").read_text() == "of yesterday"
    assert sorted(path.name for path in here.iterdir()) == [f"f.{suffix}", "outputs", "photos"]


def test_without_pyarrow_the_answer_is_one_line_before_the_model_is_loaded(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setattr("src.run.best.load_file", lambda path: pytest.fail("the weights were read"))
    _, errors = embed(here, "input=photos", "output=f.parquet", code=1)
    assert errors.count("\n") == 1 and "needs pyarrow: pip install -r requirements-export.txt" in errors
    assert not (here / "f.parquet").exists()


def test_neighbors_are_those_of_the_cosine_and_never_the_image_itself(here: Path) -> None:
    lines, _ = embed(here, "input=photos", "query=photos/*/*.png", "topk=3", "output=n.csv", "batch_size=2")
    embed(here, "input=photos", "output=f.npy")
    rows = read_table(here / "f.files.csv")
    files = [row["file"] for row in rows]
    directions = F.normalize(torch.from_numpy(np.load(here / "f.npy")), dim=1)
    similarities = (directions @ directions.T).fill_diagonal_(-2)
    found = read_table(here / "n.csv")
    assert len(found) == 18 and {row["query"] for row in found} == {file for file in files if "elsewhere" not in file}
    for row in found:
        query, rank = files.index(row["query"]), int(row["rank"])
        value, index = similarities[query].sort(descending=True)
        assert float(row["similarity"]) == pytest.approx(value[rank - 1].item(), abs=1e-5)
        assert row["file"] != row["query"] and row["file"] == files[index[rank - 1]]
        assert row["class"] == rows[files.index(row["file"])]["class"]
    known = [(Path(row["query"]).parent.name, row["class"]) for row in found if row["class"]]
    right = sum(query == name for query, name in known)
    assert f"{right} of {len(known)} neighbors are of their query's class ({right / len(known):.1%})" in lines


def test_a_copy_of_the_query_is_its_nearest_neighbor_and_a_table_is_printed(here: Path) -> None:
    shutil.copy(here / "photos/red/0.png", here / "copy of [a] file.png")
    lines, _ = embed(here, "input=photos", "query=copy of [a] file.png", "topk=2")
    start = lines.index(f"copy of [a] file.png: {lines[-5].split(': ')[1]}")
    assert lines[start].endswith("?"), "no folder names its class"
    assert lines[start + 1].split() == ["no", "similarity", "class", "predicted", "file"]
    assert lines[start + 2].split()[:3] == ["1", "1.000", "red"] and lines[start + 2].endswith("photos/red/0.png")
    assert lines[-1] == "7 images compared, 1 unreadable, 1 other file"


def test_nearest_keeps_the_first_of_equals_and_forgets_nothing_between_batches() -> None:
    random = torch.Generator().manual_seed(0)
    features = torch.randn(50, 8, generator=random).repeat(2, 1)  # each twice
    images = [Embedded(Path(f"{i}.png"), None, "a", 0.5) for i in range(100)]
    queries = [Embedded(Path("q.png"), None, "a", 0.5), images[3]]
    nearest = Nearest(queries, torch.stack([features[7], features[3]]), 4)
    for first in range(0, 100, 9):
        nearest.add(images[first : first + 9], features[first : first + 9])
    found = [[neighbor.image.path.stem for neighbor in neighbors] for _, neighbors in nearest]
    assert found[0][:2] == ["7", "57"] and found[1][0] == "53" and "3" not in found[1]
    assert [len(row) for row in found] == [4, 4] and nearest.score() == ""


def test_the_picture_names_each_image_and_frames_it_by_its_class() -> None:
    def show(name: str, certain: bool, similarity: float | None, shape: tuple[int, int]) -> Shown:
        image = np.zeros((*shape, 3), np.uint8)
        return Shown(image, "a long name of a file that differs at its end 17.jpg", name, certain, similarity)

    near = [show("cat", True, 0.987, (90, 30)), show("dog", True, 0.5, (30, 90)), show("cat", False, -0.1, (9, 9))]
    figure: Figure = _draw_neighbors([(show("cat", True, None, (30, 40)), near), (near[2], near[:1])])
    drawn = [text.get_text() for text in figure.findobj(Text)]
    assert {"query  cat", "0.987  cat", "0.500  dog", "-0.100  cat?"} <= set(drawn)
    files = [text for text in drawn if text.endswith("17.jpg")]
    assert len(files) == 6 and all("…" in file for file in files)
    frames = [to_hex(axes.spines["left"].get_edgecolor()) for axes in figure.axes if axes.spines["left"].get_visible()]
    assert frames[1:3] == [RIGHT, WRONG] and len(frames) == 3, "what is only predicted has no frame"


def test_a_picture_of_neighbors_shows_the_whole_images_upright(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    make_picture(COLORS["green"], 9, (900, 300)).save(here / "turned.jpg", exif=exif)
    drawn: list[Any] = []
    monkeypatch.setattr("src.plots.images.plot_neighbors", lambda rows, path: drawn.extend(rows))
    _, errors = embed(here, "input=photos", "query=turned.jpg", "output=n.png", "topk=6")
    ((query, near),) = drawn
    assert query.image.shape == (320, 107, 3) and query.file == "turned.jpg" and query.similarity is None
    assert {shown.image.shape for shown in near} <= {(20, 30, 3), (30, 30, 3), (16, 20, 3)}, "small ones stay small"
    monkeypatch.setattr("src.predict.embed.PICTURE_COLUMNS", 2)
    _, errors = embed(here, "input=photos", "query=turned.jpg", "output=n.png", "topk=6")
    assert "the picture shows at most 12 queries with 2 neighbors each" in errors and len(drawn[1][1]) == 2


def test_a_picture_is_written(here: Path) -> None:
    lines, _ = embed(here, "input=photos/red", "query=photos/blue/1.png", "output=n.png")
    with Image.open(here / "n.png") as picture:
        assert picture.width > 3 * 1.75 * 150
    assert "neighbors written to n.png" in lines


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["input=photos"], "task=embed needs output=features.npy (or .parquet, .csv), or query=IMAGE"),
        (["output=f.npy"], "task=embed needs input=FILE, FOLDER or GLOB"),
        (["input=photos", "output=f.txt"], "output=f.txt must end in .npy, .parquet or .csv\n"),
        (["input=photos", "output=f.png"], ".npy, .parquet or .csv; a picture of neighbors needs query=IMAGE"),
        (["input=photos", "output=no/f.npy"], "/no does not exist"),
        (["input=photos", "output=photos/f.npy"], "is in input=photos, and would be one of its images next time"),
        (["input=photos", "output=photos"], "output=photos must end in"),
        (["input=nowhere", "output=f.npy"], "there is no file or folder nowhere"),
        (["input=empty", "output=f.npy"], "there are no images in the folder empty"),
        (["input=photos", "output=empty.npy"], "output=empty.npy is a folder; name a file, such as"),
        (
            ["input=photos", "query=photos/elsewhere.png", "output=empty.png"],
            "output=empty.png is a folder; name a file, such as",
        ),
        (["input=photos", "query=nowhere.png"], "there is no file or folder nowhere.png"),
        (["input=photos", "query=https://a.b/c.jpg"], "query=https://a.b/c.jpg is an address"),
        (["input=photos", "query=photos/blue/broken.png"], "query=photos/blue/broken.png: none of 1 file(s) is"),
        (["input=photos/red/0.png", "query=photos/red/0.png"], "has only the query itself"),
        (["input=photos", "query=photos", "output=n.npy"], "output=n.npy must end in .png, .csv or .json with query"),
        (["input=photos", "query=a.png", "query=b.png"], "only one query is read; name a folder, or a glob"),
        (["task=predict", "input=photos", "query=a.png"], "write task=embed query=IMAGE input=FOLDER"),
        (["task=predict", "input=photos", "output=f.npy"], "must end in .csv or .json; task=embed writes features"),
    ],
)
def test_mistakes_are_explained_and_leave_nothing(words: list[str], message: str, here: Path) -> None:
    folders = ["empty", "empty.npy", "empty.png"]
    for name in folders:
        (here / name).mkdir()
    task = [] if words[0].startswith("task") else ["task=embed"]
    result = infer(here, *task, "run=latest", *words)
    assert result.returncode == 1 and message in result.stderr and "Traceback" not in result.stderr
    assert sorted(path.name for path in here.iterdir()) == [*folders, "outputs", "photos"]


def test_input_and_query_alone_mean_embed(here: Path) -> None:
    result = infer(here, "run=latest", "input=photos", "query=photos/red/0.png", "topk=1")
    assert result.returncode == 0 and "7 images compared" in result.stdout


def test_a_disk_that_is_full_at_the_end_leaves_the_array_and_its_table_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fsync(descriptor: int) -> None:
        flushed.append(descriptor)
        if len(flushed) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")

    row, flushed = {"file": "a", "class": "", "predicted": "a", "confidence": 0.5}, list[int]()
    with open_features(tmp_path / "x.npy") as add:
        add([row], np.zeros((1, 2), np.float32))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match="No space left"), open_features(tmp_path / "x.npy") as add:
        add([row, row], np.ones((2, 2), np.float32))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_signal_between_the_array_and_its_table_waits_for_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace_one = os.replace

    def replace(old: Path, new: Path) -> None:
        replace_one(old, new)
        if Path(new).suffix == ".npy":
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(os, "replace", replace)
    row = {"file": "a", "class": "", "predicted": "a", "confidence": 0.5}
    with pytest.raises(KeyboardInterrupt), open_features(tmp_path / "x.npy") as add:
        add([row], np.zeros((1, 2), np.float32))
    assert {path.name for path in tmp_path.iterdir()} == {"x.npy", "x.files.csv"}
