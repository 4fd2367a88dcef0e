"""Which files are images, which folders are classes, and what a table says, however it is written."""

import gzip
import os
import re
import unicodedata
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers import compose, make_picture

from src.data.files import explain_no_image, find_images, walk
from src.data.folders import Source, match_split, read_folders
from src.data.sources import load_source
from src.data.splits import carve_splits
from src.predict.inputs import find_inputs

NFD, NFC = unicodedata.normalize("NFD", "café"), "café"


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def write_table(root: Path, text: str, name: str = "labels.csv", **encoding: Any) -> Path:
    """Write a table of images that exist."""
    touch(root, *(f"{i}.png" for i in range(6)))
    (root / name).write_text(text, newline="", **encoding)
    return root / name


def load(table: Path, **keys: Any) -> Source:
    config = compose("dataset=csv", f"dataset.table='{__file__}'").dataset  # composed once
    return load_source(replace(config, table=str(table), **keys))


def read_table(table: Path, **keys: Any) -> dict[str, str]:
    """Return the class of each file of a table."""
    source = load(table, **keys)
    (items, labels) = source.splits["all"]
    return {Path(os.fspath(item)).name: source.classes[label] for item, label in zip(items, labels, strict=True)}


ROWS = [("0.png", "cat"), ("1.png", "dog, small"), ("2.png", "cat"), ("3.png", "007")]


@pytest.mark.parametrize(
    ("name", "delimiter"),
    [("l.csv", ","), ("l.csv", ";"), ("l.tsv", "\t"), ("l.txt", "\t"), ("l.txt", "|"), ("l.txt", "  ")],
)
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_the_delimiter_is_the_one_that_gives_the_columns(
    name: str, delimiter: str, ending: str, tmp_path: Path
) -> None:
    quoted = [("path", "label"), *((file, f'"{kind}"') for file, kind in ROWS)]
    text = ending.join(delimiter.join(row) for row in quoted) + ending
    table = write_table(tmp_path, text, name)
    assert read_table(table) == dict(ROWS)
    other = "semicolon" if delimiter == "," else "comma"
    with pytest.raises(ValueError, match=rf"dataset.path_column=path is not a column of .*{name}; it has: .*delimiter"):
        read_table(table, delimiter=other)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("path,label\n0.png,cat, small\n1.png,cat, big\n", 2),
        ("path,label\n0.png,cat\n\n1.png,dog\n2.png,cat, big\n", 5),
        ('path,label\n0.png,"cat\nor dog"\n1.png,dog, big\n', 4),
        ("path,label,note\n0.png,cat,x\n1.png,dog\n", 3),
        ("path,label,\n0.png,cat,\n1.png,cat,big\n", 3),
    ],
)
def test_fields_without_a_column_are_an_error_with_their_line(text: str, line: int, tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=rf"labels.csv: line {line} has \d fields, but there are \d columns \(path, label"
    ):
        read_table(write_table(tmp_path, text))


def test_what_spreadsheets_add_is_no_data(tmp_path: Path) -> None:
    text = "\ufeff, path , label ,,\r\n0,0.png, cat ,,\r\n,,,,\r\n\r\n1,1.png,dog,,\r\n"
    assert read_table(write_table(tmp_path, text, encoding="utf-8")) == {"0.png": "cat", "1.png": "dog"}
    (tmp_path / "labels.csv.gz").write_bytes(gzip.compress(b"path,label\n0.png,cat\n1.png,dog\n"))
    assert read_table(tmp_path / "labels.csv.gz") == {"0.png": "cat", "1.png": "dog"}
    text = "path\tlabel\n0.png\tñandú\n1.png\tdog\n"
    assert read_table(write_table(tmp_path, text, encoding="utf-16")) == {"0.png": "ñandú", "1.png": "dog"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,label\n\n0.png,cat\n1.png,\n", "label_column=label: no value in line 4 of"),
        ("path,label,label\n0.png,cat,a\n1.png,dog,b\n", "label_column=label: {} has 2 columns of that name"),
        ("path,label\n0.png,cat\n./0.png,dog\n", "has two labels, 'cat' and 'dog' (lines 2 and 3); an image has one"),
        ("path,label\n0.png,cat\n\n0.png,cat\n1.png,dog\n", "0.png more than once (lines 2 and 4); keep one of the"),
        ('path,label\n0.png,"cat" big\n1.png,dog\n', "{} cannot be read: line 2: "),
    ],
)
def test_what_a_table_must_not_say_is_named_by_its_line(text: str, message: str, tmp_path: Path) -> None:
    table = write_table(tmp_path, text)
    with pytest.raises(ValueError, match=re.escape(message.format(tmp_path / "labels.csv"))):
        read_table(table)


def test_a_table_that_is_not_utf_8_is_named_with_the_line(tmp_path: Path) -> None:
    table = write_table(tmp_path, "path,label\n0.png,cat\n1.png,cafÃ©\n", encoding="utf-8")
    (tmp_path / "labels.csv").write_bytes("path,label\n0.png,cat\n1.png,café\n".encode("cp1252"))
    with pytest.raises(ValueError, match="line 3 is not UTF-8; save the table as UTF-8, for example with iconv"):
        read_table(table)


def test_paths_and_archives_that_are_broken_are_named(tmp_path: Path) -> None:
    table = write_table(tmp_path, f"path,label\n0.png,cat\n{'x' * 300}.png,dog\n")
    with pytest.raises(FileNotFoundError, match="1 of the 2 images in dataset.table=.* do not exist"):
        read_table(table)
    packed = bytearray(gzip.compress(b"path,label\n0.png,cat\n1.png,dog\n" * 99))
    packed[12:30] = bytes(18)
    (tmp_path / "labels.csv.gz").write_bytes(packed)
    with pytest.raises(ValueError, match="labels.csv.gz cannot be read: "):
        read_table(tmp_path / "labels.csv.gz")


def test_files_and_classes_of_a_table_are_found_in_any_form_of_unicode(tmp_path: Path) -> None:
    touch(tmp_path, f"{NFD}/{NFD} 1.png", f"{NFD}/2.png", "sub/3.png", f"{NFD}4.png")
    text = f"path,label\n{NFC}/{NFC} 1.png,{NFC}\n{NFD}/2.png,{NFD}\nsub\\3.png,dog\nsub/../{NFC}4.png,dog\n"
    table = write_table(tmp_path, text, encoding="utf-8")
    assert read_table(table) == {f"{NFD} 1.png": NFC, "2.png": NFC, "3.png": "dog", f"{NFD}4.png": "dog"}


def test_a_class_is_one_in_any_form_of_unicode_and_keeps_its_name(tmp_path: Path) -> None:
    touch(tmp_path, f"train/{NFD}/1.png", "train/dog/1.png", f"val/{NFC}/1.png", "val/dog/1.png", "test/dog/1.png")
    source = read_folders(tmp_path)
    assert source.classes == [NFD, "dog"] and not source.notes
    assert [path.parent.name for path in source.splits["val"][0]] == [NFC, "dog"]
    touch(tmp_path / "both", f"{NFD}/1.png", f"{NFC}/2.png", "dog/3.png")
    source = read_folders(tmp_path / "both")
    assert [unicodedata.normalize("NFC", name) for name in source.classes] == [NFC, "dog"]
    assert source.splits["all"][1] == [0, 0, 1]


def test_classes_that_differ_only_in_case_or_spaces_are_noted(tmp_path: Path) -> None:
    touch(tmp_path, "Cat/1.png", "cat/1.png", "hot dog/1.png", "hotdog/1.png", "bird/1.png")
    assert read_folders(tmp_path).notes == [
        f"the classes {pair} differ only in case or spaces; if they are one class, give it one name"
        for pair in ("'Cat' and 'cat'", "'hot dog' and 'hotdog'")
    ]
    table = write_table(tmp_path, "path,label\n0.png,cat\n1.png,Cat\n")
    assert load(table).notes[0].startswith("the classes 'Cat' and 'cat' differ only")


def test_groups_are_matched_in_any_form_of_unicode(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{kind}/{NFD}{i // 2}_{i}.png" for kind in ("a", "b") for i in range(12)))
    pattern = f"dataset.group_pattern='({NFC}\\d+)_'"
    config = compose("dataset=image_folder", f"dataset.root='{tmp_path}'", "dataset.split=grouped", pattern).dataset
    source = load_source(config)
    carve_splits(source, config)
    assert set().union(*source.groups.values()) == {f"{NFC}{i}" for i in range(6)}


@pytest.mark.parametrize(
    "folders",
    [("train", "test"), ("Training", "Testing", "Validation"), ("train_images", "test_images"), ("TRAIN", "val-set")],
)
def test_folders_of_bare_images_that_are_named_after_splits_are_no_classes(
    folders: tuple[str, ...], tmp_path: Path
) -> None:
    touch(tmp_path, *(f"{folder}/{i}.jpg" for folder in folders for i in range(3)), "sample/readme.txt", "labels.csv")
    message = "are splits, not classes, and contain no class folders; if a table has the labels, use dataset=csv"
    with pytest.raises(ValueError, match=message):
        read_folders(tmp_path)
    touch(tmp_path, "car/1.jpg")
    assert set(read_folders(tmp_path).classes) == {*folders, "car"}, "pictures of trains, perhaps"


@pytest.mark.parametrize(
    ("name", "split"),
    [("train", "train"), ("Training", "train"), ("train_images", "train"), ("Test Set", "test"), ("testset", "test"),
     ("valid", "val"), ("val-data", "val"), ("images", None), ("trainer", None), ("set", None), ("contest", None)],
)  # fmt: skip
def test_names_of_splits(name: str, split: str | None) -> None:
    assert match_split(name) == split


def test_splits_may_be_called_as_in_kaggles_folders(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{split}/{kind}/1.jpg" for split in ("Training", "Testing") for kind in ("cat", "dog")))
    assert {name: len(items) for name, (items, _) in read_folders(tmp_path).splits.items()} == {"train": 2, "test": 2}


SYSTEM = ("@eaDir", "$RECYCLE.BIN", "#recycle", "#snapshot", "System Volume Information", "lost+found", "__MACOSX")


def test_system_folders_are_neither_classes_nor_searched(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "cat/1.jpg",
        "dog/1.jpg",
        *(f"{folder}/1.jpg" for folder in SYSTEM),
        *(f"cat/{folder}/1.jpg" for folder in SYSTEM),
    )
    source = read_folders(tmp_path)
    assert source.classes == ["cat", "dog"] and source.splits["all"][1] == [0, 1]
    reasons = {os.path.relpath(path, tmp_path): reason for path, reason in source.ignored}
    assert reasons == dict.fromkeys([*SYSTEM, *(f"cat/{folder}" for folder in SYSTEM)], "made by the system")


@pytest.mark.parametrize("where", ["", "cat", "cat/nested"])
def test_a_folder_that_cannot_be_opened_is_an_error_by_name(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path, "cat/1.jpg", "cat/nested/2.jpg", "dog/1.jpg")
    closed, scandir, listdir = tmp_path / where, os.scandir, os.listdir

    def refuse(real: Any) -> Any:
        def open_folder(path: Any = ".") -> Any:
            if Path(path) == closed:
                raise PermissionError(13, "Permission denied", os.fspath(path))
            return real(path)

        return open_folder

    monkeypatch.setattr(os, "scandir", refuse(scandir))
    monkeypatch.setattr(os, "listdir", refuse(listdir))
    message = f"the folder {closed} cannot be opened: Permission denied; make it readable, or move it out of the data"
    for read in (read_folders, find_images, lambda root: find_inputs(f"{root}/**/*.jpg")):
        with pytest.raises(OSError, match=re.escape(message)):
            read(tmp_path)


def test_pixels_decide_what_an_image_is_unless_the_extension_does(tmp_path: Path) -> None:
    for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"):
        make_picture((9, 9, 9), 0).save(tmp_path / f"no_extension_{kind}", kind)
    (tmp_path / "phone").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0")
    touch(tmp_path, "a.jfif", "b.AVIF", "c.heic", "d.JPE")
    assert len(find_images(tmp_path)) == 11
    make_picture((9, 9, 9), 0).save(tmp_path / "picture.txt", "PNG")
    (tmp_path / "page").write_text("<html>")
    os.mkfifo(tmp_path / "pipe")
    assert {path.name: reason for path, reason in walk(tmp_path) if reason} == {
        "picture.txt": "not an image (.txt)",
        "page": "not an image (no extension)",
        "pipe": "not an image (no extension)",
    }
    assert explain_no_image(tmp_path / "missing", "missing") == "not an image (no extension)"


def test_source_of_a_folder_of_only_new_formats(tmp_path: Path) -> None:
    touch(tmp_path, "cat/1.jfif", "dog/1.heic")
    source: Source = read_folders(tmp_path)
    assert source.classes == ["cat", "dog"]
