"""From a data set's configuration to its splits, decoded once and stored where they fit."""

import contextlib
import hashlib
import os
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..augment.chunks import count_cores
from ..config.dataset import DatasetConfig
from ..machine.disk import free_space
from ..machine.memory import format_bytes
from .cache import Cache
from .decode import Index, Items, fit_to_pictures, index_arrays
from .folders import Source
from .images import Preprocessing, Track
from .levels import find_value_range, pixel_statistics
from .problems import describe_files, find_empty, find_unreadable
from .read import Reading, read_image
from .sources import load_source
from .splits import carve_splits
from .storage import Images, Stream, choose_place, store_images

SPLITS = ("train", "val", "test")
DISK_SHARE = 0.9  # of the free space; if the cache would take more, images are streamed instead


@dataclass
class Split:
    """images: uint8 (N,C,H,W), labels: int64 (N,), files: N paths, or none if all images come in one file.

    ratios: float32 (N,) width/height of the original pictures, if they are stored whole, squashed to (H,W).
    """

    images: Images | Stream
    labels: Tensor
    files: list[Path] = field(default_factory=list)
    ratios: Tensor | None = None

    def __len__(self) -> int:
        return len(self.labels)


@dataclass
class Data:
    """The splits of a data set. `notes` are sentences for the log, `place` says where the images are stored."""

    train: Split
    val: Split
    test: Split
    classes: list[str]
    preprocessing: Preprocessing
    notes: list[str]
    place: str = ""
    indexes: dict[str, Index] = field(default_factory=dict)
    ignored: list[tuple[Path, str]] = field(default_factory=list)

    def splits(self) -> dict[str, Split]:
        return {"train": self.train, "val": self.val, "test": self.test}

    def lines(self, name: str) -> list[str]:
        """Return the lines about the data in a run's log; name: of the data set."""
        height, width = self.preprocessing.size
        channels = self.preprocessing.channels
        color = {1: "grayscale", 3: "color"}.get(channels, f"{channels} channels")
        counts = f"{len(self.train):,} training, {len(self.val):,} validation, {len(self.test):,} test images"
        return [
            f"data      {name}: {len(self.classes)} classes, {height} × {width} px, {color}; {counts}",
            f"cache     {self.place}",
        ]

    def fingerprint(self) -> str:
        """Return a hash of the content of every image and its label: equal data and splits, equal fingerprint."""
        digest = hashlib.blake2b(repr(self.classes).encode(), digest_size=16)
        for name, split in self.splits().items():
            digest.update(self.indexes[name].digest.tobytes())
            digest.update(split.labels.numpy().data)
        return digest.hexdigest()


def load_data(
    config: DatasetConfig,
    size: tuple[int, int],
    track: Track,
    device: torch.device | None = None,
    stored_size: tuple[int, int] | None = None,
    inspecting: bool = False,
    resumed: bool = False,
) -> Data:
    """Find, split and decode a data set for a model's input of `size` (height, width), and store it where it fits.

    resumed: for a run that continues, with the levels that it began with.
    With another `stored_size`, training images are stored whole, squashed to it, for crops to be drawn from; otherwise
    they are preprocessed like the other splits, as in inference.
    Raises ValueError and OSError, naming folder and key, if the data cannot be used; with `inspecting` these problems
    are notes.
    """
    source = load_source(config)
    carve_splits(source, config)
    preprocessing = _begin_preprocessing(source, config, size)
    whole_size = None if stored_size == size else stored_size
    parts, streamed = _open_parts(source, preprocessing, config, whole_size, track)
    # A run that is resumed keeps the levels that it began with.
    searched = config.value_range is None and not resumed
    if searched and (levels := _search_levels(parts["train"].index)):
        low, high = (f"{level:g}" for level in levels)
        source.notes.append(
            f"the training images have levels from {low} to {high}, which become black and white "
            f"(dataset.value_range=[{low},{high}])"
        )
        preprocessing = replace(preprocessing, value_range=levels)
        parts, streamed = _open_parts(source, preprocessing, config, whole_size, track)
    indexes = {name: part.index for name, part in parts.items()}
    source.notes += describe_files(indexes)
    problems = [] if inspecting else find_unreadable(indexes, config, source.notes)  # a report lists them itself
    preprocessing = _complete_preprocessing(preprocessing, parts, config)
    splits, place = _store_splits(parts, config, preprocessing.channels, device or torch.device("cpu"))
    if whole_size:
        splits["train"].ratios = _picture_ratios(parts["train"].index, size, config.resize)
    problems += find_empty({name: split.labels for name, split in splits.items()}, indexes, source, config)
    if problems and not inspecting:
        raise problems[0]
    return Data(
        **splits,
        classes=source.classes,
        preprocessing=preprocessing,
        notes=[*source.notes, *map(str, problems)],
        place=_describe_streams() if streamed else place,
        indexes=indexes,
        ignored=source.ignored,
    )


@dataclass
class _Part:
    """A split while it is loaded: its files or array, how to decode them, and the decoded images."""

    name: str
    items: Items
    labels: list[int]
    decoder: Preprocessing
    whole: bool = False  # pictures are stored whole, and never enlarged
    cache: Cache | None = None
    index: Index = field(init=False)
    pixels: np.ndarray | None = None  # (N,H,W,C); None if images are streamed

    def store_whole(self, size: tuple[int, int]) -> None:
        self.decoder = replace(self.decoder, size=size, resize="squash", interpolation="bilinear")
        self.whole = True

    def needs_decoding(self) -> bool:
        """Return whether the items are anything but an array of the right size and channels."""
        if not isinstance(self.items, np.ndarray):
            return True
        if self.whole:
            self.decoder = replace(self.decoder, size=fit_to_pictures(self.decoder.size, self.items))
        fits = self.items.ndim == 3 or self.items.shape[3] == self.decoder.channels
        return self.items.shape[1:3] != self.decoder.size or not fits

    def open(self, track: Track) -> None:
        """Fill in `index` and `pixels`, decoding the images if no earlier run has."""
        if self.cache is None:
            assert isinstance(self.items, np.ndarray)
            grey = self.items.ndim == 3
            self.pixels = np.repeat(self.items[..., None], self.decoder.channels, axis=3) if grey else self.items
            self.index = index_arrays(self.pixels, self.items)
            return
        self.index = self.cache.open(track, f"decoding {self.name} images")
        self.decoder = replace(self.decoder, size=(int(self.index.shape[0]), int(self.index.shape[1])))
        self.pixels = self.cache.pixels(self.index) if self.cache.store else None

    def num_bytes(self, channels: int) -> int:
        """Return the bytes that the images take with this number of channels; 0 if they are streamed."""
        return 0 if self.pixels is None else self.index.num_bytes * channels // self.decoder.channels

    def to_split(self, place: str, device: torch.device, channels: int) -> Split:
        kept = self.index.kept.tolist()
        readable = self.items[kept] if isinstance(self.items, np.ndarray) else [self.items[i] for i in kept]
        images: Images | Stream
        if self.pixels is None:
            images = Stream(readable, replace(self.decoder, channels=channels))
        else:
            # Images stored whole will be resampled, which is faster channels-last.
            images = store_images(self.pixels, place, device, channels, channels_last=self.whole)
        labels = torch.tensor([self.labels[i] for i in kept], dtype=torch.long)
        return Split(images, labels, [] if isinstance(readable, np.ndarray) else readable)


def _open_parts(
    source: Source,
    preprocessing: Preprocessing,
    config: DatasetConfig,
    whole_size: tuple[int, int] | None,
    track: Track,
) -> tuple[dict[str, _Part], bool]:
    """Return the splits with their images decoded, and whether they are streamed."""
    parts = {name: _Part(name, *source.splits[name], preprocessing) for name in SPLITS}
    if whole_size:
        parts["train"].store_whole(whole_size)
    notes: list[str] = []
    streamed = _assign_caches(parts, config, notes)
    for part in parts.values():
        part.open(track)
    source.notes += [note for note in notes if note not in source.notes]
    return parts, streamed


def _begin_preprocessing(source: Source, config: DatasetConfig, size: tuple[int, int]) -> Preprocessing:
    """Return what is known of the preprocessing before any image is decoded."""
    known = vars(_choose_reading(config)) | {"channels": _choose_channels(source, config)}
    return Preprocessing(size, config.resize, config.interpolation, **known)


def _choose_reading(config: DatasetConfig) -> Reading:
    """Return how files are read; data sets that come as arrays have no such keys."""
    levels = config.value_range
    return Reading(
        axes=config.axes,
        pages=config.pages or Reading.pages,
        value_range=None if levels is None else (levels[0], levels[1]),
        max_pixels=config.max_pixels or Reading.max_pixels,
    )


def _search_levels(index: Index) -> tuple[float, float] | None:
    """Return the levels of the images that become black and white, None for those of their whole type."""
    floats = any(mode.startswith(("F", "float")) for mode in set(index.mode.tolist()))
    return find_value_range(index.levels.tolist(), floats)


def _choose_channels(source: Source, config: DatasetConfig) -> int:
    """Return the number of channels to decode; raise ValueError if an array's images cannot be converted to it.

    Only grayscale and color images can be converted, to each other.
    """
    reading = _choose_reading(config)
    channels = config.channels or _count_channels(source.splits["train"][0], reading)
    for items, _ in source.splits.values():
        found = _count_channels(items, reading) if isinstance(items, np.ndarray) else channels
        if found != channels and not {found, channels} <= {1, 3}:
            raise ValueError(f"dataset.channels={channels}, but the images have {found}; leave it out")
    return channels


def _count_channels(items: Items, reading: Reading) -> int:
    """Return 3 for pictures, which may all turn out to be grayscale, or the channels of arrays and of pages."""
    if isinstance(items, np.ndarray):
        return 1 if items.ndim == 3 else items.shape[3]
    special = (".npy", ".tif", ".tiff") if reading.pages == "bands" else (".npy",)
    if not any(path.suffix.lower() in special for path in items):
        return 3
    for path in items:
        with contextlib.suppress(OSError):  # a broken file is reported later
            pixels = read_image(path, reading)
            return pixels.shape[2] if isinstance(pixels, np.ndarray) else 3
    return 3


def _complete_preprocessing(plain: Preprocessing, parts: dict[str, _Part], config: DatasetConfig) -> Preprocessing:
    """Add the pixel statistics, and set one channel if every image turned out to be grayscale."""
    if config.channels is None and all(bool(part.index.grey) for part in parts.values()):
        plain = replace(plain, channels=1)
    mean, std = config.mean, config.std
    if mean is None or std is None:
        mean, std = pixel_statistics(parts["train"].index.histogram[: plain.channels])
    return replace(plain, mean=tuple(mean), std=tuple(std))


def _store_splits(
    parts: dict[str, _Part], config: DatasetConfig, channels: int, device: torch.device
) -> tuple[dict[str, Split], str]:
    """Return the splits, all stored in the same place, and a description of that place."""
    wanted, folders = config.cache, {part.cache.folder.parent for part in parts.values() if part.cache}
    if wanted in ("disk", "off") and not folders:
        wanted = "memory"  # the data set comes as an array of the right size, so nothing is on disk to be read
    place, description = choose_place(wanted, sum(part.num_bytes(channels) for part in parts.values()), device)
    splits = {name: part.to_split(place, device, channels) for name, part in parts.items()}
    return splits, description + "".join(f"; decoded once into {os.path.relpath(folder)}" for folder in folders)


def _describe_streams() -> str:
    return f"off: images are decoded again each epoch by {count_cores()} worker processes per split"


def _picture_ratios(index: Index, size: tuple[int, int], resize: str) -> Tensor:
    """Return width/height (N,) of the pictures as evaluation sees them: squashed ones have the input's shape."""
    squashed = np.full(len(index.kept), size[1] / size[0])
    return torch.from_numpy(squashed if resize == "squash" else index.width / index.height).float()


def _assign_caches(parts: dict[str, _Part], config: DatasetConfig, notes: list[str]) -> bool:
    """Give a cache to each part that needs decoding; return whether to stream images, by choice or lack of space."""
    folder = Path(str(config.cache_dir))
    for part in parts.values():
        if part.needs_decoding():
            height, width = part.decoder.size
            title = f"{config.name}-{part.name}-{height}x{width}"
            part.cache = Cache(part.items, part.decoder, folder, title, store=config.cache != "off", shrink=part.whole)
    caches = [part.cache for part in parts.values() if part.cache]
    needed, free = {cache: cache.missing_bytes() for cache in caches}, free_space(folder)
    total = sum(needed.values())
    if config.cache == "off" or total <= DISK_SHARE * free:
        return config.cache == "off" and bool(caches)
    if config.cache != "auto":
        raise OSError(
            f"the decoded images need {format_bytes(total)}, but dataset.cache_dir={folder} has {format_bytes(free)} "
            "free; choose another folder, or dataset.cache=off"
        )
    for cache in (cache for cache, missing in needed.items() if missing):
        cache.keep_index_only()
    notes.append(
        f"the decoded images need {format_bytes(total)}, but dataset.cache_dir has {format_bytes(free)} free: "
        "they are decoded again each epoch"
    )
    return True
