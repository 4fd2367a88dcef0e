"""Seeded splits: stratified, or by groups that stay together.

Letters: G groups, K classes, P parts (the first is the rest, which is for training).
"""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..config.dataset import DatasetConfig
from .folders import Source
from .names import normalize


def carve_splits(source: Source, config: DatasetConfig) -> None:
    """Complete the source to train, val and test, in place: missing splits are drawn from its training images.

    Raises ValueError, naming the key, if there are too few groups or an item's group cannot be determined.
    """
    base = "all" if "all" in source.splits else "train"
    items, labels = source.splits.pop(base)
    shares = {"val": config.val_share, "test": config.test_share}
    missing = {name: share for name, share in shares.items() if name not in source.splits and share is not None}
    groups: list[str] | None = None
    if missing and config.split in ("grouped", "blocks"):
        groups = _name_groups(source, base, items, config)
        parts = grouped_split(labels, groups, list(missing.values()), config.split_seed or 0)
        _check_parts(parts, groups, config)
    else:
        parts = stratified_split(labels, list(missing.values()), config.split_seed or 0)
    named = source.groups.pop(base, None)
    for name, part in zip(["train", *missing], parts, strict=True):
        chosen = items[part] if isinstance(items, np.ndarray) else [items[i] for i in part]
        source.splits[name] = (chosen, [labels[i] for i in part])
        if names := groups or named:
            source.groups[name] = [names[i] for i in part]
    _check_apart(source, config)
    if base == "train" and "test" in missing:
        source.notes.append("the data set has no test split: test images were drawn from the training images")


def _check_apart(source: Source, config: DatasetConfig) -> None:
    """Reject splits that share a group which the user wants to keep together, splits given by the data set too."""
    if config.split != "grouped":
        return
    owner: dict[str, str] = {}
    for split, (items, _) in source.splits.items():
        names = source.groups.get(split)
        if names is None and config.group_pattern and not isinstance(items, np.ndarray):
            root = str(source.root or config.root or "")
            matches = [re.search(normalize(config.group_pattern), _relative(path, root)) for path in items]
            names = ["/".join(part or "" for part in match.groups()) for match in matches if match]
        for name in set(names or ()):
            if owner.setdefault(name, split) != split:
                raise ValueError(
                    f"dataset.split=grouped: group '{name}' is in both {owner[name]} and {split}; fix the data, "
                    "or use it as it is with dataset.split=stratified"
                )


def stratified_split(labels: Sequence[int], shares: Sequence[float], seed: int) -> list[list[int]]:
    """Split positions class by class into the rest, which comes first, and a part for each of the shares.

    Every class keeps at least one sample in the rest, then gives at least one to each part while it has any.
    """
    labels_array = np.asarray(labels)
    parts: list[list[int]] = [[] for _ in range(len(shares) + 1)]
    random = np.random.default_rng(seed)
    for label in np.unique(labels_array):
        members = random.permutation(np.flatnonzero(labels_array == label)).tolist()
        for part, share in enumerate(shares, start=1):
            count = min(max(1, round(share * np.count_nonzero(labels_array == label))), len(members) - 1)
            parts[part] += [members.pop() for _ in range(count)]
        parts[0] += members
    return [sorted(part) for part in parts]


def grouped_split(labels: Sequence[int], groups: Sequence[str], shares: Sequence[float], seed: int) -> list[list[int]]:
    """Split positions like `stratified_split`, but keep the positions of a group together.

    Greedy, largest groups first, like scikit-learn's StratifiedGroupKFold but for parts of unequal size. With too few
    groups, classes are missing from parts (from the rest only as a last resort), or a part is empty.
    """
    names, members = np.unique(np.asarray(groups), return_inverse=True)
    _, classes = np.unique(np.asarray(labels), return_inverse=True)
    counts = np.zeros((len(names), classes.max() + 1))  # (G,K)
    np.add.at(counts, (members, classes), 1)
    counts /= counts.sum(0)  # shares of each class, so that a rare class weighs as much as a common one
    order = np.random.default_rng(seed).permutation(len(names))
    order = order[np.argsort(-counts[order].max(1), kind="stable")]
    placed = _place_groups(counts[order], np.array([1 - sum(shares), *shares]))
    part_of_group = np.empty(len(names), dtype=np.int64)
    part_of_group[order] = placed
    return [np.flatnonzero(part_of_group[members] == part).tolist() for part in range(len(shares) + 1)]


def _place_groups(counts: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Return the part (G,) of each group (G,K), in the order given."""
    filled = np.zeros((len(shares), counts.shape[1]))  # (P,K)
    placed = np.empty(len(counts), dtype=np.int64)
    for group, share in enumerate(counts):
        # What this group adds to the sum over parts and classes of (filled - wanted)^2 / wanted.
        cost = (share**2 / shares[:, None] + 2 * share * (filled / shares[:, None] - 1)).sum(1)
        placed[group] = cost.argmin()
        filled[placed[group]] += share
    for part in range(len(shares)):
        for label in range(counts.shape[1]):
            _supply(part, label, placed, counts)
    return placed


def _supply(part: int, label: int, placed: np.ndarray, counts: np.ndarray) -> None:
    """Move the smallest spare group with the class into a part that lacks the class, in place.

    A group is spare if the part that it leaves keeps all its classes; the rest (part 0) takes any group.
    """
    holders: list[int] = np.flatnonzero(counts[:, label] > 0).tolist()
    if (placed[holders] == part).any():
        return
    groups_left = np.array([(counts[placed == other] > 0).sum(0) for other in range(placed.max() + 1)])  # (P,K)
    spare = [group for group in holders if (groups_left[placed[group]][counts[group] > 0] > 1).all()]
    if chosen := spare or (holders if part == 0 else []):
        placed[min(chosen, key=lambda group: counts[group].sum())] = part


def _name_groups(source: Source, base: str, items: Sequence[Path] | np.ndarray, config: DatasetConfig) -> list[str]:
    """Return the name of each item's group, from the data set itself or from the file names."""
    if config.split == "grouped" and base in source.groups:
        return source.groups[base]
    assert not isinstance(items, np.ndarray), "the schema rejects groups for images without files"
    root = str(source.root or config.root or "")
    paths = [_relative(path, root) for path in items]
    if config.split == "blocks":
        return _name_blocks(paths, config)
    matches = _match_all(paths, str(config.group_pattern), config)
    return ["/".join(part or "" for part in match.groups()) for match in matches]


def _name_blocks(paths: list[str], config: DatasetConfig) -> list[str]:
    """Return 'video#block' for each frame; by default, files whose names differ only in a number are one video."""
    assert config.block_size is not None
    if config.group_pattern is None:
        matches = _match_all([Path(path).stem for path in paths], r"^(.*?)(\d+)(\D*)$", config)
        frames = [(f"{match[1]}*{match[3]}", match[2]) for match in matches]
    else:
        matches = _match_all(paths, config.group_pattern, config)
        frames = [("/".join(part or "" for part in match.groups()[:-1]), match.groups()[-1]) for match in matches]
    for path, (_, number) in zip(paths, frames, strict=True):
        if number is None or not number.isdecimal():
            raise ValueError(
                f"dataset.group_pattern={config.group_pattern}: its last group is '{number}' in {path}, but with "
                "dataset.split=blocks it must be the frame number"
            )
    return [f"{video}#{int(number) // config.block_size}" for video, number in frames]


def _match_all(paths: list[str], pattern: str, config: DatasetConfig) -> list[re.Match[str]]:
    matches = [re.search(normalize(pattern), path) for path in paths]
    failed = [path for path, match in zip(paths, matches, strict=True) if match is None]
    if failed and config.group_pattern is None:
        raise ValueError(
            f"dataset.split=blocks: no frame number in the names of {len(failed)} of {len(paths)} files, such as "
            f"{failed[0]}; set dataset.group_pattern or dataset.split=stratified"
        )
    if failed:
        raise ValueError(
            f"dataset.group_pattern={pattern} does not match the paths of {len(failed)} of {len(paths)} files, "
            f"such as {failed[0]}"
        )
    return [match for match in matches if match is not None]


def _relative(path: Path, root: str) -> str:
    """Return the path relative to `root`, or the whole path if it is elsewhere, with forward slashes, normalized."""
    return normalize(path.relative_to(root).as_posix() if root and path.is_relative_to(root) else path.as_posix())


def _check_parts(parts: list[list[int]], groups: list[str], config: DatasetConfig) -> None:
    if all(parts):
        return
    key = "group_pattern" if config.group_column is None else "group_column"
    blocks = config.split == "blocks"
    finer = f"a dataset.block_size below {config.block_size}" if blocks else f"another dataset.{key}"
    raise ValueError(
        f"dataset.split={config.split}: {len(set(groups))} group(s) are too few to fill train, val and test; "
        f"form more groups with {finer}, or use dataset.split=stratified"
    )
