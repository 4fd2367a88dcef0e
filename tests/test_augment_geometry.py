"""Moves of pixels: the same as torchvision's image by image, all of an image's moves in one resampling."""

import pytest
import torch
import torch.nn.functional as F
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as TV

from src.augment.boxes import draw_resized_crops, draw_shifts
from src.augment.geometry import Moves, inverse_affine, move_pixels
from src.seeding import generator_for

BILINEAR = InterpolationMode.BILINEAR
FILL = torch.tensor([10.0, 100.0, 200.0])


def make_images(batch: int = 5, channels: int = 3, size: tuple[int, int] = (9, 7)) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (batch, channels, *size), generator=generator, dtype=torch.uint8)


def make_smooth_images(batch: int, size: tuple[int, int]) -> torch.Tensor:
    """Return images (B,3,H,W) whose levels change slowly, so that two ways to interpolate agree."""
    coarse = make_images(batch, 3, (3, 3)).float()
    return F.interpolate(coarse, size=size, mode="bicubic").clamp(0, 255).round().to(torch.uint8)


def still(batch: int, size: tuple[int, int]) -> Moves:
    """Return the moves that leave images of `size` as they are."""
    boxes = torch.tensor([0, 0, *size]).expand(batch, 4)
    return Moves(boxes, torch.zeros(batch, dtype=torch.bool), torch.eye(3, dtype=torch.float64).expand(batch, 3, 3))


def undo(angle: float = 0, shear_x: float = 0, shift_x: float = 0, shift_y: float = 0) -> torch.Tensor:
    values = (torch.tensor([value]) for value in (angle, shear_x, 0.0, shift_x, shift_y))
    return inverse_affine(*values, pivot=(0, 0))


def move(images: torch.Tensor, moves: Moves, size: tuple[int, int], one_by_one: bool = True) -> torch.Tensor:
    return move_pixels(images, moves, size, FILL[: images.shape[1]], one_by_one)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("one_by_one", [True, False])
def test_padding_and_cropping_equals_torchvision_image_by_image(channels: int, one_by_one: bool) -> None:
    images, moves = make_images(channels=channels), still(5, (9, 7))
    rows, columns = torch.tensor([0, 6, 3, 1, 5]), torch.tensor([4, 0, 2, 3, 1])
    moves.boxes = torch.stack((rows - 3, columns - 2, torch.full((5,), 9), torch.full((5,), 7)), 1)
    moved = move(images, moves, (9, 7), one_by_one)
    for image, row, column, result in zip(images, rows.tolist(), columns.tolist(), moved, strict=True):
        padded = TV.pad(image, [2, 3], padding_mode="reflect")
        assert torch.equal(result, TV.crop(padded, row, column, 9, 7))


def test_a_flip_equals_torchvision_where_chosen_and_leaves_the_rest() -> None:
    images, moves = make_images(batch=2), still(2, (9, 7))
    moves.flips = torch.tensor([True, False])
    flipped = move(images, moves, (9, 7))
    assert torch.equal(flipped[0], TV.horizontal_flip(images[0])) and torch.equal(flipped[1], images[1])


@pytest.mark.parametrize("flip", [False, True])
def test_whole_pixel_shifts_equal_torchvision_exactly_and_fill_what_comes_in(flip: bool) -> None:
    image = make_images(1)
    for shift_x, shift_y in ((0, 0), (3, -2), (-7, 1), (20, 20)):
        moves = still(1, (9, 7))
        moves.inverses, moves.flips = undo(shift_x=shift_x, shift_y=shift_y), torch.tensor([flip])
        source = TV.horizontal_flip(image) if flip else image
        expected = TV.affine(source, 0.0, [shift_x, shift_y], 1.0, [0.0], fill=FILL.tolist())
        assert torch.equal(move(image, moves, (9, 7)), expected)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize(
    "parameters", [(17.0, 0.0, 0, 0), (0.0, 12.0, 0, 0), (-40.0, 0.0, 3, -2), (130.0, -8.0, -2, 4)]
)
def test_affine_moves_equal_torchvision_to_one_level(parameters: tuple[float, float, int, int], flip: bool) -> None:
    angle, shear, shift_x, shift_y = parameters
    image, moves = make_images(1, size=(24, 18)), still(1, (24, 18))
    tangent = float(torch.tensor(shear).deg2rad().tan())
    # torchvision's affine turns clockwise, its rotate and we counter-clockwise.
    moves.inverses, moves.flips = undo(-angle, tangent, shift_x, shift_y), torch.tensor([flip])
    source = TV.horizontal_flip(image) if flip else image
    result = move(image, moves, (24, 18)).int()

    def expect(images: torch.Tensor, fill: list[float]) -> torch.Tensor:
        return TV.affine(images, angle, [shift_x, shift_y], 1.0, [shear, 0.0], BILINEAR, fill).int()

    covered = expect(torch.full_like(source, 255), [0.0])  # torchvision blends the edge with the fill color
    assert (covered == 255).float().mean() > 0.4
    difference = (result - expect(source, FILL.tolist()))[covered == 255].float()
    assert difference.abs().max() <= 1 and difference.mean().abs() < 0.02  # rounded, not cut off
    assert (result == FILL.view(1, 3, 1, 1))[covered == 0].all() and (covered == 0).any()


def test_shifts_and_rotations_of_one_image_are_one_interpolation() -> None:
    """Two rotations that cancel leave the image as it was; interpolated twice it would be blurred."""
    image, moves = make_images(1), still(1, (9, 7))
    moves.inverses = undo(30.0) @ undo(-30.0)
    assert torch.equal(move(image, moves, (9, 7)), image)


@pytest.mark.parametrize("stored", [(20, 24), (10, 8), (40, 30)])
def test_resized_crops_equal_torchvision_image_by_image(stored: tuple[int, int]) -> None:
    images, size = make_images(8, size=stored).contiguous(memory_format=torch.channels_last), (14, 16)
    moves = still(8, size)
    moves.boxes = draw_resized_crops(stored, (1, 1), torch.ones(8), 0.2, (0.5, 2.0), generator_for("crops"))
    moves.flips = torch.arange(8) % 2 == 1
    moved = move(images, moves, size)
    for image, box, flip, result in zip(images, moves.boxes.tolist(), moves.flips, moved, strict=True):
        expected = TV.resized_crop(image, *box, list(size), BILINEAR, antialias=True)
        assert torch.equal(result, TV.horizontal_flip(expected) if flip else expected)


@pytest.mark.parametrize("shift", [(0, 0), (3, -2), (-9, 31), (40, 0)])
def test_the_whole_batch_path_agrees_with_the_one_by_one_path_up_to_interpolation(shift: tuple[int, int]) -> None:
    images, size = make_smooth_images(16, (36, 36)), (32, 32)
    moves = still(16, size)
    moves.inverses = undo(shift_x=shift[0], shift_y=shift[1]).expand(16, 3, 3)
    moves.boxes = draw_resized_crops((36, 36), size, torch.ones(16), 0.5, (0.8, 1.25), generator_for("crops"))
    moves.flips = torch.arange(16) % 2 == 1
    one_by_one, at_once = (move(images, moves, size, way).int() for way in (True, False))
    difference = (one_by_one - at_once)[:, :, 1:-1, 1:-1].abs().float()
    assert difference.max() <= 4 and difference.mean() < 0.5


def test_a_padded_crop_is_rotated_with_its_reflection() -> None:
    """A shift by a reflected padding and a rotation in one: the same as torchvision's two steps on a smooth image."""
    image, moves = make_smooth_images(1, (32, 32)), still(1, (32, 32))
    moves.boxes, moves.inverses = torch.tensor([[-4, 3, 32, 32]]), undo(20.0)
    padded = TV.crop(TV.pad(image, [4], padding_mode="reflect"), 0, 7, 32, 32)
    expected = TV.rotate(padded, 20.0, BILINEAR, fill=FILL.tolist()).int()
    covered = TV.rotate(torch.full_like(padded, 255), 20.0, BILINEAR, fill=[0.0])
    assert (move(image, moves, (32, 32)).int() - expected)[covered == 255].abs().max() <= 1


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_any_number_of_channels_moves_like_each_channel_alone(channels: int) -> None:
    images, moves = make_images(3, channels, (12, 12)), still(3, (12, 12))
    moves.inverses = torch.cat((undo(25.0), undo(shift_x=2), undo()))
    fill = torch.full((channels,), 7.0)
    together = move_pixels(images, moves, (12, 12), fill, one_by_one=True)
    for channel in range(channels):
        alone = move_pixels(images[:, [channel]], moves, (12, 12), fill[:1], one_by_one=True)
        assert torch.equal(together[:, [channel]], alone)


def test_in_a_batch_of_all_kinds_of_moves_each_image_is_moved_as_if_alone() -> None:
    images, moves = make_images(6, size=(12, 12)), still(6, (12, 12))
    moves.inverses = torch.cat((undo(25.0), undo(), undo(shift_x=2), undo(), undo(-50.0), undo()))
    moves.boxes = torch.tensor([[0, 0, 12, 12]] * 6)
    moves.boxes[[1, 3]] = torch.tensor([[2, 1, 7, 9], [3, 3, 5, 8]])
    together = move(images, moves, (12, 12))
    for i in range(6):
        alone = Moves(moves.boxes[[i]], moves.flips[[i]], moves.inverses[[i]])
        assert torch.equal(together[[i]], move(images[[i]], alone, (12, 12)))


def test_the_layout_in_memory_does_not_matter() -> None:
    planar, moves = make_images(3, size=(12, 12)), still(3, (12, 12))
    moves.inverses = torch.cat((undo(25.0), undo(shift_x=2), undo()))
    moves.boxes = torch.tensor([[0, 0, 12, 12], [0, 0, 12, 12], [2, 1, 7, 9]])
    interleaved = planar.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    assert torch.equal(move(planar, moves, (12, 12)), move(interleaved, moves, (12, 12)))


def test_crops_have_the_asked_area_and_ratio_of_the_original_picture() -> None:
    ratios = torch.tensor([0.5, 1.0, 1.5]).repeat(2000)
    stored = (300, 400)  # each picture was squeezed into this
    top, left, height, width = draw_resized_crops(
        stored, (1, 1), ratios, 0.25, (0.75, 4 / 3), generator_for("a")
    ).unbind(1)
    assert ((top >= 0) & (left >= 0) & (top + height <= 300) & (left + width <= 400)).all()
    area = height * width / (300 * 400)
    assert area.min() > 0.245 and area.max() > 0.9 and area[ratios == 1].mean().item() == pytest.approx(0.59, abs=0.04)
    ratio = (width / 400 * ratios) / (height / 300)
    assert ratio.min() > 0.74 and ratio.max() < 1.35 and ratio.log().mean().item() == pytest.approx(0, abs=0.05)


@pytest.mark.parametrize(
    ("ratio", "box"), [(8.0, [0, 41, 100, 17]), (0.125, [41, 0, 17, 100]), (1.0, [0, 0, 100, 100])]
)
def test_a_picture_that_no_crop_fits_is_cut_in_its_middle(ratio: float, box: list[int]) -> None:
    boxes = draw_resized_crops((100, 100), (1, 1), torch.tensor([ratio]), 1.0, (0.75, 4 / 3), generator_for("middle"))
    assert boxes[0].tolist() == box


def test_crops_reach_every_place_equally() -> None:
    boxes = draw_resized_crops((10, 10), (10, 10), torch.ones(20_000), 0.25, (1.0, 1.0), generator_for("places"))
    for place, side in ((0, 2), (1, 3)):
        counts = torch.bincount(boxes[boxes[:, side] == 7, place])
        assert counts.tolist() == pytest.approx([counts.float().mean().item()] * 4, rel=0.12)


def test_shifts_reach_every_offset_equally() -> None:
    boxes = draw_shifts(torch.rand(2, 5000, generator=generator_for("shifts")), 0.25, (8, 4))
    for offsets, largest in ((boxes[:, 0], 2), (boxes[:, 1], 1)):
        counts = torch.bincount(offsets + largest, minlength=2 * largest + 1)
        assert counts.tolist() == pytest.approx([5000 / (2 * largest + 1)] * (2 * largest + 1), rel=0.12)
