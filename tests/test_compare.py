"""`task=compare`: the numbers are those of the runs, the statistics are correct, and what is missing is reported."""

import csv
import functools
import json
import statistics
import unicodedata
from collections.abc import Sequence
from dataclasses import replace
from math import comb
from pathlib import Path

import numpy as np
import pytest
import yaml
from helpers import compose, compose_inference
from PIL import Image
from test_predict import infer
from test_run import save_fake_run

from src import terminal
from src.compare.choose import choose_entries, name_apart, split_list
from src.compare.compare import compare_runs
from src.compare.mcnemar import adjust, compare_with_best, exact_p
from src.compare.report import Section, split_columns
from src.compare.tables import find_differences, list_differences, list_groups
from src.config.compose import dump_config
from src.config.inference import InferenceConfig
from src.machine.disk import write_csv, write_json
from src.tables import Table

NUM_IMAGES = 40


@functools.cache
def describe(*overrides: str) -> str:
    return dump_config(compose(*overrides))


def save_run(
    folder: Path, *overrides: str, val_acc: float = 0.5, right: Sequence[int] | None = None, **facts: object
) -> Path:
    """Save the files of a run of two epochs; right: the test images it predicts correctly, None: it was not tested."""
    save_fake_run(folder, "2026-01-01T12:00:00", val_acc)
    facts = {"best_epoch": 2, "best_val_loss": 1 - val_acc, "seconds": 90.0, "epoch": 2, "epochs": 2, **facts}
    status = json.loads((folder / "status.json").read_text()) | facts
    write_json(folder / "status.json", status)
    (folder / "config.yaml").write_text(describe(*overrides))
    rows = [
        {"epoch": epoch, "lr": 0.001, "train_loss": 2 / epoch, "train_acc": 0.4, "val_loss": 2 / epoch}
        | {"val_acc": val_acc / (3 - epoch), "images_per_second": 100.0 * epoch, "seconds": 45.0 * epoch}
        for epoch in (1, 2)
    ]
    write_csv(folder / "metrics.csv", rows)
    if right is not None:
        write_json(folder / "test/metrics.json", {"loss": 0.25, "accuracy": len(right) / NUM_IMAGES, "macro_f1": 0.5})
        write_predictions(folder, right)
    return folder


def write_predictions(folder: Path, right: Sequence[int], count: int = NUM_IMAGES, classes: int = 4) -> None:
    columns = ("image", "class", "predicted", "confidence", "correct")
    rows = [(f"{i}.png", f"c{i % classes}", "c0", 0.5, int(i in right)) for i in range(count)]
    write_csv(folder / "test/predictions.csv", [dict(zip(columns, row, strict=True)) for row in rows])


def ask(run: str | Path | None = None, **values: object) -> InferenceConfig:
    given = compose_inference("task=compare")
    return replace(given, run=None if run is None else str(run), **values)  # type: ignore[arg-type]


def labels(run: str | Path | None, **values: object) -> str:
    return " ".join(entry.label for entry in choose_entries(ask(run, **values))[0])


# Which runs are compared.


def test_runs_are_chosen_by_lists_folders_and_globs_the_best_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for i in range(3):
        save_run(tmp_path / "multirun/day/time" / str(i), val_acc=0.5 + i / 10)
    save_run(tmp_path / "outputs/day/one", val_acc=0.65)
    save_run(tmp_path / "outputs/day/without", val_acc=0.9)
    (tmp_path / "outputs/day/without/metrics.csv").unlink()
    assert labels(None) == "2 one 1 0"
    assert labels("multirun/day/time") == labels("multirun") == labels("multirun/*/*/[012]") == "2 1 0"
    assert labels("[multirun/day/time/0, outputs/day/one]") == "one 0"
    assert labels("multirun/day/time/0,multirun/day/time/1") == labels("multirun/*/*/[0-1]") == "1 0"
    assert labels("[multirun,outputs/day/one,multirun/day/time/2]") == "2 one 1 0", "each once"
    assert labels("['multirun/day/time/0', best]", roots=["multirun"]) == "2 0"
    assert labels(None, filter="val_acc>0.62") == "2 one"


def test_commas_and_brackets_may_be_part_of_folders_that_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("lr=0.1,seed=1", "lr=0.1,seed=2", "[a,b]", "c"):
        (tmp_path / name).mkdir()
    assert split_list("[a,b]") == ["[a,b]"]
    assert split_list("[lr=0.1,seed=1, lr=0.1,seed=2,c]") == ["lr=0.1,seed=1", "lr=0.1,seed=2", "c"]
    assert split_list("c, x ,'d e'") == ["c", "x", "d e"]
    assert split_list("[c]") == ["c"] and split_list("[]") == []


def test_labels_are_the_shortest_ends_of_the_folders_that_differ() -> None:
    assert name_apart([Path("/m/a/t/0"), Path("/m/a/t/1")]) == ["0", "1"]
    assert name_apart([Path("/m/a/0"), Path("/m/b/0"), Path("/m/b/1")]) == ["a/0", "b/0", "b/1"]


def test_runs_that_cannot_be_compared_are_named_with_the_reason(tmp_path: Path) -> None:
    for name in ("a", "b", "status", "config", "table", "early"):
        save_run(tmp_path / name)
    (tmp_path / "status/status.json").write_text("{")
    (tmp_path / "config/config.yaml").write_text("a: [")
    (tmp_path / "table/metrics.csv").write_text("epoch,val_acc\n1,half\n")
    (tmp_path / "early/metrics.csv").unlink()
    wanted = ",".join(str(tmp_path / name) for name in ("a", "b", "status", "config", "table", "early", "nowhere"))
    entries, left_out = choose_entries(ask(f"[{wanted}]"))
    assert [entry.label for entry in entries] == ["a", "b"]
    told = "\n".join(left_out)
    for name, reason in {
        "config": "damaged: while parsing",
        "early": "no metrics.csv, as no epoch has finished",
        "nowhere": "does not exist",
        "status": "damaged: ",
        "table": "damaged: could not convert string to float: 'half'",
    }.items():
        assert f"{tmp_path / name} ({reason}" in told
    assert len(left_out) == 5


def test_a_line_that_a_kill_left_incomplete_is_ignored(tmp_path: Path) -> None:
    for name in "ab":
        save_run(tmp_path / name)
    with (tmp_path / "a/metrics.csv").open("a") as file:
        file.write("3,0.001,0.")
    entries, _ = choose_entries(ask(tmp_path))
    assert [entry.history["epoch"] for entry in entries] == [[1, 2], [1, 2]]


# What is reported about them.


def test_exactly_the_keys_that_differ_are_listed(tmp_path: Path) -> None:
    save_run(tmp_path / "a", "training.lr=0.002", "dataset.cache_dir=/x", "device=cpu", val_acc=0.9)
    save_run(tmp_path / "b", "model.num_layers=2", "training.ema=0.99", val_acc=0.8)
    table = list_differences(choose_entries(ask(tmp_path))[0])
    assert table is not None and table.columns == ["key", "a", "b"]
    assert table.rows == [
        ["model.num_layers", "4", "2"],
        ["training.lr", "0.002", "0.001"],
        ["training.ema", "null", "0.99"],
    ]


def test_equal_configurations_are_reported_as_equal(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    save_run(tmp_path / "a", "device=cpu")
    save_run(tmp_path / "b", "dataset.cache_dir=/x")
    entries = choose_entries(ask(tmp_path))[0]
    assert find_differences(entries) == {} and list_differences(entries) is None
    compare_runs(ask(tmp_path, output=str(tmp_path / "out")))
    assert "The configurations are equal." in capsys.readouterr().out
    assert "The configurations are equal." in (tmp_path / "out/comparison.md").read_text()


def test_a_run_older_than_a_key_has_its_current_value(tmp_path: Path) -> None:
    for name in "ab":
        save_run(tmp_path / name)
    values = yaml.safe_load((tmp_path / "a/config.yaml").read_text())
    del values["training"]["sampler"], values["augmentation"]["repeats"]
    (tmp_path / "a/config.yaml").write_text(yaml.safe_dump(values))
    assert find_differences(choose_entries(ask(tmp_path))[0]) == {}


def test_the_table_has_the_numbers_of_the_runs_and_unknown_ones_are_empty(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    save_run(tmp_path / "good", "seed=3", val_acc=0.75, right=range(30), parameters=202186)
    save_run(tmp_path / "early", val_acc=0.25, status="running", best_val_acc=None, best_epoch=None, seconds=None)
    save_run(tmp_path / "other", val_acc=0.5, right=[], parameters=None)
    compare_runs(ask(tmp_path, output=str(tmp_path / "out")))
    with (tmp_path / "out/comparison.csv").open(newline="") as file:
        rows = {row["run"]: row for row in csv.DictReader(file)}
    assert list(rows) == ["good", "other", "early"], "the best first, without an accuracy last"
    good = rows["good"]
    assert [good[key] for key in ("status", "val_acc", "best_epoch", "test_acc", "test_loss", "macro_f1")] == [
        *("finished", "0.75", "2", "0.75", "0.25", "0.5")
    ]
    assert [good[key] for key in ("parameters", "epochs", "minutes", "images_per_second", "seed")] == [
        *("202186", "2", "1.5", "150.0", "3")
    ]
    early = rows["early"]
    lacking = ("val_acc", "best_epoch", "test_acc", "test_loss", "macro_f1", "minutes", "p")
    assert {early[key] for key in lacking} == {""} and rows["other"]["test_acc"] == "0.0"
    markdown = (tmp_path / "out/comparison.md").read_text()
    assert "| good | finished | 75.00% | 2 | 75.00% | 0.2500 | 0.5000 | 202,186 | 2 | 1.5 | 150 |" in markdown
    # running on another machine, and silent for long enough to count as killed
    assert "|  |  |  |  |  | 5 | 2 |  | 150 |" in next(line for line in markdown.splitlines() if "| early | " in line)
    shown = capsys.readouterr().out.splitlines()
    assert next(line for line in shown if line.startswith("good   finished")).split()[2:5] == ["75.00%", "2", "75.00%"]


def test_groups_are_runs_that_differ_only_in_their_seed_with_sample_deviations(tmp_path: Path) -> None:
    for i, right in enumerate((30, 34, 35)):
        save_run(tmp_path / f"slow{i}", f"seed={i}", val_acc=0.7 + i / 50, right=range(right))
    for i in range(2):
        save_run(tmp_path / f"fast{i}", f"seed={i}", f"training.lr={('0.01', '1e-2')[i]}", val_acc=0.6 + i / 10)
    save_run(tmp_path / "deep", "model.num_layers=6", val_acc=0.9, right=range(36))
    save_run(tmp_path / "slow9", "seed=9", val_acc=0.1, status="stopped")
    table = list_groups(choose_entries(ask(tmp_path))[0])
    assert table is not None
    tested = [n / NUM_IMAGES for n in (30, 34, 35)]
    mean, deviation = 100 * statistics.mean(tested), 100 * statistics.stdev(tested)
    assert table.rows == [
        ["model.num_layers=6, training.lr=0.001", "0", "90.00 % (1)", "90.00 % (1)"],
        [
            *("model.num_layers=4, training.lr=0.001", "0, 1, 2"),
            *("72.00 ± 2.00 % (3)", f"{mean:.2f} ± {deviation:.2f} % (3)"),
        ],
        ["model.num_layers=4, training.lr=0.01", "0, 1", "65.00 ± 7.07 % (2)", ""],
    ], "the highest mean first"


def test_a_seed_counts_once_in_a_group_and_single_runs_are_no_group(tmp_path: Path) -> None:
    save_run(tmp_path / "a", val_acc=0.9)
    save_run(tmp_path / "b", val_acc=0.5, started="2026-01-02T12:00:00")
    assert list_groups(choose_entries(ask(tmp_path))[0]) is None
    save_run(tmp_path / "c", "seed=1", val_acc=0.7)
    table = list_groups(choose_entries(ask(tmp_path))[0])
    assert table is not None and table.rows == [["all", "0, 1", "60.00 ± 14.14 % (2)", ""]], "the newer one of two"


# The test.


@pytest.mark.parametrize(("only_a", "only_b"), [(0, 0), (1, 0), (3, 9), (9, 3), (20, 20), (81, 18)])
def test_p_is_that_of_the_binomial_distribution(only_a: int, only_b: int) -> None:
    n = only_a + only_b
    tail = sum(comb(n, k) for k in range(min(only_a, only_b) + 1)) / 2**n
    assert exact_p(only_a, only_b) == pytest.approx(min(1.0, 2 * tail))


def test_p_values_are_adjusted_by_holms_method() -> None:
    assert adjust([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])  # R: p.adjust(p, "holm")
    assert adjust([0.9, 0.6]) == [1.0, 1.0] and adjust([0.2]) == [0.2] and adjust([]) == []


def test_runs_are_compared_image_by_image_with_the_best(tmp_path: Path) -> None:
    save_run(tmp_path / "best", val_acc=0.9, right=range(30))
    save_run(tmp_path / "second", val_acc=0.8, right=range(5, 32))
    save_run(tmp_path / "third", val_acc=0.7, right=range(10))
    tests, problems = compare_with_best(choose_entries(ask(tmp_path))[0])
    assert problems == []
    assert [(test.entry.label, test.only_a, test.only_b) for test in tests] == [("second", 5, 2), ("third", 20, 0)]
    assert [(test.accuracy_a, test.accuracy_b) for test in tests] == [(0.75, 0.675), (0.75, 0.25)]
    assert tests[0].p == tests[0].p_holm == pytest.approx(0.453125) and tests[1].p == pytest.approx(2 / 2**20)
    assert tests[1].p_holm == pytest.approx(4 / 2**20)


def test_images_are_the_same_in_any_form_of_unicode(tmp_path: Path) -> None:
    for form in ("NFC", "NFD"):
        save_run(tmp_path / form, val_acc=0.9, right=range(30))
        path = tmp_path / form / "test/predictions.csv"
        path.write_text(unicodedata.normalize(form, path.read_text().replace("c0", "café").replace(".png", "é.png")))
    tests, problems = compare_with_best(choose_entries(ask(tmp_path))[0])
    assert problems == [] and [(test.only_a, test.only_b) for test in tests] == [(0, 0)]


def test_runs_with_different_tests_are_not_compared_and_the_reason_is_reported(tmp_path: Path) -> None:
    for i, name in enumerate(("best", "good", "other", "labels", "old", "older", "damaged")):
        save_run(tmp_path / name, val_acc=0.9 - i / 100, right=range(20))
    write_predictions(tmp_path / "other", range(20), count=30)
    write_predictions(tmp_path / "labels", range(20), classes=3)
    for name in ("old", "older"):
        (tmp_path / name / "test/predictions.csv").unlink()
    (tmp_path / "damaged/test/predictions.csv").write_text("image,correct\n1.png,1\n")
    tests, problems = compare_with_best(choose_entries(ask(tmp_path))[0])
    assert [test.entry.label for test in tests] == ["good"]
    assert problems == [
        "Not compared with best: other: different test images, 30 of 40 in common.",
        "Not compared with best: labels: the test images have different classes, as in another data set or split.",
        "Not compared with best: old, older: no test/predictions.csv (it has not finished, or is older than this "
        "file).",
        "Not compared with best: damaged: a damaged test/predictions.csv: its columns are not image, class and "
        "correct.",
    ]
    (tmp_path / "best/test/predictions.csv").unlink()
    tests, problems = compare_with_best(choose_entries(ask(tmp_path))[0])
    assert tests == []
    assert problems[0].startswith(
        "Not compared image by image: best, the best run by validation accuracy, has no test/"
    )
    assert problems[0].endswith("run=[…] without it compares the others.")


# How it is shown and written.


def test_many_runs_stay_readable(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for i in range(14):
        rates = f"training.lr={(i + 1) / 1000}", f"model.dropout={i / 20}"
        save_run(tmp_path / f"a-long-name-{i:02d}", *rates, val_acc=0.5 + i / 100)
    monkeypatch.setattr(terminal.console, "_width", 80)
    compare_runs(ask(tmp_path, output=str(tmp_path / "out")))
    tables = [line for line in capsys.readouterr().out.splitlines() if line.startswith("a-long-name")]
    assert all(len(line) <= 80 for line in tables)
    assert tables[0].split() == ["a-long-name-13", "0.65", "0.014"], "a row per run"
    markdown = (tmp_path / "out/comparison.md").read_text()
    assert "| run | model.dropout | training.lr |" in markdown and "| a-long-name-00 | 0.0 | 0.001 |" in markdown
    assert "comparison.png shows the 10 best of 14 runs." in markdown


def test_a_wide_table_is_split_and_each_part_has_the_first_column(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminal.console, "_width", 20)
    table = Table(["run", "one", "two", "three"], [["x" * 5, "1" * 6, "2" * 8, "3" * 30]], right={"two"})
    parts = split_columns(table)
    assert [part.columns for part in parts] == [["run", "one"], ["run", "two"], ["run", "three"]]
    assert [part.rows[0][0] for part in parts] == ["xxxxx"] * 3 and Section("x").table is None
    monkeypatch.setattr(terminal.console, "_width", 23)
    assert [part.columns for part in split_columns(table)][0] == ["run", "one", "two"]


def test_names_with_markup_do_not_break_the_markdown(tmp_path: Path) -> None:
    save_run(tmp_path / "a|b*", val_acc=0.9)
    save_run(tmp_path / "[red]c", val_acc=0.8)
    compare_runs(ask(tmp_path, output=str(tmp_path / "out")))
    rows = [line for line in (tmp_path / "out/comparison.md").read_text().splitlines() if line.startswith("| a")]
    assert rows[0].startswith("| a\\|b\\* | finished | 90.00% |")


def test_a_warning_appears_if_the_runs_used_different_images(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    save_run(tmp_path / "a", val_acc=0.9)
    save_run(tmp_path / "b", val_acc=0.8)
    for name, fingerprint in (("a", "1"), ("b", "2")):
        write_json(tmp_path / name / "environment.json", {"data_fingerprint": fingerprint})
    compare_runs(ask(tmp_path, output=str(tmp_path / "out")))
    assert "Not all runs used the same images in each split" in capsys.readouterr().out
    status = json.loads((tmp_path / "b/status.json").read_text()) | {"dataset": "mnist"}
    write_json(tmp_path / "b/status.json", status)
    compare_runs(ask(tmp_path, output=str(tmp_path / "out")))
    assert "These runs are on 2 data sets (digits, mnist)" in capsys.readouterr().out


def test_a_comparison_is_one_command_and_writes_only_its_folder(tmp_path: Path) -> None:
    for i in range(2):
        save_run(tmp_path / "outputs/day" / f"{i} x", f"seed={i}", val_acc=0.5 + i / 10, right=range(20 + i))
    before = set(tmp_path.rglob("*"))
    result = infer(tmp_path, "task=compare", "run=[outputs/day/0 x, outputs/day/1 x]")
    assert result.returncode == 0, result.stderr
    assert "seed  1    0" in result.stdout and "written   comparison: comparison.md" in result.stdout
    new = {str(path.relative_to(tmp_path)) for path in set(tmp_path.rglob("*")) - before}
    names = {f"comparison/comparison.{suffix}" for suffix in ("md", "csv", "png")}
    assert new == {"comparison", *names}
    picture = np.asarray(Image.open(tmp_path / "comparison/comparison.png").convert("L"))
    assert picture.std() > 5
    assert infer(tmp_path, "task=compare", "output=a/b").returncode == 0 and (tmp_path / "a/b/comparison.md").is_file()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((), "task=compare needs at least two runs, but found 1 in outputs and multirun\nwrite run='[FOLDER,FOLDER]'"),
        (("run=outputs/nowhere",), "found none for run=outputs/nowhere; left out: outputs/nowhere (does not exist)"),
        (("filter=seed=5",), "found none in outputs and multirun with filter=seed=5"),
        (("input=x.png",), "task=compare reads what the runs have written; leave input out"),
        (("output=out.csv",), "output=out.csv: task=compare writes into a folder"),
    ],
)
def test_mistakes_are_explained_in_a_sentence(arguments: tuple[str, ...], sentence: str, tmp_path: Path) -> None:
    save_run(tmp_path / "outputs/day/time")
    result = infer(tmp_path, "task=compare", *arguments)
    assert result.returncode == 1 and sentence in result.stderr.replace("\n  ", "\n")
    assert "Traceback" not in result.stderr and [path.name for path in tmp_path.iterdir()] == ["outputs"]
