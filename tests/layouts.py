"""Small copies of the data sets' official layouts. Image files are empty: listing them must open none.

Each function makes a layout below `root` and returns, for each official split, file name -> class name.
"""

import io
import json
import struct
import tarfile
from pathlib import Path

import numpy as np
import torch

Truth = dict[str, dict[str, str]]
WORDNET_IDS = {
    "n01440764": "tench",
    "n02102040": "English springer",
    "n02979186": "cassette player",
    "n03000684": "chain saw",
    "n03028079": "church",
    "n03394916": "French horn",
    "n03417042": "garbage truck",
    "n03425413": "gas pump",
    "n03445777": "golf ball",
    "n03888257": "parachute",
}


def touch(path: Path) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path.name


def write_idx(path: Path, array: np.ndarray) -> None:
    """Write the file format of MNIST: magic number, sizes, bytes."""
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(header + array.astype(np.uint8).tobytes())


def make_gtsrb(root: Path, signs: list[str], tracks: int = 3) -> Truth:
    from src.data.torchvision_sets import GTSRB_SIGNS

    assert signs == GTSRB_SIGNS
    base, truth = root / "gtsrb", {"train": {}, "test": {}}  # type: tuple[Path, Truth]
    rows = ["Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId"]
    for label, sign in enumerate(signs):
        for track in range(tracks):
            for frame in range(2):
                path = base / "GTSRB" / "Training" / f"{label:05d}" / f"{track:05d}_{frame:05d}.ppm"
                touch(path)
                truth["train"][f"{label:05d}/{path.name}"] = sign
        name = touch(base / "GTSRB" / "Final_Test" / "Images" / f"{label:05d}.ppm")
        truth["test"][f"Images/{name}"] = sign
        rows.append(f"{name};32;32;5;5;27;27;{label}")
    (base / "GT-final_test.csv").write_text("\n".join(rows) + "\n")
    return truth


def make_caltech101(root: Path) -> Truth:
    folder, truth = root / "caltech101" / "101_ObjectCategories", {}
    for name in ("BACKGROUND_Google", "accordion", "ant"):
        for i in range(1, 11):
            path = folder / name / f"image_{i:04d}.jpg"
            touch(path)
            if name != "BACKGROUND_Google":
                truth[f"{name}/{path.name}"] = name
    return {"all": truth}


def make_eurosat(root: Path) -> Truth:
    names = [(f"{name}/{name}_{i}.jpg", name) for name in ("Forest", "River") for i in range(10)]
    for path, _ in names:
        touch(root / "eurosat" / "2750" / path)
    return {"all": dict(names)}


def make_oxford_pets(root: Path) -> Truth:
    base, truth = root / "oxford-iiit-pet", {}
    for split, file, numbers in (("train", "trainval", range(1, 9)), ("test", "test", range(9, 12))):
        names = [
            (f"{breed}_{i}", breed, label)
            for label, breed in enumerate(("Abyssinian", "basset_hound"))
            for i in numbers
        ]
        (base / "annotations").mkdir(parents=True, exist_ok=True)
        (base / "annotations" / f"{file}.txt").write_text("".join(f"{n} {k + 1} {k + 1} 1\n" for n, _, k in names))
        truth[split] = {
            f"images/{touch(base / 'images' / f'{n}.jpg')}": b.replace("_", " ").title() for n, b, _ in names
        }
    return truth


def make_flowers102(root: Path) -> Truth:
    import scipy.io
    from torchvision.datasets import Flowers102

    base, classes = root / "flowers-102", Flowers102.classes
    ids = np.arange(1, 4 * 102 + 1)
    scipy.io.savemat(touch_folder(base) / "imagelabels.mat", {"labels": (ids - 1) % 102 + 1})
    scipy.io.savemat(base / "setid.mat", {"trnid": ids[:102], "valid": ids[102:204], "tstid": ids[204:]})
    names = [f"jpg/{touch(base / 'jpg' / f'image_{i:05d}.jpg')}" for i in ids]
    pairs = [(name, classes[i % 102]) for i, name in enumerate(names)]
    return {"train": dict(pairs[:102]), "val": dict(pairs[102:204]), "test": dict(pairs[204:])}


def touch_folder(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def make_food101(root: Path) -> Truth:
    base, truth = root / "food-101", {}  # type: tuple[Path, Truth]
    for split, numbers in (("train", range(10)), ("test", range(10, 14))):
        meta = {name: [f"{name}/{i}" for i in numbers] for name in ("waffles", "apple_pie")}
        (touch_folder(base / "meta") / f"{split}.json").write_text(json.dumps(meta))
        for name, files in meta.items():
            truth.setdefault(split, {}).update({f"{file}.jpg": name for file in files})
            for file in files:
                touch(base / "images" / f"{file}.jpg")
    return truth


def make_dtd(root: Path) -> Truth:
    base, truth = root / "dtd" / "dtd", {}
    for first, split in enumerate(("train", "val", "test")):
        names = [(f"{name}/{name}_{10 * first + i:04d}.jpg", name) for name in ("banded", "woven") for i in range(3)]
        (touch_folder(base / "labels") / f"{split}1.txt").write_text("".join(f"{path}\n" for path, _ in names))
        for path, _ in names:
            touch(base / "images" / path)
        truth[split] = dict(names)
    return truth


def make_fgvc_aircraft(root: Path) -> Truth:
    data, truth = root / "fgvc-aircraft-2013b" / "data", {}
    variants = ["707-320", "Boeing 717"]
    (touch_folder(data) / "variants.txt").write_text("\n".join(variants) + "\n")
    for first, split in enumerate(("train", "val", "test")):
        names = [(f"{100 * first + 10 * k + i:07d}", name) for k, name in enumerate(variants) for i in range(3)]
        (data / f"images_variant_{split}.txt").write_text("".join(f"{n} {name}\n" for n, name in names))
        truth[split] = {f"images/{touch(data / 'images' / f'{n}.jpg')}": name for n, name in names}
    return truth


def make_stanford_cars(root: Path) -> Truth:
    import scipy.io

    base, truth, cars = root / "stanford_cars", {}, ["Acura RL", "BMW X5", "Fiat 500"]
    kind = [("bbox_x1", "u1"), ("class", "u1"), ("fname", "O")]
    classes = np.array(cars, dtype=object)
    scipy.io.savemat(touch_folder(base / "devkit") / "cars_meta.mat", {"class_names": classes})
    for split, mat in (("train", "devkit/cars_train_annos.mat"), ("test", "cars_test_annos_withlabels.mat")):
        rows = [(1, label + 1, f"{10 * label + i:05d}.jpg") for label in range(3) for i in range(8)]
        scipy.io.savemat(base / mat, {"annotations": np.array(rows, dtype=kind)})
        truth[split] = {f"cars_{split}/{touch(base / f'cars_{split}' / n)}": cars[label - 1] for _, label, n in rows}
    return truth


def make_imagenette(root: Path) -> Truth:
    truth: Truth = {}
    for split, folder in (("train", "train"), ("test", "val")):
        for wordnet_id, name in WORDNET_IDS.items():
            for i in range(10):
                path = root / "imagenette2-320" / folder / wordnet_id / f"{folder}_{i}.JPEG"
                touch(path)
                truth.setdefault(split, {})[f"{wordnet_id}/{path.name}"] = name
    return truth


def make_tiny_imagenet(root: Path) -> Truth:
    base, truth = root / "tiny-imagenet-200", {"train": {}, "test": {}}  # type: tuple[Path, Truth]
    words = {"n1": "crane", "n2": "cat, house cat", "n3": "crane"}
    (touch_folder(base / "val") / "val_annotations.txt").write_text(
        "".join(f"val_{i}.JPEG\t{wordnet_id}\t0\t0\t62\t62\n" for i, wordnet_id in enumerate(["n2", "n1", "n3", "n1"]))
    )
    (base / "wnids.txt").write_text("n2\nn1\nn3\n")
    (base / "words.txt").write_text("n0\tentity\n" + "".join(f"{key}\t{value}\n" for key, value in words.items()))
    names = {"n1": "crane 1", "n2": "cat", "n3": "crane 2"}
    for wordnet_id in words:
        for i in range(10):
            name = touch(base / "train" / wordnet_id / "images" / f"{wordnet_id}_{i}.JPEG")
            truth["train"][f"images/{name}"] = names[wordnet_id]
        touch(base / "train" / wordnet_id / f"{wordnet_id}_boxes.txt")
    for i, wordnet_id in enumerate(["n2", "n1", "n3", "n1"]):
        truth["test"][f"images/{touch(base / 'val' / 'images' / f'val_{i}.JPEG')}"] = names[wordnet_id]
    return truth


def make_imagenet(root: Path, names: dict[str, str]) -> Truth:
    """Make train/ and val/ with a folder per class, without the file that names the classes."""
    truth: Truth = {}
    for split, folder in (("train", "train"), ("test", "val")):
        for wordnet_id, name in names.items():
            for i in range(10 if split == "train" else 2):
                path = root / folder / wordnet_id / f"{folder}_{wordnet_id}_{i}.JPEG"
                touch(path)
                truth.setdefault(split, {})[f"{wordnet_id}/{path.name}"] = name
    return truth


def make_meta_bin(root: Path) -> None:
    """Write the file that torchvision makes of the devkit: WordNet id -> names, and the id of each val image."""
    torch.save(({key: (name, f"{name} again") for key, name in WORDNET_IDS.items()}, []), root / "meta.bin")


def pack(path: Path, members: dict[str, bytes], mode: str = "w") -> bytes:
    """Write a tar archive of names and contents; return its bytes."""
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path.read_bytes()


def make_imagenet_archives(root: Path) -> Truth:
    """Make the three archives of ImageNet, of two classes."""
    import scipy.io

    names = {"n01440764": "tench", "n02102040": "English springer"}
    kind = [("ILSVRC2012_ID", "u2"), ("WNID", "O"), ("words", "O"), ("gloss", "O"), ("num_children", "u2")]
    rows = [(1, "n01440764", "tench, Tinca tinca", "", 0), (2, "n02102040", "English springer", "", 0)]
    scipy.io.savemat(root / "meta.mat", {"synsets": np.array([*rows, (3, "n9", "animal", "", 2)], dtype=kind)})
    meta, base = (root / "meta.mat").read_bytes(), "ILSVRC2012_devkit_t12/data"
    truth_file = {f"{base}/ILSVRC2012_validation_ground_truth.txt": b"2\n1\n"}
    pack(root / "ILSVRC2012_devkit_t12.tar.gz", {f"{base}/meta.mat": meta} | truth_file, "w:gz")
    (root / "meta.mat").unlink()
    classes = {f"{key}.tar": pack(root / "x.tar", {f"{key}_{i}.JPEG": b"" for i in range(10)}) for key in names}
    (root / "x.tar").unlink()
    pack(root / "ILSVRC2012_img_train.tar", classes)
    pack(root / "ILSVRC2012_img_val.tar", {f"ILSVRC2012_val_{i}.JPEG": b"" for i in (1, 2)})
    train = {f"{key}/{key}_{i}.JPEG": name for key, name in names.items() for i in range(10)}
    test = {"n02102040/ILSVRC2012_val_1.JPEG": "English springer", "n01440764/ILSVRC2012_val_2.JPEG": "tench"}
    return {"train": train, "test": test}
