"""Every data set, read through the library that knows its layout, from small copies made here."""

import functools
import pickle
import sys
from collections.abc import Callable
from pathlib import Path

import layouts
import numpy as np
import pytest
from helpers import compose, make_folder
from layouts import Truth, write_idx

from src.data.folders import Source
from src.data.sources import load_source
from src.data.splits import carve_splits
from src.data.torchvision_sets import GTSRB_SIGNS, LAYOUTS, first_names


def read(*overrides: str) -> Source:
    dataset = compose(*overrides).dataset
    source = load_source(dataset)
    carve_splits(source, dataset)
    return source


def accept_any_checksum(monkeypatch: pytest.MonkeyPatch, *modules: str) -> None:
    """Let torchvision take files made here, where it knows the checksums of the real ones."""
    for module in modules:
        name = f"torchvision.datasets.{module}"
        __import__(name)
        monkeypatch.setattr(sys.modules[name], "check_integrity", lambda path, md5=None: Path(path).is_file())


FILE_SETS: dict[str, Callable[[Path], Truth]] = {
    "gtsrb": functools.partial(layouts.make_gtsrb, signs=GTSRB_SIGNS),
    "caltech101": layouts.make_caltech101,
    "eurosat": layouts.make_eurosat,
    "oxford_pets": layouts.make_oxford_pets,
    "flowers102": layouts.make_flowers102,
    "food101": layouts.make_food101,
    "dtd": layouts.make_dtd,
    "fgvc_aircraft": layouts.make_fgvc_aircraft,
    "stanford_cars": layouts.make_stanford_cars,
    "imagenette": layouts.make_imagenette,
    "tiny_imagenet": layouts.make_tiny_imagenet,
}


def named(source: Source, split: str) -> dict[str, str]:
    """Return folder/file name -> class name of a split's items."""
    items, labels = source.splits[split]
    assert not isinstance(items, np.ndarray) and len(items) == len(labels) == len(set(items))
    assert all(path.is_file() for path in items)
    return {"/".join(path.parts[-2:]): source.classes[label] for path, label in zip(items, labels, strict=True)}


def check_splits(source: Source, truth: Truth) -> None:
    """Hold each split to the official one; those that there are none of must be carved out of train (or all)."""
    assert set(source.splits) == {"train", "val", "test"}
    found = {split: named(source, split) for split in source.splits}
    for split in {"val", "test"} & set(truth):
        assert found[split] == truth[split], split
    carved = {"train", "val", "test"} - set(truth) | {"train"}
    assert sum(len(found[split]) for split in carved) == len(truth.get("train", truth.get("all", {})))
    together: dict[str, str] = {}
    for split in carved:
        assert found[split] and not together.keys() & found[split].keys()
        together |= found[split]
    assert together == truth.get("train", truth.get("all"))


@pytest.mark.parametrize("name", FILE_SETS)
def test_an_official_layout_gives_its_classes_labels_and_splits(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    accept_any_checksum(monkeypatch, "flowers102")
    truth = FILE_SETS[name](tmp_path)
    source = read(f"dataset={name}", f"dataset.root='{tmp_path}'")
    check_splits(source, truth)
    assert set(source.classes) == {value for names in truth.values() for value in names.values()}
    assert list(tmp_path.iterdir()) and not list(tmp_path.glob(".*"))  # nothing was downloaded, no lock is left


def test_signs_of_one_track_stay_together(tmp_path: Path) -> None:
    layouts.make_gtsrb(tmp_path, GTSRB_SIGNS)
    source = read("dataset=gtsrb", f"dataset.root='{tmp_path}'")
    tracks = {
        split: {(path.parent.name, path.name[:5]) for path in source.splits[split][0]} for split in ("train", "val")
    }
    assert len(tracks["train"]) + len(tracks["val"]) == 3 * 43 and not tracks["train"] & tracks["val"]
    assert {folder for folder, _ in tracks["val"]} == {folder for folder, _ in tracks["train"]}


def test_fewer_images_than_officially_are_noted(tmp_path: Path) -> None:
    layouts.make_eurosat(tmp_path)
    source = read("dataset=eurosat", f"dataset.root='{tmp_path}'")
    assert any("eurosat: 20 images for all, not the official 27,000" in note for note in source.notes)


def test_classes_that_differ_between_splits_are_an_error(tmp_path: Path) -> None:
    layouts.make_food101(tmp_path)
    (tmp_path / "food-101" / "meta" / "test.json").write_text('{"waffles": ["waffles/10"]}')
    with pytest.raises(ValueError, match="food101 in dataset.root=.*: train and test have different classes"):
        read("dataset=food101", f"dataset.root='{tmp_path}'")


def test_classes_with_several_names_get_one_that_is_theirs_alone() -> None:
    classes: list[str | tuple[str, ...]] = [
        "tench",
        ("cat", "puss"),
        ("crane",),
        ("crane",),
        ("maillot",),
        ("maillot", "tank suit"),
    ]
    assert first_names(classes) == ["tench", "cat", "crane 1", "crane 2", "maillot", "maillot, tank suit"]


def test_cars_without_a_download_say_what_to_put_where(tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"no download: put devkit/, cars_train/, cars_test/ and cars_test_annos"
    ):
        read("dataset=stanford_cars", f"dataset.root='{tmp_path}'")


@pytest.mark.parametrize("with_names", [False, True])
def test_imagenet_is_read_from_class_folders_and_its_val_is_the_test_split(with_names: bool, tmp_path: Path) -> None:
    truth = layouts.make_imagenet(tmp_path, layouts.WORDNET_IDS if with_names else {"n1": "n1", "n2": "n2"})
    if with_names:
        layouts.make_meta_bin(tmp_path)
    check_splits(read("dataset=imagenet", f"dataset.root='{tmp_path}'"), truth)


def test_imagenets_archives_are_unpacked_once_and_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    accept_any_checksum(monkeypatch, "imagenet")
    truth = layouts.make_imagenet_archives(tmp_path)
    archives = {path.name for path in tmp_path.iterdir()}
    check_splits(read("dataset=imagenet", f"dataset.root='{tmp_path}'"), truth)
    assert {path.name for path in tmp_path.iterdir()} == archives | {"meta.bin", "train", "val", ".imagenet.lock"}


def test_archives_of_imagenet_that_are_damaged_and_folders_without_them_are_explained(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="contains neither train/ and val/ with a folder per class nor the archives"):
        read("dataset=imagenet", f"dataset.root='{tmp_path}'")
    layouts.make_imagenet_archives(tmp_path)
    with pytest.raises(OSError, match="ImageNet archives could not be unpacked: The archive .*devkit.* corrupted"):
        read("dataset=imagenet", f"dataset.root='{tmp_path}'")


def pixels_tell_labels(source: Source, split: str, names: list[str]) -> bool:
    """Check that each image, filled with ten times the number of its class, has that class; return whether upright."""
    images, labels = source.splits[split]
    assert isinstance(images, np.ndarray) and images.dtype == np.uint8 and images.flags.c_contiguous
    assert [names[image[-1, -1].max() // 10] for image in images] == [source.classes[label] for label in labels]
    return bool((images[:, 0, -1] == 255).all() and (images[:, -1, 0] != 255).all())


def numbered(labels: np.ndarray, size: int, channels: int) -> np.ndarray:
    """Return images (N,H,W,C) filled with ten times their label, white in the upper right corner."""
    images = np.broadcast_to(10 * labels[:, None, None, None], (len(labels), size, size, channels)).astype(np.uint8)
    images[:, 0, -1] = 255
    return images


@pytest.mark.parametrize(("name", "folder"), [("mnist", "MNIST"), ("fashion_mnist", "FashionMNIST")])
def test_mnist_files_give_classes_labels_and_splits(name: str, folder: str, tmp_path: Path) -> None:
    for part, count in (("train", 100), ("t10k", 20)):
        labels = np.arange(count) % 10
        write_idx(tmp_path / folder / "raw" / f"{part}-images-idx3-ubyte", numbered(labels, 28, 1)[..., 0])
        write_idx(tmp_path / folder / "raw" / f"{part}-labels-idx1-ubyte", labels)
    source = read(f"dataset={name}", f"dataset.root='{tmp_path}'")
    assert len(source.classes) == 10 and source.classes[9] in ("9 - nine", "Ankle boot")
    assert [len(source.splits[split][1]) for split in ("train", "val", "test")] == [90, 10, 20]
    assert all(pixels_tell_labels(source, split, source.classes) for split in source.splits)
    assert sorted(source.splits["val"][1]) == list(range(10))


@pytest.mark.parametrize(
    ("variant", "num_classes", "first"), [("letters", 26, 1), ("balanced", 47, 0), ("digits", 10, 0)]
)
def test_emnist_is_turned_upright_and_counts_its_letters_from_zero(
    variant: str, num_classes: int, first: int, tmp_path: Path
) -> None:
    for part, repeats in (("train", 10), ("test", 2)):
        labels = np.tile(np.arange(num_classes), repeats)
        images = numbered(labels % 24, 28, 1)[..., 0].transpose(0, 2, 1)
        stem = tmp_path / "EMNIST" / "raw" / f"emnist-{variant}-{part}"
        write_idx(Path(f"{stem}-images-idx3-ubyte"), images)
        write_idx(Path(f"{stem}-labels-idx1-ubyte"), labels + first)
    source = read("dataset=emnist", f"dataset.variant={variant}", f"dataset.root='{tmp_path}'")
    upright, found = source.splits["test"]
    assert isinstance(upright, np.ndarray) and (upright[:, -1, -1] // 10).tolist() == [label % 24 for label in found]
    assert (upright[:, 0, -1] == 255).all() and set(found) == set(range(num_classes))
    assert source.classes[:2] == (["a", "b"] if first else ["0", "1"]) and len(source.classes) == num_classes
    assert len(source.splits["train"][1]) + len(source.splits["val"][1]) == 10 * num_classes


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifar_files_give_classes_labels_and_splits(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision import datasets

    accept_any_checksum(monkeypatch, "cifar")
    kind = datasets.CIFAR10 if name == "cifar10" else datasets.CIFAR100
    key, num_classes = ("labels", 10) if name == "cifar10" else ("fine_labels", 100)
    folder = tmp_path / kind.base_folder
    folder.mkdir()
    labels = np.arange(1000) % num_classes
    for file, _ in kind.train_list + kind.test_list:
        images = numbered(labels % 25, 32, 3).transpose(0, 3, 1, 2).reshape(1000, -1)
        (folder / file).write_bytes(pickle.dumps({"data": images, key: labels.tolist()}))
    names = [f"class {i:02d}" for i in range(num_classes)]
    (folder / kind.meta["filename"]).write_bytes(pickle.dumps({kind.meta["key"]: names}))
    source = read(f"dataset={name}", f"dataset.root='{tmp_path}'")
    assert source.classes == names and source.splits["test"][1] == labels.tolist()
    pixels, found = source.splits["train"]
    assert isinstance(pixels, np.ndarray) and pixels.shape[1:] == (32, 32, 3) and (pixels[:, 0, -1] == 255).all()
    assert (pixels[:, -1, -1, 2] // 10).tolist() == [label % 25 for label in found]


def test_svhn_files_give_classes_labels_and_splits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import scipy.io

    accept_any_checksum(monkeypatch, "svhn")
    for split, count in (("train", 100), ("test", 20)):
        labels = np.arange(count) % 10
        images = numbered(labels, 32, 3).transpose(1, 2, 3, 0)
        scipy.io.savemat(
            tmp_path / f"{split}_32x32.mat", {"X": images, "y": np.where(labels == 0, 10, labels)[:, None]}
        )
    source = read("dataset=svhn", f"dataset.root='{tmp_path}'")
    assert source.classes == list("0123456789")
    assert [len(source.splits[split][1]) for split in ("train", "val", "test")] == [90, 10, 20]
    assert all(pixels_tell_labels(source, split, source.classes) for split in source.splits)


def test_stl10_needs_no_unlabeled_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    accept_any_checksum(monkeypatch, "stl10")
    folder = layouts.touch_folder(tmp_path / "stl10_binary")
    for split, count in (("train", 100), ("test", 20)):
        labels = np.arange(count) % 10
        numbered(labels, 96, 3).transpose(0, 3, 2, 1).astype(np.uint8).tofile(folder / f"{split}_X.bin")
        (labels + 1).astype(np.uint8).tofile(folder / f"{split}_y.bin")
    names = ["airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck"]
    (folder / "class_names.txt").write_text("\n".join(names) + "\n")
    source = read("dataset=stl10", f"dataset.root='{tmp_path}'")
    assert source.classes == names
    assert [len(source.splits[split][1]) for split in ("train", "val", "test")] == [90, 10, 20]
    assert all(pixels_tell_labels(source, split, names) for split in source.splits)


def test_every_data_set_of_torchvisions_is_tested_here() -> None:
    arrays = {"mnist", "fashion_mnist", "emnist", "cifar10", "cifar100", "svhn", "stl10"}
    assert set(LAYOUTS) | {"tiny_imagenet"} == arrays | set(FILE_SETS)


def test_what_a_folder_holds_beside_its_images_is_listed_with_the_reason(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "set" / "train").parent
    make_folder(root / "test", per_class=2)
    for name in ("readme.md", "train/loose.png", "train/empty/notes", "extra/x.png"):
        layouts.touch(root / name)
    source = read("dataset=image_folder", f"dataset.root='{root}'")
    ignored = {str(path.relative_to(root)): reason for path, reason in source.ignored}
    for split in ("train", "test"):
        assert ignored.pop(f"{split}/red/notes.txt") == "not an image (.txt)"
        assert ignored.pop(f"{split}/red/._00.png") == ignored.pop(f"{split}/.hidden") == "hidden"
    assert ignored == {
        "readme.md": "outside the split folders",
        "extra": "outside the split folders",
        "train/loose.png": "outside the class folders",
        "train/empty": "class folder without images",
        "train/empty/notes": "not an image (no extension)",
    }


def write_table(folder: Path, rows: list[str], name: str = "table.csv") -> list[str]:
    layouts.touch_folder(folder / "images")
    for row in rows[1:]:
        layouts.touch(folder / "images" / row.replace("\t", ",").split(",")[0])
    (folder / name).write_text("\n".join(rows) + "\n", encoding="utf-8-sig")
    return ["dataset=csv", f"dataset.table='{folder / name}'", f"dataset.root='{folder / 'images'}'"]


def test_a_table_gives_labels_splits_and_groups(tmp_path: Path) -> None:
    rows = [f"{i}.png,{'NA' if i % 2 else ' 007 '},{'test' if i < 8 else 'Training'},p{i // 4}" for i in range(40)]
    overrides = write_table(tmp_path, ["path,label,fold,patient", *rows])
    columns = ["dataset.split_column=fold", "dataset.group_column=patient", "dataset.split=grouped"]
    source = read(*overrides, *columns)
    assert source.classes == ["007", "NA"]
    assert {path.name for path in source.splits["test"][0]} == {f"{i}.png" for i in range(8)}
    homes = {split: {int(path.stem) // 4 for path in items} for split, (items, _) in source.splits.items()}
    assert homes["train"] | homes["val"] == set(range(2, 10)) and not homes["train"] & homes["val"]
    for items, labels in source.splits.values():
        assert [source.classes[label] for label in labels] == [["007", "NA"][int(path.stem) % 2] for path in items]
    assert len(read(*overrides).splits["test"][0]) == 6  # without a column that says it, splits are drawn


@pytest.mark.parametrize("given", [("train", "test"), ("train", "val", "test")])
def test_a_group_in_two_given_splits_is_refused(given: tuple[str, ...], tmp_path: Path) -> None:
    rows = [f"{i}.png,{'ab'[i % 2]},{given[i % len(given)]},p{i // 4}" for i in range(40)]
    columns = ["dataset.split_column=fold", "dataset.group_column=patient", "dataset.split=grouped"]
    with pytest.raises(ValueError, match=r"dataset.split=grouped: group 'p\d' is in both \w+ and \w+; fix"):
        read(*write_table(tmp_path, ["path,label,fold,patient", *rows]), *columns)


def test_a_tab_separated_table_lies_beside_its_images(tmp_path: Path) -> None:
    rows = [f"{i} ä.png\t{'ab'[i % 2]}" for i in range(10)]
    overrides = write_table(tmp_path, ["file\tkind, broadly", *rows], "table.tsv")
    (tmp_path / "table.tsv").rename(tmp_path / "images" / "table.tsv")
    columns = ["dataset.path_column=file", "dataset.label_column='kind, broadly'", "dataset.root=null"]
    overrides = ["dataset=csv", f"dataset.table='{tmp_path}/images/table.tsv'"]
    assert len(read(*overrides, *columns).splits["train"][0]) == 6


@pytest.mark.parametrize(
    ("rows", "override", "message"),
    [
        (
            ["path,class", "1.png,a"],
            "label_column=label",
            r"label_column=label is not a column of .*; it has: path, class",
        ),
        (["path,label", "1.png,a", "2.png, "], "label_column=label", r"label_column=label: no value in line 3 of"),
        (["path,label", "1.png,a", "2.png,a"], "label_column=label", r"only one class \('a'\)"),
        (
            ["path,label,s", "1.png,a,train", "2.png,b,dev"],
            "split_column=s",
            r"'dev' in line 3 of .*; allowed: train, ",
        ),
        (["path,label,s", "1.png,a,val", "2.png,b,val"], "split_column=s", r"split_column=s: no line of .* says train"),
        (
            ["path,label", "1.png,a", "1.png,b"],
            "label_column=label",
            r"1.png has two labels, 'a' and 'b' \(lines 2 and 3\)",
        ),
        (["path,label"], "label_column=label", r"table.csv has no rows"),
        (["path,label", '1.png,"a'], "label_column=label", r"dataset.table=.* cannot be read: "),
    ],
)
def test_tables_that_make_no_sense_are_explained(rows: list[str], override: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        read(*write_table(tmp_path, rows), f"dataset.{override}")


def test_images_that_a_table_names_in_vain_are_counted_and_shown(tmp_path: Path) -> None:
    overrides = write_table(tmp_path, ["path,label", *(f"{i}.png,{'ab'[i % 2]}" for i in range(9))])
    for i in range(5):
        (tmp_path / "images" / f"{i}.png").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"5 of the 9 images in dataset.table=.* do not exist: .*0.png, .*2.png, …"
    ):
        read(*overrides)
    (tmp_path / "table.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"dataset.table=.* cannot be read: line 1 is not UTF-8; save"):
        read(*overrides)
