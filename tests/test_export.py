"""Export: each file predicts as the run does, or nothing is written."""

import errno
import json
import math
import shutil
import zipfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import compose, compose_inference
from PIL import Image
from test_predict import infer
from torch import Tensor

from src.augment.normalize import normalize
from src.data.images import Preprocessing
from src.export import choose, export, hf_folder, samples, timm_folder, torch_files
from src.export.bundle import Bundle
from src.export.choose import check_formats, choose_formats
from src.export.color import LUMA, feed, open_in_color
from src.export.destination import hash_file
from src.export.export import export_run, open_bundle
from src.export.formats import FORMATS
from src.export.parity import measure
from src.model import VisionTransformer
from src.run.files import BEST
from src.run.saved import SavedRun

pytestmark = pytest.mark.export

SMALL: dict[str, Any] = {"patch_size": 4, "embedding_dim": 16, "num_layers": 2, "num_heads": 2}


def make_bundle(channels: int = 3, size: tuple[int, int] = (8, 12), classes: int = 5, **options: Any) -> Bundle:
    """Return a random model that no run has trained, with made pictures."""
    config = compose("dataset=digits")
    facts: dict[str, Any] = {"image_size": size, "in_channels": channels, "num_classes": classes}
    config = replace(config, model=replace(config.model, **facts, **SMALL, **options))
    torch.manual_seed(0)
    model = VisionTransformer(**asdict(config.model)).eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.add_(0.2 * torch.randn_like(parameter))
    look = Preprocessing(size, "squash", "bicubic", channels, (0.4,) * channels, (0.2,) * channels)
    run = SavedRun(Path("none"), "finished", {})
    tested = samples.collect_samples(run, config, look, model)
    return Bundle(run, config, model, [f"ä {number}" for number in range(classes)], look, tested)


def predict_logits(bundle: Bundle) -> Tensor:
    look = bundle.preprocessing
    return bundle.model(normalize(bundle.samples.inputs, look.mean, look.std))


VARIANTS: dict[str, dict[str, Any]] = {
    "class token": {},
    "mean, registers, scales": {"pooling": "mean", "num_registers": 3, "layer_scale": 0.5, "qk_norm": True},
    "fixed positions, gray": {"position_embedding": "sincos2d", "channels": 1},
    "norm before the blocks": {"pre_norm": True, "qkv_bias": False, "norm_eps": 1e-5},
    "other eps": {"norm_eps": 1e-12, "qk_norm": True, "layer_scale": 0.1, "pre_norm": True},
    "five channels": {"channels": 5, "norm_eps": 1e-2},
}


@pytest.mark.parametrize("options", VARIANTS.values(), ids=list(VARIANTS))
def test_timm_and_our_reading_of_its_folder_give_the_same_logits(options: dict[str, Any], tmp_path: Path) -> None:
    bundle = make_bundle(**options)
    assert timm_folder.write_timm(bundle, tmp_path) == ["config.json", "model.safetensors"]
    wanted = predict_logits(bundle)
    described = json.loads((tmp_path / "config.json").read_text())["pretrained_cfg"]
    images = normalize(feed(bundle.samples.inputs), described["mean"], described["std"])
    for model in (timm_folder.open_with_timm(tmp_path), timm_folder.read_back(tmp_path)):
        torch.testing.assert_close(model(images), wanted, atol=5e-6, rtol=1e-6)


@pytest.mark.parametrize(
    "options",
    [{}, {"position_embedding": "sincos2d", "channels": 1}, {"qkv_bias": False, "norm_eps": 1e-2, "size": (8, 8)}],
    ids=["color", "gray", "square, no bias"],
)
def test_transformers_and_our_reading_of_its_folder_give_the_same_logits(
    options: dict[str, Any], tmp_path: Path
) -> None:
    bundle = make_bundle(**options)
    hf_folder.write_hf(bundle, tmp_path)
    described = json.loads((tmp_path / "hf/config.json").read_text())
    assert described["id2label"]["1"] == "ä 1" and described["label2id"]["ä 1"] == 1
    look = json.loads((tmp_path / "hf/preprocessor_config.json").read_text())
    images = normalize(feed(bundle.samples.inputs), look["image_mean"], look["image_std"])
    wanted = predict_logits(bundle)
    torch.testing.assert_close(hf_folder.open_with_transformers(tmp_path)(images).logits, wanted, atol=5e-6, rtol=1e-6)
    torch.testing.assert_close(hf_folder.read_back(tmp_path)(images), wanted, atol=5e-6, rtol=1e-6)


def test_what_a_format_cannot_express_is_named_by_its_keys() -> None:
    bundle = make_bundle(pooling="mean", num_registers=2, layer_scale=0.5, qk_norm=True, pre_norm=True, stem="overlap")
    assert FORMATS["timm"].explain(bundle) == "timm's VisionTransformer cannot express model.stem=overlap"
    sentence = FORMATS["hf"].explain(bundle)
    for key in ("pooling=mean", "num_registers=2", "layer_scale=0.5", "qk_norm=true", "pre_norm=true", "stem=overlap"):
        assert f"model.{key}" in sentence
    assert FORMATS["pt2"].explain(bundle) == ""
    assert "this model takes 5" in FORMATS["hf"].explain(make_bundle(channels=5))
    with pytest.raises(ValueError, match=r"formats=\[timm\]: timm's .* formats that can be written: .*pt2"):
        choose_formats(["timm"], bundle)
    names, left_out = choose_formats(["all"], bundle)
    assert {"pt2", "torchscript"} <= set(names) and {"timm", "hf"} <= left_out.keys()


@pytest.mark.parametrize("name", ["pt2", "torchscript"])
def test_files_of_torch_take_pixels_in_batches_of_any_size_and_hold_the_classes(
    name: str, tmp_path: Path, recwarn: pytest.WarningsRecorder, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = make_bundle(channels=1)
    FORMATS[name].write(bundle, tmp_path)
    agreement = measure(bundle.samples.probabilities, FORMATS[name].predict(bundle, tmp_path))
    assert agreement.difference < 1e-6 and agreement.same == 1
    with zipfile.ZipFile(tmp_path / (torch_files.EXPORTED if name == "pt2" else torch_files.TRACED)) as archive:
        content = b"".join(archive.read(part) for part in archive.namelist())
    assert str(Path(__file__).parents[1]).encode() not in content and b"site-packages" not in content
    assert not recwarn.list and ("torch deprecates TorchScript" in capsys.readouterr().err) == (name == "torchscript")
    inside: dict[str, Any] = {"classes.json": "", "preprocessing.json": ""}
    if name == "pt2":
        torch.export.load(tmp_path / torch_files.EXPORTED, extra_files=inside)
    else:
        with pytest.warns(FutureWarning):
            torch.jit.load(tmp_path / torch_files.TRACED, _extra_files=inside)
    assert json.loads(inside["classes.json"]) == bundle.classes
    assert json.loads(inside["preprocessing.json"])["mean"] == [0.4]


def test_a_gray_model_weighs_the_colors_as_pillow_does_but_for_the_rounding_of_levels(tmp_path: Path) -> None:
    bundle = make_bundle(channels=1)
    timm_folder.write_timm(bundle, tmp_path)
    color = np.random.default_rng(0).integers(0, 256, (16, 8, 12, 3), dtype=np.uint8)
    rounded = np.stack([np.asarray(Image.fromarray(picture).convert("L")) for picture in color])
    exact = torch.from_numpy(color).double() @ LUMA
    assert (exact - torch.from_numpy(rounded)).abs().max() <= 0.5
    wanted = bundle.model(((exact.unsqueeze(1) / 255 - 0.4) / 0.2).float())
    images = normalize(torch.from_numpy(color).permute(0, 3, 1, 2), (0.4,) * 3, (0.2,) * 3)
    torch.testing.assert_close(timm_folder.open_with_timm(tmp_path)(images), wanted, atol=1e-5, rtol=1e-5)
    assert open_in_color(rounded[0][..., None]).getpixel((3, 2)) == (rounded[0, 2, 3],) * 3


def test_agreement_counts_ties_as_equal_and_nan_as_no_agreement() -> None:
    ours = torch.tensor([[0.5, 0.5, 0.0], [0.6, 0.3, 0.1]])
    agreement = measure(ours, ours[:, [1, 0, 2]])
    assert agreement.difference == pytest.approx(0.3) and agreement.same == 0.5
    assert math.isnan(measure(ours, ours * torch.nan).difference)
    small = torch.full((1, 4000), 1 / 4000)  # of thousands of classes, each may be wrong by half
    assert measure(small, small * 1.5).difference < 2e-4 and measure(small, small * 1.5).log_difference > 0.4
    with pytest.raises(ValueError, match="shape|array of"):
        measure(ours, ours[:, :2])


@pytest.fixture(scope="module")
def place(photo_run: SavedRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exports")
    shutil.copytree(photo_run.folder, folder / "outputs" / "run")
    return folder


def list_files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_an_export_is_checked_recorded_and_extended(place: Path) -> None:
    result = infer(place, "task=export", "run=outputs/run", "formats=timm", "output=my [ä] model")
    assert result.returncode == 0, result.stderr
    assert 'timm.create_model("local-dir:my [ä] model", pretrained=True)' in result.stdout
    assert "hf upload OWNER/NAME 'my [ä] model'" in result.stdout and "test images" in result.stdout
    folder = place / "my [ä] model"
    first = json.loads((folder / "parity.json").read_text())
    facts = first["formats"]["timm"]
    assert facts["max_probability_difference"] < 1e-5 and facts["same_class"] == 1 and facts["read_by"] == "timm"
    assert facts["own_preprocessing"]["same_class"] > 0.5 and "test images" in facts["source"]
    assert facts["packages"].keys() == {"torch", "timm"} and facts["seconds"] > 0
    assert facts["files"]["model.safetensors"]["bytes"] == (folder / "model.safetensors").stat().st_size
    assert {"config.json", "model.safetensors", "parity.json", "README.md"} <= list_files(folder)

    (folder / "README.md").write_text("mine")
    again = infer(place, "task=export", "run=outputs/run", "formats=[torchscript]", "output=my [ä] model")
    assert "README.md is not as an export wrote, and kept" in again.stdout
    assert (folder / "README.md").read_text() == "mine" and (folder / "model.torchscript.pt").is_file()
    second = json.loads((folder / "parity.json").read_text())
    assert second["formats"].keys() == {"timm", "torchscript"} and second["formats"]["timm"] == facts
    assert not list(place.rglob(".export-*"))


def test_an_export_that_disagrees_is_an_error_and_leaves_nothing(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def predict(bundle: Bundle, folder: Path) -> Tensor:
        return bundle.samples.probabilities.roll(1, 1)

    monkeypatch.setitem(FORMATS, "timm", replace(FORMATS["timm"], predict=predict))
    before = list_files(place)
    result = infer(place, "task=export", "run=outputs/run", "formats=[torchscript,timm]", "output=deep/new")
    assert result.returncode == 1 and result.stderr.splitlines()[-1].startswith(
        "error: the file of formats=[timm] does not predict as the run does, so nothing of it is written: on"
    )
    assert list_files(place) == before and not (place / "deep").exists()


def test_a_full_disk_is_one_line_and_leaves_nothing(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(bundle: Bundle, folder: Path) -> list[str]:
        (folder / "half").touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setitem(FORMATS, "timm", replace(FORMATS["timm"], write=write))
    before = list_files(place)
    result = infer(place, "task=export", "run=outputs/run", "output=full")
    assert result.returncode == 1 and result.stderr == "error: output=full cannot be written: No space left on device\n"
    assert list_files(place) == before


def test_names_of_classes_may_be_anything_that_a_folder_is_called(tmp_path: Path) -> None:
    names = ["\udce4", 'a"b\\c', "日本", "<b>", "\n"]
    bundle = replace(make_bundle(), classes=names)
    timm_folder.write_timm(bundle, tmp_path)
    model: Any = timm_folder.open_with_timm(tmp_path)
    assert model.pretrained_cfg["label_names"] == names


def test_without_a_formats_library_its_files_areread_back(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (export, timm_folder, hf_folder):
        monkeypatch.setattr(module, "find_spec", lambda name: None)
    result = infer(place, "task=export", "run=outputs/run", "formats=[timm,hf]")
    assert "hf: transformers is not installed, so the files were read back by our own code" in result.stdout
    facts = json.loads((place / "outputs/run/exports/parity.json").read_text())["formats"]["hf"]
    assert facts["read_by"] == "our own code, as transformers is not installed" and facts["own_preprocessing"] is None
    assert facts["max_probability_difference"] < 1e-5


@pytest.mark.parametrize(
    ("formats", "message"),
    [
        (["tim"], "formats=[tim] is not known; allowed: timm, hf"),
        (["torchscrip"], "did you mean torchscript?"),
        (["hf"], "formats=[hf]: transformers is not installed: pip install -r requirements-export.txt"),
    ],
)
def test_formats_are_checked_before_any_work(formats: list[str], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choose, "find_spec", lambda name: None)
    monkeypatch.setitem(FORMATS, "hf", replace(FORMATS["hf"], needs=("transformers",)))
    with pytest.raises(ValueError) as error:
        check_formats(formats)
    assert message in str(error.value)


def test_formats_may_be_one_word_but_not_nothing() -> None:
    assert compose_inference("task=export", "formats=timm").formats == ["timm"]
    for wrong in ("[]", "null", "[1]"):
        with pytest.raises(ValueError, match="names no format; write formats="):
            compose_inference("task=export", f"formats={wrong}")
    with pytest.raises(ValueError, match="leave input out"):
        compose_inference("task=export", "input=x.png")
    with pytest.raises(ValueError, match=r"formats=\[pt2,hf\] is what task=export writes; add task=export, or leave"):
        compose_inference("run=x", "formats=[pt2,hf]", "output=out")


def test_checks_are_made_on_test_images_evenly_from_the_split(photo_run: SavedRun, tmp_path: Path) -> None:
    bundle = open_bundle(photo_run)
    count = len(bundle.samples.pictures)
    assert 0 < count <= 64 and bundle.samples.source == f"{count} of {count} test images"
    look = bundle.preprocessing
    for picture, pixels in zip(bundle.samples.pictures, bundle.samples.inputs, strict=True):
        assert torch.equal(look(picture), pixels) and picture.shape == (16, 20, 3)
    lines = (photo_run.folder / "test/predictions.csv").read_text().splitlines()
    predicted = bundle.samples.probabilities.argmax(1).tolist()
    assert [line.split(",")[3] for line in lines[1:]] == [bundle.classes[number] for number in predicted]
    # In the folder of another machine, none of the files are there.
    copy = SavedRun(tmp_path / "copy", "finished", {})
    shutil.copytree(photo_run.folder, copy.folder)
    table = copy.folder / "test/predictions.csv"
    table.write_text(table.read_text().replace("/photos", "/gone"))
    assert open_bundle(copy).samples.source == "64 synthetic images (the test images are gone)"
    table.unlink()
    assert open_bundle(copy).samples.source == "64 synthetic images (the run has no test results)"


def test_pictures_of_any_channels_are_halved_until_all_fit_into_memory() -> None:
    for channels in (1, 3, 5):
        look = Preprocessing((8, 8), "crop", "bicubic", channels, (0.3,) * channels, (0.3,) * channels)
        picture = samples._as_array(np.zeros((1500, 2500, channels), np.uint8), look)
        assert 2**20 < picture.nbytes <= 2**22 and picture.shape[2] == channels and picture.base is None


def test_weights_that_are_replaced_meanwhile_are_not_mixed(photo_run: SavedRun, tmp_path: Path) -> None:
    run = SavedRun(tmp_path / "run", "finished", {"best_epoch": 99})
    shutil.copytree(photo_run.folder, run.folder)
    content = (run.folder / BEST).read_bytes()
    (run.folder / BEST).write_bytes(b"other")
    bundle = open_bundle(run, content)
    assert bundle.run.number("best_epoch") == photo_run.number("best_epoch")


def test_images_of_a_set_in_one_file_are_found_by_their_place(tmp_path: Path) -> None:
    config, run = compose("dataset=digits"), SavedRun(tmp_path, "finished", {})
    (tmp_path / "test").mkdir()
    rows = "".join(f"{number},7,7,0.5,1\n" for number in range(359))
    (tmp_path / "test/predictions.csv").write_text("image,class,predicted,confidence,correct\n" + rows)
    look = Preprocessing((8, 8), "crop", "bicubic", 1, (0.3,), (0.3,))
    pictures, source = samples.read_tested(run, config, look)
    assert source == "64 of 359 test images" and len(pictures) == 64 and pictures[0].shape == (8, 8, 1)
    images = samples.load_array(run, config)
    assert images is not None and np.array_equal(pictures[-1][..., 0], images[358])


def test_made_pictures_have_several_shapes_and_are_the_same_each_time() -> None:
    look = Preprocessing((16, 32), "crop", "bicubic", 2, (0.3,) * 2, (0.3,) * 2)
    pictures = samples.make_pictures(look)
    assert len({picture.shape for picture in pictures}) == 8 and all(picture.shape[2] == 2 for picture in pictures)
    assert all(map(np.array_equal, pictures, samples.make_pictures(look)))


def test_a_run_whose_weights_predict_nan_is_refused(photo_run: SavedRun, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "run"
    shutil.copytree(photo_run.folder, folder)
    weights = load_file(folder / BEST)
    weights["head.bias"][0] = torch.nan
    save_file(weights, folder / BEST)
    with pytest.raises(ValueError, match="predict NaN; they cannot be exported"):
        export_run(compose_inference("task=export", f"run='{folder}'"))
    assert hash_file(folder / BEST) != hash_file(photo_run.folder / BEST) and not (folder / "exports").exists()
