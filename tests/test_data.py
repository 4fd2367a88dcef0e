"""The data path: every kind of file, splits that do not leak, batches that hold each sample once."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import COLORS, compose, hold_images, make_folder, make_picture, pixels_of
from PIL import Image

from src.data.batches import iterate_batches, shuffled_order
from src.data.files import find_images
from src.data.images import Preprocessing, _center_box
from src.data.levels import pixel_statistics
from src.data.load import Data, Split, load_data
from src.data.read import read_image
from src.data.report import inspect_data
from src.data.sources import load_digits

RGB8 = Preprocessing((8, 8), "crop", "bicubic", 3)


def load(*overrides: str) -> Data:
    config = compose("model.patch_size=1", *overrides)
    return load_data(config.dataset, config.model.image_size, lambda items, total, description: iter(items))


def load_folder(root: Path, *overrides: str) -> Data:
    return load("dataset=image_folder", f"dataset.root='{root}'", "dataset.image_size=8", *overrides)


def test_splits_are_disjoint_complete_stratified_and_repeatable(photos: Path) -> None:
    data, again = load_folder(photos), load_folder(photos)
    files = [split.files for split in (data.train, data.val, data.test)]
    assert sorted(files[0] + files[1] + files[2]) == sorted(photos.glob("[bgr]*/[0-9]*.png"))
    assert again.val.files == data.val.files
    assert torch.equal(torch.bincount(data.val.labels), torch.tensor([2, 2, 2]))
    assert load_folder(photos, "dataset.split_seed=1").val.files != data.val.files
    assert load_folder(photos).fingerprint() == data.fingerprint()


def test_every_label_is_the_name_of_the_files_folder(photos: Path) -> None:
    data = load_folder(photos)
    assert data.classes == sorted(COLORS)
    for split in (data.train, data.val, data.test):
        assert [data.classes[label] for label in split.labels] == [path.parent.name for path in split.files]


def test_stray_and_hidden_files_are_left_out(photos: Path) -> None:
    assert all(path.suffix == ".png" and "/." not in str(path) for path in find_images(photos))


def test_given_splits_are_kept_and_only_the_missing_ones_carved(tmp_path: Path) -> None:
    make_folder(tmp_path / "set" / "train")
    make_folder(tmp_path / "set" / "test", per_class=4)
    data = load_folder(tmp_path / "set")
    assert len(data.test) == 12 and all("test" in path.parts for path in data.test.files)
    assert len(data.train) + len(data.val) == 36 and all("train" in path.parts for path in data.val.files)
    make_folder(tmp_path / "set" / "val", per_class=2)
    assert len(load_folder(tmp_path / "set").val) == 6


def test_split_folders_are_known_in_any_case_and_a_class_may_be_called_train(tmp_path: Path) -> None:
    make_folder(tmp_path / "caps" / "Train")
    make_folder(tmp_path / "caps" / "Testing", per_class=2)
    data = load_folder(tmp_path / "caps")
    assert data.classes == sorted(COLORS) and len(data.test) == 6
    (make_folder(tmp_path / "traffic") / "red").rename(tmp_path / "traffic" / "train")
    assert load_folder(tmp_path / "traffic").classes == ["blue", "green", "train"]


def test_layouts_that_would_train_on_the_wrong_classes_are_refused(tmp_path: Path) -> None:
    make_folder(tmp_path / "mixed")
    make_folder(tmp_path / "mixed" / "test", per_class=1)
    with pytest.raises(ValueError, match="contains test/ with class folders, but no train/$"):
        load_folder(tmp_path / "mixed")
    make_folder(tmp_path / "parts" / "part1", per_class=1)
    make_folder(tmp_path / "parts" / "part2", per_class=1)
    with pytest.raises(ValueError, match="contain the same folders: blue, green, red; if these are splits, name them"):
        load_folder(tmp_path / "parts")


def test_a_class_unknown_to_train_is_an_error_that_names_it(tmp_path: Path) -> None:
    make_folder(tmp_path / "train")
    make_folder(tmp_path / "val", per_class=2)
    (tmp_path / "val" / "purple").mkdir()
    with pytest.raises(ValueError, match="the class 'purple' does not occur in .*train"):
        load_folder(tmp_path)


def test_one_class_no_class_and_too_few_images_are_explained(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no class folders with images in .*put each class into its own folder"):
        load_folder(tmp_path)
    make_folder(tmp_path / "photos", per_class=1)
    with pytest.raises(ValueError, match=r"only one class \('photos'\) .* did you mean dataset.root=.*photos\?"):
        load_folder(tmp_path)
    with pytest.raises(ValueError, match="the val split is empty: too few images in dataset.root="):
        load_folder(tmp_path / "photos")


def test_an_empty_class_folder_is_left_out_and_said(photos: Path) -> None:
    (photos / "yellow").mkdir()
    data = load_folder(photos)
    assert data.classes == sorted(COLORS) and any("yellow contains no images" in note for note in data.notes)


def test_broken_images_are_refused_by_name_or_skipped_by_choice(photos: Path) -> None:
    (photos / "red" / "00.png").write_bytes(b"not a png")
    whole = photos / "red" / "01.jpg"
    make_picture(COLORS["red"], 1, (200, 200)).save(whole)
    whole.write_bytes(whole.read_bytes()[:2000])
    with pytest.raises(OSError, match=r"(?s)2 unreadable.*dataset.on_error=skip.*00.png: not an image.*01.jpg: "):
        load_folder(photos)
    data = load_folder(photos, "dataset.on_error=skip")
    assert sum(map(len, (data.train, data.val, data.test))) == 35
    assert sum("unreadable, skipped" in note for note in data.notes) == 2


def test_color_is_found_in_the_images_and_gray_sets_get_one_channel(photos: Path, tmp_path: Path) -> None:
    assert load_folder(photos).preprocessing.channels == 3
    for path in find_images(photos):
        Image.open(path).convert("L").convert("RGB").save(path)
    data = load_folder(photos)
    assert data.preprocessing.channels == 1 and data.train.images.shape[1] == 1
    assert torch.equal(pixels_of(data.train)[0], data.preprocessing(read_image(data.train.files[0])))


def save_variants(folder: Path) -> dict[str, Path]:
    """Save one picture, grey in every pixel, in every format and mode of the wild."""
    grey = np.linspace(0, 255, 64).reshape(8, 8).astype(np.uint8)
    image = Image.fromarray(grey)
    rgb = image.convert("RGB")
    variants = {name: folder / name for name in ("l.png", "rgb.PNG", "p.gif", "rgba.png", "la.png", "16.png")}
    variants |= {name: folder / name for name in ("x.bmp", "x.webp", "x.tif", "x.TIFF", "f.tif", "p.png", "i.tif")}
    image.save(variants["l.png"])
    rgb.save(variants["rgb.PNG"])
    image.save(variants["p.gif"])
    rgb.convert("RGBA").save(variants["rgba.png"])
    image.convert("LA").save(variants["la.png"])
    Image.fromarray(grey.astype(np.uint16) * 257).save(variants["16.png"])
    rgb.save(variants["x.bmp"])
    rgb.save(variants["x.webp"], lossless=True)
    rgb.save(variants["x.tif"])
    rgb.save(variants["x.TIFF"])
    Image.fromarray(grey.astype(np.float32) / 255).save(variants["f.tif"])
    Image.fromarray(grey.astype(np.int32) * 257).save(variants["i.tif"])
    image.convert("P").save(variants["p.png"])
    return variants


def test_every_format_and_mode_gives_the_same_pixels(tmp_path: Path) -> None:
    for name, path in save_variants(tmp_path).items():
        pixels = RGB8(read_image(path)).float()
        expected = torch.linspace(0, 255, 64).view(8, 8).to(torch.uint8).float()
        assert (pixels - expected).abs().max() <= 1, name


def test_transparency_is_laid_on_white_and_cmyk_is_read(tmp_path: Path) -> None:
    Image.new("RGBA", (8, 8), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    assert RGB8(read_image(tmp_path / "clear.png")).min() == 255
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "red.jpg")
    red = RGB8(read_image(tmp_path / "red.jpg")).float().mean((1, 2))
    assert red[0] > 200 and red[1] < 60 and red[2] < 60


def test_a_photo_taken_sideways_is_turned_upright(tmp_path: Path) -> None:
    image = Image.new("RGB", (8, 4))
    image.putpixel((0, 0), (255, 255, 255))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90 degrees clockwise to view
    image.save(tmp_path / "turned.png", exif=exif)
    upright = read_image(tmp_path / "turned.png")
    assert upright.size == (4, 8) and upright.getpixel((3, 0)) == (255, 255, 255)


def test_crop_takes_the_centre_and_squash_takes_all() -> None:
    image = Image.new("L", (40, 8), 0)
    image.paste(255, (16, 0, 24, 8))
    assert Preprocessing((8, 8), "crop", "bicubic", 1)(image).min() == 255
    squashed = Preprocessing((8, 10), "squash", "nearest", 1)(image)
    assert squashed[0, 0].tolist() == [0, 0, 0, 0, 255, 255, 0, 0, 0, 0]


@pytest.mark.parametrize("size", [(28, 28), (224, 224), (224, 160)])
def test_the_crop_stays_inside_the_image_for_every_shape(size: tuple[int, int]) -> None:
    for side in range(1, 5000):
        for shape in ((side, 225), (300, side)):
            left, top, right, bottom = _center_box(shape, size)
            assert 0 <= left < right <= shape[0] and 0 <= top < bottom <= shape[1]


def test_a_transparent_color_in_a_palette_free_png_is_laid_on_white_too(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8), (255, 0, 255)).save(tmp_path / "key.png", transparency=(255, 0, 255))
    assert RGB8(read_image(tmp_path / "key.png")).min() == 255


def test_statistics_equal_numpys() -> None:
    images = torch.randint(256, (20, 3, 5, 4), dtype=torch.uint8)
    histogram = np.stack([np.bincount(channel.flatten(), minlength=256) for channel in images.numpy().swapaxes(0, 1)])
    mean, std = pixel_statistics(histogram)
    assert np.allclose(mean, (images.numpy() / 255).mean((0, 2, 3)), atol=1e-6)
    assert np.allclose(std, (images.numpy() / 255).std((0, 2, 3)), atol=1e-6)


def test_each_epoch_holds_each_sample_once_in_an_order_of_its_own() -> None:
    split = Split(hold_images(torch.arange(10, dtype=torch.uint8).view(10, 1, 1, 1)), torch.arange(10))
    orders = [shuffled_order(10, seed=0, epoch=epoch) for epoch in (1, 2)]
    for order in orders:
        batches = list(iterate_batches(split, order.split(4), torch.device("cpu")))
        assert [len(batch) for _, batch in batches] == [4, 4, 2]
        assert torch.equal(torch.cat([batch for _, batch in batches]), order)
        assert sorted(order.tolist()) == list(range(10))
        assert all(torch.equal(images.flatten().long(), batch) for images, batch in batches)
    assert not torch.equal(*orders) and torch.equal(orders[0], shuffled_order(10, seed=0, epoch=1))


def test_digits_are_asked_of_scikit_learn_where_their_table_is_not_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def elsewhere(name: str) -> SimpleNamespace:
        return SimpleNamespace(submodule_search_locations=[tmp_path])

    config = compose().dataset
    read, labels = load_digits(config).splits["all"]
    monkeypatch.setattr("src.data.sources.find_spec", elsewhere)
    asked, same_labels = load_digits(config).splits["all"]
    assert isinstance(read, np.ndarray) and isinstance(asked, np.ndarray) and np.array_equal(read, asked)
    assert labels == same_labels and len(labels) == 1797


def test_digits_are_the_1797_scans_without_download() -> None:
    data = load("dataset=digits")
    assert sum(map(len, (data.train, data.val, data.test))) == 1797
    assert data.train.images.shape[1:] == (1, 8, 8) and pixels_of(data.train).max() == 255
    assert torch.bincount(data.test.labels).min() >= 34


def test_the_log_says_what_the_data_are_and_where_they_are_stored() -> None:
    data = load("dataset=digits")
    first, second = data.lines("digits")
    assert first == (
        "data      digits: 10 classes, 8 × 8 px, grayscale; 1,169 training, 269 validation, 359 test images"
    )
    assert second == f"cache     {data.place}" and data.place.startswith("112.3 KiB in memory (")
    report = inspect_data(data, batch_size=16)
    assert report.lines() == [f"images    {report.summary}"]


def test_arrays_of_another_size_go_through_the_same_preprocessing() -> None:
    data = load("dataset=digits", "model.image_size=16")
    small = pixels_of(load("dataset=digits").test)[0, 0].numpy()
    assert torch.equal(pixels_of(data.test)[0], data.preprocessing(Image.fromarray(small)))
