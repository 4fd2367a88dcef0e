"""Published weights: each source gives the tokens or logits of its own architecture, and the model follows."""

import argparse
import json
import re
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from published import as_npz, as_openclip, load, make_timm, randomize, save_timm
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torchvision.models import VisionTransformer as TorchvisionVisionTransformer

from src.config.compose import compose_values, load_config, to_config
from src.config.schema import TrainConfig
from src.pretrained.published import find_published, read_origin
from src.run.saved import SavedRun

SIZES: dict[str, Any] = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96}
SHAPE: dict[str, Any] = {"image_size": 16, "patch_size": 4}
IMAGENET = [0.485, 0.456, 0.406]


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    yield


@pytest.fixture
def images() -> Tensor:
    return torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def test_torchvisions_names_give_torchvisions_logits(images: Tensor, tmp_path: Path) -> None:
    theirs = TorchvisionVisionTransformer(16, 4, 2, 4, 64, 96, num_classes=3)
    randomize(theirs)
    torch.save(theirs.state_dict(), tmp_path / "vit.pth")
    model, found = load(tmp_path / "vit.pth", num_heads=4)
    close(model(images), theirs(images))
    assert found.origin.dataset["mean"] == IMAGENET and "torchvision" in found.reason


HUGGING_FACE: dict[str, Any] = {
    "vit": (transformers.ViTConfig, transformers.ViTForImageClassification),
    "deit": (transformers.DeiTConfig, transformers.DeiTModel),
    "dinov2": (transformers.Dinov2Config, transformers.Dinov2Model),
    "dinov2_with_registers": (transformers.Dinov2WithRegistersConfig, transformers.Dinov2WithRegistersModel),
}


@pytest.mark.parametrize("names", ["of the file", "of transformers 5"])
@pytest.mark.parametrize("kind", HUGGING_FACE)
def test_the_folders_of_hugging_face_give_its_tokens(kind: str, names: str, images: Tensor, tmp_path: Path) -> None:
    make_config, build = HUGGING_FACE[kind]
    sizes = SIZES | ({"mlp_ratio": 2} if kind.startswith("dinov2") else {})
    theirs: Any = randomize(build(make_config(**sizes, **SHAPE)))
    theirs.save_pretrained(tmp_path)  # under the names of transformers 4
    if names == "of transformers 5":
        save_file(theirs.state_dict(), tmp_path / "model.safetensors")
    model, found = load(tmp_path)
    assert found.origin.model["num_heads"] == 4 and found.origin.assumed == ()
    if kind == "vit":
        close(model(images), theirs(images).logits)
    else:
        close(model.forward_features(images), theirs(images).last_hidden_state)


def test_the_encoder_of_a_masked_autoencoder_gives_its_tokens(images: Tensor, tmp_path: Path) -> None:
    config = transformers.ViTMAEConfig(**SIZES, **SHAPE, decoder_hidden_size=32, decoder_num_hidden_layers=1)
    config.mask_ratio, config.decoder_num_attention_heads = 0.0, 2
    theirs: Any = randomize(transformers.ViTMAEForPreTraining(config))
    theirs.save_pretrained(tmp_path)
    model, _ = load(tmp_path)
    ordered = torch.arange(16.0).expand(2, -1)
    close(model.forward_features(images), theirs.vit(images, noise=ordered).last_hidden_state)


def make_clip(activation: str = "gelu") -> Any:
    config = transformers.CLIPVisionConfig(**SIZES, **SHAPE, hidden_act=activation, projection_dim=8)
    return randomize(transformers.CLIPVisionModelWithProjection(config))


def test_the_image_tower_of_clip_gives_its_class_token(images: Tensor, tmp_path: Path) -> None:
    theirs = make_clip()
    theirs.save_pretrained(tmp_path)
    model, found = load(tmp_path)
    assert (found.origin.model["pre_norm"], found.origin.model["norm_eps"]) == (True, 1e-5)
    close(theirs.visual_projection(model.forward_features(images)[:, 0]), theirs(images).image_embeds)


def test_openclips_names_are_converted_by_timm(images: Tensor, tmp_path: Path) -> None:
    theirs = make_timm(pre_norm=True, norm_layer=partial(nn.LayerNorm, eps=1e-5))
    with torch.no_grad():
        theirs.head.bias.zero_()  # OpenCLIP's projection has none
    torch.save(as_openclip(theirs), tmp_path / "open_clip_pytorch_model.bin")
    model, found = load(tmp_path, num_heads=4)
    close(model(images), theirs(images))
    assert found.reason == "assumed, as most CLIPs were trained with it"


def test_the_registers_of_dinov2_keep_their_values(images: Tensor, tmp_path: Path) -> None:
    theirs = make_timm(reg_tokens=4, no_embed_class=True, init_values=0.1, num_classes=0)
    original = {("register_tokens" if name == "reg_token" else name): t for name, t in theirs.state_dict().items()}
    # The original code gives the class token a position, and the registers none.
    original["pos_embed"] = torch.cat([torch.full((1, 1, 64), 0.25), original["pos_embed"]], dim=1)
    original["cls_token"] = original["cls_token"] - 0.25
    torch.save(original | {"mask_token": torch.zeros(1, 64)}, tmp_path / "dinov2_reg4.pth")
    model, found = load(tmp_path / "dinov2_reg4.pth", num_heads=4)
    assert found.origin.model["num_registers"] == 4 and found.origin.dataset["mean"] == IMAGENET
    close(model.forward_features(images), theirs.forward_features(images))


@pytest.mark.parametrize(
    "wrap",
    [
        lambda w: {"teacher": {f"backbone.{name}": t for name, t in w.items()}, "student": {}},  # DINO
        lambda w: {"model": w | {"mask_token": torch.zeros(1, 1, 64), "decoder_embed.bias": torch.ones(8)}},  # MAE
    ],
)
def test_dino_and_mae_tell_which_images_they_were_trained_with(wrap: Any, images: Tensor, tmp_path: Path) -> None:
    theirs = make_timm(num_classes=0)
    torch.save(wrap(theirs.state_dict()), tmp_path / "vit.pth")
    model, found = load(tmp_path / "vit.pth", num_heads=4)
    close(model.forward_features(images), theirs.forward_features(images))
    assert found.origin.dataset["mean"] == IMAGENET


def test_the_files_of_the_original_code_give_its_logits(images: Tensor, tmp_path: Path) -> None:
    theirs = make_timm()
    np.savez(tmp_path / "vit.npz", **as_npz(theirs))
    model, found = load(tmp_path / "vit.npz")
    assert found.origin.model["num_heads"] == 4 and found.origin.dataset["mean"] == [0.5] * 3
    close(model(images), theirs(images))


def test_a_folder_of_timm_gives_its_logits_and_what_it_says(images: Tensor, tmp_path: Path) -> None:
    theirs = save_timm(tmp_path / "vit", label_names=["ant", "bee", "cat"])
    model, found = load(tmp_path / "vit")
    close(model(images), theirs(images))
    assert found.card.classes == ["ant", "bee", "cat"] and found.card.license == "apache-2.0"
    assert found.card.left == ("crop_pct=0.9 (here, images are cropped without a margin)",)


def compose_from(weights: Path | str, *overrides: str, root: Path) -> TrainConfig:
    words = [f"dataset.root='{root}'", "dataset=image_folder", f"init.weights='{weights}'", *overrides]
    return to_config(TrainConfig, compose_values(*words), words, read_origin=read_origin)


def test_model_and_normalization_follow_from_the_weights_whatever_the_recipe(tmp_path: Path) -> None:
    save_timm(tmp_path / "vit")
    config = compose_from(tmp_path / "vit", "experiment=finetune", root=tmp_path)
    model, data = config.model, config.dataset
    assert (model.image_size, model.patch_size, model.embedding_dim, model.num_layers) == ((16, 16), 4, 192, 2)
    assert (model.num_heads, model.drop_path, config.init.layer_decay) == (3, 0.1, 0.75)
    assert (data.mean, data.std, data.interpolation, data.channels) == ([0.5] * 3, [0.25] * 3, "bilinear", 3)
    for recipe in ([], ["experiment=finetune"]):
        sizes = ["dataset.image_size=32", "model.patch_size=8", *recipe]
        larger = compose_from(tmp_path / "vit", *sizes, root=tmp_path).model
        assert (larger.image_size, larger.patch_size, larger.num_layers) == ((32, 32), 8, 2)
    message = "dataset.image_size=30 does not fit the patches of the weights, 4 px; write dataset.image_size=28 or data"
    with pytest.raises(ValueError, match=message):
        compose_from(tmp_path / "vit", "dataset.image_size=30", root=tmp_path)


def test_what_contradicts_published_weights_is_refused_but_for_what_no_tensor_tells(tmp_path: Path) -> None:
    save_timm(tmp_path / "vit")
    message = "model.num_layers=3 contradicts the weights of .*, which have model.num_layers=2; leave it out"
    with pytest.raises(ValueError, match=message):
        compose_from(tmp_path / "vit", "model.num_layers=3", root=tmp_path)
    (tmp_path / "vit" / "config.json").unlink()
    assert compose_from(tmp_path / "vit", root=tmp_path).model.num_heads == 3, "as in published models of the width"
    assert compose_from(tmp_path / "vit", "model.num_heads=8", root=tmp_path).model.num_heads == 8
    torch.save(make_timm().state_dict(), tmp_path / "narrow.pt")
    with pytest.raises(
        ValueError,
        match="no published model has embedding dimension 64; type it: model.num_heads=N",
    ):
        compose_from(tmp_path / "narrow.pt", root=tmp_path)
    nano = ["model=vit_nano", "model.num_layers=2", "model.mlp_ratio=4.0"]
    assert compose_from(tmp_path / "narrow.pt", *nano, root=tmp_path).model.num_heads == 4, (
        "of the model that was typed"
    )


def lines_of(weights: Path, *overrides: str, root: Path) -> tuple[list[str], str, bool]:
    config = compose_from(weights, *overrides, root=root)
    found = find_published(str(weights))
    return found.lines(config), *found.describe_statistics(config)


def test_the_log_says_what_was_taken_over_and_which_normalization_is_used_and_why(tmp_path: Path) -> None:
    save_timm(tmp_path / "vit")
    lines, statistics, known = lines_of(tmp_path / "vit", "dataset.image_size=32", root=tmp_path)
    assert lines[0].startswith("model from config.json and the shapes: model.embedding_dim=192 model.num_layers=2 ")
    assert known
    assert lines[1:] == [
        "not taken over, as others were typed: model.image_size=[16, 16]",
        "not taken over: crop_pct=0.9 (here, images are cropped without a margin)",
        "license: apache-2.0",
    ]
    shown = "normalization: dataset.mean=[0.5, 0.5, 0.5] dataset.std=[0.25, 0.25, 0.25] "
    assert statistics == f"{shown}(config.json says so)"
    typed = lines_of(tmp_path / "vit", "dataset.mean=[0,0,0]", "dataset.std=[1,1,1]", root=tmp_path)
    assert "but the weights were trained with [0.5, 0.5, 0.5] and [0.25, 0.25, 0.25]" in typed[1] and not typed[2]
    (tmp_path / "vit" / "config.json").unlink()
    lines, statistics, known = lines_of(tmp_path / "vit", root=tmp_path)
    assert "model.num_heads=3 is assumed: published models of this width have that many" in lines and not known
    assert "the file does not say which mean and std it was trained with; type them if you know" in statistics


def test_what_is_no_plain_vit_is_refused_by_what_tells_it(tmp_path: Path) -> None:
    clip = tmp_path / "clip"
    make_clip("quick_gelu").save_pretrained(clip)
    sizes: dict[str, Any] = {
        "hidden_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "intermediate_size": 96,
    }
    transformers.DINOv3ViTModel(transformers.DINOv3ViTConfig(**sizes, **SHAPE)).save_pretrained(tmp_path / "dinov3")
    swin = transformers.SwinConfig(image_size=16, patch_size=4, embed_dim=8, depths=[1], num_heads=[2], window_size=2)
    transformers.SwinModel(swin).save_pretrained(tmp_path / "swin")
    weights = make_timm().state_dict()
    torch.save(weights | {"rope.periods": torch.ones(4)}, tmp_path / "rope.pth")
    torch.save(weights | {"blocks.0.mlp.w12.weight": torch.ones(4, 4)}, tmp_path / "swiglu.pth")
    torch.save(make_timm(global_pool="avg").state_dict(), tmp_path / "fc_norm.pth")
    messages = {
        "clip": "its MLPs have another activation than GELU: hidden_act=quick_gelu",
        "dinov3": "it is a model of the kind dinov3_vit, which is not known here; known: vit, deit, ",
        "swin": "it is a model of the kind swin, which is not known here",
        "rope.pth": "it has rotary position embeddings, as DINOv3 has (rope.periods); init.strict=false loads",
        "swiglu.pth": "it has gated MLPs (SwiGLU), as DINOv2's and DINOv3's largest have (blocks.0.mlp.w12.weight)",
        "fc_norm.pth": "it has a norm after averaging the tokens (fc_norm)",
    }
    for name, message in messages.items():
        with pytest.raises(ValueError, match=f"^init.weights=.*{re.escape(message)}"):
            find_published(str(tmp_path / name))
    (tmp_path / "dinov3" / "config.json").unlink()
    with pytest.raises(ValueError, match="it has no position embeddings but rotary ones, as DINOv3"):
        find_published(str(tmp_path / "dinov3"))


def test_large_weights_in_parts_are_read_by_their_index(images: Tensor, tmp_path: Path) -> None:
    theirs = save_timm(tmp_path / "vit")
    whole = theirs.state_dict()
    (tmp_path / "vit" / "model.safetensors").unlink()
    parts = {name: f"model-0000{1 + (i % 2)}-of-00002.safetensors" for i, name in enumerate(whole)}
    for file in set(parts.values()):
        save_file({name: whole[name] for name in whole if parts[name] == file}, tmp_path / "vit" / file)
    index = tmp_path / "vit" / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": parts}))
    close(load(tmp_path / "vit")[0](images), theirs(images))
    index.write_text(json.dumps({"weight_map": {"head.bias": "../secret.safetensors"}}))
    with pytest.raises(ValueError, match="it names no files beside it"):
        load(tmp_path / "vit")


def test_a_folder_without_weights_or_with_several_says_what_to_type(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"has no weights: no run's, and none of model\.safetensors"):
        find_published(str(tmp_path))
    for name in ("a.pth", "b.pth"):
        torch.save(make_timm().state_dict(), tmp_path / name)
    with pytest.raises(ValueError, match="has 2 files of weights; type one of them: a.pth, b.pth"):
        find_published(str(tmp_path))


def test_a_copy_of_a_runs_weights_still_tells_its_model_and_its_images(photo_run: SavedRun, tmp_path: Path) -> None:
    copied = tmp_path / "copied.safetensors"
    shutil.copy(photo_run.folder / "checkpoints" / "best.safetensors", copied)
    saved, found = load_config(photo_run.folder / "config.yaml"), find_published(str(copied))
    assert (found.origin.model["num_heads"], found.origin.model["image_size"]) == (2, saved.model.image_size)
    assert (found.origin.dataset["mean"], found.reason) == (saved.dataset.mean, "its metadata says so")


WILD = [
    {"architecture": "hf-hub:someone/else", "model_args": {"depth": 3000, "checkpoint_path": "../weights.pt"}},
    {"architecture": ["vit"], "model_args": [1], "pretrained_cfg": {"mean": "0.5", "input_size": [3, -1, 1e9]}},
    {"model_type": "vit", "num_attention_heads": None, "layer_norm_eps": [1], "image_size": -4, "id2label": {"²": 1}},
]


@pytest.mark.parametrize("config", WILD)
def test_wild_values_in_a_strangers_files_are_left_out(
    config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(name: str, **arguments: Any) -> None:
        pytest.fail(f"{name} was built with {arguments}")

    monkeypatch.setattr("timm.create_model", build)
    torch.save(make_timm(embed_dim=192, num_heads=3).state_dict(), tmp_path / "vit.pth")
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "preprocessor_config.json").write_text('{"resample": [3], "image_mean": [null]}')
    (tmp_path / "README.md").write_text("---\nlicense: &a [*a]\n---\n")
    found = find_published(str(tmp_path))
    assert found.origin.model["num_heads"] == 3 and "mean" not in found.origin.dataset
    assert (found.card.license, found.card.classes) == ("", None)


def test_the_license_of_a_repository_is_read_from_its_readme(tmp_path: Path) -> None:
    save_timm(tmp_path / "vit", pretrained_cfg={"mean": [0.5] * 3, "std": [0.5] * 3})
    (tmp_path / "vit" / "README.md").write_text("---\ntags: [a]\nlicense: cc-by-nc-4.0\n---\nlicense: mit\n")
    assert find_published(str(tmp_path / "vit")).card.license == "cc-by-nc-4.0"


def test_a_configuration_of_another_model_beside_a_file_is_not_believed(tmp_path: Path) -> None:
    save_timm(tmp_path / "vit")
    torch.save(make_timm(embed_dim=384, num_heads=6).state_dict(), tmp_path / "vit" / "model.safetensors.pth")
    found = find_published(str(tmp_path / "vit" / "model.safetensors.pth"))
    assert found.origin.model["num_heads"] == 6 and found.card.left == ("config.json, which is of another model",)


def test_other_names_of_the_field_fit_too(images: Tensor, tmp_path: Path) -> None:
    theirs = make_timm(init_values=0.1)
    weights = {re.sub(r"ls([12])\.gamma", r"gamma_\1", name): value for name, value in theirs.state_dict().items()}
    torch.save({"model": weights, "args": argparse.Namespace(lr=1)}, tmp_path / "deit_3_small.pth.tar")
    model, found = load(tmp_path / "deit_3_small.pth.tar", num_heads=4)
    close(model(images), theirs(images))
    assert found.reason.startswith("assumed") and found.origin.dataset["mean"] == IMAGENET
    clip = make_clip()
    clip.save_pretrained(tmp_path / "clip")
    old = load_file(tmp_path / "clip" / "model.safetensors") | {"embeddings.position_ids": torch.arange(17)}
    save_file({f"vision_model.{name}": value for name, value in old.items()}, tmp_path / "clip" / "model.safetensors")
    model, _ = load(tmp_path / "clip")
    close(clip.visual_projection(model.forward_features(images)[:, 0]), clip(images).image_embeds)
