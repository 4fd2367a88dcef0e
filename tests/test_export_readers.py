"""What the readers of an export make of a picture: their own resizing is as the run's, and they find every weight."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file
from test_export import make_bundle

from src.data.images import Preprocessing
from src.export import hf_folder, timm_folder
from src.export.bundle import Bundle
from src.export.choose import choose_formats

pytestmark = pytest.mark.export

LAYER = (
    *("attention.attention.query", "attention.attention.key", "attention.attention.value", "attention.output.dense"),
    *("intermediate.dense", "output.dense", "layernorm_before", "layernorm_after"),
)
OUTER = ("vit.embeddings.patch_embeddings.projection", "vit.layernorm", "classifier")


def look_at(size: tuple[int, int], resize: str, interpolation: str) -> Bundle:
    bundle = make_bundle(size=size)
    return replace(bundle, preprocessing=Preprocessing(size, resize, interpolation, 3, (0.4, 0.5, 0.6), (0.2,) * 3))


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "nearest"])
@pytest.mark.parametrize(("size", "resize"), [((8, 8), "crop"), ((8, 12), "crop"), ((8, 12), "squash")])
def test_the_transform_of_timm_is_that_of_the_run(
    size: tuple[int, int], resize: str, interpolation: str, tmp_path: Path
) -> None:
    data = pytest.importorskip("timm.data")
    timm_folder.write_timm(look_at(size, resize, interpolation), tmp_path)
    settings = data.resolve_data_config({}, model=timm_folder.open_with_timm(tmp_path))
    steps = {type(step).__name__: step for step in data.create_transform(**settings, is_training=False).transforms}
    first = next(iter(steps.values()))
    assert first.interpolation.value == interpolation
    assert steps["Normalize"].mean.tolist() == pytest.approx([0.4, 0.5, 0.6])
    assert tuple(steps["CenterCrop"].size) == size  # of a squashed picture, all
    assert settings["input_size"] == (3, *size) and settings["crop_pct"] == 1
    if resize == "squash":
        assert tuple(first.size) == size
    else:
        assert first.size == 8 if size == (8, 8) else (tuple(first.size), first.longest) == (size, 0)


@pytest.mark.parametrize(("interpolation", "number"), [("bilinear", 2), ("bicubic", 3), ("nearest", 0)])
@pytest.mark.parametrize(("size", "resize"), [((8, 8), "crop"), ((8, 12), "squash")])
def test_the_image_processor_of_transformers_is_that_of_the_run(
    size: tuple[int, int], resize: str, interpolation: str, number: int, tmp_path: Path
) -> None:
    transformers = pytest.importorskip("transformers")
    hf_folder.write_hf(look_at(size, resize, interpolation), tmp_path)
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / "hf", local_files_only=True)
    assert int(processor.resample) == number and processor.do_resize and processor.do_rescale
    assert list(processor.image_mean) == [0.4, 0.5, 0.6]
    sides = {"height": size[0], "width": size[1]}
    if resize == "crop":
        assert processor.do_center_crop and dict(processor.crop_size) == sides
        assert dict(processor.size) == {"shortest_edge": 8}
    else:
        assert not getattr(processor, "do_center_crop", False) and dict(processor.size) == sides


def test_a_crop_that_transformers_would_squash_is_refused() -> None:
    bundle = look_at((8, 12), "crop", "bilinear")
    with pytest.raises(ValueError, match=r"dataset.resize=crop, dataset.image_size=\[8,12\].*can be written: .*timm"):
        choose_formats(["hf"], bundle)
    assert hf_folder.explain_hf(look_at((8, 8), "crop", "bilinear")) == ""


def test_the_tensors_have_the_names_of_transformers_4(tmp_path: Path) -> None:
    hf_folder.write_hf(make_bundle(), tmp_path)
    modules = [*OUTER, *(f"vit.encoder.layer.{number}.{name}" for number in (0, 1) for name in LAYER)]
    wanted = {f"{name}.{kind}" for name in modules for kind in ("weight", "bias")}
    wanted |= {"vit.embeddings.cls_token", "vit.embeddings.position_embeddings"}
    assert set(load_file(tmp_path / "hf/model.safetensors")) == wanted
    assert json.loads((tmp_path / "hf/config.json").read_text())["architectures"] == ["ViTForImageClassification"]
