"""The decoded cache: decoded once, never half, never stale; and wherever images are held, they are the same."""

import errno
import os
import shutil
import subprocess
import sys
import time
from collections import namedtuple
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import COLORS, compose, make_picture, pixels_of
from PIL import Image

import src.data.read as files
from src.augment.boxes import draw_resized_crops
from src.data.batches import iterate_batches
from src.data.cache import BUILDING, INDEX, Cache
from src.data.images import Preprocessing
from src.data.load import Data, load_data
from src.data.read import Reading, parse_image, read_image
from src.data.report import inspect_data
from src.data.storage import Stream, choose_place, prefetch

CPU = torch.device("cpu")
LOOK = Preprocessing((8, 8), "crop", "bicubic", 3)


def load(root: Path, *overrides: str, stored_size: tuple[int, int] | None = None, inspecting: bool = False) -> Data:
    cache_dir = f"dataset.cache_dir='{root.parent / 'cache'}'"
    folder = ["dataset=image_folder", f"dataset.root='{root}'", "dataset.image_size=8", "model.patch_size=1"]
    config = compose(cache_dir, *folder, *overrides)
    return load_data(config.dataset, (8, 8), lambda items, *_: iter(items), CPU, stored_size, inspecting)


def equal(a: Data, b: Data) -> bool:
    pairs = zip(a.splits().values(), b.splits().values(), strict=True)
    return all(torch.equal(pixels_of(x), pixels_of(y)) and torch.equal(x.labels, y.labels) for x, y in pairs)


def forbid_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("an image file was read")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    monkeypatch.setattr(Image, "open", refuse)


@pytest.mark.parametrize("stored_size", [None, (10, 12)])
def test_a_second_start_reads_no_image_file(
    stored_size: tuple[int, int] | None, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = load(photos, stored_size=stored_size)
    forbid_reading(monkeypatch)
    second = load(photos, stored_size=stored_size)
    assert equal(first, second) and first.fingerprint() == second.fingerprint()
    assert first.preprocessing == second.preprocessing


def test_a_changed_added_or_removed_file_is_noticed(photos: Path) -> None:
    before = load(photos)
    changed = before.train.files[0]
    make_picture((0, 0, 0), 99).save(changed)
    os.utime(changed, ns=(1, 1))  # whatever the clock's grain
    after = load(photos)
    assert not torch.equal(pixels_of(before.train)[0], pixels_of(after.train)[0])
    assert before.fingerprint() != after.fingerprint()
    make_picture(COLORS["red"], 50).save(photos / "red" / "new.png")
    assert sum(map(len, load(photos).splits().values())) == 37
    (photos / "red" / "new.png").unlink()
    (photos / "red" / "00.png").unlink()
    assert sum(map(len, load(photos).splits().values())) == 35


def test_evaluation_images_are_what_inference_computes_from_the_file(photos: Path) -> None:
    data = load(photos, stored_size=(10, 10))
    for split in (data.val, data.test):
        assert torch.equal(pixels_of(split), torch.stack([data.preprocessing.read(path) for path in split.files]))


def test_training_images_are_kept_whole_for_crops_with_the_ratio_of_their_sides(photos: Path) -> None:
    train = load(photos, stored_size=(10, 12)).train
    whole = Preprocessing((10, 12), "squash", "bilinear", 3)
    assert torch.equal(pixels_of(train), torch.stack([whole.read(path) for path in train.files]))
    assert train.ratios is not None and torch.equal(train.ratios, torch.full((len(train),), 20 / 16))


def test_pictures_smaller_than_the_stored_size_are_not_enlarged(photos: Path) -> None:
    assert load(photos, stored_size=(1000, 18)).train.images.shape[2:] == (16, 18)


def listing(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if not path.name.endswith(".lock")}


def test_an_interrupted_build_leaves_nothing_and_the_next_one_is_whole(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def interrupt(pixels: np.ndarray) -> np.ndarray:
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return np.zeros((3, 256), np.int64)

    with monkeypatch.context() as patched:
        patched.setattr("src.data.decode._count_values", interrupt)
        with pytest.raises(KeyboardInterrupt):
            load(photos)
    assert listing(photos.parent / "cache") == set()
    train = load(photos).train
    assert torch.equal(pixels_of(train), torch.stack([LOOK.read(path) for path in train.files]))


def test_the_first_process_of_a_machine_builds_and_the_others_take_what_it_has_built(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def make() -> Cache:
        return Cache(sorted((photos / "red").glob("[0-9]*.png")), LOOK, tmp_path / "cache", "x")

    built: list[str] = []

    def track(items: Iterable[Any], total: int, description: str) -> Iterator[Any]:
        built.append(os.environ["LOCAL_RANK"])
        return iter(items)

    def let_first_build(seconds: float) -> None:
        with monkeypatch.context() as first:
            first.setenv("RANK", "0")
            first.setenv("LOCAL_RANK", "0")
            make().open(track, "first")

    for name, value in {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("src.data.cache.time.sleep", let_first_build)
    assert len(make().open(track, "other").kept) == 12 and built == ["0"]


SCRIPT = """
import os, sys
from pathlib import Path
from typing import Any
import src.data.cache as cache
import src.data.decode as decode
from src.data.images import Preprocessing
if sys.argv[3] == "die":
    seen = []
    count = decode._count_values
    decode._count_values = lambda pixels: os._exit(9) if len(seen) > 4 else (seen.append(1), count(pixels))[1]
def track(items, total, description):
    print("building", flush=True)
    return iter(items)
files = sorted(Path(sys.argv[1]).rglob("[0-9]*.png"))
made = cache.Cache(files, Preprocessing((8, 8), "crop", "bicubic", 3), Path(sys.argv[2]), "x")
print(len(made.pixels(made.open(track, ""))))
"""


def start(photos: Path, cache_dir: Path, how: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", SCRIPT, str(photos), str(cache_dir), how]
    return subprocess.Popen(command, cwd=Path(__file__).parents[1], stdout=subprocess.PIPE, text=True)


def test_a_killed_build_is_not_mistaken_for_a_cache_and_two_at_once_build_once(photos: Path, tmp_path: Path) -> None:
    cache_dir = tmp_path / "cache"
    killed = start(photos, cache_dir, "die")
    killed.communicate()
    assert killed.returncode == 9 and [name.endswith(BUILDING) for name in listing(cache_dir)] == [True]
    # What a killed build of files that have changed since has left would never be built again under its name.
    stale = cache_dir / f"old-1234{BUILDING}"
    stale.mkdir()
    both = [start(photos, cache_dir, "live") for _ in range(2)]
    outputs = sorted(process.communicate()[0].split() for process in both)
    assert outputs == [["36"], ["building", "36"]]
    (name,) = listing(cache_dir)
    assert (cache_dir / name / INDEX).is_file() and not stale.exists()


def make_disk_small(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 10**9 - free, free))


def test_a_full_disk_says_how_much_is_needed(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_disk_small(monkeypatch, 1000)
    with pytest.raises(OSError, match=r"need 6.8 KiB, but dataset.cache_dir=.* has 1000 B free; choose another"):
        load(photos, "dataset.cache=disk")
    assert not (photos.parent / "cache").exists()


def test_a_disk_that_fills_up_while_decoding_says_so_too(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fill(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("src.data.cache._reserve", fill)
    with pytest.raises(OSError, match=r"image_folder-train.* need .* choose another folder, or dataset.cache=off"):
        load(photos)
    assert listing(photos.parent / "cache") == set()


def test_a_full_disk_without_a_cache_is_not_answered_with_leaving_the_cache_out(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("src.data.decode.Index.save", fill)
    with pytest.raises(OSError, match=r"the metadata of the images of .* needs a few MB, but .* free; choose") as error:
        load(photos, "dataset.cache=off")
    assert str(error.value).endswith("choose another folder")


def test_with_automatic_caching_a_small_disk_means_streaming(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cached = load(photos)
    shutil.rmtree(photos.parent / "cache")
    make_disk_small(monkeypatch, 1000)
    streamed = load(photos)
    assert isinstance(streamed.train.images, Stream) and "decoded again each epoch" in streamed.place
    assert any("decoded again each epoch" in note for note in streamed.notes)
    assert equal(cached, streamed) and cached.fingerprint() == streamed.fingerprint()


def test_streaming_knows_from_a_cache_what_was_read_before(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cached = load(photos)
    forbid_reading(monkeypatch)
    assert load(photos, "dataset.cache=off").fingerprint() == cached.fingerprint()


def test_streamed_epochs_hold_the_images_of_the_order_and_find_broken_files_before(photos: Path) -> None:
    cached, streamed = load(photos), load(photos, "dataset.cache=off")
    for order in (torch.tensor([3, 1, 2, 0, 7]), torch.tensor([5, 5, 4])):
        pairs = zip(*(iterate_batches(data.train, order.split(2), CPU) for data in (cached, streamed)), strict=True)
        for (images, batch), (other, other_batch) in pairs:
            assert torch.equal(images, other) and torch.equal(batch, other_batch)
    (photos / "red" / "00.png").write_bytes(b"broken")
    with pytest.raises(OSError, match="1 unreadable"):
        load(photos, "dataset.cache=off")


def test_files_swapped_without_a_new_time_or_size_are_noticed(tmp_path: Path) -> None:
    root = make_arrays(tmp_path / "arrays", 1)
    files = [root / label / "0.npy" for label in "01"]
    for path in root.rglob("*.npy"):
        os.utime(path, ns=(1, 1))
    before = load(root)
    files[0].rename(root / "x")
    files[1].rename(files[0])
    (root / "x").rename(files[1])
    assert before.fingerprint() != load(root).fingerprint()


@pytest.mark.parametrize("damage", ["no index", "empty index", "no pixels", "half of the pixels"])
def test_a_damaged_cache_is_made_again(damage: str, photos: Path) -> None:
    whole = load(photos)
    for folder in (photos.parent / "cache").glob("*-train-*[0-9a-f]"):
        index, pixels = folder / INDEX, folder / "pixels.u8"
        if damage == "no index":
            index.unlink()
        elif damage == "empty index":
            index.write_bytes(b"")
        elif damage == "no pixels":
            pixels.unlink()
        else:
            pixels.write_bytes(pixels.read_bytes()[:99])
    assert equal(whole, load(photos))


def test_a_file_that_can_be_read_again_is(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = load(photos)
    broken: list[Path] = []
    shutil.rmtree(photos.parent / "cache")
    read = files.read_regular

    def fail_once(path: Path, limit: float) -> bytes:
        if not broken:
            broken.append(path)
            raise OSError(errno.EMFILE, "Too many open files")
        return read(path, limit)

    with monkeypatch.context() as patched:
        patched.setattr(files, "read_regular", fail_once)
        assert len(load(photos, "dataset.on_error=skip").train) == len(whole.train) - 1
    assert equal(whole, load(photos))


def test_links_that_lead_in_a_circle_are_ignored(photos: Path) -> None:
    before = load(photos)
    (photos / "red" / "loop").symlink_to(photos / "red")
    (photos / "red" / "up").symlink_to(photos)
    after = load(photos)
    assert after.fingerprint() == before.fingerprint()
    assert sum("searched anyway" in reason for _, reason in after.ignored) == 2


@pytest.mark.parametrize("resize", ["crop", "squash"])
def test_crops_stretch_pictures_as_evaluation_does(resize: str, photos: Path) -> None:
    """The pictures are 20 x 16, the model's input 8 x 16: a crop is stretched by as much as the whole, in the mean."""
    overrides = ["dataset=image_folder", f"dataset.root='{photos}'", f"dataset.resize={resize}"]
    config = compose(*overrides, "model.image_size=[8,16]", "model.patch_size=4")
    train = load_data(config.dataset, (8, 16), lambda items, *_: iter(items), CPU, (64, 64)).train
    assert train.ratios is not None
    ratios = train.ratios[:1].expand(2000)
    boxes = draw_resized_crops((64, 64), (8, 16), ratios, 0.2, (0.75, 4 / 3), torch.Generator().manual_seed(0))
    crop_width, crop_height = boxes[:, 3] * 20 / 64, boxes[:, 2] * 16 / 64
    stretch = (16 / crop_width) / (8 / crop_height)  # horizontally, to vertically
    assert stretch.median().item() == pytest.approx(1.0 if resize == "crop" else (16 / 20) / (8 / 16), rel=0.1)


@pytest.mark.parametrize("place", ["memory", "disk", "device"])
def test_images_are_the_same_wherever_they_are_held(place: str, photos: Path) -> None:
    held, automatic = load(photos, f"dataset.cache={place}"), load(photos)
    assert equal(held, automatic)
    order = torch.arange(len(held.train)).flip(0)
    for data in (held, automatic):
        images = torch.cat([images for images, _ in iterate_batches(data.train, order.split(5), CPU)])
        assert torch.equal(images, pixels_of(automatic.train).flip(0))


def test_grey_pictures_are_held_with_one_channel_on_disk_too(photos: Path) -> None:
    for path in photos.rglob("[0-9]*.png"):
        Image.open(path).convert("L").save(path)
    data = load(photos, "dataset.cache=disk")
    assert data.train.images.shape[1] == 1 and equal(data, load(photos, "dataset.cache=memory"))
    ((images, _),) = iterate_batches(data.train, [torch.arange(4)], CPU)
    assert torch.equal(images, pixels_of(data.train)[:4])


def test_the_place_follows_the_size_and_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("src.data.storage.available_memory", lambda: 1000)
    assert [choose_place("auto", size, CPU)[0] for size in (1, 500, 501)] == ["memory", "memory", "disk"]
    typed = {key: choose_place(key, 501, CPU)[0] for key in ("memory", "disk", "device")}
    assert typed == {"memory": "memory", "disk": "disk", "device": "memory"}
    reason = choose_place("auto", 3 * 2**20, CPU)[1]
    assert reason == "3.0 MiB read from disk as needed: more than 50% of the free memory"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("place", ["device", "memory", "disk", "off"])
def test_a_cuda_device_gets_the_same_batches_from_everywhere(place: str, photos: Path) -> None:
    device, expected = torch.device("cuda"), load(photos).train
    config = compose("dataset=image_folder", f"dataset.root='{photos}'", f"dataset.cache={place}", "model.image_size=8")
    train = load_data(config.dataset, (8, 8), lambda items, *_: iter(items), device).train
    order = torch.arange(len(train)).flip(0)
    images = torch.cat([images for images, _ in iterate_batches(train, order.split(5), device)])
    assert images.device.type == "cuda" and torch.equal(images.cpu(), pixels_of(expected).flip(0))


def test_more_than_there_is_room_for_is_refused_by_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("src.data.storage.available_memory", lambda: 1000)
    with pytest.raises(ValueError, match="dataset.cache=memory: the images need 2.0 KiB, but only 1000 B is free; use"):
        choose_place("memory", 2048, CPU)


def test_a_batch_that_fails_while_made_ready_is_raised_where_it_is_used() -> None:
    def fail() -> Iterator[torch.Tensor]:
        yield torch.zeros(1)
        raise OSError("the disk is gone")

    batches = prefetch(fail())
    next(batches)
    with pytest.raises(OSError, match="the disk is gone"):
        next(batches)


def test_batches_that_nobody_takes_stop_being_made() -> None:
    made = []
    batches = prefetch(torch.zeros(1) for _ in iter(lambda: made.append(1), 0))
    next(batches)
    batches.close()
    count = len(made)
    time.sleep(0.05)
    assert len(made) == count < 10


def test_a_file_cut_short_is_refused_wherever_it_is_cut(tmp_path: Path) -> None:
    make_picture((90, 20, 30), 0, (64, 48)).save(tmp_path / "whole.jpg")
    whole = (tmp_path / "whole.jpg").read_bytes()
    cut = tmp_path / "cut.jpg"
    for length in range(0, len(whole) - 1, 7):
        for rest in (b"", bytes(len(whole) - length)):  # what is missing may have been filled up with zeros
            cut.write_bytes(whole[:length] + rest)
            with pytest.raises(OSError, match="cut.jpg"):
                read_image(cut)


def test_what_a_camera_writes_behind_the_picture_does_not_matter(tmp_path: Path) -> None:
    picture, path = make_picture((90, 20, 30), 0, (64, 48)), tmp_path / "moving.jpg"
    picture.save(path)
    expected = read_image(path)
    path.write_bytes(path.read_bytes() + b"ftypmp4 \xff\xda\x00\x01 a film")
    assert read_image(path) == expected
    picture.save(path, "MPO", save_all=True, append_images=[picture])
    read_image(path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 4] + bytes(len(content) - len(content) // 4))
    with pytest.raises(OSError, match="the end of the JPEG is missing"):
        read_image(path)


def test_16_bits_keep_their_upper_half_with_a_transparent_level_too(tmp_path: Path) -> None:
    levels = np.arange(64, dtype=np.uint16).reshape(8, 8) * 1024
    Image.fromarray(levels).save(tmp_path / "x.png", transparency=3)
    assert np.array_equal(np.asarray(read_image(tmp_path / "x.png")), levels >> 8)


@pytest.mark.parametrize("kind", ["int64", "int8", "complex64"])
def test_pixels_that_cannot_be_told_from_black_are_refused(kind: str, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.ones((4, 4), kind))
    with pytest.raises(OSError, match=f"pixels of type {kind}; supported: uint8, uint16, int16, int32, and floats"):
        read_image(tmp_path / "x.npy")


def test_a_program_under_the_name_of_a_picture_is_not_run(tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    with pytest.raises(OSError, match="x.jpg: not an image"):
        read_image(tmp_path / "x.jpg")


def test_large_photos_are_decoded_smaller_with_nearly_the_same_pixels(tmp_path: Path) -> None:
    path = tmp_path / "large.jpg"
    gradient = np.linspace(0, 255, 800)[:, None] * np.linspace(0, 1, 600)[None]
    Image.fromarray(
        np.stack([gradient, gradient.T[::-1].repeat(2, 1)[:800, :600].mean() + 0 * gradient, gradient], 2).astype(
            np.uint8
        )
    ).save(path)
    small, full = parse_image(path.read_bytes(), path, Reading(), 100).pixels, read_image(path)
    assert isinstance(small, Image.Image) and small.size == (150, 200) and full.size == (600, 800)
    assert (LOOK.read(path).float() - LOOK(full).float()).abs().max() <= 2


def make_arrays(root: Path, channels: int) -> Path:
    random = np.random.default_rng(0)
    for label in range(2):
        (root / str(label)).mkdir(parents=True)
        for i in range(6):
            np.save(
                root / str(label) / f"{i}.npy",
                random.integers(0, 128, (9, 12, channels)).astype(np.uint8) + 127 * label,
            )
    return root


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_images_of_any_number_of_channels_come_from_npy_files(channels: int, tmp_path: Path) -> None:
    data = load(make_arrays(tmp_path / "arrays", channels), "model.patch_size=1", stored_size=(8, 9))
    assert data.preprocessing.channels == channels and data.val.images.shape[1] == channels
    raw = np.load(data.val.files[0])
    each = Preprocessing((8, 8), "crop", "bicubic", 1)
    planes = torch.cat([each(Image.fromarray(raw[..., i])) for i in range(channels)])
    assert torch.equal(pixels_of(data.val)[0], planes)


def test_arrays_that_are_no_images_and_mixed_channels_are_named(tmp_path: Path) -> None:
    root = make_arrays(tmp_path / "arrays", 5)
    np.save(root / "0" / "0.npy", np.zeros((2, 2, 2, 2)))
    make_picture((1, 2, 3), 0).save(root / "0" / "z.png")
    np.save(root / "1" / "z.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(OSError, match="3 unreadable") as raised:
        load(root)
    for reason in ("(2, 2, 2, 2)", "z.png: 3 channel(s), but dataset.channels is 5", "z.npy: Object arrays"):
        assert reason in str(raised.value)


def test_the_report_finds_copies_broken_and_ignored_files(photos: Path) -> None:
    data = load(photos)
    shutil.copy(data.train.files[0], data.train.files[0].with_name("copy.png"))
    shutil.copy(data.train.files[1], photos / data.test.files[0].parent.name / "zz.png")
    for split in ("train", "val", "test"):
        for name in COLORS:
            (photos.parent / "split" / split / name).mkdir(parents=True)
        for path in getattr(data, split).files:
            shutil.copy(path, photos.parent / "split" / split / path.parent.name)
    root = photos.parent / "split"
    shutil.copy(data.train.files[0], root / "test" / "green" / "leak.png")
    shutil.copy(data.val.files[0], root / "val" / data.val.files[0].parent.name / "again.png")
    (root / "val" / "red" / "broken.png").write_bytes(b"")
    (root / "train" / "red" / "notes.txt").write_text("x")
    report = inspect_data(load(root, inspecting=True), batch_size=128)
    assert report.counts["red"][1] == 2 and sum(map(sum, report.counts.values())) == 38
    ((first, second),) = report.copies
    assert first.startswith(f"train: {root}/train/") and second == f"test: {root}/test/green/leak.png (green)"
    assert report.repeated == 1
    assert len(report.unreadable) == 1 and "broken.png" in report.unreadable[0]
    assert [reason for path, reason in report.ignored] == ["not an image (.txt)"]
    assert report.summary.endswith("training images per class; 20 x 16 px; RGB")
    assert "fewer training images than training.batch_size=128: one batch per epoch" in report.warnings
    shutil.copy(data.test.files[0], root / "test" / "blue" / "other.png")
    shutil.copy(data.test.files[0], root / "test" / "red" / "other.png")
    *_, conflict = sorted(inspect_data(load(root, inspecting=True), 8).conflicts, key=len)
    assert len(conflict) == 3 and all("other.png" in name or data.test.files[0].name in name for name in conflict)
    assert report.sizes == [("20 x 16", 38)] and report.modes == [("RGB", 38)]
    assert "2 images have an exact copy in another split" in " ".join(report.warnings)


def test_a_cache_of_one_list_is_not_taken_for_another(photos: Path, tmp_path: Path) -> None:
    files = sorted(photos.rglob("[0-9]*.png"))
    folders = {Cache(files[:-1], LOOK, tmp_path, "x").folder, Cache(files, LOOK, tmp_path, "x").folder}
    folders.add(Cache(files, Preprocessing((8, 8), "squash", "bicubic", 3), tmp_path, "x").folder)
    folders.add(Cache(files, Preprocessing((8, 8), "crop", "bicubic", 1), tmp_path, "x").folder)
    folders.add(Cache(files, LOOK, tmp_path, "x", shrink=True).folder)
    assert len(folders) == 5


def test_equal_content_elsewhere_has_an_equal_fingerprint(photos: Path, tmp_path: Path) -> None:
    shutil.copytree(photos, tmp_path / "elsewhere")
    assert load(photos).fingerprint() == load(tmp_path / "elsewhere").fingerprint()


def test_an_order_is_a_function_of_seed_and_epoch_whatever_is_balanced_or_repeated() -> None:
    from src.data.batches import balanced_order, shuffled_order

    labels = torch.tensor([0] * 900 + [1] * 100)
    order = balanced_order(labels, seed=0, epoch=1)
    assert len(order) == 1000 and labels[order].float().mean().item() == pytest.approx(0.5, abs=0.06)
    assert torch.equal(order, balanced_order(labels, 0, 1)) and not torch.equal(order, balanced_order(labels, 0, 2))
    repeated = shuffled_order(10, seed=0, epoch=1, repeats=3)
    assert repeated.tolist() == [i for i in shuffled_order(10, 0, 1).tolist()[:4] for _ in range(3)][:10]
    assert torch.equal(balanced_order(labels, 0, 1, repeats=2)[::2], balanced_order(labels, 0, 1, repeats=2)[1::2])
