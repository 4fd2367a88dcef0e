"""Files are read as they are meant, whatever stores them; what is uncertain is noted, and a key decides it."""

import io
import struct
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import odd_inputs
import pytest
import torch
from helpers import compose, make_picture, pixels_of
from odd_inputs import encode, on_white
from PIL import Image, ImageOps

from src.data import ends, read, tiff
from src.data.decode import fit_to_pictures
from src.data.images import Preprocessing
from src.data.levels import find_value_range
from src.data.load import Data, load_data
from src.data.read import Reading, parse_image, upright_size
from src.run.saved import SavedRun

PICTURE = make_picture((200, 90, 40), 0, (40, 24))


def parse(content: bytes, name: str = "x", **reading: Any) -> read.Picture:
    return parse_image(content, Path(name), Reading(**reading))


def load(root: Path, cache: Path, **keys: Any) -> Data:
    config = compose("dataset=image_folder", "dataset.root=.", "dataset.image_size=8").dataset  # composed once
    config = replace(config, root=str(root), cache_dir=str(cache), **keys)
    return load_data(config, (8, 8), lambda items, total, text: iter(items))


def test_a_good_webp_is_read_whatever_it_ends_in_and_a_cut_one_is_refused() -> None:
    content = encode(on_white(PICTURE), "WEBP")
    assert not any(content[-64:]), "an even area at the end"
    whole = parse(content)
    assert whole.notes == [ends.ENDS_IN_ZEROS]
    expected = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
    for extra in (b"", bytes(1000), b"trailing"):
        picture = parse(content + extra)
        assert picture.notes == [ends.ENDS_IN_ZEROS] and np.array_equal(np.asarray(picture.pixels), expected)
    tagged = encode(PICTURE, "WEBP", exif=odd_inputs.sideways(), icc_profile=bytes(300))
    assert parse(tagged + bytes(77)).notes == [] and parse(tagged).height == 40
    for end in (20, len(content) // 2, len(content) - 1):
        with pytest.raises(OSError, match="x: "):
            parse(content[:end])


SIX = np.arange(6 * 8 * 9, dtype=np.uint8).reshape(6, 8, 9)


@pytest.mark.parametrize(
    ("shape", "reading", "understood"),
    [
        ((13, 64, 48), {}, (64, 48, 13)),
        ((3, 64, 48), {}, (64, 48, 3)),
        ((64, 48, 13), {}, (64, 48, 13)),
        ((8, 8, 8), {}, (8, 8, 8)),
        ((13, 64, 48), {"axes": "hwc"}, (13, 64, 48)),
        ((64, 48, 13), {"axes": "chw"}, (48, 13, 64)),
        ((20, 8, 9), {"channels": 20}, (8, 9, 20)),
        ((5, 9, 7), {"channels": 7}, (5, 9, 7)),
    ],
)
def test_the_channels_of_an_array_are_its_smallest_axis_or_what_a_key_says(
    shape: tuple[int, ...], reading: dict[str, Any], understood: tuple[int, ...]
) -> None:
    array = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    picture = parse(odd_inputs.save_array(array), **reading)
    assert np.asarray(picture.pixels).shape == understood == (picture.height, picture.width, understood[2])
    turned = understood != shape
    assert np.array_equal(np.asarray(picture.pixels), array.transpose(1, 2, 0) if turned else array)
    assert picture.notes == ([read.CHANNELS_FIRST] if turned and "axes" not in reading else [])


def test_arrays_are_not_taken_for_smaller_than_they_are(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((13, 64, 48), np.uint8))
    assert fit_to_pictures((100, 100), [tmp_path / "x.npy"]) == (64, 48)
    assert fit_to_pictures((100, 100), [tmp_path / "x.npy"], Reading(axes="hwc")) == (13, 64)


def test_pages_of_a_tiff_are_noted_and_become_channels_where_it_is_said() -> None:
    bands = np.random.default_rng(0).integers(0, 256, (8, 9, 5), np.uint8)
    content = odd_inputs.write_pages(bands)
    first = parse(content)
    assert first.notes == [tiff.FIRST_PAGE] and np.array_equal(np.asarray(first.pixels), bands[..., 0])
    stacked = parse(content, pages="bands", channels=5)
    assert stacked.notes == [] and np.array_equal(np.asarray(stacked.pixels), bands)
    assert parse(encode(PICTURE, "GIF", save_all=True, append_images=[PICTURE])).notes == [], "an animation"
    uneven = encode(PICTURE, "TIFF", save_all=True, append_images=[PICTURE.resize((9, 9))])
    deep = encode(PICTURE.convert("L"), "TIFF", save_all=True, append_images=[Image.new("I;16", PICTURE.size)])
    for content in (uneven, deep):
        with pytest.raises(OSError, match="pages of several sizes or depths, which dataset.pages=bands cannot make"):
            parse(content, pages="bands")
    palette = PICTURE.convert("P")
    mixed = encode(palette, "TIFF", save_all=True, append_images=[PICTURE.convert("1")])
    bands = np.asarray(parse(mixed, pages="bands", channels=4).pixels)
    assert np.array_equal(bands[..., :3], np.asarray(palette.convert("RGB"))), "colors, not places in the palette"
    assert set(np.unique(bands[..., 3])) == {0, 255}


@pytest.mark.parametrize("kind", ["alpha", "unspecified", "premultiplied"])
@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
def test_a_fourth_band_of_a_tiff_is_noted_and_kept_where_it_is_said(kind: str, compression: str | None) -> None:
    bands = np.random.default_rng(0).integers(60, 120, (8, 9, 4), np.uint8)
    content = bytearray(encode(Image.fromarray(bands, "RGBA"), "TIFF", compression=compression))
    # The tag ExtraSamples: GDAL writes that it is unspecified.
    content[content.find(struct.pack("<HHI", 338, 3, 1)) + 8] = {"unspecified": 0, "premultiplied": 1, "alpha": 2}[kind]
    kept = parse(bytes(content), channels=4)
    assert kept.notes == [] and np.array_equal(np.asarray(kept.pixels), bands)
    picture = parse(bytes(content))
    assert picture.notes == [tiff.EXTRA_BAND if kind == "unspecified" else tiff.FOURTH_BAND]
    mean = np.asarray(picture.pixels).mean()
    assert mean == bands[..., :3].mean() if kind == "unspecified" else mean > 180, "left out, or laid on white"
    assert parse(encode(Image.fromarray(bands, "RGBA"), "PNG")).notes == []


@pytest.mark.parametrize(
    ("levels", "expected"),
    [
        ([300, 4095], (300, 4095)),
        ([0, 1023], (0, 1023)),
        ([0, 255], (0, 255)),
        ([0, 65535], None),
        ([100, 40000], None),
        ([-1000, 3000], (-1000, 3000)),
        ([0.0, 1.0], None),
        ([0.0, 255.0], (0, 255)),
        ([-1.0, 1.0], (-1, 1)),
        ([7, 7], None),
        ([np.nan, np.nan], None),
    ],
)
def test_the_range_is_that_of_the_training_images_unless_the_type_is_used(
    levels: list[float], expected: tuple[float, float] | None
) -> None:
    assert find_value_range(levels) == expected


def test_floats_and_32_bits_have_no_type_that_is_used() -> None:
    assert find_value_range([5000.5, 40000.0], floats=True) == (5000.5, 40000)
    assert find_value_range([0, 1_000_000]) == (0, 1_000_000)


def test_a_run_that_is_resumed_keeps_the_levels_that_it_began_with(tmp_path: Path) -> None:
    """One of an earlier version began with the upper 8 bits."""
    odd_inputs.make_depths(tmp_path)
    words = ["dataset=image_folder", f"dataset.root='{tmp_path}/12_bits'", f"dataset.cache_dir='{tmp_path}/cache'"]
    config = compose(*words).dataset
    data = load_data(config, (8, 8), lambda items, total, text: iter(items), resumed=True)
    assert data.preprocessing.value_range is None and pixels_of(data.train).max() <= 15


@pytest.mark.parametrize("kind", ["png", "tif", "npy"])
def test_12_bits_of_16_use_all_levels_in_training_and_inference(kind: str, tmp_path: Path) -> None:
    for label, name in enumerate(("healthy", "ill")):
        (tmp_path / "x" / name).mkdir(parents=True)
        for i in range(6):
            levels = np.full((8, 8), 300 + 150 * label + 10 * i, np.uint16)
            path = tmp_path / "x" / name / f"{i}.{kind}"
            np.save(path, levels) if kind == "npy" else Image.fromarray(levels).save(path)
    data = load(tmp_path / "x", tmp_path / "cache")
    look = data.preprocessing
    assert look.value_range is not None
    low, high = look.value_range
    assert 300 <= low < high <= 500 and Preprocessing.from_json({**vars(look)}).value_range == (low, high)
    assert f"dataset.value_range=[{low:g},{high:g}]" in " ".join(data.notes)
    for file, image in zip(data.train.files, pixels_of(data.train), strict=True):
        level = 300 + 150 * (file.parent.name == "ill") + 10 * int(file.stem)
        assert image.unique().tolist() == [round((level - low) * 255 / (high - low))]
        assert torch.equal(look.read(file), image)
    typed = load(tmp_path / "x", tmp_path / "cache", value_range=[0.0, 1000.0])
    assert typed.preprocessing.value_range == (0, 1000) and pixels_of(typed.train).max() <= 128
    clipped = load(tmp_path / "x", tmp_path / "cache", value_range=[0.0, 305.0])
    assert f"{read.CLIPPED}" in " ".join(clipped.notes)


def test_16_bits_of_color_keep_the_upper_8_and_say_so_and_planes_are_refused() -> None:
    picture = parse(odd_inputs.deep_color_png(PICTURE, transparent=False))
    assert picture.notes == [read.DEEP_COLOR] and np.array_equal(np.asarray(picture.pixels), np.asarray(PICTURE))
    entries = [(256, 4), (257, 4), (258, 16), (259, 1), (262, 2), (273, 8), (277, 3), (278, 4), (279, 96), (284, 2)]
    header = b"II*\0" + struct.pack("<I", 8 + 96) + bytes(range(96)) + struct.pack("<H", len(entries))
    planes = header + b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries) + bytes(4)
    with pytest.raises(OSError, match="a TIFF of 16 bits with its bands one after another; save it as .npy"):
        parse(planes)


def test_an_orientation_needs_no_other_metadata(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> bytes:
        raise TypeError("The fill character must be a unicode character, not bytes")

    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[odd_inputs.ORIENTATION] = orientation
        content = encode(PICTURE, "PNG", exif=exif)
        expected = ImageOps.exif_transpose(Image.open(io.BytesIO(content)))
        with monkeypatch.context() as patch:
            patch.setattr(Image.Exif, "tobytes", fail)  # where the rest of it is broken
            assert np.array_equal(np.asarray(parse(content).pixels), np.asarray(expected)), orientation


def test_a_broken_first_file_does_not_hide_the_bands_of_the_others(tmp_path: Path) -> None:
    odd_inputs.make_bands(tmp_path)
    (tmp_path / "pages" / "crop" / "000.jpg").write_bytes(b"broken")
    data = load(tmp_path / "pages", tmp_path / "cache", pages="bands", on_error="skip")
    assert data.preprocessing.channels == 6


def test_all_16_bits_give_the_bits_that_they_gave() -> None:
    levels = np.arange(64, dtype=np.uint16).reshape(8, 8) * 1024
    for content in (encode(Image.fromarray(levels), "PNG"), odd_inputs.save_array(levels)):
        picture = parse(content)
        assert np.array_equal(np.asarray(picture.pixels), levels >> 8) and picture.levels == (0, 64512)
    swapped = odd_inputs.save_array(levels.astype(">u2"))
    assert np.array_equal(np.asarray(parse(swapped).pixels), levels >> 8)
    signed = odd_inputs.save_array(np.array([[-1000, 0], [1000, 3000]], np.int16))
    assert np.asarray(parse(signed, value_range=(-1000, 3000)).pixels).tolist() == [[0, 64], [128, 255]]


def test_a_set_of_hardly_any_levels_is_warned_about(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / "x" / name).mkdir(parents=True)
        for i in range(4):
            Image.new("L", (8, 8), 40 if name == "a" else 41).save(tmp_path / "x" / name / f"{i}.png")
    notes = load(tmp_path / "x", tmp_path / "cache").notes
    assert any("the training images have only 2 of 256 levels; is dataset.value_range right?" in n for n in notes)


def test_metadata_that_cannot_be_read_is_noted_and_the_pixels_are_read(capfd: pytest.CaptureFixture[str]) -> None:
    broken = odd_inputs.with_chunk(encode(PICTURE, "PNG"), b"eXIf", b"no exif at all")
    picture = parse(broken)
    assert picture.notes == [read.NO_METADATA] and np.array_equal(np.asarray(picture.pixels), np.asarray(PICTURE))
    for content in (odd_inputs.GOOD["broken_exif.png"](PICTURE), odd_inputs.text_png(PICTURE)):
        assert np.array_equal(np.asarray(parse(content).pixels), np.asarray(PICTURE))
    damaged = bytearray(encode(make_picture((9, 9, 9), 0, (64, 64)), "TIFF", compression="tiff_lzw"))
    damaged[2000:3000] = bytes(1000)
    with pytest.raises(OSError, match="x: "):
        parse(bytes(damaged))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_a_sideways_picture_has_the_size_that_is_seen_in_every_format(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"x.{kind.lower()}"
    path.write_bytes(encode(PICTURE, kind, exif=odd_inputs.sideways()))  # 40 x 24, to be seen as 24 x 40
    picture = parse_image(path.read_bytes(), path)
    assert isinstance(picture.pixels, Image.Image) and picture.pixels.size == (24, 40)
    assert (picture.height, picture.width) == (40, 24) == upright_size(path)
    assert fit_to_pictures((100, 100), [path]) == (40, 24)


def test_large_pictures_are_refused_by_a_key_unless_a_jpeg_is_decoded_smaller(tmp_path: Path) -> None:
    large = Image.new("L", (1600, 1200))
    path = tmp_path / "x.png"
    large.save(path)
    look = Preprocessing((16, 16), "crop", "bicubic", 1, max_pixels=1_000_000)
    with pytest.raises(OSError, match=r"x.png: 1,920,000 pixels are more than dataset.max_pixels=1000000"):
        look.read(path)
    large.save(tmp_path / "x.jpg")
    assert look.read(tmp_path / "x.jpg").shape == (1, 16, 16)
    with pytest.raises(OSError, match=r"dataset.max_pixels=100"):
        parse(odd_inputs.save_array(np.zeros((20, 20), np.uint8)), max_pixels=100)


def test_avif_is_read_under_any_name_and_heic_says_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    if "AVIF" in read.FORMATS:
        picture = parse(encode(PICTURE, "AVIF", quality=100), "x.jpg")
        assert np.abs(np.asarray(picture.pixels).astype(int) - np.asarray(PICTURE)).mean() < 20
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    read._can_read_heif.cache_clear()
    with pytest.raises(OSError, match="x.jpg: a HEIC image; to read it: pip install pillow-heif"):
        parse(b"\0\0\0\x18ftypheic\0\0\0\0heicmif1" + bytes(100), "x.jpg")
    read._can_read_heif.cache_clear()


def test_a_transparent_color_of_16_bits_is_laid_on_white() -> None:
    red = Image.new("RGB", (4, 4), "red")
    content = odd_inputs.deep_color_png(red, transparent=False)
    keyed = odd_inputs.with_chunk(content, b"tRNS", struct.pack(">HHH", 65535, 0, 0))
    assert np.asarray(parse(content).pixels)[0, 0].tolist() == [255, 0, 0]
    assert np.asarray(parse(keyed).pixels)[0, 0].tolist() == [255, 255, 255]


def test_preprocessing_of_earlier_runs_is_read(photo_run: SavedRun) -> None:
    _, _, look = photo_run.load()
    old = {key: getattr(look, key) for key in ("size", "resize", "interpolation", "channels", "mean", "std")}
    assert Preprocessing.from_json(old) == look
