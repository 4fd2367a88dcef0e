"""`sort=` and `filter=`: which runs the table shows, and in what order."""

import json
from pathlib import Path

import pytest
import yaml
from helpers import compose
from test_predict import infer
from test_run import save_fake_run

from src.config.compose import dump_config
from src.run import query
from src.run.query import select_runs
from src.run.saved import SavedRun, find_all_runs


def save_run(folder: Path, *overrides: str, **facts: object) -> None:
    """Save a run that has a configuration and these facts."""
    number = len(list(folder.parent.glob("*"))) if folder.parent.exists() else 0
    save_fake_run(folder, f"2026-01-0{number + 1}T12:00:00", 0.5)
    status = json.loads((folder / "status.json").read_text()) | facts
    (folder / "status.json").write_text(json.dumps(status))
    (folder / "config.yaml").write_text(dump_config(compose(*overrides)))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[SavedRun]:
    """Four runs a, b, c, d, of which d is the newest and has failed before its first epoch."""
    outputs = tmp_path_factory.mktemp("place") / "outputs"
    save_run(outputs / "a", best_val_acc=0.9, test_acc=0.89, seconds=600.0, parameters=900, model="vit_tiny")
    save_run(outputs / "b", "training.lr=0.01", "model.num_layers=10", best_val_acc=0.95, test_acc=0.91, seconds=90.0)
    save_run(outputs / "c", "training.lr=0.002", best_val_acc=0.85, dataset="cifar10", status="stopped", seconds=30.0)
    save_run(outputs / "d", best_val_acc=None, status="failed", dataset="cifar100", seconds=None, epoch=0)
    (outputs / "d" / "checkpoints" / "best.safetensors").unlink()
    return find_all_runs([str(outputs)])[0]


def names(runs: list[SavedRun]) -> str:
    return "".join(run.folder.name for run in runs)


@pytest.mark.parametrize(
    ("sort", "order"),
    [
        ("started", "dcba"),
        ("-started", "abcd"),
        ("val_acc", "bacd"),
        ("-val_acc", "cabd"),
        ("test_acc", "badc"),
        ("seconds", "abcd"),
        ("minutes", "abcd"),
        ("-seconds", "cbad"),
        ("parameters", "adcb"),
        ("epoch", "cbad"),
        ("dataset", "cdba"),
        ("-status", "cbad"),
        ("training.lr", "bcda"),
        ("-model.num_layers", "dcab"),
        ("init.freeze", "dcba"),
    ],
)
def test_sorting_is_by_size_or_letters_and_a_run_without_the_value_comes_last(
    sort: str, order: str, runs: list[SavedRun]
) -> None:
    assert names(select_runs(runs, None, sort)) == order


@pytest.mark.parametrize(
    ("condition", "left"),
    [
        ("status=finished", "ba"),
        ("status==finished", "ba"),
        ("status!=finished", "dc"),
        ("val_acc>0.9", "b"),
        ("val_acc>=0.9", "ba"),
        ("val_acc >= 90%", "ba"),
        ("val_acc<0.9", "c"),
        ("seconds<=90", "cb"),
        ("minutes=10", "a"),
        ("parameters=9e2", "a"),
        ("dataset=cifar*", "dc"),
        ("dataset=cifar10", "c"),
        ("dataset=[ad]*", "ba"),
        ("model=vit_tiny", "a"),
        ("test_acc=null", "dc"),
        ("test_acc!=null", "ba"),
        ("test_acc!=0.89", "dcb"),
        ("model.num_layers>=6", "b"),
        ("model.num_layers>9", "b"),
        ("training.lr!=0.001", "cb"),
        ("training.lr=1e-2", "b"),
        ("training.profile=false", "dcba"),
        ("optimizer.betas=[0.9,0.999]", "dcba"),
        ("optimizer.betas='[0.9, 0.95]'", ""),
        ("model.image_size=8", "dcba"),
        ("started>=2026-01-03", "dc"),
        ("started>2026-01-03", "d"),
        ("started=2026-01-02", "b"),
        ("started<'2026-01-02 13'", "ba"),
        ("folder=*/outputs/b", "b"),
        ("val_acc>0.8 status=finished", "ba"),
        ("val_acc>0.8,status=finished,training.lr=0.001", "a"),
        (" dataset=cifar*,  seconds>1 ", "c"),
        ("", "dcba"),
    ],
)
def test_a_filter_leaves_the_runs_that_meet_all_conditions(condition: str, left: str, runs: list[SavedRun]) -> None:
    assert names(select_runs(runs, condition, "started")) == left


@pytest.mark.parametrize(
    ("filter", "sort", "sentence"),
    [
        ("vall_acc>0.9", "started", r"filter=vall_acc: there is no vall_acc. Did you mean val_acc\?\nallowed: started"),
        ("lr=0.1", "started", r"there is no lr. Did you mean training.lr\?"),
        ("training=0.1", "started", r"Did you mean training.epochs or"),
        ("training.epoch>3", "started", r"Did you mean training.epochs\?"),
        ("hurry=1", "started", r"there is no hurry.\nallowed: .*, or a key of the configuration, such as training.lr"),
        (None, "-accuracy", r"sort=accuracy: there is no accuracy"),
        (None, "", r"sort=: there is no name"),
        ("finished", "started", "filter=finished: 'finished' is not a condition; write NAME=VALUE"),
        ("status=finished or epoch=1", "started", "'or' is not a condition"),
        ("val_acc", "started", "'val_acc' is not a condition"),
        ("val_acc>", "started", "filter=val_acc> has no value"),
        ("val_acc>good", "started", "filter=val_acc>good: good is not a number"),
        ("model.num_layers>many", "started", "many is not a number"),
        ("status>finished", "started", "filter=status>finished: status is not a number; compare it with = or !="),
        ("test_acc>95", "started", "test_acc is a fraction from 0 to 1; write test_acc>95%"),
    ],
)
def test_what_is_no_condition_or_name_is_refused_with_what_is(
    filter: str | None, sort: str, sentence: str, runs: list[SavedRun]
) -> None:
    with pytest.raises(ValueError, match=sentence):
        select_runs(runs, filter, sort)


def test_configurations_are_read_only_where_their_keys_are_named(
    runs: list[SavedRun], monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Path] = []

    def note(path: Path) -> dict[str, int]:
        read.append(path)
        return {"seed": 0}

    query._read_values.cache_clear()  # of other tests
    monkeypatch.setattr(query, "read_values", note)
    select_runs(runs, "val_acc>0.1 status!=failed", "seconds")
    assert read == []
    assert len(select_runs(runs, "seed=0", "seed")) == len(read) == 4


def test_a_key_younger_than_a_run_has_todays_value_and_a_damaged_configuration_none(tmp_path: Path) -> None:
    for name in "ab":
        save_run(tmp_path / name)
    values = yaml.safe_load((tmp_path / "a/config.yaml").read_text())
    del values["training"]["sampler"]
    (tmp_path / "a/config.yaml").write_text(yaml.safe_dump(values))
    (tmp_path / "b/config.yaml").write_text("a: [")
    found = find_all_runs([str(tmp_path)])[0]
    assert names(select_runs(found, "training.sampler=shuffled", "started")) == "a"
    assert names(select_runs(found, None, "training.sampler")) == "ab"


def test_the_table_shows_all_runs_and_names_those_that_cannot_be_read(runs: list[SavedRun], tmp_path: Path) -> None:
    place = runs[0].folder.parents[1]
    shown = infer(place, "task=list").stdout.splitlines()
    assert [line.split()[-1] for line in shown[1:]] == [f"outputs/{name}" for name in "dcba"]
    words = "no when data set model parameters epochs val acc test acc minutes status folder"
    assert " ".join(shown[0].split()) == words
    assert "0/1" in shown[1] and "failed" in shown[1] and "%" not in shown[1], "what it does not have is empty"
    assert "95.00%    91.00%      1.5" in shown[3]
    save_run(tmp_path / "outputs" / "good", best_val_acc="high", parameters="many", seconds=None)
    (save_fake_run(tmp_path / "outputs" / "torn", "2026-01-01", 0.5) / "status.json").write_text("{")
    result = infer(tmp_path, "task=list")
    assert "outputs/good" in result.stdout and "left out: outputs/torn/status.json is damaged" in result.stderr


def test_conditions_need_no_second_quoting(runs: list[SavedRun]) -> None:
    place = runs[0].folder.parents[1]
    result = infer(place, "task=list", "sort=-val_acc", "filter=val_acc>0.8 status=finished")
    assert [line.split()[-1] for line in result.stdout.splitlines()[1:]] == ["outputs/a", "outputs/b"], result.stderr
    assert "outputs/b" in infer(place, "task=list", "filter=status=finished").stdout
    result = infer(place, "task=list", "filter=val_acc>0.99")
    assert result.returncode == 1 and "filter=val_acc>0.99 matches none of 4 run(s)" in result.stderr
    result = infer(place, "filter=val_acc>0.8", "input=x.png")
    assert result.returncode == 1 and "filter chooses from a table of runs" in result.stderr


def test_the_choice_of_a_run_offers_usable_ones_only_in_the_order_asked_for(runs: list[SavedRun]) -> None:
    place = runs[0].folder.parents[1]
    result = infer(place, "sort=val_acc", answers="q\n")
    numbers = [line.split()[0] for line in result.stdout.splitlines()[1:4]]
    assert numbers == ["3", "4", "2"] and "95.00%" in result.stdout.splitlines()[1], "as in the table of all"
    assert "number of a run (Enter: 2, the best on cifar10; q: quit)" in result.stdout, "that of the newest usable run"
