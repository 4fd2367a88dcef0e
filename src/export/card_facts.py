"""What a card tells about a run's data and settings: without folders of this machine, which are private."""

import os
import re
from dataclasses import dataclass, replace
from pathlib import Path, PureWindowsPath
from typing import Any

from ..config.compose import dump_config
from ..config.initial import HUB
from ..config.paths import PATHS, read_paths, replace_paths
from ..config.schema import TrainConfig
from ..machine.regular import open_regular
from ..machine.streams import printable_cell
from ..run import files
from ..run.changes import list_changes, read_settings, show_setting
from ..run.resume import changes_nothing
from ..run.saved import SavedRun
from ..terminal import format_minutes

LOG_BYTES = 2**20  # at the start of a log, where it describes the images
SIZES = r"([\d,]+)(?: to ([\d,]+))?"
IMAGES = re.compile(rf"images {{4}}{SIZES} training images per class; {SIZES} x {SIZES} px; (.*)")
LICENSED = re.compile(r"(?:^|\s)license: (\S.*)$")  # of published weights
COPIES = re.compile(r"[\d,]+ images (?:have an exact copy in another split|occur in more than one class)")
WINDOWS = re.compile(r"[A-Za-z]:[\\/]|\\\\")  # how an absolute path of Windows begins
NAMED, LONGEST = 30, 80  # classes that are named; characters of a name


@dataclass(frozen=True)
class Images:
    """What the log says about the images: numbers as (smallest, largest), over the classes and over the files."""

    per_class: tuple[int, int]
    width: tuple[int, int]
    height: tuple[int, int]
    modes: str


def read_log(run: SavedRun) -> list[str]:
    """Return the first messages of a run's log; [] if it cannot be read."""
    try:
        with open_regular(run.folder / files.LOG) as file:
            text = file.read(LOG_BYTES).decode("utf-8", "replace")
    except OSError:
        return []
    found = (re.fullmatch(r"\S+ \S+ [A-Z]+ (.*)", line) for line in text.splitlines())
    return [match[1] for match in found if match]


def read_images(lines: list[str]) -> Images | None:
    """Return what the messages of a log say about the images, None if they do not."""
    match = next(filter(None, map(IMAGES.fullmatch, lines)), None)
    if match is None:
        return None
    low, high = ([int((text or "0").replace(",", "")) for text in match.groups()[i:6:2]] for i in (0, 1))
    per_class, width, height = ((least, most or least) for least, most in zip(low, high, strict=True))
    return Images(per_class, width, height, match[7])


def read_copies(lines: list[str]) -> list[str]:
    """Return the sentences of a log about images that occur more than once where they should not."""
    return list(dict.fromkeys(match[0] for match in map(COPIES.match, lines) if match))


def name_data(config: TrainConfig) -> str:
    """Return a name of the data set: for the user's own images that of their folder or table, without its place."""
    data = config.dataset
    if data.name == "kaggle" and data.handle:
        return data.handle
    if data.name == "csv" and data.table:
        return Path(_last_part(data.table)).stem
    return _last_part(data.root) if data.name == "image_folder" and data.root else data.name


def cut(text: str) -> str:
    """Return a name on one line, cut if it is very long."""
    shown = printable_cell(text.replace("\t", " "))
    return shown if len(shown) <= LONGEST else f"{shown[: LONGEST - 1]}…"


def describe_data(run: SavedRun, config: TrainConfig, classes: list[str]) -> list[tuple[str, str]]:
    """Return what the card says about the images, with a heading for each; what is not known is left out."""
    environment = run.environment()
    counts = environment.get("images") or {}
    splits = (("training", "train"), ("validation", "val"), ("test", "test"))
    found = [f"{counts[key]:,} {name}" for name, key in splits if type(counts.get(key)) is int]
    more = f" and {len(classes) - NAMED:,} more, in the order of the logits" if len(classes) > NAMED else ""
    facts = {
        "Name": cut(name_data(config)),
        "Classes": f"{len(classes):,}: {', '.join(map(cut, classes[:NAMED]))}{more}",
        "Images": ", ".join(found),
        "Splits": describe_splits(config),
        "As the log describes them": next((line[10:] for line in read_log(run) if IMAGES.fullmatch(line)), ""),
        "Fingerprint": cut(environment.get("data_fingerprint") or ""),
    }
    return [(name, text) for name, text in facts.items() if text]


def describe_training(run: SavedRun, config: TrainConfig) -> list[tuple[str, str]]:
    """Return what the card says about the training, with a heading for each; what is not known is left out."""
    environment, choices = run.environment(), run.choices()
    names = ("experiment", "model", "optimizer", "scheduler", "augmentation")
    options = [f"{name}={choices[name]}" for name in names if choices.get(name) not in (None, "", "None")]
    epoch, minutes = run.number("epoch"), run.minutes
    early = run.facts.get("ended")
    averaged = ", with averaged weights (EMA)" if run.facts.get("best_weights") == "ema" else ""
    weights = config.init.weights
    facts = {
        "Options": ", ".join(map(cut, options)),
        "Began with": _describe_start(weights, read_log(run)),
        "Epochs": ""
        if epoch is None
        else f"{epoch:.0f} of {config.training.epochs}" + (f", ended by {cut(early)}" if early else "") + averaged,
        "Minutes": "" if minutes is None else format_minutes(minutes),
        "Started": cut(run.started[:10]),
        "Hardware": _describe_hardware(environment, config.device),
        "Versions": ", ".join(
            f"{name} {cut(str(environment[key]))}"
            for name, key in (("Python", "python"), ("torch", "torch"), ("torchvision", "torchvision"))
            if environment.get(key)
        ),
        "Seed": str(config.seed),
    }
    return [(name, text) for name, text in facts.items() if text]


def _describe_start(weights: str | None, lines: list[str]) -> str:
    """Return the name of the weights that training began with, and their license if the log has it."""
    if not weights:
        return "random weights"
    found = next(filter(None, map(LICENSED.search, lines)), None)
    return cut(_shorten(weights)) + (f"; their license: {cut(found[1])}" if found else "")


def _describe_hardware(environment: dict[str, Any], asked: str) -> str:
    """Return the graphics card or else the processor, without the name of the machine."""
    gpu = None if asked == "cpu" else environment.get("gpu")
    device, cores = gpu or environment.get("processor"), environment.get("cores")
    if not device:
        return ""
    several = environment.get("processes")
    processes = f", {several} processes" if type(several) is int and several > 1 else ""
    counted = f", {cores} cores" if not gpu and type(cores) is int else ""
    return cut(str(device)) + counted + processes


def name_base(config: TrainConfig) -> str | None:
    """Return the Hub's name of the model that training began with, None if it did not begin with one of the Hub."""
    match = HUB.fullmatch(config.init.weights or "")
    return None if match is None else f"timm/{match[2]}" if match[1] == "timm" else match[2]


def describe_splits(config: TrainConfig) -> str:
    """Return how images were divided into training, validation and test."""
    data = config.dataset
    shares = [
        f"{share:.0%} for {name}"
        for name, share in (("validation", data.val_share), ("test", data.test_share))
        if share is not None
    ]
    how = {
        "grouped": "drawn by whole groups, so that no group is in two splits",
        "blocks": f"drawn in blocks of {data.block_size} consecutive files",
    }.get(data.split or "", "drawn at random, with equal shares of every class")
    seed = f"dataset.split_seed={data.split_seed or 0}"
    return f"those that the data set has; missing ones are {how} ({', '.join(shares) or 'none'}; {seed})"


def without_folders(config: TrainConfig) -> TrainConfig:
    """Return a configuration in which paths are names, except those of published weights and in `data`."""
    paths = {key: _shorten(path) for key, path in read_paths(config).items()}
    return replace(replace_paths(config, paths), resume=None)


def dump_recipe(config: TrainConfig) -> str:
    """Return a run's configuration, as YAML, without folders of this machine."""
    return dump_config(without_folders(config))


def list_recipe(run: SavedRun) -> list[tuple[str, str, str]]:
    """Return the settings that are not those of the chosen options, each with its value and the option's."""
    changes = list_changes(run, read_settings(run))
    if changes.get("optimizer.lr", (None,))[0] == changes.get("training.lr", (1,))[0]:
        del changes["training.lr"]  # the same number under its other name
    rows = []
    for key, (value, default) in changes.items():
        if changes_nothing(key) or (key in PATHS and key != "init.weights"):
            continue
        hide = _shorten if key in PATHS else _hide_path
        shown = hide(value) if isinstance(value, str) else show_setting(value)
        rows.append((key, shown, show_setting(default)))
    return rows


def _shorten(value: Any) -> str:
    """Return the last part of a path; published weights and folders right below `data`, as defaults are, stay."""
    text = str(value)
    parts = Path(text).parts
    return text if HUB.match(text) or (parts[:1] == ("data",) and len(parts) <= 2) else _last_part(text)


def _hide_path(text: str) -> str:
    """Return a text as it is, one that is a path to another folder as a name."""
    elsewhere = text.startswith(("~", "/")) or os.path.isabs(text) or ".." in Path(text).parts
    return _last_part(text) if elsewhere or WINDOWS.match(text) else text


def _last_part(path: str) -> str:
    """Return the last part of a path; of a user's home folder, which is named as the user, only that it is a folder."""
    name = PureWindowsPath(path).name if "\\" in path else Path(path.rstrip("/")).name
    return "FOLDER" if name in ("", "~", "..", Path.home().name) or name.startswith("~") else name
