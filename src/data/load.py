"""From a data set's configuration to its splits, decoded once and held where they fit."""

import contextlib
import hashlib
import os
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..augment.chunks import count_cores
from ..config import DatasetConfig
from .cache import Cache, format_bytes, free_space
from .decode import Index, Items, fit_to_pictures, index_arrays
from .images import Preprocessing, Track, read_image
from .sources import Source, load_source
from .splits import carve_splits
from .storage import Images, Stream, choose_place, hold

SPLITS = ("train", "val", "test")
DISK_SHARE = 0.9  # of the free space that the cache may take before images are streamed instead


@dataclass
class Split:
    """images: uint8 (N,C,H,W), labels: int64 (N,), files: N paths, or none where the images come in one file.

    ratios: float32 (N,) width/height of the original pictures, where those are stored whole, squeezed into (H,W).
    """

    images: Images | Stream
    labels: Tensor
    files: list[Path] = field(default_factory=list)
    ratios: Tensor | None = None

    def __len__(self) -> int:
        return len(self.labels)


@dataclass
class Data:
    """The splits with what they have in common. `notes` are sentences for the log, `place` says where images are."""

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

    def fingerprint(self) -> str:
        """Return a hash over the content of every image and its label: equal data and splits, equal fingerprint."""
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
) -> Data:
    """Find, split, decode and hold a data set for a model's input of `size` (height, width).

    With another `stored_size` the training images are kept whole, squeezed into it, for crops to be drawn from; else
    they are made like those of the other splits, by the preprocessing that inference uses.
    Raises ValueError and OSError, naming folder and key, where the data cannot be used as it is; when `inspecting`,
    the notes tell instead.
    """
    source = load_source(config)
    carve_splits(source, config)
    channels = config.channels or _count_channels(source.splits["train"][0])
    _check_channels(source, channels)
    final = Preprocessing(size, config.resize, config.interpolation, channels)
    parts = {name: _Part(name, *source.splits[name], final) for name in SPLITS}
    cropped = stored_size is not None and stored_size != size
    if stored_size is not None and cropped:
        parts["train"].decoder = replace(final, size=stored_size, resize="squash", interpolation="bilinear")
        parts["train"].whole = True
    streamed = _find_caches(list(parts.values()), config, source.notes)
    for part in parts.values():
        part.open(track)
    problems = [] if inspecting else _find_unreadable(parts, config, source.notes)  # a report lists them itself
    if config.channels is None and all(bool(part.index.grey) for part in parts.values()):
        final = replace(final, channels=1)
    final = _add_statistics(final, parts["train"].index, config)

    num_bytes = sum(part.held_bytes() for part in parts.values()) * final.channels // channels
    device = device or torch.device("cpu")
    wanted = config.cache
    if wanted in ("disk", "off") and not any(part.cache for part in parts.values()):
        wanted = "memory"  # where the data set's own files are one array
    place, why = choose_place(wanted, num_bytes, device)
    splits = {name: part.hold(place, device, final.channels) for name, part in parts.items()}
    if cropped:
        index = parts["train"].index
        squashed = np.full(len(index.kept), size[1] / size[0])  # to evaluation the picture has the shape of its input
        ratios = squashed if config.resize == "squash" else index.width / index.height
        splits["train"].ratios = torch.from_numpy(ratios).float()
    problems += _find_empty(splits, source, config, sum(len(part.index.errors) for part in parts.values()))
    if problems and not inspecting:
        raise problems[0]
    return Data(
        **splits,
        classes=source.classes,
        preprocessing=final,
        notes=[*source.notes, *map(str, problems)],
        place=_describe_place(parts, streamed, why),
        indexes={name: part.index for name, part in parts.items()},
        ignored=source.ignored,
    )


@dataclass
class _Part:
    """A split on its way from files, or an array, to images that are held somewhere."""

    name: str
    items: Items
    labels: list[int]
    decoder: Preprocessing
    whole: bool = False  # pictures are stored whole, and never enlarged
    cache: Cache | None = None
    index: Index = field(init=False)
    pixels: np.ndarray | None = None  # (N,H,W,C); None where images are streamed

    def needs_decoding(self) -> bool:
        """Tell whether the items are anything but an array of the wanted size and channels."""
        if not isinstance(self.items, np.ndarray):
            return True
        if self.whole:
            self.decoder = replace(self.decoder, size=fit_to_pictures(self.decoder.size, self.items))
        fits = self.items.ndim == 3 or self.items.shape[3] == self.decoder.channels
        return self.items.shape[1:3] != self.decoder.size or not fits

    def open(self, track: Track) -> None:
        if self.cache is None:
            assert isinstance(self.items, np.ndarray)
            grey = self.items.ndim == 3
            self.pixels = np.repeat(self.items[..., None], self.decoder.channels, axis=3) if grey else self.items
            self.index = index_arrays(self.pixels, self.items)
            return
        self.index = self.cache.open(track, f"decoding {self.name} images")
        self.decoder = replace(self.decoder, size=(int(self.index.shape[0]), int(self.index.shape[1])))
        self.pixels = self.cache.pixels(self.index) if self.cache.store else None

    def held_bytes(self) -> int:
        return 0 if self.pixels is None else self.index.num_bytes

    def hold(self, place: str, device: torch.device, channels: int) -> Split:
        kept = self.index.kept.tolist()
        readable = self.items[kept] if isinstance(self.items, np.ndarray) else [self.items[i] for i in kept]
        images: Images | Stream
        if self.pixels is None:
            images = Stream(readable, replace(self.decoder, channels=channels))
        else:
            # What is stored whole will be resampled.
            images = hold(self.pixels, place, device, channels, channels_last=self.whole)
        labels = torch.tensor([self.labels[i] for i in kept], dtype=torch.long)
        return Split(images, labels, [] if isinstance(readable, np.ndarray) else readable)


def _describe_place(parts: dict[str, _Part], streamed: bool, why: str) -> str:
    if streamed:
        return f"decoded from the files each epoch, by {count_cores()} worker processes for each split"
    folders = {part.cache.folder.parent for part in parts.values() if part.cache}
    return why + "".join(f"; decoded once, into {os.path.relpath(folder)}" for folder in folders)


def _count_channels(items: Items) -> int:
    """Return 3 for pictures, which may turn out to be all grey, or what an array of another kind holds."""
    if isinstance(items, np.ndarray):
        return 1 if items.ndim == 3 else items.shape[3]
    for path in items:
        if path.suffix.lower() != ".npy":
            break
        with contextlib.suppress(OSError):  # what is broken is reported later
            pixels = read_image(path)
            return pixels.shape[2] if isinstance(pixels, np.ndarray) else 3
    return 3


def _check_channels(source: Source, channels: int) -> None:
    """Refuse channels that the images of an array cannot give: grey ones become colour, and the reverse, no more."""
    for items, _ in source.splits.values():
        found = _count_channels(items) if isinstance(items, np.ndarray) else channels
        if found != channels and not {found, channels} <= {1, 3}:
            raise ValueError(f"dataset.channels={channels}, but the images have {found}; leave it out")


def _find_caches(parts: list[_Part], config: DatasetConfig, notes: list[str]) -> bool:
    """Give each part that needs decoding its cache. Return whether images are streamed: as asked, or without room."""
    folder = Path(str(config.cache_dir))
    for part in parts:
        if part.needs_decoding():
            height, width = part.decoder.size
            title = f"{config.name}-{part.name}-{height}x{width}"
            part.cache = Cache(part.items, part.decoder, folder, title, store=config.cache != "off", shrink=part.whole)
    caches = [part.cache for part in parts if part.cache]
    needed, free = {cache: cache.missing_bytes() for cache in caches}, free_space(folder)
    total = sum(needed.values())
    if config.cache == "off" or total <= DISK_SHARE * free:
        return config.cache == "off" and bool(caches)
    if config.cache != "auto":
        raise OSError(
            f"the decoded images need {format_bytes(total)}, but dataset.cache_dir={folder} has {format_bytes(free)} "
            "free; choose another one, or dataset.cache=off"
        )
    for cache in (cache for cache, missing in needed.items() if missing):
        cache.keep_index_only()
    notes.append(
        f"the decoded images would take {format_bytes(total)}, where dataset.cache_dir has {format_bytes(free)} free: "
        "they are decoded anew each epoch"
    )
    return True


def _find_unreadable(parts: dict[str, _Part], config: DatasetConfig, notes: list[str]) -> list[Exception]:
    unreadable = [line for part in parts.values() for line in part.index.errors.tolist()]
    if config.on_error == "skip":
        notes += [f"unreadable, left out: {line}" for line in unreadable]
        return []
    shown = unreadable[:10] + ([f"… and {len(unreadable) - 10} more"] if len(unreadable) > 10 else [])
    message = f"{len(unreadable)} unreadable image(s); mend or remove them, or leave them out by dataset.on_error=skip:"
    return [OSError("\n  ".join([message, *shown]))] if unreadable else []


def _add_statistics(preprocessing: Preprocessing, index: Index, config: DatasetConfig) -> Preprocessing:
    mean, std = config.mean, config.std
    if mean is None or std is None:
        mean, std = pixel_statistics(index.histogram[: preprocessing.channels])
    return replace(preprocessing, mean=tuple(mean), std=tuple(std))


def _find_empty(
    splits: dict[str, Split], source: Source, config: DatasetConfig, num_unreadable: int
) -> list[Exception]:
    """Return what forbids training; classes that only validation or test lack are noted."""
    where = f" in dataset.root={config.root}" if config.root else ""
    few = "too few images" + (f" ({num_unreadable} are unreadable)" if num_unreadable else "")
    problems: list[Exception] = []
    for name, split in splits.items():
        counts = torch.bincount(split.labels, minlength=len(source.classes))
        absent = ", ".join(source.classes[i] for i in (counts == 0).nonzero().flatten().tolist())
        if len(split) == 0:
            problems.append(ValueError(f"the {name} split is empty: {few}{where}; each class should have 3 or more"))
        elif absent and name == "train":
            problems.append(ValueError(f"no training image of class {absent}: {few}{where}"))
        elif absent:
            source.notes.append(f"no {name} image of class {absent}: {few} to split")
    return problems


def pixel_statistics(histogram: np.ndarray) -> tuple[list[float], list[float]]:
    """Return mean and standard deviation per channel, pixels in [0,1], from counts (C,256) of the 256 values.

    A constant channel gets std 1/255, so that dividing by it is safe.
    """
    values = np.arange(256) / 255
    shares = histogram / histogram.sum(axis=1, keepdims=True).clip(1)
    means = shares @ values
    stds = np.sqrt((shares * (values - means[:, None]) ** 2).sum(1)).clip(1 / 255)
    return means.round(6).tolist(), stds.round(6).tolist()
