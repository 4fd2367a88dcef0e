"""Augmentation: pixels move where they should, each image on its own, and strength zero is the identity."""

import pytest
import torch
import torch.nn.functional as F
from torchvision.transforms.v2.functional import crop, horizontal_flip

from src.augment import Augmentation, flip_horizontally, normalize, pad_and_crop
from src.seeding import generator_for


def make_images(batch: int = 5, channels: int = 3, size: tuple[int, int] = (9, 7)) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (batch, channels, *size), generator=generator, dtype=torch.uint8)


def test_pad_and_crop_equals_torchvision_image_by_image() -> None:
    images, padding = make_images(), (3, 2)
    rows, columns = torch.tensor([0, 6, 3, 1, 5]), torch.tensor([4, 0, 2, 3, 1])
    cropped = pad_and_crop(images, rows, columns, padding)
    for image, row, column, result in zip(images, rows.tolist(), columns.tolist(), cropped, strict=True):
        padded = F.pad(image[None].float(), (2, 2, 3, 3), mode="reflect")[0].byte()
        assert torch.equal(result, crop(padded, row, column, 9, 7))


def test_flip_equals_torchvision_where_chosen_and_leaves_the_rest() -> None:
    images = make_images(batch=2)
    flipped = flip_horizontally(images, torch.tensor([True, False]))
    assert torch.equal(flipped[0], horizontal_flip(images[0])) and torch.equal(flipped[1], images[1])


def test_normalize_gives_the_channels_zero_mean_and_unit_deviation() -> None:
    images = make_images(batch=64)
    pixels = images.double() / 255
    mean, std = pixels.mean((0, 2, 3)).tolist(), pixels.std((0, 2, 3), correction=0).tolist()
    result = normalize(images, mean, std).double()
    assert torch.allclose(result.mean((0, 2, 3)), torch.zeros(3).double(), atol=1e-6)
    assert torch.allclose(result.std((0, 2, 3), correction=0), torch.ones(3).double(), atol=1e-6)


def test_strength_zero_is_the_identity_up_to_normalisation() -> None:
    images = make_images()
    augmentation = Augmentation(0.0, 0.0, (0.5,) * 3, (0.25,) * 3)
    result = augmentation(images, generator_for("a"))
    assert torch.equal(result, normalize(images, (0.5,) * 3, (0.25,) * 3))


def test_each_image_draws_for_itself_and_the_draws_follow_the_key() -> None:
    images = make_images(1, size=(16, 16)).expand(64, -1, -1, -1)
    augmentation = Augmentation(0.25, 0.5, (0.0,) * 3, (1.0,) * 3)
    first, again = augmentation(images, generator_for(0, 1)), augmentation(images, generator_for(0, 1))
    other = augmentation(images, generator_for(0, 2))
    assert len({tuple(image.flatten().tolist()) for image in first}) > 40
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_a_padding_larger_than_the_image_is_cut_to_what_can_be_reflected() -> None:
    images = make_images(size=(8, 1))
    result = Augmentation(0.95, 0.0, (0.0,) * 3, (1.0,) * 3)(images, generator_for("large"))
    assert result.shape == images.shape


@pytest.mark.parametrize("share", [0.1, 0.9])
def test_flips_happen_as_often_as_asked(share: float) -> None:
    images = torch.zeros(4000, 1, 1, 2, dtype=torch.uint8)
    images[..., 0] = 255
    result = Augmentation(0.0, share, (0.0,), (1.0,))(images, generator_for("flips"))
    assert result[:, 0, 0, 1].mean().item() == pytest.approx(share, abs=0.03)


def test_shifts_reach_every_offset_equally() -> None:
    images = torch.arange(8, dtype=torch.uint8).view(1, 1, 1, 8).expand(4000, 1, 8, 8)
    result = Augmentation(0.25, 0.0, (0.0,), (1 / 255,))(images, generator_for("shifts"))
    offsets = torch.bincount(result[:, 0, 0, 4].round().long() - 2, minlength=5)
    assert offsets.tolist() == pytest.approx([800] * 5, abs=120)
