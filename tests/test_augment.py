"""The augmentation of a batch: each image draws for itself, all follows the key, and what is off changes nothing."""

import dataclasses
from typing import Any

import pytest
import torch
from helpers import compose
from torchvision.transforms.v2 import functional as TV

from src.augment import chunks as chunks_module
from src.augment.normalize import normalize
from src.augment.pipeline import Augmentation
from src.seeding import generator_for

EVERYTHING: dict[str, Any] = {
    **{"pad_crop": 0.125, "horizontal_flip": 0.5, "rotation": 15.0, "shear": 5.0, "translation": 0.1},
    **{"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1, "sharpness": 0.2, "policy": "randaugment"},
    **dict.fromkeys(("grey", "posterize", "solarize", "equalize", "autocontrast"), 0.2),
    **{"erasing": 0.25, "mixup": 0.8, "cutmix": 1.0},
}
LABELS = torch.arange(64) % 10


def make_images(batch: int = 5, channels: int = 3, size: tuple[int, int] = (9, 7)) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (batch, *size, channels), generator=generator, dtype=torch.uint8).permute(0, 3, 1, 2)


def build(size: tuple[int, int] = (9, 7), channels: int = 3, **parts: Any) -> Augmentation:
    return Augmentation(size=size, mean=[0.5] * channels, std=[0.25] * channels, num_classes=10, **parts)


def augment(augmentation: Augmentation, images: torch.Tensor, *key: Any, mix: bool = True) -> torch.Tensor:
    return augmentation(images, LABELS[: len(images)], generator_for(*key), mix=mix)[0]


def test_normalize_gives_the_channels_zero_mean_and_unit_deviation() -> None:
    images = make_images(batch=64)
    pixels = images.double() / 255
    mean, std = pixels.mean((0, 2, 3)).tolist(), pixels.std((0, 2, 3), correction=0).tolist()
    result = normalize(images, mean, std).double()
    assert torch.allclose(result.mean((0, 2, 3)), torch.zeros(3).double(), atol=1e-6)
    assert torch.allclose(result.std((0, 2, 3), correction=0), torch.ones(3).double(), atol=1e-6)


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_with_everything_off_only_the_normalization_is_left(channels: int) -> None:
    images = make_images(channels=channels)
    result, targets = build(channels=channels)(images, LABELS[:5], generator_for("a"))
    assert torch.equal(result, normalize(images, [0.5] * channels, [0.25] * channels))
    assert torch.equal(targets, LABELS[:5])


WEAKEST: list[dict[str, Any]] = [
    *({key: 1e-9} for key in ("rotation", "shear", "translation", "brightness", "contrast", "saturation", "hue")),
    {"posterize": 1.0, "posterize_bits": 8},
    {"sharpness": 1.0, "sharpness_factor": 1.0},
    {"policy": "randaugment", "num_ops": 1, "magnitude": 0},
]


@pytest.mark.parametrize("part", WEAKEST, ids=lambda part: next(iter(part)))
def test_a_part_at_the_end_of_its_range_approaches_the_identity(part: dict[str, Any]) -> None:
    images = make_images(16, size=(16, 16))
    result, identity = augment(build((16, 16), **part), images, 1), normalize(images, [0.5] * 3, [0.25] * 3)
    unchanged = ((result - identity).abs() <= 1.01 / 255 / 0.25).flatten(1).all(1)
    # Of RandAugment's operations three have no strength, and solarize inverts pure white at its lowest.
    assert unchanged.float().mean() > (0.6 if "policy" in part else 0.99)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("crop", [{}, {"random_resized_crop": 0.2, "pad_crop": 0.0}], ids=["pad", "resize"])
def test_everything_at_once_works_for_any_number_of_channels(channels: int, crop: dict[str, Any]) -> None:
    augmentation = build((16, 12), channels, **(EVERYTHING | crop))
    images = make_images(8, channels, augmentation.stored_size)
    result, targets = augmentation(images, LABELS[:8], generator_for("all"))
    assert result.shape == (8, channels, 16, 12) and result.isfinite().all() and result.abs().max() <= 2
    assert torch.allclose(targets.sum(1), torch.ones(8))


@pytest.mark.parametrize("size", [(1, 1), (2, 1), (2, 3)])
def test_images_of_a_few_pixels_survive_everything(size: tuple[int, int]) -> None:
    for crop in ({}, {"random_resized_crop": 0.2, "pad_crop": 0.0}):
        augmentation = build(size, **(EVERYTHING | crop | {"policy": "trivialaugment"}))
        assert augment(augmentation, make_images(64, 3, augmentation.stored_size), "tiny").isfinite().all()


def test_each_image_draws_for_itself_and_the_draws_follow_the_key() -> None:
    images = make_images(1, size=(16, 16)).expand(64, -1, -1, -1)
    augmentation = build((16, 16), pad_crop=0.25, horizontal_flip=0.5)
    first, again, other = (augment(augmentation, images, 0, key) for key in (1, 1, 2))
    assert len({tuple(image.flatten().tolist()) for image in first}) > 40
    assert torch.equal(first, again) and not torch.equal(first, other)


@pytest.mark.parametrize("off", ["erasing", "policy", "brightness", "rotation", "horizontal_flip", "pad_crop"])
def test_switching_a_part_off_leaves_the_draws_of_the_others(off: str) -> None:
    """Seen where only flips, erasing or the mixed labels tell the draws apart from the part that is off."""
    images = make_images(64, size=(16, 16))
    parts = {key: value for key, value in EVERYTHING.items() if key != off}
    first, second = (
        build((16, 16), **chosen).draw(64, (16, 16), generator_for("draws")) for chosen in (EVERYTHING, parts)
    )
    if off != "erasing":
        assert torch.equal(first.erased, second.erased)
    if off not in ("policy", "rotation"):
        assert torch.equal(first.moves.inverses, second.moves.inverses)
    if off != "pad_crop":
        assert torch.equal(first.moves.boxes, second.moves.boxes)
    if off not in ("policy", "brightness"):
        assert torch.equal(first.ops, second.ops) and torch.equal(first.strengths, second.strengths)
    targets = [build((16, 16), **p)(images, LABELS, generator_for("draws"))[1] for p in (EVERYTHING, parts)]
    assert torch.equal(*targets)


@pytest.mark.parametrize("crop", [{}, {"random_resized_crop": 0.2, "pad_crop": 0.0}], ids=["pad", "resize"])
def test_chunks_in_threads_give_the_same_bits_as_one_piece(crop: dict[str, Any], monkeypatch: Any) -> None:
    augmentation = build((16, 12), **(EVERYTHING | crop))
    images = make_images(61, 3, augmentation.stored_size)
    whole = augmentation(images, LABELS[:61], generator_for("chunks"))
    monkeypatch.setattr(chunks_module, "CHUNK_BYTES", 7 * 16 * 12 * 3)
    assert len(chunks_module.split(61, 16 * 12 * 3)) == 9
    chunked = augmentation(images, LABELS[:61], generator_for("chunks"))
    assert torch.equal(whole[0], chunked[0]) and torch.equal(whole[1], chunked[1])


def test_chunks_cover_the_batch_once_in_order(monkeypatch: Any) -> None:
    monkeypatch.setattr(chunks_module, "CHUNK_BYTES", 100)
    for num_images, image_bytes in ((1, 1), (7, 30), (10, 100), (3, 500)):
        parts = chunks_module.split(num_images, image_bytes)
        assert [i for part in parts for i in range(num_images)[part]] == list(range(num_images))
        assert all((part.stop - part.start) * image_bytes <= 130 or part.stop - part.start == 1 for part in parts)


def test_the_callers_number_of_threads_is_left_as_it_was(monkeypatch: Any) -> None:
    monkeypatch.setattr(chunks_module, "CHUNK_BYTES", 100)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        augment(build(), make_images(), "threads")
        assert torch.get_num_threads() == 2
        assert chunks_module._start_pool().submit(torch.get_num_threads).result() == 1
    finally:
        torch.set_num_threads(before)


def test_an_error_in_a_thread_reaches_the_caller(monkeypatch: Any) -> None:
    monkeypatch.setattr(chunks_module, "CHUNK_BYTES", 100)
    augmentation = build()
    augmentation.mean = [0.5] * 4
    with pytest.raises(RuntimeError, match="must match"):
        augment(augmentation, make_images(), "error")


@pytest.mark.parametrize("parts", [{}, {"mixup": 0.8, "mix_prob": 0.0}])
def test_labels_stay_numbers_where_nothing_is_mixed(parts: dict[str, Any]) -> None:
    assert build(**parts)(make_images(), LABELS[:5], generator_for("labels"))[1].dtype == torch.int64


def test_mixing_can_be_left_out_of_a_call_without_other_draws() -> None:
    images, mixing, plain = make_images(64), build(mixup=0.8, horizontal_flip=0.5), build(horizontal_flip=0.5)
    result, labels = mixing(images, LABELS, generator_for("mix"), mix=False)
    assert torch.equal(labels, LABELS) and torch.equal(result, augment(plain, images, "mix"))


def test_mixed_images_are_those_augmented_without_mixing_in_the_shares_of_their_targets() -> None:
    augmentation = build((16, 16), **(EVERYTHING | {"cutmix": 0.0}))
    images, labels = make_images(10, size=(16, 16)), LABELS[:10]  # each label once
    alone = augment(augmentation, images, "mix", mix=False)
    mixed, targets = augmentation(images, labels, generator_for("mix"))
    assert torch.allclose(mixed, torch.einsum("bk,kchw->bchw", targets, alone), atol=1e-5)


def test_erased_rectangles_hold_the_mean() -> None:
    images = make_images(64, size=(16, 16)) | 1  # no level is the mean, 127.5
    result = augment(build((16, 16), erasing=1.0), images, "erase")
    zero = result == 0
    assert (zero.all(1) == zero.any(1)).all()
    assert 0.1 < zero.float().mean() < 0.25 and zero.flatten(1).any(1).all()


@pytest.mark.parametrize("stored", [(24, 20), (16, 12), (8, 30)])
def test_a_resized_crop_of_all_is_the_resized_picture_from_any_size(stored: tuple[int, int]) -> None:
    images = make_images(3, size=stored)
    augmentation = build((16, 12), random_resized_crop=1.0, crop_ratio=(0.01, 100.0))
    # The only box of the whole area is the picture, found by its central fallback or at once.
    ratio = (stored[1] / stored[0]) / (12 / 16)  # of the crop to the result
    augmentation.crop_ratio = (ratio, ratio)
    result = augment(augmentation, images, "all")
    expected = TV.resize(images, [16, 12], antialias=True)
    assert (result - normalize(expected, [0.5] * 3, [0.25] * 3)).abs().max() < 1e-6


def test_pictures_are_kept_larger_only_for_resized_crops() -> None:
    assert build((224, 224), random_resized_crop=0.35).stored_size == (256, 256)
    assert build((224, 112), pad_crop=0.1).stored_size == (224, 112)


@pytest.mark.parametrize("share", [0.1, 0.9])
def test_flips_happen_as_often_as_asked(share: float) -> None:
    images = torch.zeros(4000, 1, 1, 2, dtype=torch.uint8)
    images[..., 0] = 255
    augmentation = Augmentation(size=(1, 2), mean=[0.0], std=[1.0], num_classes=2, horizontal_flip=share)
    result, _ = augmentation(images, torch.zeros(4000, dtype=torch.int64), generator_for("flips"))
    assert result[:, 0, 0, 1].mean().item() == pytest.approx(share, abs=0.03)


def test_rotation_shear_and_translation_reach_their_limits_to_both_sides() -> None:
    for part, row, column, limit in (("rotation", 1, 0, 30.0), ("shear", 0, 1, 20.0), ("translation", 1, 2, 3.0)):
        strength: dict[str, Any] = {part: 0.1 if part == "translation" else limit}
        augmentation = build((30, 30), **strength)
        entries = augmentation._draw_affine(5000, generator_for(part))[:, row, column]
        drawn = {"rotation": entries.asin().rad2deg(), "shear": entries.atan().rad2deg()}.get(part, entries)
        assert drawn.min().item() == pytest.approx(-limit, rel=0.02)
        assert drawn.max().item() == pytest.approx(limit, rel=0.02)
        assert drawn.mean().item() == pytest.approx(0, abs=0.05 * limit)
        assert part != "translation" or (entries == entries.round()).all()  # so that nothing is interpolated


def test_the_policy_follows_the_parts_of_its_kind() -> None:
    parts: list[dict[str, Any]] = [{"rotation": 30.0, "solarize": 0.5}, {"policy": "randaugment"}]
    own, policy, both = (
        build((16, 16), **chosen).draw(64, (16, 16), generator_for("order")) for chosen in (*parts, parts[0] | parts[1])
    )
    assert torch.allclose(both.moves.inverses, own.moves.inverses @ policy.moves.inverses)
    assert torch.equal(both.ops, torch.cat((own.ops, policy.ops), 1))


def test_what_comes_in_from_outside_has_the_mean_color() -> None:
    images = torch.full((64, 3, 9, 7), 255, dtype=torch.uint8)
    augmentation = build(translation=0.5, rotation=90.0)
    augmentation.mean = [0.2, 0.4, 0.6]  # 51, 102 and 153 of 255
    result = augment(augmentation, images, "outside").permute(1, 0, 2, 3).flatten(1)
    for channel, mean in zip(result, augmentation.mean, strict=True):
        outside = channel.abs() < 1e-5
        assert ((channel - (1 - mean) / 0.25).abs() < 1e-5)[~outside].all() and 0.2 < outside.float().mean() < 0.6


def test_the_configuration_without_augmentation_holds_the_keys_and_defaults_of_the_class() -> None:
    config = dataclasses.asdict(compose("augmentation=none").augmentation)
    assert (config.pop("mix_off_share"), config.pop("repeats")) == (0.0, 1)  # for the training loop
    default = dataclasses.asdict(build())
    assert list(config) == [key for key in default if key not in ("size", "mean", "std", "num_classes")]
    for key, value in config.items():
        assert value == (list(default[key]) if isinstance(value, list) else default[key]), key


def test_a_padding_larger_than_the_image_is_cut_to_what_can_be_reflected() -> None:
    images = make_images(size=(8, 1))
    assert augment(build((8, 1), pad_crop=0.95), images, "large").shape == images.shape


def test_a_size_other_than_the_stored_one_needs_resized_crops() -> None:
    with pytest.raises(AssertionError, match="without random_resized_crop"):
        augment(build((8, 8)), make_images(), "size")


@pytest.mark.parametrize("crop", [{}, {"random_resized_crop": 0.2, "pad_crop": 0.0}], ids=["pad", "resize"])
def test_nothing_is_asked_back_from_the_device(crop: dict[str, Any]) -> None:
    """Tensors of the device `meta` hold no values: reading one, as for a decision, is an error."""
    augmentation = build((16, 12), **(EVERYTHING | crop))
    images = make_images(8, 3, augmentation.stored_size).to("meta")
    result, targets = augmentation(images, LABELS[:8].to("meta"), generator_for("meta"))
    assert (result.shape, result.device.type, targets.shape) == ((8, 3, 16, 12), "meta", (8, 10))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("crop", [{}, {"random_resized_crop": 0.2, "pad_crop": 0.0}], ids=["pad", "resize"])
def test_a_gpu_gives_the_images_of_the_cpu_and_is_never_waited_for(crop: dict[str, Any]) -> None:
    augmentation = build((32, 32), **(EVERYTHING | crop | {"equalize": 0.0, "policy": None}))
    images = torch.nn.functional.interpolate(make_images(64, size=(4, 4)), augmentation.stored_size, mode="bilinear")
    there, labels = images.to("cuda"), LABELS.to("cuda")
    augmentation(there, labels, generator_for("warm up"))
    torch.cuda.set_sync_debug_mode("error")
    try:
        result, targets = augmentation(there, labels, generator_for("gpu"))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    expected, expected_targets = augmentation(images, LABELS, generator_for("gpu"))
    assert torch.allclose(targets.cpu(), expected_targets)
    assert (result.cpu() - expected).abs().mean() < 4 / 255 / 0.25
