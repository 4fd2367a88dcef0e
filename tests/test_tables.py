"""Tables of results: Markdown shows what is in the cells, the statistics are right, seeds are grouped by value."""

import math
from random import Random
from typing import Any

import pytest

from src.sweep.plan import Plan, PlannedJob
from src.tables import (
    Table,
    describe_mean,
    escape_markdown,
    format_percent,
    group_by_seed,
    list_differing,
    mean,
    rank_key,
)


def test_markdown_marks_the_right_aligned_columns_and_escapes_the_cells() -> None:
    table = Table(["run", "val_acc"], [["a|b*", "97.60%"], ["c\nd", ""]], right=["val_acc"])
    assert table.to_markdown().splitlines() == [
        "| run | val_acc |",
        "| --- | ---: |",
        "| a\\|b\\* | 97.60% |",
        "| c d |  |",
    ]


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("plain text, 1.5 ± 0.2 % (3)", "plain text, 1.5 ± 0.2 % (3)"),
        ("a|b", "a\\|b"),
        ("*", "\\*"),
        ("**bold**", "\\*\\*bold\\*\\*"),
        ("model.num_layers=4", "model.num_layers=4"),
        ("_a_b_", "\\_a_b\\_"),
        ("__init__", "\\_\\_init\\_\\_"),
        ("a__b", "a\\_\\_b"),
        ("`x` <y> [z]", "\\`x\\` \\<y> \\[z]"),
        ("~~old~~", "\\~\\~old\\~\\~"),
        ("C:\\d", "C:\\\\d"),
        ("two\nlines", "two lines"),
    ],
)
def test_markdown_is_escaped_where_it_would_be_read_as_markup(text: str, escaped: str) -> None:
    assert escape_markdown(text) == escaped


def test_a_table_can_be_turned_and_its_columns_picked() -> None:
    table = Table(["key", "a", "b"], [["lr", "1", "2"], ["seed", "3", "4"]], right=["b"])
    turned = table.turn("run")
    assert (turned.columns, turned.rows) == (["run", "lr", "seed"], [["a", "1", "3"], ["b", "2", "4"]])
    picked = table.pick([0, 2])
    assert picked == Table(["key", "b"], [["lr", "2"], ["seed", "4"]], right=["b"])
    same_name = Table(["run", "run"], [["left", "right"]])
    assert same_name.pick([1]).rows == [["right"]]


def test_percentages_have_two_digits_and_unknown_ones_are_empty() -> None:
    assert [format_percent(value) for value in (0.97605, 0, 1, None)] == ["97.61%", "0.00%", "100.00%", ""]


@pytest.mark.parametrize(
    ("fractions", "text"),
    [
        # Mean 94; squared deviations 16, 0, 16; divided by n - 1 = 2: 16, with the square root 4.
        ([0.90, 0.94, 0.98], "94.00 ± 4.00 % (3)"),
        # Mean 2.5; squared deviations 2.25, 0.25, 0.25, 2.25; divided by 3: 1.6667, with the square root 1.2910.
        ([0.01, 0.02, 0.03, 0.04], "2.50 ± 1.29 % (4)"),
        # Two values differ from their mean by 5 each; the square root of 50 / 1 is 7.0711.
        ([0.6, 0.7], "65.00 ± 7.07 % (2)"),
        ([0.5, 0.5], "50.00 ± 0.00 % (2)"),
        ([0.975], "97.50 % (1)"),
        ([None, 0.6, None, 0.7], "65.00 ± 7.07 % (2)"),
        ([None], ""),
        ([], ""),
    ],
)
def test_the_mean_comes_with_the_sample_standard_deviation_and_the_number(
    fractions: list[float | None], text: str
) -> None:
    assert describe_mean(fractions) == text


def test_the_mean_is_that_of_the_known_numbers() -> None:
    assert mean([0.5, None, 1.0]) == 0.75
    assert mean([None]) is mean([]) is None


def test_the_highest_accuracy_ranks_first_then_the_lowest_loss_and_unknown_ones_last() -> None:
    ranked: list[tuple[float | None, float | None]] = [
        *((0.9, 0.5), (0.8, 0.1), (0.8, 0.3), (0.8, None)),
        *((0.0, 0.2), (None, 0.1), (None, None)),
    ]
    shuffled = Random(0).sample(ranked, len(ranked))
    assert shuffled != ranked
    assert sorted(shuffled, key=lambda pair: rank_key(*pair)) == ranked
    assert rank_key(math.nan, math.nan) == rank_key(None, None) > rank_key(0.0, math.nan) == rank_key(0.0, None)


def test_ties_keep_their_order() -> None:
    jobs = [("first", 0.8, 0.1), ("second", 0.8, 0.1), ("best", 0.9, 0.1), ("third", 0.8, 0.1)]
    assert [name for name, *_ in sorted(jobs, key=lambda job: rank_key(*job[1:]))] == [
        "best",
        "first",
        "second",
        "third",
    ]


def group(*settings: dict[str, Any]) -> list[list[int]]:
    return group_by_seed(range(len(settings)), lambda number: settings[number])


def test_items_that_differ_only_in_their_seed_are_one_group_in_the_order_of_the_first() -> None:
    assert group({"a": 2, "seed": 0}, {"a": 1, "seed": 0}, {"a": 2, "seed": 1}, {"a": 1}) == [[0, 2], [1, 3]]
    assert group() == []


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        (1, 1.0, True),
        (0.001, 1e-3, True),
        (1, True, False),
        (0, False, False),
        (0, None, False),
        (1, "1", False),
        ("cls", "cls", True),
        ([0.9, 1], [0.9, 1.0], True),
        ([1, 2], (1, 2), True),
        ([1, 2], [2, 1], False),
        ({"a": [1]}, {"a": [1.0]}, True),
        ({"a": 1}, {"a": True}, False),
    ],
)
def test_settings_are_compared_by_value(one: Any, other: Any, equal: bool) -> None:
    assert group({"x": one, "seed": 0}, {"x": other, "seed": 1}) == ([[0, 1]] if equal else [[0], [1]])
    assert list_differing([{"x": one}, {"x": other}]) == ([] if equal else ["x"])


def test_the_order_of_the_keys_does_not_matter_but_a_missing_one_does() -> None:
    assert group({"a": 1, "b": 2}, {"b": 2, "a": 1}, {"a": 1}, {"a": 1, "b": None}) == [[0, 1], [2], [3]]
    assert list_differing([{"a": 1, "b": 2}, {"b": 2}, {"b": 2, "c": None}]) == ["a", "c"]
    assert list_differing([{"a": 1}]) == list_differing([]) == []


def plan(*jobs: str) -> Plan:
    return Plan([], [], [], [PlannedJob(job.split(), str(number), {}) for number, job in enumerate(jobs)])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("training.lr=0.001", "training.lr=1e-3"),
        ("training.lr=0.001", "+training.lr=.001"),
        ("model.dropout=0", "model.dropout=0.0"),
        ("training.compile=true", "training.compile=True"),
        ("training.ema=null", "training.ema=NULL"),
        ("optimizer.betas=[0.9,0.95]", "optimizer.betas=[0.90,9.5e-1]"),
        ("dataset.root=photos", "dataset.root='photos'"),
    ],
)
def test_different_spellings_of_a_value_are_one_group_of_a_sweep_and_not_swept(one: str, other: str) -> None:
    spelled = plan(f"seed=0 {one}", f"seed=1 {other}")
    assert spelled.list_swept() == ["seed"]
    assert group(*(job.values() for job in spelled.jobs)) == [[0, 1]]
    assert [job.texts()["seed"] for job in spelled.jobs] == ["0", "1"]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("training.lr=0.001", "training.lr=0.01"),
        ("training.compile=true", "training.compile=1"),
        ("training.ema=null", "training.ema=0"),
        ("model=vit_tiny", "model=vit_nano"),
        ("optimizer.betas=[0.9,0.95]", "optimizer.betas=[0.95,0.9]"),
    ],
)
def test_different_values_are_swept_and_in_different_groups(one: str, other: str) -> None:
    differing = plan(f"seed=0 {one}", f"seed=1 {other}")
    assert differing.list_swept() == ["seed", one.partition("=")[0]]
    assert group(*(job.values() for job in differing.jobs)) == [[0], [1]]
