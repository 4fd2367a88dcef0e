"""Pretrained weights: what fits is copied, what does not is reported, what is frozen does not change."""

import copy
import fractions
import re
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers import TINY, compose
from safetensors.torch import save_file
from timm.models._manipulate import adapt_input_conv
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import VisionTransformer as TimmVisionTransformer
from torch import Tensor, nn

from src.model import VisionTransformer, resize_position_embedding
from src.optim import OPTIMIZERS, build_optimizer, parameter_groups
from src.pretrained.files import read_weights
from src.pretrained.freeze import freeze
from src.pretrained.load import LoadReport, load_weights, match_head, resample_patches
from src.pretrained.names import explain_others

HEAD = {"head.weight", "head.bias"}


def make_model(seed: int = 0, **options: Any) -> VisionTransformer:
    """Return a model of 2 x 2 patches; other seeds have other weights everywhere."""
    torch.manual_seed(seed)
    sizes = {"image_size": 8, "patch_size": 4, "num_classes": 3, "embedding_dim": 16, "num_layers": 2, "num_heads": 2}
    model = VisionTransformer(**{**sizes, **options})
    with torch.no_grad():
        for parameter in model.parameters():  # biases are 0 and norms 1 as initialized: copies would not show
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


def make_timm(**options: Any) -> TimmVisionTransformer:
    torch.manual_seed(5)
    sizes = {"img_size": 8, "patch_size": 4, "num_classes": 3, "embed_dim": 16, "depth": 2, "num_heads": 2}
    return TimmVisionTransformer(**{**sizes, **options}).eval()


def load(
    model: VisionTransformer,
    source: nn.Module,
    grid: tuple[int, int] | None = None,
    strict: bool = True,
    resample: bool = False,
) -> LoadReport:
    return load_weights(model, source.state_dict(), "there", grid, strict, resample=resample)


def kept(model: nn.Module, before: dict[str, Tensor]) -> set[str]:
    """Return the names of the tensors that did not change."""
    return {name for name, tensor in model.state_dict().items() if torch.equal(tensor, before[name])}


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    return copy.deepcopy(model.state_dict())


def test_a_model_of_the_same_sizes_takes_everything() -> None:
    source, model = make_model(1, num_registers=2), make_model(2, num_registers=2)
    report = load(model, source)
    assert all(torch.equal(a, b) for a, b in zip(source.parameters(), model.parameters(), strict=True))
    total = len(model.state_dict())
    assert report.lines() == [f"{total} of {total} tensors from there"]


def test_a_head_of_other_classes_begins_fresh() -> None:
    source, model = make_model(1, num_classes=5), make_model(2)
    before = snapshot(model)
    report = load(model, source)
    assert kept(model, before) == HEAD
    assert kept(model, source.state_dict() | {name: before[name] for name in HEAD}) == set(before)
    assert report.lines() == [
        "30 of 32 tensors from there",
        "newly initialized: head.weight, head.bias (3 classes, 5 in the file)",
    ]


@pytest.mark.parametrize(("size", "other"), [(8, 16), (16, 8), ((8, 12), 16)])
def test_position_embeddings_of_another_grid_are_resized_but_for_the_prefix(size: Any, other: int) -> None:
    source, model = make_model(1, image_size=size, num_registers=2), make_model(2, image_size=other, num_registers=2)
    report = load(model, source, source.grid_size)
    expected = resize_position_embedding(source.pos_embed, source.grid_size, model.grid_size, 3)
    assert torch.equal(model.pos_embed, expected) and torch.equal(model.pos_embed[:, :3], source.pos_embed[:, :3])
    (rows, columns), (new_rows, new_columns) = source.grid_size, model.grid_size
    assert report.lines()[1:] == [f"resized: pos_embed {rows} x {columns} -> {new_rows} x {new_columns}"]
    assert not report.initialized and not report.unused
    source.set_image_size(other)
    images = torch.randn(2, 3, other, other)
    assert torch.equal(model(images), source(images))


@pytest.mark.parametrize(
    "size", [(8, 32), (16, 36), (28, 112)]
)  # 2 x 8, 4 x 9, 7 x 28: as many patches as a square has
def test_a_grid_that_is_not_square_is_loaded_as_it_is(size: tuple[int, int]) -> None:
    source, model = make_model(1, image_size=size), make_model(2, image_size=size)
    assert not load(model, source).resized
    images = torch.randn(2, 3, *size)
    torch.testing.assert_close(model(images), source(images), atol=1e-6, rtol=0)


def test_a_known_grid_goes_before_the_models_own_and_that_before_a_square() -> None:
    square, wide = make_model(1, image_size=16), make_model(1, image_size=(8, 32))
    report = load(make_model(2, image_size=16), wide, (2, 8))
    assert report.resized == {"pos_embed": "2 x 8 -> 4 x 4"}
    assert not load(make_model(2, image_size=(8, 32)), wide).resized
    assert load(make_model(2), square).resized == {"pos_embed": "4 x 4 -> 2 x 2"}
    model, wide = make_model(2), make_model(1, image_size=(8, 12))
    message = "init.weights=there: its pos_embed has 7 positions, which are not a square of patches"
    with pytest.raises(ValueError, match=re.escape(message)):
        load(model, wide)
    with pytest.raises(ValueError, match="has 3 positions, which are not a square"):  # those of the prefix alone
        source = make_model(1, num_registers=2)
        weights = source.state_dict() | {"pos_embed": source.pos_embed[:, :3]}
        load_weights(make_model(2, num_registers=2), weights, "there", None)
    with pytest.raises(ValueError, match="7 positions, which do not match its 4 x 4 patches"):
        load(model, wide, (4, 4))


@torch.no_grad()
def test_the_distillation_token_of_deit_is_a_register() -> None:
    torch.manual_seed(5)
    sizes: dict[str, Any] = {
        "img_size": 16,
        "patch_size": 4,
        "num_classes": 3,
        "embed_dim": 16,
        "depth": 2,
        "num_heads": 2,
    }
    distilled = VisionTransformerDistilled(**sizes).eval()
    weights = distilled.state_dict()
    with pytest.raises(ValueError, match=re.escape("write model.num_registers=1 (here: 0); ")):
        read_and_load(make_model(2, image_size=16), weights)
    model = make_model(2, image_size=16, num_registers=1)
    report = read_and_load(model, weights)
    assert report.unused == ["head_dist.weight", "head_dist.bias"] and not report.initialized
    images = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(model.forward_features(images), distilled.forward_features(images), atol=1e-5, rtol=0)


def read_and_load(model: VisionTransformer, content: dict[str, Any], strict: bool = True) -> LoadReport:
    """Save what a file may contain, read it and load it; the report's source is where in the file the weights are."""
    with tempfile.TemporaryDirectory() as folder:
        torch.save(content, Path(folder, "weights.pt"))
        read = read_weights(Path(folder, "weights.pt"))
    return load_weights(model, read.tensors, read.place, strict=strict)


def test_mean_pooling_takes_the_patches_positions_and_leaves_the_class_token() -> None:
    source, model = make_model(1), make_model(2, pooling="mean")
    report = load(model, source, strict=False)
    assert torch.equal(model.pos_embed, source.pos_embed[:, 1:])
    assert report.lines() == [
        "31 of 31 tensors from there",
        "resized: pos_embed 1 -> 0 prefix positions",
        "not used: cls_token",
    ]


def test_positions_of_the_prefix_are_copied_to_their_own_kind() -> None:
    source, model = make_model(1, image_size=16, num_registers=3), make_model(2, num_registers=2)
    before = snapshot(model)
    report = load(model, source, strict=False)
    assert torch.equal(model.pos_embed[:, :3], source.pos_embed[:, :3])
    assert report.resized["pos_embed"] == "4 x 4 -> 2 x 2 and 4 -> 3 prefix positions"
    assert report.initialized == {"reg_token": "1 x 2 x 16, 1 x 3 x 16 in the file"}
    assert kept(model, before) == {"reg_token"}
    classless, model = make_model(1, pooling="mean", num_registers=1), make_model(2)
    before = snapshot(model)
    load(model, classless, strict=False)
    assert torch.equal(model.pos_embed[:, :1], before["pos_embed"][:, :1]), "a register's position is no class token's"
    assert torch.equal(model.pos_embed[:, 1:], classless.pos_embed[:, 1:])


@pytest.mark.parametrize("num_positions", [0, 1])
def test_tokens_whose_position_the_file_does_not_have_get_zeros(num_positions: int) -> None:
    source, model = make_model(1, num_registers=4), make_model(2, num_registers=4)
    given = torch.cat([source.pos_embed[:, :num_positions], source.pos_embed[:, 5:]], dim=1).detach()
    report = load_weights(model, source.state_dict() | {"pos_embed": given}, "there", None)
    assert torch.equal(model.pos_embed[:, num_positions:5], torch.zeros(1, 5 - num_positions, 16))
    assert torch.equal(torch.cat([model.pos_embed[:, :num_positions], model.pos_embed[:, 5:]], dim=1), given)
    assert report.resized == {"pos_embed": f"{num_positions} -> 5 prefix positions"}


def test_fixed_position_embeddings_leave_the_files_unused() -> None:
    model = make_model(2, position_embedding="sincos2d")
    table = model.pos_embed.clone()
    report = load(model, make_model(1), strict=False)
    assert torch.equal(model.pos_embed, table) and report.unused == ["pos_embed"]
    report = load(make_model(1), model, strict=False)
    assert report.initialized == {"pos_embed": "not in the file"}


@pytest.mark.parametrize(
    ("stem", "name"), [("patch", "patch_embed.proj.weight"), ("conv", "patch_embed.stem.0.weight")]
)
@pytest.mark.parametrize(("there", "here"), [(3, 1), (1, 3)])
def test_other_input_channels_are_adapted_as_timm_does(stem: str, name: str, there: int, here: int) -> None:
    source, model = make_model(1, in_channels=there, stem=stem), make_model(2, in_channels=here, stem=stem)
    report = load(model, source)
    expected = adapt_input_conv(here, source.state_dict()[name], there)
    torch.testing.assert_close(model.state_dict()[name], expected, rtol=0, atol=1e-7)
    assert report.resized == {name: f"{there} -> {here} channels"} and not report.initialized


def test_gray_images_give_the_same_logits_with_any_number_of_channels() -> None:
    source, model = make_model(1), make_model(2, in_channels=5)
    load(model, source)
    gray = torch.randn(2, 1, 8, 8)
    torch.testing.assert_close(model(gray.expand(-1, 5, -1, -1)), source(gray.expand(-1, 3, -1, -1)))


@pytest.mark.parametrize("stem", ["patch", "overlap"])
def test_a_resampled_patch_embedding_gives_enlarged_images_the_same_tokens(stem: str) -> None:
    source, model = make_model(1, stem=stem), make_model(2, image_size=16, patch_size=8, stem=stem)
    report = load(model, source, resample=True)
    assert "patch_embed.proj.weight" in report.resized and not report.initialized
    weight, resampled = (m.patch_embed.proj.weight for m in (source, model))
    side = weight.shape[-1]
    window = torch.randn(5, 3, side, side)
    larger = F.interpolate(window, (resampled.shape[-1],) * 2, mode="bicubic", antialias=True)
    expected, found = (torch.einsum("bcij,dcij->bd", *pair) for pair in ((window, weight), (larger, resampled)))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_patches_of_the_same_size_are_copied() -> None:
    source, model = make_model(1), make_model(2)
    report = load(model, source, resample=True)
    assert not report.resized and torch.equal(model.patch_embed.proj.weight, source.patch_embed.proj.weight)


def test_patches_are_resampled_by_timms_formula() -> None:
    from timm.layers import resample_patch_embed

    weight = torch.randn(6, 3, 8, 8)
    for side in (4, 16):
        expected = resample_patch_embed(weight, [side, side], interpolation="bicubic", antialias=True)
        torch.testing.assert_close(resample_patches(weight, side), expected, rtol=1e-4, atol=1e-4)


def test_another_patch_size_or_depth_leaves_fresh_what_is_not_there() -> None:
    source, model = make_model(1, num_layers=3), make_model(2, image_size=4, patch_size=2, num_layers=4)
    before = snapshot(model)
    report = load(model, source, strict=False)
    fresh = {name for name in before if name.startswith("blocks.3.")} | {"patch_embed.proj.weight"}
    assert kept(model, before) == fresh == set(report.initialized)
    assert report.lines() == [
        f"{len(before) - 13} of {len(before)} tensors from there",
        "newly initialized: patch_embed.proj.weight (16 x 3 x 2 x 2, 16 x 3 x 4 x 4 in the file), "
        "blocks.3.norm1.weight, blocks.3.norm1.bias, blocks.3.attn.qkv.weight, "
        "blocks.3.attn.qkv.bias, and 8 more (not in the file)",
    ]
    report = load(make_model(2), source, strict=False)
    assert report.lines()[1:] == [
        "not used: blocks.2.norm1.weight, blocks.2.norm1.bias, blocks.2.attn.qkv.weight, blocks.2.attn.qkv.bias, "
        "and 8 more"
    ]


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize(
    ("timm_options", "options"),
    [
        ({}, {}),
        ({"reg_tokens": 4}, {"num_registers": 4}),
        ({"reg_tokens": 4, "no_embed_class": True}, {"num_registers": 4}),
        ({"no_embed_class": True, "qk_norm": True, "init_values": 0.1}, {"qk_norm": True, "layer_scale": 1.0}),
        ({"class_token": False, "global_pool": "avg", "fc_norm": False}, {"pooling": "mean"}),
    ],
)
def test_a_file_of_timms_weights_gives_timms_logits(
    timm_options: dict[str, Any], options: dict[str, Any], suffix: str, tmp_path: Path
) -> None:
    timm_model, path = make_timm(img_size=16, **timm_options), tmp_path / f"vit{suffix}"
    weights = timm_model.state_dict()
    save_file(weights, path) if suffix == ".safetensors" else torch.save(weights, path)
    model = make_model(2, image_size=16, **options)
    report = load_weights(model, read_weights(path).tensors, str(path))
    assert not report.initialized and not report.unused
    images = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(model(images), timm_model(images), atol=1e-5, rtol=0)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.", "module._orig_mod.", "backbone.", "net.vit."])
def test_prefixes_of_wrappers_are_taken_off(prefix: str) -> None:
    source, model = make_model(1), make_model(2)
    report = read_and_load(model, {prefix + name: value for name, value in source.state_dict().items()})
    assert not report.initialized and not report.unused and report.source == f"{prefix}*"
    assert torch.equal(model.head.weight, source.head.weight)


@pytest.mark.parametrize(
    ("nest", "source"),
    [
        (lambda raw, ema: {"state_dict": raw, "state_dict_ema": ema}, "state_dict_ema"),
        (lambda raw, ema: {"model": raw, "model_ema": ema, "epoch": 9}, "model_ema"),
        (
            lambda raw, ema: {"student": raw, "teacher": {f"backbone.{k}": v for k, v in ema.items()}},
            "teacher backbone.*",
        ),
        (lambda raw, ema: {"trainer": {"model": raw, "ema": ema}}, "trainer.ema"),
        (lambda raw, ema: {"trainer": {"model": ema, "ema": None}}, "trainer.model"),
        (
            lambda raw, ema: {f"net.{k}": v for k, v in raw.items()} | {f"ema_net.{k}": v for k, v in ema.items()},
            "ema_net.*",
        ),
        (lambda raw, ema: {f"module.{k}": v for k, v in ema.items()} | {"n_averaged": torch.tensor(3)}, "module.*"),
    ],
)
def test_averaged_weights_are_taken_where_a_file_has_both_and_it_is_said(nest: Any, source: str) -> None:
    raw, averaged, model = make_model(1), make_model(3), make_model(2)
    report = read_and_load(model, nest(raw.state_dict(), averaged.state_dict()))
    assert all(torch.equal(a, b) for a, b in zip(averaged.parameters(), model.parameters(), strict=True))
    assert report.source == source and report.lines()[0] == f"32 of 32 tensors from {source}"


@pytest.mark.parametrize(
    "nest",
    [
        lambda weights: weights,
        lambda weights: {"model": weights, "optimizer": {"state": {0: torch.ones(1)}}, "epoch": 3},
        lambda weights: {"epoch": 3, "state_dict": weights, "model": {"name": "vit"}},
        lambda weights: {"model_ema": weights},
        lambda weights: {"teacher": weights, "step": torch.ones(1)},
        lambda weights: {"trainer": {"model": weights, "optimizer": {}, "step": 7}, "run": {"epoch": 1}},
    ],
)
def test_nested_files_are_unwrapped(nest: Any, tmp_path: Path) -> None:
    weights = make_model(1).state_dict()
    torch.save(nest(weights), tmp_path / "last.pth")
    found = read_weights(tmp_path / "last.pth").tensors
    assert found.keys() == weights.keys() and all(torch.equal(found[name], weights[name]) for name in weights)


def test_half_precision_is_widened_to_the_models() -> None:
    source, model = make_model(1, in_channels=1).half(), make_model(2, image_size=16)
    load(model, source)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert torch.equal(model.head.weight, source.head.weight.float())


@pytest.mark.parametrize(
    ("there", "message"),
    [
        ({"layer_scale": 1e-5}, "write model.layer_scale=1e-5 (here: null); init.strict=false loads what fits"),
        ({"num_layers": 3}, "write model.num_layers=3 (here: 2);"),
        ({"num_layers": 1, "qk_norm": True}, "write model.num_layers=1 model.qk_norm=true (here: 2, false);"),
        ({"pooling": "mean"}, "write model.pooling=mean (here: cls);"),
        ({"qkv_bias": False}, "write model.qkv_bias=false (here: true);"),
        ({"num_registers": 2}, "write model.num_registers=2 (here: 0);"),
        ({"mlp_ratio": 2.0}, "write model.mlp_ratio=2 (here: 4);"),
        ({"patch_size": 2}, "write model.patch_size=2 (here: 4);"),
        ({"stem": "conv"}, "write model.stem=conv (here: patch);"),
        ({"stem": "overlap"}, "write model.patch_size=7 (or model.stem=overlap model.patch_size=4) (here: 4);"),
        ({"position_embedding": "sincos2d"}, "write model.position_embedding=sincos2d (here: learned);"),
        (
            {"embedding_dim": 32},
            "write model.embedding_dim=32 (here: 16)\n  in the file: cls_token (1 x 1 x 32), pos_em",
        ),
    ],
)
def test_weights_of_another_model_are_refused_by_the_keys_that_make_them_fit(
    there: dict[str, Any], message: str
) -> None:
    source, model = make_model(1, **there), make_model(2)
    before = snapshot(model)
    with pytest.raises(ValueError, match=re.escape(f"init.weights=there is of another model; {message}")):
        load(model, source)
    assert kept(model, before) == set(before)
    fitting = make_model(2, **there)
    assert not load(fitting, source).initialized


OTHERS: dict[str, dict[str, Tensor]] = {
    "swin": {
        "layers.0.blocks.0.attn.relative_position_bias_table": torch.ones(9, 2),
        "layers.0.downsample.norm.bias": torch.ones(4),
    },
    "a convolutional network": {"stages.0.blocks.0.conv_dw.weight": torch.ones(16, 1, 7, 7)},
    "fc_norm": make_timm(global_pool="avg").state_dict(),
    "rope": make_model(1).state_dict() | {"rope_embed.periods": torch.ones(4)},
    "swiglu": make_model(1).state_dict() | {"blocks.0.mlp.w12.weight": torch.ones(4)},
}


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("strict", [True, False])
def test_other_architectures_are_refused_by_the_names_that_only_they_have(name: str, strict: bool) -> None:
    weights, model = OTHERS[name], make_model(2)
    before = snapshot(model)
    foreign = explain_others([key for key in weights if key not in before]) or next(iter(weights))
    if strict or len(weights) < 16:
        with pytest.raises(ValueError, match=re.escape(f" is of another architecture than model.*: it has {foreign}")):
            read_and_load(model, weights, strict)
        assert kept(model, before) == set(before)
    else:
        assert len(read_and_load(model, weights, strict).loaded) >= 28


def test_what_only_training_needs_may_be_left_over() -> None:
    source, model = make_model(1), make_model(2)
    extra = (
        "mask_token",
        "decoder_embed.weight",
        "decoder_blocks.0.attn.qkv.weight",
        "decoder_pos_embed",
        "head_dist.bias",
    )
    report = read_and_load(model, source.state_dict() | {name: torch.ones(1, 1, 16) for name in extra})
    assert report.unused == list(extra) and not report.initialized


def test_rows_of_the_head_follow_the_names_of_the_classes() -> None:
    source, model = make_model(1), make_model(2, num_classes=4)
    fresh = model.head.weight.detach().clone()
    theirs, ours = ["cat", "dog", "cafe\u0301"], ["bird", "caf\u00e9", "cat", "fish"]
    weights, reason, line = match_head(source.state_dict(), model, theirs, ours)
    load_weights(model, weights, "there", fresh_head=reason)
    assert line == "head: 2 of 4 classes by their names; new: bird, fish" and not reason
    expected = torch.stack([fresh[0], source.head.weight[2], source.head.weight[0], fresh[3]])
    assert torch.equal(model.head.weight, expected)
    model = make_model(2)
    before = snapshot(model)
    weights, reason, line = match_head(source.state_dict(), model, theirs, ["a", "b", "c"])
    report = load_weights(model, weights, "there", fresh_head=reason)
    assert kept(model, before) == HEAD and not line
    assert report.lines()[1] == "newly initialized: head.weight, head.bias (none of its 3 classes is here)"
    _, reason, line = match_head(source.state_dict(), model, None, ["a", "b", "c"])
    assert (reason, line) == ("", "head: copied, since it has as many classes; the file does not say which")


def test_files_that_hold_no_weights_are_errors_that_name_the_key(tmp_path: Path) -> None:
    whole, garbage, empty = tmp_path / "whole.pt", tmp_path / "garbage.pt", tmp_path / "empty.pth"
    objects, nothing, text = tmp_path / "objects.bin", tmp_path / "nothing.pt", tmp_path / "weights.txt"
    torch.save(make_model(1).state_dict(), whole)
    torch.save({"model": {}, "args": fractions.Fraction(1)}, objects)
    torch.save({"epoch": 3, "names": ["a"]}, nothing)
    cut, tensors = tmp_path / "cut.pt", tmp_path / "cut.safetensors"
    cut.write_bytes(whole.read_bytes()[:500])
    garbage.write_bytes(b"\x93not weights" * 50)
    empty.touch()
    text.touch()
    tensors.write_bytes(b"\xff" * 100)
    messages = {
        tmp_path: "is not a file; allowed: a run's folder, or a file (.safetensors, .pt, .pth, .bin, .npz, ",
        tmp_path / "missing.pt": "is not a file",
        text: "is not a weights file; allowed: .safetensors, .pt, .pth, .bin, .npz, .ckpt, .pth.tar, .index.json",
        objects: "contains objects (fractions.Fraction), which could run code; save only the state_dict()",
        cut: "is damaged",
        garbage: "is damaged",
        empty: "is damaged",
        tensors: "is damaged or not a .safetensors file: SafetensorError: ",
        nothing: "contains no named tensors, at the top level or in state_dict_ema, model_ema, ema_state_dict, ema,",
    }
    for path, message in messages.items():
        with pytest.raises((FileNotFoundError, ValueError), match=re.escape(f"init.weights={path} {message}")) as error:
            read_weights(path)
        assert "weights_only" not in str(error.value), "no advice to run the file's code"


def test_freezing_leaves_what_it_says_to_train() -> None:
    def trained(what: str | int | None) -> set[str]:
        model = make_model(num_registers=2)
        number = freeze(model, what)
        left = {name: p.numel() for name, p in model.named_parameters() if p.requires_grad}
        assert number == sum(left.values())
        return set(left)

    names = {name for name, _ in make_model(num_registers=2).named_parameters()}
    embedding = {"cls_token", "reg_token", "pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias"}
    blocks = [{name for name in names if name.startswith(f"blocks.{i}.")} for i in (0, 1)]
    assert trained(None) == names and trained("backbone") == HEAD
    assert trained(0) == names - embedding and trained(1) == names - embedding - blocks[0]
    assert trained(2) == {"norm.weight", "norm.bias", *HEAD}
    for wrong in ("head", 3, -1):
        with pytest.raises(ValueError, match=f"init.freeze={wrong} is not known; allowed: backbone, a number up to 2"):
            trained(wrong)


@pytest.mark.parametrize("layer_decay", [None, 0.5])
@pytest.mark.parametrize("what", ["backbone", 0, 2])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_frozen_weights_stay_and_all_others_move(name: str, what: str | int, layer_decay: float | None) -> None:
    model = make_model()
    config = compose(f"optimizer={name}", "optimizer.weight_decay=0.5", "optimizer.lr=0.1", *TINY).optimizer
    for parameter in model.parameters():  # as left by a step before: not to be decayed, averaged or applied
        parameter.grad = torch.ones_like(parameter)
    freeze(model, what)
    optimizer = build_optimizer(model, config, layer_decay)
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    before = snapshot(model)
    nn.functional.cross_entropy(model(torch.randn(6, 3, 8, 8)), torch.arange(6) % 3).backward()
    optimizer.step()
    assert kept(model, before) == frozen
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))


@pytest.mark.parametrize("size, patch", [(16, 4), (12, 2)], ids=["more patches", "more and smaller patches"])
def test_layer_decay_holds_with_another_image_and_patch_size(size: int, patch: int) -> None:
    model = make_model(image_size=size, patch_size=patch)
    report = load_weights(model, make_model(1).state_dict(), "vit.pt", resample=True)
    assert not report.initialized and "pos_embed" in report.resized
    groups = parameter_groups(model, 0.05, layer_decay=0.5)
    names = {parameter: name for name, parameter in model.named_parameters()}
    scales = {names[parameter]: group["lr_scale"] for group in groups for parameter in group["params"]}
    assert scales.keys() == set(names.values())
    first = [scales[name] for name in ("patch_embed.proj.weight", "pos_embed", "blocks.0.norm1.bias")]
    assert first == [1 / 8, 1 / 8, 1 / 4]
    assert (scales["blocks.1.mlp.fc1.weight"], scales["norm.weight"], scales["head.bias"]) == (1 / 2, 1, 1)
