"""What is published of finished runs: benchmarks/results.py."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from src.data.read import upright_size
from src.machine.disk import read_csv
from src.plots import images
from src.run.saved import SavedRun

SCRIPT = Path(__file__).resolve().parents[1] / "benchmarks" / "results.py"


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The program, with folders of its own."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    spec = importlib.util.spec_from_file_location("results", SCRIPT)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(module, "KEPT", tmp_path / "kept")
    monkeypatch.setattr(module, "PAGES", ("page.md",))
    return module


def make_run(folder: Path, seed: int, accuracy: float, status: str = "finished", minutes: float = 40.0) -> Path:
    (folder / "test").mkdir(parents=True)
    facts = {"status": status, "started": "2026-11-28T01:00:00"}
    numbers = {"parameters": 2_700_000, "epochs": 2, "best_epoch": 2, "best_val_acc": accuracy, "seconds": 60 * minutes}
    words = ["experiment=cifar10_cpu", f"seed={seed}", "dataset.root='/home/me/photos'", "dataset.cache_dir=/tmp/cache"]
    environment: dict[str, object] = {"overrides": words, "choices": {"experiment": "cifar10_cpu"}}
    environment |= {"gpu": None, "cores": 2}
    environment |= {"processor": "A CPU (family 1, model 2)", "torch": "2.14.1+cu130", "git": {"commit": "abc"}}
    for name, content in (
        ("status.json", facts | numbers),
        ("environment.json", environment),
        ("test/metrics.json", {"accuracy": accuracy, "mean_class_accuracy": accuracy - 0.01}),
    ):
        (folder / name).write_text(json.dumps(content))
    rows = "epoch,val_acc,ema_val_acc,seconds\n1,0.5,0.6,600\n2,0.7,0.65,2000\n"
    (folder / "metrics.csv").write_text(rows)
    return folder


def test_finished_runs_are_kept_without_folders_of_this_machine(results: ModuleType, tmp_path: Path) -> None:
    make_run(tmp_path / "sweep" / "0", 0, 0.8)
    make_run(tmp_path / "sweep" / "1", 1, 0.9)
    make_run(tmp_path / "sweep" / "2", 2, 0.1, status="failed")
    results.keep([tmp_path / "sweep"], None)
    kept = sorted(path.name for path in (tmp_path / "kept" / "cifar10_cpu").iterdir())
    assert kept == ["0.csv", "0.json", "1.csv", "1.json"]
    facts = json.loads((tmp_path / "kept" / "cifar10_cpu" / "1.json").read_text())
    assert facts["command"] == "python train.py experiment=cifar10_cpu dataset.root=photos"
    assert (facts["seed"], facts["torch"], facts["processor"]) == (1, "2.14.1", "A CPU (family 1, model 2)")
    with pytest.raises(SystemExit, match="no finished run"):
        results.keep([tmp_path / "sweep" / "2"], None)


def test_the_tables_have_mean_deviation_and_the_accuracy_after_some_minutes(
    results: ModuleType, tmp_path: Path
) -> None:
    for seed, accuracy in enumerate((0.8, 0.9)):
        results.keep([make_run(tmp_path / str(seed), seed, accuracy)], None)
    tables = results.make_tables()
    assert "| cifar10_cpu | 2.7 M | 85.00 ± 7.07 % (2) | 40 |" in tables["results"]
    # After 15 and 30 minutes there is one epoch, whose averaged weights are better; 60 minutes were not trained.
    assert "| 84.00 ± 7.07 % (2) | 60.0 % | 60.0 % |  |  | 2 cores, A CPU (family 1, model 2) |" in tables["curves"]
    assert "python train.py experiment=cifar10_cpu dataset.root=photos" in tables["commands"]


def test_levers_are_compared_with_the_recipe_itself(results: ModuleType, tmp_path: Path) -> None:
    header = "rank,job,optimizer,training.lr,seed,status,val_acc,epochs,minutes,images_per_second,folder\n"
    jobs = ["3,1,,0.002,1,finished,0.42,10,3,200.0,1", "2,0,,0.002,0,finished,0.40,10,3,202.0,0"]
    jobs += ["1,2,adamw,0.001,0,finished,0.38,12,3,240,2", ""]
    (tmp_path / "kept").mkdir()
    (tmp_path / "sweep.csv").write_text(header + "\n".join(jobs))
    results.keep_levers(tmp_path)
    assert (tmp_path / "kept" / "levers.csv").read_text().startswith("optimizer,training.lr,seed,val_acc,epochs,")
    rows = results.make_tables()["levers"].splitlines()[2:]
    assert rows[0] == "| training.lr=0.002 | 41.00 ± 1.41 % (2) | +0.0 | 10 | 201 |"
    assert rows[1] == "| optimizer=adamw training.lr=0.001 | 38.00 % (1) | -3.0 | 12 | 240 |"
    (tmp_path / "sweep.csv").write_text(header + jobs[2].replace("finished", "killed"))
    with pytest.raises(SystemExit, match="not finished: jobs 2"):
        results.keep_levers(tmp_path)


def test_pages_are_written_between_their_marks_and_checked(
    results: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin, end = results.BEGIN.format("results"), results.END.format("results")
    page = tmp_path / "page.md"
    page.write_text(f"before\n{begin}\nold\n{end}\nafter\n")
    results.keep([make_run(tmp_path / "run", 0, 0.8)], None)
    monkeypatch.setattr(sys, "argv", ["results.py", "check"])
    with pytest.raises(SystemExit, match=r"page.md is out of date"):
        results.main()
    monkeypatch.setattr(sys, "argv", ["results.py", "write"])
    results.main()
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("after\n") and "old" not in text and "80.00 %" in text
    monkeypatch.setattr(sys, "argv", ["results.py", "check"])
    results.main()


def test_the_mistakes_of_a_run_are_its_surest_wrong_test_images(
    results: ModuleType, tmp_path: Path, photo_run: SavedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "docs").mkdir()
    drawn: list[tuple[np.ndarray, list[str], list[str], list[float]]] = []

    def draw(pictures: np.ndarray, true: list[str], predicted: list[str], confidences: list[float], path: Path) -> None:
        drawn.append((pictures, true, predicted, confidences))
        Image.new("RGB", (1000, 500)).save(path)

    monkeypatch.setattr(images, "plot_predictions", draw)
    results.draw_pictures(photo_run.folder, "photos")
    [(pictures, true, predicted, confidences)] = drawn
    rows = read_csv(photo_run.folder / "test" / "predictions.csv")
    wrong = sum(row["class"] != row["predicted"] for row in rows)
    assert len(pictures) == len(true) == wrong > 0
    surest = max((row for row in rows if row["correct"] == "0"), key=lambda row: float(row["confidence"]))
    config, _, look = photo_run.load()
    assert config.dataset.root is not None
    decoded = look.read(Path(config.dataset.root, surest["image"])).permute(1, 2, 0).numpy()
    assert np.array_equal(pictures[0], decoded)
    assert all(ours != theirs for ours, theirs in zip(true, predicted, strict=True))
    assert confidences == sorted(confidences, reverse=True)
    sizes = {path.name: upright_size(path) for path in (tmp_path / "docs").iterdir()}
    assert set(sizes) == {"photos_curves.png", "photos_attention.png", "photos_mistakes.png"}
    assert max(width for _, width in sizes.values()) <= results.WIDTHS[0]


def test_the_accuracy_of_the_rival_is_that_of_its_log() -> None:
    """The one published number that no table is written from."""
    root = Path(__file__).resolve().parents[1]
    epochs = (root / "benchmarks" / "results" / "resnet18_caltech101.jsonl").read_text().splitlines()
    accuracy = f"{100 * json.loads(epochs[-1])['test_acc']:.2f} %"
    for page in ("README.md", "docs/results.md"):
        assert accuracy in (root / page).read_text(), page
