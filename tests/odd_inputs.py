"""Odd inputs as people have them, made small: `python tests/odd_inputs.py FOLDER`.

    photos/      class folders of pictures that can be read, in formats, sizes and states that cameras, phones, shops
                 and scanners produce, among files and folders that are no pictures
    broken/      files that cannot be read, each for another reason
    bands/       pictures of more than three bands, by how they are stored
    depths/      pictures of 12 and 16 bits
    tables/      labels.csv in several dialects, for one folder of pictures

Every function returns the names of what it made.
"""

import io
import struct
import sys
import unicodedata
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, PngImagePlugin, features

SIDE = 24
CLASSES = {"cat": (200, 90, 40), "hot dog": (40, 90, 200), unicodedata.normalize("NFD", "café"): (60, 180, 70)}
SYSTEM_FOLDERS = ("@eaDir", "$RECYCLE.BIN", "#recycle", "System Volume Information", "__MACOSX", ".thumbnails")
OTHER_FILES = {
    "Thumbs.db": b"\xd0\xcf\x11\xe0",
    "notes.txt": b"no picture",
    "labels.json": b"{}",
    "run.sh": b"#!/bin/sh",
}
ORIENTATION = 0x0112


def picture(color: tuple[int, int, int], seed: int, size: tuple[int, int] = (SIDE, SIDE)) -> Image.Image:
    """Return a noisy picture (width, height) of about a color."""
    noise = np.random.default_rng([seed, *color]).normal(0, 30, (size[1], size[0], 3))
    return Image.fromarray((np.array(color) + noise).clip(0, 255).astype(np.uint8))


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def sideways() -> Image.Exif:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    return exif


def chunk(kind: bytes, content: bytes) -> bytes:
    """Return a chunk of a PNG."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def with_chunk(png: bytes, kind: bytes, content: bytes) -> bytes:
    """Put a chunk behind the header of a PNG."""
    return png[:33] + chunk(kind, content) + png[33:]


def deep_color_png(image: Image.Image, transparent: bool) -> bytes:
    """Return a PNG of 16 bits per color, which Pillow does not write; transparent: with a transparent color."""
    pixels = np.asarray(image).astype(">u2") * 257
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", image.width, image.height, 16, 2, 0, 0, 0)
    extra = chunk(b"tRNS", struct.pack(">HHH", 1, 2, 3)) if transparent else b""
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + extra
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def on_white(image: Image.Image) -> Image.Image:
    """Return a product photo: a small picture at the top of a large white area."""
    page = Image.new("RGB", (1000, 1000), "white")
    page.paste(image, (10, 10))
    return page


def text_png(image: Image.Image) -> bytes:
    """Return a PNG with two megabytes of text, as programs that generate or edit images write them."""
    info = PngImagePlugin.PngInfo()
    info.add_text("prompt", "a cat " * 400_000, zip=True)
    return encode(image, "PNG", pnginfo=info)


# File name -> function from a picture to the content of the file. All can be read.
GOOD: dict[str, Callable[[Image.Image], bytes]] = {
    "plain.jpg": lambda image: encode(image, "JPEG"),
    "plain.png": lambda image: encode(image, "PNG"),
    "browser.jfif": lambda image: encode(image, "JPEG"),
    "UPPER.JPG": lambda image: encode(image, "JPEG"),
    "no_extension": lambda image: encode(image, "JPEG"),
    "png_called.jpg": lambda image: encode(image, "PNG"),
    "webp_called.jpg": lambda image: encode(image, "WEBP"),
    "on_white.webp": lambda image: encode(on_white(image), "WEBP"),
    "lossless_on_white.webp": lambda image: encode(on_white(image), "WEBP", lossless=True),
    "with_exif.webp": lambda image: encode(image, "WEBP", exif=sideways()),
    "padded.jpg": lambda image: encode(image, "JPEG") + bytes(1000),
    "padded.webp": lambda image: encode(image, "WEBP") + bytes(1000),
    "progressive.jpg": lambda image: encode(image, "JPEG", progressive=True),
    "printed_cmyk.jpg": lambda image: encode(image.convert("CMYK"), "JPEG"),
    "gray.png": lambda image: encode(image.convert("L"), "PNG"),
    "scan_1_bit.png": lambda image: encode(image.convert("1"), "PNG"),
    "palette.gif": lambda image: encode(image, "GIF"),
    "animated.gif": lambda image: encode(image, "GIF", save_all=True, append_images=[image.rotate(90)]),
    "transparent.png": lambda image: encode(image.convert("RGBA"), "PNG"),
    "gray_alpha.png": lambda image: encode(image.convert("LA"), "PNG"),
    "deep_color.png": lambda image: deep_color_png(image, transparent=False),
    "deep_color_transparent.png": lambda image: deep_color_png(image, transparent=True),
    "sideways.jpg": lambda image: encode(image.resize((40, SIDE)), "JPEG", exif=sideways()),
    "sideways.tif": lambda image: encode(image.resize((40, SIDE)), "TIFF", exif=sideways()),
    "broken_exif.png": lambda image: with_chunk(encode(image, "PNG"), b"eXIf", b"MM\0*\0\0\0\x08\xff\xff"),
    "long_text.png": text_png,
    "tiny.bmp": lambda image: encode(image.resize((1, 1)), "BMP"),
    "long.png": lambda image: encode(image.resize((2000, 3)), "PNG"),
    "array.npy": lambda image: save_array(np.asarray(image)),
}
if features.check("avif"):
    GOOD |= {name: lambda image: encode(image, "AVIF") for name in ("phone.avif", "avif_called.jpg")}

# File name -> content; none can be read.
BROKEN: dict[str, bytes] = {
    "empty.jpg": b"",
    "page.jpg": b"<!DOCTYPE html><title>404</title>",
    "cut.jpg": encode(picture((9, 9, 9), 0), "JPEG")[:-60],
    "cut.png": encode(picture((9, 9, 9), 0), "PNG")[:-200],
    "cut.webp": encode(picture((9, 9, 9), 0), "WEBP")[:-60],
    "padded_over.jpg": encode(picture((9, 9, 9), 0), "JPEG")[:-60] + bytes(60),
    "objects.npy": b"\x93NUMPY\x01\x00v\x00{'descr': '|O', 'fortran_order': False, 'shape': (2,), }".ljust(128)
    + b"\x80\x04N.",
}


def save_array(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def make_photos(root: Path) -> list[str]:
    """Make class folders with every kind of good picture, and what lies around in real folders."""
    for position, (name, color) in enumerate(CLASSES.items()):
        folder = root / name
        folder.mkdir(parents=True)
        for number, (file, content) in enumerate(GOOD.items()):
            (folder / file).write_bytes(content(picture(color, 100 * position + number)))
        for file, data in OTHER_FILES.items():
            (folder / file).write_bytes(data)
        (folder / "._plain.jpg").write_bytes(b"\0\5\x16\7 resource fork")
    for parent in (root, folder):
        for system in SYSTEM_FOLDERS:
            (parent / system).mkdir()
            (parent / system / "thumbnail.jpg").write_bytes(encode(picture((0, 0, 0), 0), "JPEG"))
    return list(GOOD)


def make_broken(root: Path) -> list[str]:
    root.mkdir(parents=True)
    for file, data in BROKEN.items():
        (root / file).write_bytes(data)
    return list(BROKEN)


def make_bands(root: Path) -> list[str]:
    """Make folders of classes that differ only in the last of their bands, by how files store them."""
    kinds: dict[str, tuple[str, Callable[[np.ndarray], bytes]]] = {
        "last_axis": ("npy", save_array),
        "first_axis": ("npy", lambda bands: save_array(bands.transpose(2, 0, 1))),
        "pages": ("tif", write_pages),
        "near_infrared": ("tif", lambda bands: encode(Image.fromarray(bands[..., :4], "RGBA"), "TIFF")),
    }
    for kind, (suffix, write) in kinds.items():
        for name, level in (("crop", 200), ("water", 20)):
            folder = root / kind / name
            folder.mkdir(parents=True)
            for number in range(8):
                bands = np.random.default_rng(number).integers(
                    60, 120, (SIDE, SIDE, 4 if "near" in kind else 6), np.uint8
                )
                bands[..., -1] = level
                (folder / f"{number}.{suffix}").write_bytes(write(bands))
    return list(kinds)


def write_pages(bands: np.ndarray) -> bytes:
    """Return a TIFF with a page for each band (H,W,C)."""
    first, *others = (Image.fromarray(band) for band in np.moveaxis(bands, 2, 0).copy())
    return encode(first, "TIFF", save_all=True, append_images=others)


def make_depths(root: Path) -> list[str]:
    """Make folders of classes that differ by less than 256 of 65,536 levels, or use all of them."""
    kinds = {"12_bits": (300, 150), "16_bits": (20_000, 20_000)}
    for kind, (low, step) in kinds.items():
        for position, name in enumerate(("healthy", "ill")):
            folder = root / kind / name
            folder.mkdir(parents=True)
            for number in range(8):
                levels = np.random.default_rng(number).normal(low + step * position, step / 10, (SIDE, SIDE))
                if position == number == 0:
                    levels[0, 0] = 4095 if kind == "12_bits" else 65_535
                Image.fromarray(levels.clip(0).astype(np.uint16)).save(
                    folder / f"{number}.{'tif' if number % 2 else 'png'}"
                )
    return list(kinds)


def make_tables(root: Path) -> list[str]:
    """Make pictures, and tables of them that say the same in other dialects."""
    root.mkdir(parents=True)
    rows = [(f"{number}.png", "cat" if number % 2 else "dog, small") for number in range(12)]
    for number, (file, name) in enumerate(rows):
        picture((200, 90, 40) if name == "cat" else (40, 90, 200), number).save(root / file)
    quoted = [("image", "label"), *((file, f'"{name}"') for file, name in rows)]
    tables = {
        "comma.csv": "\n".join(map(",".join, quoted)),
        "semicolon.csv": "\n".join(map(";".join, quoted)),
        "tab.tsv": "\n".join(map("\t".join, quoted)),
        "tab.txt": "\n".join(map("\t".join, quoted)),
        "excel.csv": "\ufeff" + "\r\n".join(map(";".join, quoted)) + "\r\n\r\n",
        "spaces.csv": "\n".join(map(" , ".join, quoted)).replace(' "', '"'),
    }
    for file, text in tables.items():
        (root / file).write_text(text + "\n", encoding="utf-8", newline="")
    return list(tables)


MAKERS: dict[str, Callable[[Path], list[str]]] = {
    "photos": make_photos,
    "broken": make_broken,
    "bands": make_bands,
    "depths": make_depths,
    "tables": make_tables,
}

if __name__ == "__main__":
    for title, make in MAKERS.items():
        print(f"{title}: {', '.join(make(Path(sys.argv[1]) / title))}")
