"""The jobs of a sweep from what is typed: combined, paired, drawn, listed in a file."""

import math
import re
from pathlib import Path
from typing import Any

import hydra
import pytest
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser

from src.config.compose import CONFIGS, compose_config
from src.config.sweep import SweepConfig
from src.start.expand import expand


def settings(**changes: Any) -> SweepConfig:
    values = dict(vars(compose_config().sweep))
    return SweepConfig(**{**values, **changes})


def jobs(*words: str, **changes: Any) -> list[list[str]]:
    with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
        parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
        return expand(list(words), settings(**changes), parser)


def test_values_are_crossed_with_the_last_key_changing_first() -> None:
    assert jobs("a=1,2", "b=x", "c=3,4") == [
        ["a=1", "b=x", "c=3"],
        ["a=1", "b=x", "c=4"],
        ["a=2", "b=x", "c=3"],
        ["a=2", "b=x", "c=4"],
    ]


def test_zipped_values_are_paired_and_single_ones_repeated() -> None:
    found = jobs("model.num_layers=4,6", "seed=1", "model.embedding_dim=64,96", zip=True)
    assert found == [
        ["model.num_layers=4", "seed=1", "model.embedding_dim=64"],
        ["model.num_layers=6", "seed=1", "model.embedding_dim=96"],
    ]


def test_zipped_values_of_unequal_number_are_refused_with_their_counts() -> None:
    with pytest.raises(ValueError, match="a has 2, b has 3"):
        jobs("a=1,2", "b=1,2,3", "c=1", zip=True)


@pytest.mark.parametrize(
    ("word", "values"),
    [
        ("a=choice(4,6,8)", ["4", "6", "8"]),
        ("a=range(2,9,3)", ["2", "5", "8"]),
        ("a=range(0.25,1,0.25)", ["0.25", "0.5", "0.75"]),
        ("model=glob(vit_t*)", ["vit_tiny"]),
        ("a=[1,2],[3]", ["[1,2]", "[3]"]),
        ("a='x y',null,true", ["'x y'", "null", "True"]),
    ],
)
def test_hydras_ways_to_write_several_values_are_understood(word: str, values: list[str]) -> None:
    key = word.split("=")[0]
    assert jobs(word) == [[f"{key}={value}"] for value in values]


def test_shuffled_values_have_the_same_order_each_time() -> None:
    word = "a=shuffle(range(0,20))"
    assert jobs(word) == jobs(word) != jobs(word, seed=1) and sorted(jobs(word)) == sorted(jobs("a=range(0,20)"))


def test_an_interval_cannot_be_crossed_and_is_told_what_can() -> None:
    with pytest.raises(ValueError, match=re.escape("a=interval(0,1) is an interval, not a list of values: add sweep.")):
        jobs("a=interval(0,1)")


def test_drawn_jobs_lie_in_their_ranges_and_are_the_same_each_time() -> None:
    words = ["lr=tag(log,interval(1e-4,1e-1))", "depth=int(interval(2,5))", "drop=interval(0,0.3)", "k=x,y", "fixed=1"]
    drawn = jobs(*words, random=200)
    assert drawn == jobs(*words, random=200) and drawn != jobs(*words, random=200, seed=1)
    assert drawn[:50] == jobs(*words, random=50)  # more jobs do not change the first
    values = [dict(word.split("=") for word in job) for job in drawn]
    rates = sorted(float(value["lr"]) for value in values)
    assert rates[0] >= 1e-4 and rates[-1] <= 1e-1
    assert math.log10(rates[100]) == pytest.approx(-2.5, abs=0.3)  # the middle of the logarithms
    assert {value["depth"] for value in values} == {"2", "3", "4", "5"} and {value["k"] for value in values} == {
        "x",
        "y",
    }
    assert all(0 <= float(value["drop"]) <= 0.3 and value["fixed"] == "1" for value in values)


def test_from_lists_no_combination_is_drawn_twice() -> None:
    drawn = jobs("a=1,2,3", "b=1,2,3,4", random=12)
    assert sorted(drawn) == sorted(jobs("a=1,2,3", "b=1,2,3,4")) and drawn != jobs("a=1,2,3", "b=1,2,3,4")
    with pytest.raises(ValueError, match="sweep.random=13, but there are only 12 combinations"):
        jobs("a=1,2,3", "b=1,2,3,4", random=13)


def test_several_seeds_repeat_each_drawn_job() -> None:
    drawn = jobs("a=interval(0,1)", "seed=0,1,2", random=4)
    assert len(drawn) == 12 and [job[1] for job in drawn[:3]] == ["seed=0", "seed=1", "seed=2"]
    assert len({job[0] for job in drawn[:3]}) == 1 and len({job[0] for job in drawn}) == 4


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("a=interval(1,0)", "the second number must be larger than the first"),
        ("a=tag(log,interval(0,1))", "needs numbers above 0"),
        ("a=tag(exp,interval(0,1))", "the tag exp is not known; allowed: log"),
        ("a=1", "sweep.random draws from several values or an interval"),
    ],
)
def test_ranges_that_cannot_be_drawn_from_are_refused(word: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        jobs(word, random=3)


FILES = {
    "lines.txt": "model.num_layers=4 training.lr=0.01   # small\n\n# a comment\nmodel.num_layers=6 training.lr=0.001\n",
    "list.yaml": "- model: {num_layers: 4}\n  training.lr: 0.01\n- model.num_layers=6 training.lr=0.001\n",
    "table.csv": "model.num_layers,training.lr\n4,0.01\n6,0.001\n",
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_experiments_gives_a_job_each_crossed_with_what_is_typed(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(FILES[name])
    assert jobs("seed=0,1", file=str(tmp_path / name)) == [
        ["model.num_layers=4", "training.lr=0.01", "seed=0"],
        ["model.num_layers=4", "training.lr=0.01", "seed=1"],
        ["model.num_layers=6", "training.lr=0.001", "seed=0"],
        ["model.num_layers=6", "training.lr=0.001", "seed=1"],
    ]


def test_what_is_typed_wins_over_the_file(tmp_path: Path) -> None:
    (tmp_path / "lines.txt").write_text(FILES["lines.txt"])
    found = jobs("training.lr=0.5", file=str(tmp_path / "lines.txt"))
    assert found == [["model.num_layers=4", "training.lr=0.5"], ["model.num_layers=6", "training.lr=0.5"]]


def test_values_of_a_yaml_file_are_typed_as_the_grammar_wants_them(tmp_path: Path) -> None:
    (tmp_path / "list.yaml").write_text("- {a: null, b: true, c: [1, x], d: 'a, b=c', e: 1.0e-3, f: a/b.yaml}\n")
    assert jobs(file=str(tmp_path / "list.yaml")) == [
        ["a=null", "b=true", "c=[1,x]", "d='a, b=c'", "e=0.001", "f=a/b.yaml"]
    ]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("x.txt", "lr 0.1\n", "lr is not of the form key=value"),
        ("x.txt", "# nothing\n", "contains no jobs"),
        ("x.txt", "a=1,2\n", "a=1,2 gives several values; write a line for each"),
        ("x.yaml", "a: 1\n", "must be a list: an item"),
        ("x.yaml", "- [1]\n", "is neither a mapping (key: value) nor a line"),
        ("x.yaml", "a: [", "cannot be read"),
        ("x.txt", "seed=1 hydra.sweep.dir=foo\n", "hydra.sweep.dir is a setting of the sweep itself; type it instead"),
        ("x.txt", "sweep.zip=true seed=1\n", "sweep.zip is a setting of the sweep itself; type it instead"),
        ("x.txt", "a='x\n", "No closing quotation"),
        ("x.csv", "a\n1,2\n", "a row has more cells than there are columns"),
        ("x.csv", "a;b\n1;2\n", "a;b=1;2 cannot be read"),
    ],
)
def test_a_file_that_lists_no_jobs_is_refused_by_name(name: str, text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=re.escape(f"sweep.file={tmp_path / name}")) as error:
        jobs(file=str(tmp_path / name))
    assert message in str(error.value)


def test_paths_and_what_spreadsheets_write_are_read(tmp_path: Path) -> None:
    text = 'dataset.root, seed\n"/tmp/ph (1), x=[2]", 3\n'
    (tmp_path / "x.csv").write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert jobs(file=str(tmp_path / "x.csv")) == [["dataset.root='/tmp/ph (1), x=[2]'", "seed=3"]]


def test_parameters_that_are_no_text_are_typed_as_the_grammar_wants_them() -> None:
    assert jobs(params={"a": None, "b": True, "c": [1, 2]}) == [["a=null", "b=true", "c=[1,2]"]]
    with pytest.raises(ValueError, match="sweep.params: hydra.sweep.dir cannot be swept"):
        jobs(params={"hydra.sweep.dir": "x"})


def test_parameters_of_an_experiment_are_swept_unless_typed() -> None:
    assert jobs("a=5", "c=7,8", params={"a": "1,2", "b": "3,4"}) == [
        ["b=3", "a=5", "c=7"],
        ["b=3", "a=5", "c=8"],
        ["b=4", "a=5", "c=7"],
        ["b=4", "a=5", "c=8"],
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"zip": True, "random": 3}, "sweep.zip=true and sweep.random=3 are different ways to choose the jobs"),
        ({"search": "grid"}, "sweep.search=grid is not known; allowed: tpe, random"),
        ({"pruner": "mean"}, "sweep.pruner=mean is not known; allowed: median, hyperband"),
        ({"on_error": "ask"}, "sweep.on_error=ask is not known; allowed: continue, stop"),
        ({"gpus": []}, r"sweep.gpus=\[\] must be numbers of CUDA devices"),
        ({"only": "x"}, "must be numbers of jobs, e.g. 3"),
        ({"parallel": 0}, "sweep.parallel=0 must be at least 1"),
        ({"file": "x", "search": "tpe"}, "lists its jobs, sweep.search=tpe looks for them"),
    ],
)
def test_settings_of_a_sweep_that_cannot_be_are_refused_by_key(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        settings(**changes)
