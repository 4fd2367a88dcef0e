"""Files of images that are cut, claim too much, or are no files; caches and archives that changed."""

import io
import os
import tarfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import compose, make_folder, make_picture
from PIL import Image

from src.data import cache, downloads
from src.data.decode import decode_one
from src.data.files import walk
from src.data.images import Preprocessing
from src.data.load import load_data
from src.data.read import NO_ROOM, Reading, parse_image, upright_size
from src.machine.regular import read_regular

PLAIN = Preprocessing((8, 8), "crop", "bicubic", 3)


def encode(kind: str, **options: Any) -> bytes:
    packed = io.BytesIO()
    make_picture((200, 30, 90), 1, (96, 80)).save(packed, kind, **options)
    return packed.getvalue()


def is_read(content: bytes, name: str = "x") -> bool:
    try:
        parse_image(content, Path(name))
        return True
    except OSError as error:
        assert str(error).startswith(f"{name}: ") and "\n" not in str(error)
        return False


def test_pictures_that_end_in_zeros_or_too_early_are_refused() -> None:
    for content in (encode("PNG"), encode("PNG", compress_level=0), encode("JPEG"), encode("JPEG", progressive=True)):
        assert is_read(content) and is_read(content + b"trailing")
        for share in (0.3, 0.6, 0.9):
            kept = int(share * len(content))
            assert not is_read(content[:kept]) and not is_read(content[:kept] + bytes(len(content) - kept))


def test_a_jpeg_that_claims_more_than_its_bytes_can_hold_is_refused() -> None:
    for options in ({}, {"progressive": True}, {"quality": 5}, {"optimize": True}):
        content = bytearray(encode("JPEG", **options))
        frame = max(content.find(b"\xff\xc0"), content.find(b"\xff\xc2"))
        content[frame + 5 : frame + 9] = (12000).to_bytes(2, "big") * 2
        assert not is_read(bytes(content))
    even = io.BytesIO()
    Image.new("RGB", (2000, 1500), "white").save(even, "JPEG", optimize=True, progressive=True)
    assert is_read(even.getvalue()), "an even area takes almost no bytes"


# what is no file, and what does not fit


def make_irregular(folder: Path) -> dict[str, Path]:
    paths = {kind: folder / f"{kind}.jpg" for kind in ("pipe", "device", "kernel", "folder", "sparse")}
    os.mkfifo(paths["pipe"])
    paths["device"].symlink_to("/dev/zero")
    paths["kernel"].symlink_to("/proc/self/mem")
    paths["folder"].mkdir()
    with paths["sparse"].open("wb") as file:
        file.truncate(40 * 2**30)
    return paths


def test_what_is_no_file_is_named_and_nobody_waits_for_it(tmp_path: Path) -> None:
    for kind, path in make_irregular(tmp_path).items():
        started = time.monotonic()
        decoded = decode_one(path, PLAIN)
        assert isinstance(decoded, OSError) and str(path) in str(decoded), kind
        with pytest.raises((OSError, ValueError)):
            upright_size(path)
        assert time.monotonic() - started < 5
    assert read_regular(Path("/proc/self/stat")) == b""
    list(walk(tmp_path))


@pytest.mark.parametrize("on_error", ["refuse", "skip"])
def test_irregular_files_follow_on_error(on_error: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make_folder(tmp_path / "photos")
    make_irregular(root / "red")
    config = compose(
        "dataset=image_folder", f"dataset.root={root}", f"dataset.on_error={on_error}", "dataset.image_size=8"
    )
    config.dataset.cache_dir = str(tmp_path / "cache")

    def load() -> Any:
        return load_data(config.dataset, (8, 8), lambda items, total, text: iter(items))

    if on_error == "skip":
        data = load()
        assert sum(map(len, (data.train, data.val, data.test))) == 36
        assert sum("unreadable, skipped" in note for note in data.notes) == 4
    else:
        with pytest.raises(OSError, match="pipe.jpg: it is a pipe, not a file"):
            load()


@pytest.mark.parametrize("shape", [(10**6, 10**6), (2**40, 3), (10**9, 10**9, 3), (-1, 5), (4, 4, 3)])
def test_an_array_that_claims_more_than_its_file_has_takes_no_memory(shape: tuple[int, ...], tmp_path: Path) -> None:
    header = repr({"descr": "<f8", "fortran_order": False, "shape": shape}).encode()
    path = tmp_path / "x.npy"
    path.write_bytes(b"\x93NUMPY\x01\0" + len(header).to_bytes(2, "little") + header + bytes(20))
    assert isinstance(decode_one(path, PLAIN), OSError)


def test_a_picture_that_does_not_fit_into_memory_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.png"
    make_picture((1, 2, 3), 0).save(path)

    def fail(*_: Any, **__: Any) -> None:
        raise MemoryError

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", fail)
    decoded = decode_one(path, PLAIN)
    assert isinstance(decoded, OSError) and str(decoded) == f"{path}: {NO_ROOM}"
    with pytest.raises(OSError, match="more than dataset.max_pixels=10"):
        parse_image(encode("BMP"), Path("x"), Reading(max_pixels=10))


def test_a_cache_that_changed_on_disk_is_made_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = make_folder(tmp_path / "photos")
    config = compose("dataset=image_folder", f"dataset.root={root}", "dataset.image_size=8").dataset
    config = replace(config, cache_dir=str(tmp_path / "cache"))

    def load() -> torch.Tensor:
        data = load_data(config, (8, 8), lambda items, total, text: iter(items))
        return data.train.images.take(torch.arange(len(data.train)))

    before = load()
    path = next((tmp_path / "cache").glob(f"*train*/{cache.PIXELS}"))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)
    assert torch.equal(load(), before) and torch.equal(load(), before)


def test_archives_cannot_leave_their_folder(tmp_path: Path) -> None:
    def read(folder: Path, download: bool) -> str:
        if download:
            with tarfile.open(tmp_path / "evil.tar") as archive:
                archive.extractall(folder)
        elif not (folder / "done").exists():
            raise RuntimeError("not found")
        return "read"

    with tarfile.open(tmp_path / "evil.tar", "w") as archive:
        member = tarfile.TarInfo("../../outside")
        member.size = 3
        archive.addfile(member, io.BytesIO(b"bad"))
    with pytest.raises(OSError, match="could not be downloaded"):
        downloads.obtain("x", tmp_path / "deep" / "root", read, [])
    assert not (tmp_path / "outside").exists() and not (tmp_path / "deep" / "outside").exists()
