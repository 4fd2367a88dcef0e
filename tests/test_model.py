"""src/model.py against timm, torchvision, independent formulas and the properties it promises."""

import ast
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from timm.layers.pos_embed import resample_abs_pos_embed
from timm.models.vision_transformer import VisionTransformer as TimmVisionTransformer
from torch import Tensor, nn
from torchvision.models import vit_b_16

from src import model as model_file
from src.model import (
    DropPath,
    EncoderBlock,
    MultiHeadSelfAttention,
    PatchEmbedding,
    VisionTransformer,
    resize_position_embedding,
    sincos_position_embedding,
)

TINY: dict[str, Any] = {
    "image_size": 16,
    "patch_size": 4,
    "num_classes": 5,
    "embedding_dim": 32,
    "num_layers": 3,
    "num_heads": 4,
}
TIMM_NAMES = {
    "image_size": "img_size",
    "in_channels": "in_chans",
    "embedding_dim": "embed_dim",
    "num_layers": "depth",
    "layer_scale": "init_values",
    "num_registers": "reg_tokens",
}
OPTIONS: dict[str, dict[str, Any]] = {
    "class_token": {},
    "mean_pooling": {"pooling": "mean"},
    "no_qkv_bias": {"qkv_bias": False},
    "registers": {"num_registers": 3},
    "registers_and_mean_pooling": {"num_registers": 3, "pooling": "mean"},
    "layer_scale": {"layer_scale": 0.1},
    "qk_norm": {"qk_norm": True},
    "non_square_images": {"image_size": (8, 24)},
    "one_channel_and_narrow_mlp": {"in_channels": 1, "mlp_ratio": 1.5},
    "everything": {
        "pooling": "mean",
        "qkv_bias": False,
        "num_registers": 2,
        "layer_scale": 0.1,
        "qk_norm": True,
        "image_size": (24, 8),
    },
}
NOT_IN_TIMM: dict[str, dict[str, Any]] = {
    "sincos2d": {"position_embedding": "sincos2d", "num_registers": 2},
    "conv_stem": {"stem": "conv"},
    "overlap": {"stem": "overlap"},
    "pre_norm": {"pre_norm": True, "norm_eps": 1e-5},
}


def build(**options: Any) -> VisionTransformer:
    torch.manual_seed(0)
    return VisionTransformer(**TINY | options)


def build_timm(**options: Any) -> TimmVisionTransformer:
    options = TINY | options
    if options.pop("pooling", "cls") == "mean":
        options |= {"class_token": False, "global_pool": "avg", "fc_norm": False}
    twin = TimmVisionTransformer(**{TIMM_NAMES.get(key, key): value for key, value in options.items()})
    randomize(twin)
    return twin.eval()


@torch.no_grad()
def randomize(model: nn.Module, std: float = 0.2) -> None:
    """Move every parameter off its initial value: zeros and ones would hide what is forgotten or swapped."""
    torch.manual_seed(1)
    for parameter in model.parameters():
        parameter.add_(std * torch.randn_like(parameter))


def draw_images(model: VisionTransformer, batch_size: int = 4) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.randn(batch_size, model.in_channels, *model.image_size, generator=generator)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@torch.no_grad()
def test_logits_equal_timm_with(options: dict[str, Any]) -> None:
    timm_model, model = build_timm(**options), build(**options).eval()
    model.load_state_dict(timm_model.state_dict(), strict=True)
    images = draw_images(model)
    logits = model(images)
    assert logits.std() > 0.1  # the comparison would be empty otherwise
    torch.testing.assert_close(logits, timm_model(images), atol=1e-5, rtol=0)
    torch.testing.assert_close(model.forward_features(images), timm_model.forward_features(images))


@torch.no_grad()
def test_logits_equal_torchvision_vit_b_16() -> None:
    with torch.device("meta"):  # 86 million initial values that nobody reads
        model, reference = VisionTransformer().eval(), vit_b_16(weights=None).eval()
    reference.to_empty(device="cpu")
    torch.manual_seed(0)
    for name, parameter in reference.named_parameters():
        parameter.normal_(mean=float("ln" in name and "weight" in name), std=0.03)
    renames = {
        "class_token": "cls_token",
        "conv_proj": "patch_embed.proj",
        "encoder.pos_embedding": "pos_embed",
        "encoder.layers.encoder_layer_": "blocks.",
        "encoder.ln": "norm",
        "ln_": "norm",
        "self_attention.in_proj_": "attn.qkv.",
        "self_attention.out_proj": "attn.proj",
        "mlp.0": "mlp.fc1",
        "mlp.3": "mlp.fc2",
        "heads.head": "head",
    }
    weights = {}
    for name, value in reference.state_dict().items():
        for theirs, ours in renames.items():
            name = name.replace(theirs, ours)
        weights[name] = value
    model.load_state_dict(weights, strict=True, assign=True)
    images = torch.randn(1, 3, 224, 224)
    logits = model(images)
    assert logits.std() > 0.1
    torch.testing.assert_close(logits, reference(images), atol=1e-5, rtol=0)


def test_default_model_has_the_86567656_parameters_of_vit_b_16() -> None:
    with torch.device("meta"):
        assert sum(parameter.numel() for parameter in VisionTransformer().parameters()) == 86_567_656


@pytest.mark.parametrize("options", [{}, {"qk_norm": True, "num_registers": 2}], ids=["plain", "qk_norm"])
@torch.no_grad()
def test_attention_maps_explain_the_output_of_the_fused_attention(options: dict[str, Any]) -> None:
    model = build(**options).eval()
    randomize(model)
    images = draw_images(model)
    seen: list[tuple[MultiHeadSelfAttention, Tensor, Tensor]] = []
    for module in model.modules():
        if isinstance(module, MultiHeadSelfAttention):
            module.register_forward_hook(lambda module, inputs, y: seen.append((module, *inputs, y)))
    model(images)
    calls = list(seen)  # attention_maps calls the blocks once more
    maps = model.attention_maps(images)
    assert len(maps) == len(calls) == TINY["num_layers"]
    for weights, (attention, x, output) in zip(maps, calls, strict=True):
        assert weights.shape == (len(images), TINY["num_heads"], model.num_tokens, model.num_tokens)
        assert weights.std(dim=-1).mean() > 0.01  # far from uniform
        torch.testing.assert_close(weights.sum(dim=-1), torch.ones(weights.shape[:-1]))
        _, _, v = attention.queries_keys_values(x)
        explicit = attention.proj((weights @ v).transpose(1, 2).flatten(2))
        torch.testing.assert_close(explicit, output, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("options", [{}, {"qk_norm": True, "num_registers": 2}])
def test_whole_attention_gives_what_fused_attention_gives(options: dict[str, Any]) -> None:
    model = build(**options)
    randomize(model)
    images = draw_images(model)
    results = []
    for fused in (True, False):
        model.fuse_attention(fused)
        logits = model(images)
        gradients = torch.autograd.grad(logits.square().sum(), list(model.parameters()))
        results.append((logits, *gradients))
    for whole, fused in zip(*results, strict=True):
        torch.testing.assert_close(whole, fused, rtol=1e-4, atol=1e-5)


def test_whole_attention_drops_weights_in_training_alone() -> None:
    model = build(attention_dropout=0.5)
    randomize(model)
    images = draw_images(model)
    model.fuse_attention(False)
    assert not torch.equal(model.train()(images), model(images))
    assert torch.equal(model.eval()(images), model(images))


def test_attention_maps_are_those_of_evaluation_and_leave_the_modes_alone() -> None:
    model = build(dropout=0.3, attention_dropout=0.3, drop_path=0.3)
    images = draw_images(model)
    expected = model.eval().attention_maps(images)
    model.train()
    model.blocks[0].eval()  # frozen by the caller
    modes = [module.training for module in model.modules()]
    for weights, reference in zip(model.attention_maps(images), expected, strict=True):
        torch.testing.assert_close(weights, reference)
        assert not weights.requires_grad
    with pytest.raises(ValueError, match="set_image_size"):
        model.attention_maps(images[..., 4:])
    assert [module.training for module in model.modules()] == modes


@pytest.mark.parametrize("options", (OPTIONS | NOT_IN_TIMM).values(), ids=OPTIONS | NOT_IN_TIMM)
def test_every_parameter_receives_a_gradient_with(options: dict[str, Any]) -> None:
    model = build(**options)
    images = draw_images(model)
    F.cross_entropy(model(images), torch.arange(len(images))).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        if name.endswith("k_norm.bias"):  # adds the same to a whole row of logits, which softmax ignores
            assert parameter.grad.abs().max() < 1e-6
        else:
            assert parameter.grad.abs().max() > 1e-6, name


@pytest.mark.parametrize("stem", ["patch", "conv", "overlap"])
def test_micro_batches_give_the_gradients_of_the_whole_batch(stem: str) -> None:
    model = build(stem=stem)
    images = draw_images(model)

    def gradients(*parts: Tensor) -> list[Tensor]:
        loss = sum(model(part).square().sum() for part in parts)
        return list(torch.autograd.grad(loss, list(model.parameters())))

    torch.testing.assert_close(gradients(*images.split(1)), gradients(images), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("num_prefix_tokens", [0, 1, 5])
@pytest.mark.parametrize("new_grid", [(2, 3), (7, 7), (12, 5)])
def test_resized_position_embedding_equals_timm(num_prefix_tokens: int, new_grid: tuple[int, int]) -> None:
    old_grid = (4, 6)
    embedding = torch.randn(1, num_prefix_tokens + 24, 8)
    resized = resize_position_embedding(embedding, old_grid, new_grid, num_prefix_tokens)
    expected = resample_abs_pos_embed(embedding, list(new_grid), list(old_grid), num_prefix_tokens)
    torch.testing.assert_close(resized, expected)
    assert torch.equal(resized[:, :num_prefix_tokens], embedding[:, :num_prefix_tokens])


def test_resizing_to_the_same_grid_changes_nothing_and_keeps_the_dtype_otherwise() -> None:
    embedding = torch.randn(1, 13, 8, dtype=torch.bfloat16)
    assert torch.equal(resize_position_embedding(embedding, (3, 4), (3, 4), 1), embedding)
    assert resize_position_embedding(embedding, (3, 4), (4, 3), 1).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (
            (3, 16, 16),
            "(3, 16, 16) are not a batch (B, C, H, W); images.unsqueeze(0) makes a batch of one",
        ),
        ((16, 16), "images of shape (16, 16) are not a batch (B, C, H, W)"),
        ((2, 1, 16, 16), "images with 1 channel(s) do not fit model.in_channels=3"),
        ((2, 16, 16, 3), "images with 16 channel(s) do not fit model.in_channels=3; channels come before height and"),
        ((2, 3, 16, 24), "images of (16, 24) pixels (height, width) do not fit model.image_size=(16, 16)"),
    ],
)
def test_images_that_do_not_fit_are_refused_in_words(shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        build()(torch.zeros(shape))


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is:FutureWarning")  # torch recommends torch.export
@pytest.mark.parametrize(
    "options",
    [{}, {"stem": "conv"}, {"pooling": "mean", "num_registers": 2, "layer_scale": 1e-5, "qk_norm": True}],
)
def test_torchscript_gives_the_same_logits(options: dict[str, Any]) -> None:
    model = build(**options).eval()
    images = draw_images(model)
    assert torch.equal(torch.jit.script(model)(images), model(images))


@pytest.mark.parametrize("image_size", [(24, 8), (16, 16), 32])
@torch.no_grad()
def test_logits_equal_timm_after_set_image_size(image_size: int | tuple[int, int]) -> None:
    timm_model, model = build_timm(num_registers=2), build(num_registers=2).eval()
    model.load_state_dict(timm_model.state_dict())
    model.pos_embed.requires_grad_(False)
    model.set_image_size(image_size)
    height, width = model.image_size
    timm_model.set_input_size((height, width))
    assert model.grid_size == (height // 4, width // 4)
    assert model.num_tokens == model.pos_embed.shape[1] == 3 + height * width // 16
    assert not model.pos_embed.requires_grad
    images = draw_images(model)
    torch.testing.assert_close(model(images), timm_model(images), atol=1e-5, rtol=0)


@torch.no_grad()
def test_set_image_size_recomputes_the_sincos_table() -> None:
    options = {"position_embedding": "sincos2d", "num_registers": 1}
    model, reference = (build(**options, image_size=size).double().eval() for size in (16, (24, 8)))
    model.set_image_size((24, 8))
    assert model.pos_embed.dtype == torch.float64
    images = draw_images(reference).double()
    assert torch.equal(model(images), reference(images))


def test_refused_image_size_leaves_the_model_usable() -> None:
    model = build()
    with pytest.raises(ValueError, match=re.escape("model.image_size=[16,18] is not divisible by")):
        model.set_image_size((16, 18))
    assert model(draw_images(model)).isfinite().all()


def test_sincos_table_holds_sines_of_column_and_row_and_zeros_for_prefix_tokens() -> None:
    rows, columns, dim, prefix = 3, 5, 16, 2
    table = sincos_position_embedding((rows, columns), dim, prefix)[0]
    assert torch.equal(table[:prefix], torch.zeros(prefix, dim))
    for row in range(rows):
        for column in range(columns):
            expected = [
                function(position / 10000 ** (i / (dim // 4)))
                for position in (column, row)
                for function in (math.sin, math.cos)
                for i in range(dim // 4)
            ]
            torch.testing.assert_close(table[prefix + row * columns + column], torch.tensor(expected))


def test_sincos_table_is_used_and_is_not_in_the_state_dict() -> None:
    model = build(position_embedding="sincos2d").eval()
    assert "pos_embed" not in model.state_dict()
    assert "pos_embed" not in dict(model.named_parameters())
    images = draw_images(model)
    logits = model(images)
    model.pos_embed.zero_()
    assert not torch.allclose(model(images), logits)


def test_drop_path_zeroes_whole_samples_and_scales_the_others() -> None:
    torch.manual_seed(0)
    rate, num_samples = 0.25, 4000
    y = DropPath(rate)(torch.ones(num_samples, 2, 3))
    per_sample = y.flatten(1)
    assert torch.equal(per_sample.amin(dim=1), per_sample.amax(dim=1))
    assert set(per_sample[:, 0].tolist()) == {0.0, torch.tensor(1 / (1 - rate)).item()}
    standard_error = math.sqrt(rate / (1 - rate) / num_samples)
    assert abs(y.mean().item() - 1) < 4 * standard_error


def test_drop_path_is_the_identity_in_evaluation_and_at_rate_zero() -> None:
    x = torch.randn(2, 3, 4)
    assert torch.equal(DropPath(0.9).eval()(x), x)
    assert torch.equal(DropPath(0.0).train()(x), x)


@pytest.mark.parametrize(("num_layers", "rates"), [(5, [0.0, 0.1, 0.2, 0.3, 0.4]), (1, [0.0])])
def test_drop_path_rates_rise_linearly_from_zero(num_layers: int, rates: list[float]) -> None:
    model = build(num_layers=num_layers, drop_path=0.4)
    given = [module.rate for module in model.modules() if isinstance(module, DropPath)]
    assert given == pytest.approx(rates)


def test_blocks_that_drop_paths_at_different_rates_share_their_compiled_code() -> None:
    compiled = []

    def note(graph: torch.fx.GraphModule, inputs: object) -> Callable[..., Any]:
        compiled.append(graph)
        return graph.forward

    model = build(num_layers=3, drop_path=0.4).train()
    for block in model.blocks:
        block.compile(backend=note)
    with torch.no_grad():
        model(draw_images(model))
    assert len(compiled) == 1


@pytest.mark.parametrize("key", ["dropout", "attention_dropout", "drop_path"])
def test_randomness_is_on_in_training_and_off_in_evaluation_with(key: str) -> None:
    model, plain = build(**{key: 0.5}), build().eval()
    images = draw_images(model)
    assert not torch.allclose(model(images), model(images))
    assert torch.equal(model.eval()(images), plain(images))


def test_dropout_acts_on_the_embedded_tokens_the_projection_and_both_layers_of_the_mlp() -> None:
    model = build(dropout=0.25)
    block = model.blocks[0]
    assert isinstance(block, EncoderBlock)
    seen: list[Tensor] = []
    block.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    block.attn.register_forward_hook(lambda module, inputs, output: seen.append(output))
    block.mlp.fc2.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    block.mlp.register_forward_hook(lambda module, inputs, output: seen.append(output))
    model(draw_images(model, batch_size=16))
    assert [(x == 0).float().mean().item() for x in seen] == pytest.approx([0.25] * 4, abs=0.03)


@pytest.mark.parametrize("options", [{}, {"pooling": "mean"}, {"num_registers": 2}], ids=["cls", "mean", "registers"])
def test_patch_dropout_keeps_the_prefix_and_a_random_part_of_the_patches_of_each_image(options: dict[str, Any]) -> None:
    model = build(**options)
    images, prefix = draw_images(model, batch_size=64), model.num_prefix_tokens
    num_patches = model.num_tokens - prefix
    tokens = model.eval().embed(images)
    model.train().patch_dropout = 0.75
    kept = model.embed(images)
    assert kept.shape[1] == prefix + num_patches // 4
    assert torch.equal(kept[:, :prefix], tokens[:, :prefix])
    matches = (kept[:, prefix:, None] == tokens[:, None, prefix:]).all(dim=-1)  # (B, kept, patches)
    assert (matches.sum(dim=2) == 1).all(), "as they are, where they were in the image"
    assert (matches.sum(dim=1) <= 1).all(), "none twice"
    shares = matches.any(dim=1).float().mean(dim=0)  # of the images, for each patch
    assert (shares.min() > 0.05 and shares.max() < 0.5) and len(matches.any(dim=1).unique(dim=0)) > 8
    assert torch.equal(model.eval()(images), build(**options).eval()(images)), "evaluation sees all of them"
    model.train().patch_dropout = 0.999
    assert model.embed(images).shape[1] == prefix + 1, "one is always left"


def test_block_whose_branches_are_always_dropped_is_the_identity() -> None:
    x = torch.randn(2, 5, 32)
    assert torch.equal(EncoderBlock(32, 4, drop_path=1.0)(x), x)


@pytest.mark.parametrize("patch_size", [1, 2, 4, 8, 16])
def test_every_stem_makes_the_tokens_of_the_patch_stem(patch_size: int) -> None:
    images = torch.randn(2, 3, 16, 32)
    tokens = [PatchEmbedding(patch_size, 3, 16, stem)(images) for stem in ("patch", "conv", "overlap")]
    assert all(x.shape == (2, 16 * 32 // patch_size**2, 16) for x in tokens)


def test_overlapping_patches_reach_back_into_those_above_and_to_the_left() -> None:
    images = torch.zeros(1, 1, 16, 16, requires_grad=True)
    PatchEmbedding(4, 1, 8, "overlap")(images)[0, 5].sum().backward()  # the patch of rows and columns 4 to 7
    assert images.grad is not None
    rows, columns = images.grad[0, 0].nonzero().unbind(dim=1)
    assert (rows.min(), rows.max()) == (columns.min(), columns.max()) == (1, 7)


def test_conv_stem_doubles_its_channels_up_to_the_embedding_dimension() -> None:
    convolutions = [m for m in PatchEmbedding(16, 3, 64, "conv").modules() if isinstance(m, nn.Conv2d)]
    assert [m.out_channels for m in convolutions] == [8, 16, 32, 64, 64]
    assert [m.kernel_size[0] for m in convolutions] == [3, 3, 3, 3, 1]


def test_zero_initialized_head_gives_zero_logits_and_learns() -> None:
    model = build(zero_init_head=True)
    logits = model(draw_images(model))
    assert torch.equal(logits, torch.zeros_like(logits))
    F.cross_entropy(logits, torch.arange(len(logits))).backward()
    assert model.head.weight.grad is not None
    assert model.head.weight.grad.abs().max() > 1e-3


@pytest.mark.parametrize("stem", ["patch", "conv", "overlap"])
def test_blocks_start_from_xavier_weights_all_else_from_002_and_biases_from_zero(stem: str) -> None:
    model = build(embedding_dim=128, num_registers=8, stem=stem)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            assert torch.equal(parameter, torch.zeros_like(parameter)), name
        elif parameter.dim() > 1:
            fan_out = 128 if "qkv" in name else parameter.shape[0]  # q, k and v are three matrices
            expected = math.sqrt(2 / (parameter.shape[1] + fan_out)) if name.startswith("blocks.") else 0.02
            assert parameter.std().item() == pytest.approx(expected, rel=0.15), name


def test_attention_maps_are_float32_under_bfloat16_autocast() -> None:
    model = build(qk_norm=True)
    images = draw_images(model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert model(images).dtype == torch.bfloat16
        assert {weights.dtype for weights in model.attention_maps(images)} == {torch.float32}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"image_size": 30},
            "model.image_size=30 is not divisible by model.patch_size=4; "
            "patch sizes that fit: 1, 2, 3, 5, 6, 10, 15, 30",
        ),
        (
            {"image_size": (16, 18)},
            "model.image_size=[16,18] is not divisible by model.patch_size=4; patch sizes that fit: 1, 2",
        ),
        (
            {"embedding_dim": 100, "num_heads": 3},
            "model.embedding_dim=100 is not divisible by model.num_heads=3; "
            "heads that fit: 1, 2, 4, 5, 10, 20, 25, 50, 100",
        ),
        (
            {"embedding_dim": 30, "num_heads": 3, "position_embedding": "sincos2d"},
            "model.embedding_dim=30 is not divisible by 4, which model.position_embedding=sincos2d needs; "
            "next that fits: 32",
        ),
        (
            {"image_size": 18, "patch_size": 6, "stem": "conv"},
            "model.patch_size=6 is not a power of two, which model.stem=conv needs; "
            "patch sizes that fit: 1, 2, 4, 8, 16, 32",
        ),
        ({"pooling": "max"}, "model.pooling=max is not known; allowed: cls, mean"),
        (
            {"position_embedding": "rope"},
            "model.position_embedding=rope is not known; allowed: learned, sincos2d",
        ),
        ({"stem": "resnet"}, "model.stem=resnet is not known; allowed: patch, conv, overlap"),
    ],
)
def test_refuses_and_names_the_key_to_change(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as error:
        build(**options)
    assert str(error.value) == message


def test_images_of_another_size_are_refused_with_the_call_to_make() -> None:
    with pytest.raises(ValueError) as error:
        build()(torch.zeros(1, 3, 16, 20))
    assert str(error.value) == (
        "images of (16, 20) pixels (height, width) do not fit model.image_size=(16, 16); "
        "call set_image_size((16, 20)) first, which resizes the position embeddings"
    )


def test_model_imports_torch_and_the_standard_library_only() -> None:
    tree = ast.parse(Path(model_file.__file__).read_text(encoding="utf-8"))
    imported = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            imported.add((node.module or "").split(".")[0])
    assert imported == {"torch", "math", "functools"}
