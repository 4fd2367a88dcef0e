"""Operations on levels, and the policies made of them: the same as torchvision's image by image."""

from collections.abc import Callable

import pytest
import torch
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as TV

from src.augment.color import COLOR_INDEX, COLOR_OPS, NONE, apply_colors, draw_colors
from src.augment.geometry import Moves, move_pixels
from src.augment.policy import BINS, OPS, SIGNED, draw_policy, magnitude_table, policy_colors, policy_inverses
from src.seeding import generator_for

# Operation → torchvision's with the same strength, strengths, largest difference in levels.
REFERENCES: dict[str, tuple[Callable, list[float], int]] = {
    "brightness": (TV.adjust_brightness, [0.0, 0.4, 1.0, 1.7], 1),
    "contrast": (TV.adjust_contrast, [0.0, 0.4, 1.0, 1.7], 1),
    "saturation": (TV.adjust_saturation, [0.0, 0.4, 1.0, 1.7], 1),
    "hue": (TV.adjust_hue, [-0.5, -0.1, 0.0, 0.3], 1),
    "grey": (lambda image, _: TV.rgb_to_grayscale(image, image.shape[-3]), [0.0], 0),
    "posterize": (lambda image, bits: TV.posterize(image, int(bits)), [1, 3, 4, 8], 0),
    "solarize": (TV.solarize, [0.0, 100.5, 128.0, 255.0], 0),
    "equalize": (lambda image, _: TV.equalize(image), [0.0], 0),
    "autocontrast": (lambda image, _: TV.autocontrast(image), [0.0], 0),
    "sharpness": (TV.adjust_sharpness, [0.0, 0.5, 1.0, 2.0], 1),
}
# torchvision's name of each operation of a policy.
NAMES = {name: name.title().replace("_", "") for name in OPS} | {"saturation": "Color", "autocontrast": "AutoContrast"}


def make_images(batch: int, channels: int = 3, size: tuple[int, int] = (48, 40)) -> torch.Tensor:
    """Return noise around a gray of each image's own, some of it clipped, the last image of one color."""
    generator = generator_for("pictures")
    center = 255 * torch.rand(batch, channels, 1, 1, generator=generator)
    images = center + 40 * torch.randn(batch, channels, *size, generator=generator)
    images[-1] = 77
    return images.clamp(0, 255).to(torch.uint8)


def apply(images: torch.Tensor, name: str, strengths: list[float]) -> torch.Tensor:
    """Apply one operation to all images through the step that the training uses."""
    ops = torch.full((len(images), 1), COLOR_INDEX[name])
    return apply_colors(images, ops, torch.tensor(strengths).view(-1, 1).float())


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", COLOR_OPS)
def test_each_operation_equals_torchvision_image_by_image(name: str, channels: int) -> None:
    reference, strengths, tolerance = REFERENCES[name]
    strengths = [strength for strength in strengths for _ in range(3)]
    images = make_images(len(strengths), channels)
    results = apply(images, name, strengths)
    for image, strength, result in zip(images, strengths, results, strict=True):
        assert (result.int() - reference(image, strength).int()).abs().max() <= tolerance


@pytest.mark.parametrize(
    ("name", "neutral"),
    [("brightness", 1), ("contrast", 1), ("saturation", 1), ("hue", 0), ("sharpness", 1), ("posterize", 8)],
)
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_a_neutral_strength_changes_nothing(name: str, neutral: float, channels: int) -> None:
    images = make_images(4, channels)
    assert torch.equal(apply(images, name, [neutral] * 4), images)


@pytest.mark.parametrize("name", ["saturation", "hue", "grey"])
@pytest.mark.parametrize("channels", [1, 2, 4])
def test_what_needs_colors_leaves_other_images_alone(name: str, channels: int) -> None:
    images = make_images(3, channels)
    assert torch.equal(apply(images, name, [0.3] * 3), images)


@pytest.mark.parametrize("name", ["posterize", "solarize", "equalize", "autocontrast", "brightness", "sharpness"])
def test_other_numbers_of_channels_are_treated_channel_by_channel(name: str) -> None:
    images, strengths = make_images(3, 5), [REFERENCES[name][1][-1]] * 3
    alone = [apply(images[:, [channel]], name, strengths) for channel in range(5)]
    assert torch.equal(apply(images, name, strengths), torch.cat(alone, 1))


def test_without_contrast_an_image_is_its_mean_over_all_channels() -> None:
    images = make_images(3, 4)
    mean = images.float().mean((1, 2, 3)).floor()
    assert torch.equal(apply(images, "contrast", [0.0] * 3).float(), mean.view(3, 1, 1, 1).expand(images.shape))


def test_steps_follow_each_other_and_each_image_has_its_own() -> None:
    images = make_images(3)
    posterize, equalize = COLOR_INDEX["posterize"], COLOR_INDEX["equalize"]
    ops = torch.tensor([[posterize, equalize], [equalize, posterize], [NONE, NONE]])
    results = apply_colors(images, ops, torch.full((3, 2), 2.0))
    assert torch.equal(results[0], TV.equalize(TV.posterize(images[0], 2)))
    assert torch.equal(results[1], TV.posterize(TV.equalize(images[1]), 2))
    assert torch.equal(results[2], images[2])


def test_color_draws_have_the_asked_ranges_and_frequencies() -> None:
    jitter, chances = {"brightness": 0.4, "contrast": 0.0, "hue": 0.1}, {"grey": (0.2, 0.0), "equalize": (0.0, 0.0)}
    ops, strengths = draw_colors(5000, jitter, chances, generator_for("colors"))
    assert ops.shape == (5000, 3)  # what is off takes no step
    for column, low, high in ((0, 0.6, 1.4), (1, -0.1, 0.1)):
        drawn = strengths[:, column]
        assert drawn.min().item() == pytest.approx(low, abs=0.002)
        assert drawn.max().item() == pytest.approx(high, abs=0.002)
        assert drawn.mean().item() == pytest.approx((low + high) / 2, abs=0.01)
    assert (ops[:, 2] == COLOR_INDEX["grey"]).float().mean().item() == pytest.approx(0.2, abs=0.02)


def test_switching_an_operation_off_leaves_the_draws_of_the_others() -> None:
    chances = {"grey": (0.5, 0.0)}
    both = draw_colors(50, {"brightness": 0.4, "hue": 0.1}, chances, generator_for("same"))
    one = draw_colors(50, {"brightness": 0.0, "hue": 0.1}, chances, generator_for("same"))
    assert torch.equal(both[0][:, 1:], one[0]) and torch.equal(both[1][:, 1:], one[1])


@pytest.mark.parametrize(
    ("policy", "transform"), [("randaugment", v2.RandAugment()), ("trivialaugment", v2.TrivialAugmentWide())]
)
def test_magnitudes_and_signs_are_those_of_torchvision(policy: str, transform: v2.RandAugment) -> None:
    table = magnitude_table(policy, (40, 60))
    assert set(NAMES.values()) == set(transform._AUGMENTATION_SPACE)
    for index, name in enumerate(OPS):
        magnitudes, signed = transform._AUGMENTATION_SPACE[NAMES[name]]
        expected = magnitudes(BINS, 40, 60)
        assert bool(SIGNED[index]) == signed
        if expected is not None:
            scale = 255 if name == "solarize" else 1
            expected = expected.trunc() if name.startswith("translate") else expected * scale
            assert torch.equal(table[index], expected.float())


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("policy", ["randaugment", "trivialaugment"])
@pytest.mark.parametrize("name", OPS)
def test_each_operation_of_a_policy_equals_torchvision(policy: str, name: str, sign: int) -> None:
    images, size, index = make_images(4), (48, 40), OPS.index(name)
    magnitudes = magnitude_table(policy, size)[index, [0, 9, 18, 30]] * (sign if SIGNED[index] else 1)
    ops = torch.full((4, 1), index)
    boxes, flips = torch.tensor([0, 0, *size]).expand(4, 4), torch.zeros(4, dtype=torch.bool)
    moves = Moves(boxes, flips, policy_inverses(ops, magnitudes.view(-1, 1), size))
    moved = move_pixels(images, moves, size, torch.full((3,), 9.0), one_by_one=True)
    results = apply_colors(moved, *policy_colors(ops, magnitudes.view(-1, 1)))
    for image, magnitude, result in zip(images, magnitudes.tolist(), results, strict=True):
        magnitude /= 255 if name == "solarize" else 1

        def expect(image: torch.Tensor, fill: float, magnitude: float = magnitude) -> torch.Tensor:
            arguments = (NAMES[name], magnitude, InterpolationMode.BILINEAR, {type(image): [fill] * 3})
            return v2.RandAugment()._apply_image_or_video_transform(image, *arguments).int()

        geometric = name.split("_")[0] in ("shear", "translate", "rotate")
        covered = expect(torch.full_like(image, 255), 0) == 255 if geometric else torch.ones_like(image) == 1
        if covered.any():
            assert (result.int() - expect(image, 9))[covered].abs().max() <= 1


@pytest.mark.parametrize("names", [("translate_x", "rotate"), ("translate_y", "shear_x")])
def test_the_geometry_of_two_steps_follows_their_order(names: tuple[str, str]) -> None:
    """Only the second step interpolates, so that torchvision's two resamplings are worth one."""
    image, size, magnitudes = make_images(2)[:1], (48, 40), torch.tensor([[8.0, 0.3]])
    magnitudes[0, 1] *= 100 if "rotate" in names else 1
    ops = torch.tensor([[OPS.index(name) for name in names]])
    boxes, flips = torch.tensor([[0, 0, *size]]), torch.zeros(1, dtype=torch.bool)
    moves = Moves(boxes, flips, policy_inverses(ops, magnitudes, size))
    result = move_pixels(image, moves, size, torch.full((3,), 9.0), one_by_one=True)

    def expect(image: torch.Tensor, fill: float) -> torch.Tensor:
        for name, magnitude in zip(names, magnitudes[0].tolist(), strict=True):
            arguments = (NAMES[name], magnitude, InterpolationMode.BILINEAR, {torch.Tensor: [fill] * 3})
            image = v2.RandAugment()._apply_image_or_video_transform(image, *arguments)
        return image.int()

    covered = expect(torch.full_like(image, 255), 0) == 255
    assert covered.float().mean() > 0.5 and (result.int() - expect(image, 9))[covered].abs().max() <= 1


def test_trivialaugment_reaches_every_operation_and_magnitude_equally() -> None:
    ops, magnitudes = draw_policy("trivialaugment", 28_000, 2, 9, (32, 32), generator_for("trivial"))
    assert ops.shape == (28_000, 1)
    assert torch.bincount(ops.flatten()).tolist() == pytest.approx([2000] * 14, rel=0.1)
    rotations = magnitudes[ops == OPS.index("rotate")]
    assert len(rotations.unique()) == 2 * BINS - 1
    assert (rotations < 0).float().mean().item() == pytest.approx(0.5 * 30 / 31, abs=0.04)


def test_randaugment_draws_its_operations_at_one_strength() -> None:
    ops, magnitudes = draw_policy("randaugment", 7000, 3, 9, (32, 32), generator_for("rand"))
    assert ops.shape == (7000, 3)
    for step in ops.unbind(1):
        assert torch.bincount(step).tolist() == pytest.approx([500] * 14, rel=0.16)
    assert magnitudes[ops == OPS.index("rotate")].abs().unique().tolist() == [9.0]
