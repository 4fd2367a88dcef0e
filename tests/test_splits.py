"""Splits: nothing straddles them, and each class and each part gets its share."""

import re
from pathlib import Path

import numpy as np
import pytest
from helpers import compose
from hypothesis import given, settings
from hypothesis import strategies as st

from src.data.folders import Source
from src.data.splits import carve_splits, grouped_split, stratified_split


def carve(paths: list[str], labels: list[int], *overrides: str, base: str = "all") -> Source:
    """Carve splits out of files below /data that are not there: names are all that counts."""
    dataset = compose("dataset=caltech101", "dataset.root=/data", *overrides).dataset
    source = Source([str(label) for label in sorted(set(labels))], {base: ([Path("/data", p) for p in paths], labels)})
    carve_splits(source, dataset)
    return source


def test_small_classes_stay_in_train_before_they_go_elsewhere() -> None:
    labels = [0] * 100 + [1] * 3 + [2] * 2 + [3]
    train, val, test = stratified_split(labels, [0.15, 0.15], seed=0)
    counts = [np.bincount([labels[i] for i in part], minlength=4).tolist() for part in (train, val, test)]
    assert counts == [[70, 1, 1, 1], [15, 1, 1, 0], [15, 1, 0, 0]]
    assert sorted(train + val + test) == list(range(106))


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 3)), min_size=1, max_size=80), st.integers(0, 3))
def test_groups_never_straddle_parts_and_every_class_is_trained_on(pairs: list[tuple[int, int]], seed: int) -> None:
    groups, labels = [str(group) for group, _ in pairs], [label for _, label in pairs]
    parts = grouped_split(labels, groups, [0.2, 0.1], seed)
    assert sorted(sum(parts, [])) == list(range(len(pairs)))
    homes = [{groups[i] for i in part} for part in parts]
    assert not (homes[0] & homes[1] or homes[0] & homes[2] or homes[1] & homes[2])
    assert {labels[i] for i in parts[0]} == set(labels)
    assert parts == grouped_split(labels, groups, [0.2, 0.1], seed)


def test_groups_fill_their_shares_of_every_class() -> None:
    random = np.random.default_rng(0)
    sizes = random.integers(1, 20, 300)
    groups = np.repeat(np.arange(300), sizes).astype(str).tolist()
    labels = np.repeat(random.choice(3, 300, p=[0.6, 0.3, 0.1]), sizes)
    parts = grouped_split(labels.tolist(), groups, [0.15, 0.25], seed=0)
    for label in range(3):
        shares = [np.mean([i in set(part) for i in np.flatnonzero(labels == label)]) for part in parts]
        assert np.allclose(shares, [0.6, 0.15, 0.25], atol=0.02), label
    assert parts != grouped_split(labels.tolist(), groups, [0.15, 0.25], seed=1)


def test_a_rare_class_gets_its_share_as_a_common_one_does() -> None:
    """Sixty patients with fifty common images each; twenty of them with two rare ones more."""
    groups = [str(patient) for patient in range(60) for _ in range(52 if patient % 3 == 0 else 50)]
    labels = [int(groups[:i].count(group) >= 50) for i, group in enumerate(groups)]
    for seed in range(5):
        parts = grouped_split(labels, groups, [0.15, 0.15], seed)
        assert [sum(labels[i] for i in part) for part in parts] == [28, 6, 6]
        assert [len({groups[i] for i in part}) for part in parts] == [42, 9, 9]


def test_blocks_keep_neighboring_frames_of_a_video_together_across_class_folders() -> None:
    random = np.random.default_rng(0)
    labels = random.integers(0, 4, 5000).tolist()
    paths = [f"x/{'abcd'[label]}/frame{i}.jpg" for i, label in enumerate(labels)]
    source = carve(paths, labels, "dataset.split=blocks", "dataset.block_size=50")
    home: dict[int, str] = {}
    for split in ("train", "val", "test"):
        for path in source.splits[split][0]:
            assert home.setdefault(int(Path(path).stem[5:]) // 50, split) == split
    shares = [len(source.splits[split][0]) / 5000 for split in ("train", "val", "test")]
    assert np.allclose(shares, [0.7, 0.15, 0.15], atol=0.02)
    assert source.groups["val"] == [f"frame*#{int(Path(path).stem[5:]) // 50}" for path in source.splits["val"][0]]


def test_frames_are_numbered_within_each_video() -> None:
    paths = [f"{'ab'[i % 2]}/clip{video} at {i} cm.v2.png" for video in (1, 2, 3) for i in range(10)]
    source = carve(paths, [i % 2 for i in range(30)], "dataset.split=blocks", "dataset.block_size=10")
    names = {group for groups in source.groups.values() for group in groups}
    assert names == {f"clip{video} at {i} cm.v*#0" for video in (1, 2, 3) for i in range(10)}
    pattern = r"dataset.group_pattern='(clip\d+) at (\d+)'"
    source = carve(paths, [i % 2 for i in range(30)], "dataset.split=blocks", "dataset.block_size=10", pattern)
    assert {group for groups in source.groups.values() for group in groups} == {f"clip{video}#0" for video in (1, 2, 3)}
    assert {split: len(set(groups)) for split, groups in source.groups.items()} == {"train": 1, "val": 1, "test": 1}


def test_a_pattern_groups_by_the_path_below_the_root() -> None:
    paths = [f"{label}/patient{i}_{k}.png" for label in "ab" for i in range(12) for k in range(3)]
    labels = [int(path[0] == "b") for path in paths]
    source = carve(paths, labels, "dataset.split=grouped", r"dataset.group_pattern='^(\w)/patient(\d+)_'")
    home = {group: split for split, groups in source.groups.items() for group in groups}
    assert len(home) == 24 and "a/11" in home
    assert sum(len(set(groups)) for groups in source.groups.values()) == 24
    assert all(len(set(labels)) == 2 for _, labels in source.splits.values())


def test_given_splits_stay_and_a_groups_column_beats_the_file_names() -> None:
    dataset = compose("dataset=gtsrb").dataset
    items = [Path(f"{i}.ppm") for i in range(12)]
    source = Source(["a", "b"], {"train": (items[:8], [0, 1] * 4), "test": (items[8:], [0, 1] * 2)})
    source.groups["train"] = [str(i // 2) for i in range(8)]
    carve_splits(source, dataset)
    assert source.splits["test"] == (items[8:], [0, 1] * 2)
    assert set(source.groups["train"]).isdisjoint(source.groups["val"]) and len(source.splits["val"][0]) == 2


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["split=grouped", "group_pattern='(frame)'"], "dataset.split=grouped: 1 group(s) are too few"),
        (["split=blocks", "block_size=1000"], "form more groups with a dataset.block_size below 1000"),
        (
            ["split=grouped", "group_pattern='(clip)'"],
            "dataset.group_pattern=(clip) does not match the paths of 40 of 40",
        ),
        (["split=blocks", "group_pattern='(fr)ame(x|)'"], "its last group is '' in a/frame0.jpg"),
    ],
)
def test_groups_that_cannot_be_split_are_an_error_that_names_the_key(overrides: list[str], message: str) -> None:
    paths, labels = [f"{'ab'[i % 2]}/frame{i}.jpg" for i in range(40)], [i % 2 for i in range(40)]
    with pytest.raises(ValueError, match=re.escape(message)):
        carve(paths, labels, *(f"dataset.{override}" for override in overrides))


def test_names_without_a_number_are_no_frames() -> None:
    with pytest.raises(ValueError, match=r"no frame number in the names of 1 of 2 files, such as cat; set dataset"):
        carve(["a/cat.jpg", "b/7.jpg"], [0, 1], "dataset.split=blocks")
