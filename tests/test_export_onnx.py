"""ONNX files: the pixels of training from any picture, the probabilities of the run, and what they tell."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from torch import nn

from src.augment.normalize import normalize
from src.data.images import Preprocessing
from src.export import onnx_files
from src.export.bundle import Bundle, Samples
from src.export.export import open_bundle
from src.export.formats import FORMATS
from src.export.onnx_files import BATCH, PICTURE, build_picture_model, open_session, predict_pictures, run_picture
from src.export.onnx_int8 import INT8
from src.export.parity import measure
from src.export.resampling import PicturePreprocessing
from src.export.samples import make_pictures
from src.model import VisionTransformer
from src.run.saved import SavedRun

pytestmark = pytest.mark.export

ROOT = Path(__file__).resolve().parents[1]
SHAPES = (1, 1), (3, 500), (500, 3), (24, 16), (7, 5), (24, 90), (123, 211), (480, 640)
SMALL: dict[str, Any] = {"patch_size": 4, "embedding_dim": 8, "num_layers": 1, "num_heads": 2}


def make_look(channels: int = 3, resize: str = "crop", interpolation: str = "bilinear") -> Preprocessing:
    return Preprocessing((24, 16), resize, interpolation, channels, (0.4,) * channels, (0.2,) * channels)


def make_noise(*shape: int) -> np.ndarray:
    """Return black and white pixels, where a difference in resampling shows most."""
    random = np.random.default_rng(shape)
    return (random.integers(0, 2, shape) * 255).astype(np.uint8)


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic"])
@pytest.mark.parametrize("resize", ["crop", "squash"])
@pytest.mark.parametrize("channels", [1, 3, 5])
def test_pictures_of_any_size_become_the_pixels_of_training(channels: int, resize: str, interpolation: str) -> None:
    look = make_look(channels, resize, interpolation)
    prepare = PicturePreprocessing(look)
    for shape in SHAPES:
        picture = make_noise(*shape, 3 if channels == 1 else channels)
        assert torch.equal(prepare.pixels(torch.from_numpy(picture))[0].to(torch.uint8), look(picture)), shape


def test_a_large_photo_becomes_the_pixels_of_training() -> None:
    look, picture = make_look(interpolation="bicubic"), make_noise(3024, 4032, 3)
    assert torch.equal(PicturePreprocessing(look).pixels(torch.from_numpy(picture))[0].to(torch.uint8), look(picture))


def test_every_color_becomes_the_gray_of_pillow() -> None:
    levels = np.arange(0, 256, 3, dtype=np.uint8)
    colors = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(86 * 86, 86, 3)
    look = Preprocessing(colors.shape[:2], "squash", "nearest", 1, (0.0,), (1.0,))
    gray = PicturePreprocessing(look).pixels(torch.from_numpy(colors))[0, 0]
    assert np.array_equal(gray.numpy(), np.asarray(Image.fromarray(colors).convert("L")))


def test_pixels_are_normalized_as_in_training() -> None:
    look, picture = make_look(), make_noise(30, 40, 3)
    expected = normalize(look(picture).unsqueeze(0), look.mean, look.std)
    assert torch.equal(PicturePreprocessing(look)(torch.from_numpy(picture)), expected)


def open_sensitive(run: SavedRun) -> Bundle:
    """Open a run with random weights so large that every pixel counts; two epochs leave a model that sees little."""
    bundle, random = open_bundle(run), torch.Generator().manual_seed(0)
    for parameter in bundle.model.parameters():
        nn.init.normal_(parameter, std=0.4, generator=random)
    look = bundle.preprocessing
    probabilities = bundle.model(normalize(bundle.samples.inputs, look.mean, look.std)).softmax(1)
    return replace(bundle, samples=replace(bundle.samples, probabilities=probabilities))


@pytest.fixture(scope="module")
def bundle(photo_run: SavedRun) -> Bundle:
    return open_sensitive(photo_run)


@pytest.fixture(scope="module")
def folder(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files of both formats."""
    folder = tmp_path_factory.mktemp("onnx")
    assert FORMATS["onnx"].write(bundle, folder) == [PICTURE, BATCH]
    assert FORMATS["onnx-int8"].write(bundle, folder) == [INT8]
    return folder


def test_both_files_predict_what_the_run_predicts(bundle: Bundle, folder: Path) -> None:
    agreement = measure(bundle.samples.probabilities, FORMATS["onnx"].predict(bundle, folder))
    assert agreement.difference < 1e-5 and agreement.same == 1


def test_a_batch_file_that_errs_is_noticed(bundle: Bundle, folder: Path, tmp_path: Path) -> None:
    proto = onnx.load(folder / BATCH)
    head = next(tensor for tensor in proto.graph.initializer if tensor.name == "head.bias")
    head.CopyFrom(onnx.numpy_helper.from_array(np.array([9, 0, 0], np.float32), "head.bias"))
    onnx.save(proto, tmp_path / BATCH)
    (tmp_path / PICTURE).write_bytes((folder / PICTURE).read_bytes())
    assert measure(bundle.samples.probabilities, FORMATS["onnx"].predict(bundle, tmp_path)).difference > 0.1


def test_a_picture_of_any_size_is_predicted_as_by_the_run(bundle: Bundle, folder: Path) -> None:
    session, look = open_session(folder / PICTURE), bundle.preprocessing
    for shape in SHAPES:
        picture = make_noise(*shape, 3)
        images = normalize(look(picture).unsqueeze(0), look.mean, look.std)
        expected = bundle.model(images).softmax(1)[0].numpy()
        assert np.abs(run_picture(session, picture) - expected).max() < 1e-5, shape


def test_files_tell_classes_preprocessing_and_accuracy(bundle: Bundle, folder: Path) -> None:
    for name in (PICTURE, BATCH, INT8):
        told = {
            key: json.loads(text)
            for key, text in open_session(folder / name).get_modelmeta().custom_metadata_map.items()
        }
        assert told["classes"] == ["blue", "green", "red"]
        assert told["preprocessing"]["size"] == [16, 16] and told["preprocessing"]["channels"] == 3
        assert told["model"] == "vit_nano" and told["test_acc"] == bundle.run.facts["test_acc"]


def test_files_name_no_folder_of_this_machine(folder: Path) -> None:
    for name in (PICTURE, BATCH, INT8):
        content = (folder / name).read_bytes()
        assert str(ROOT).encode() not in content and b"site-packages" not in content


def test_names_of_classes_may_be_any_text(bundle: Bundle, folder: Path) -> None:
    names = ['"quoted" </script>', "ä 猫", "not utf-8: \udcff"]
    content = onnx_files.describe((folder / PICTURE).read_bytes(), replace(bundle, classes=names))
    assert json.loads(open_session(content).get_modelmeta().custom_metadata_map["classes"]) == names


def test_int8_chooses_the_same_classes_with_a_quarter_of_the_weights(bundle: Bundle, folder: Path) -> None:
    chosen = FORMATS["onnx-int8"]
    agreement = measure(bundle.samples.probabilities, chosen.predict(bundle, folder))
    assert 0 < agreement.difference <= chosen.tolerance and agreement.same >= chosen.agreement
    large = {name: matrix.nbytes for name, matrix in list_matrices(folder / PICTURE) if matrix.ndim == 2}
    small = {name: matrix for name, matrix in list_matrices(folder / INT8) if matrix.dtype == np.uint8 and matrix.ndim}
    assert sum(matrix.nbytes for matrix in small.values()) * 4 > 0.9 * sum(large.values())


def list_matrices(path: Path) -> list[tuple[str, np.ndarray]]:
    return [(tensor.name, onnx.numpy_helper.to_array(tensor)) for tensor in onnx.load(path).graph.initializer]


def test_size_and_time_of_int8_are_recorded(bundle: Bundle, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    facts: dict[str, Any] = FORMATS["onnx-int8"].details(bundle, folder)
    assert facts["float32_bytes"] == pytest.approx((folder / PICTURE).stat().st_size, rel=0.02)
    assert min(facts["milliseconds"], facts["float32_milliseconds"]) > 0
    assert (
        f"takes {facts['milliseconds']:.2f} ms instead of {facts['float32_milliseconds']:.2f} ms"
        in capsys.readouterr().out
    )


ODD: dict[str, tuple[Preprocessing, int, dict[str, Any]]] = {
    "five channels": (make_look(5, "squash", "nearest"), 3, {"stem": "conv", "pooling": "mean", "num_registers": 2}),
    "gray, one class": (make_look(1, "crop", "nearest"), 1, {"stem": "overlap", "position_embedding": "sincos2d"}),
}


@pytest.mark.parametrize("name", ODD)
def test_unusual_models_predict_the_same_from_pictures(name: str, bundle: Bundle) -> None:
    look, num_classes, options = ODD[name]
    torch.manual_seed(0)
    model = VisionTransformer(
        image_size=look.size, in_channels=look.channels, num_classes=num_classes, **SMALL, **options
    )
    nn.init.normal_(model.head.weight)
    model.eval().requires_grad_(False)
    pictures = make_pictures(look)
    inputs = torch.stack([look(picture) for picture in pictures])
    probabilities = model(normalize(inputs, look.mean, look.std)).softmax(1)
    samples = Samples(pictures, inputs, probabilities, "made images")
    odd = replace(bundle, model=model, preprocessing=look, samples=samples)
    predicted = predict_pictures(odd, build_picture_model(model, look))
    assert predicted.shape == (64, num_classes) and (predicted - probabilities).abs().max() < 1e-5


def test_weights_beyond_two_gigabytes_are_refused(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_files, "LARGEST", 1000)
    for name in ("onnx", "onnx-int8", "web"):
        assert FORMATS[name].explain(bundle) == "an ONNX file holds 2 GB, and the weights have 30.1 KiB"
