"""Rectangles to erase and to mix, mixup and cutmix: shares of labels are exactly those of the pixels."""

import pytest
import torch

from src.augment.boxes import draw_cuts, draw_erased, mask_boxes
from src.augment.mixing import Mixing, draw_mixing, mix_images, mix_targets
from src.seeding import generator_for

SIZE = (12, 10)


def make_batch(batch: int) -> torch.Tensor:
    """Return images (B,1,H,W) that hold their own place in the batch in every pixel."""
    return torch.arange(batch).view(-1, 1, 1, 1).expand(batch, 1, *SIZE).float()


def draw(batch: int, mixup: float, cutmix: float, probability: float = 1.0, switch: float = 0.5) -> Mixing:
    return draw_mixing(batch, SIZE, mixup, cutmix, probability, switch, generator_for("mix"))


def mix(images: torch.Tensor, mixing: Mixing) -> torch.Tensor:
    mixed = images.clone()
    mix_images(mixed, images[mixing.partners], mixing, slice(None))
    return mixed


def test_a_mask_holds_its_box_and_nothing_else() -> None:
    masks = mask_boxes(torch.tensor([[2, 3, 4, 5], [0, 0, 0, 0], [0, 0, *SIZE]]), SIZE)
    expected = torch.zeros(SIZE, dtype=torch.bool)
    expected[2:6, 3:8] = True
    assert torch.equal(masks[0, 0], expected) and not masks[1].any() and masks[2].all()


def test_cutmix_replaces_a_box_and_the_label_keeps_the_share_of_the_other_pixels() -> None:
    images = make_batch(64)
    mixing = draw(64, 0.0, 1.0)
    mixed = mix(images, mixing)
    partners = mixing.partners.view(-1, 1, 1, 1).float()
    assert ((mixed == images) | (mixed == partners)).all()
    other = mixing.partners != torch.arange(64)
    kept = (mixed == images).float().mean((1, 2, 3))
    assert torch.allclose(mixing.shares[other], kept[other], atol=1e-6)
    assert torch.equal((mixed == partners)[other], mask_boxes(mixing.boxes, SIZE)[other])


def test_mixup_blends_images_in_the_share_of_their_labels() -> None:
    images = make_batch(64)
    mixing = draw(64, 0.8, 0.0)
    share = mixing.shares.view(-1, 1, 1, 1)
    assert torch.allclose(mix(images, mixing), share * images + (1 - share) * images[mixing.partners], atol=1e-4)
    assert len(mixing.shares.unique()) == 64


def test_targets_hold_both_labels_and_sum_to_one() -> None:
    labels = torch.randint(5, (64,), generator=generator_for("labels"))
    mixing = draw(64, 0.8, 1.0)
    targets = mix_targets(labels, mixing, 5)
    own, partner = (torch.nn.functional.one_hot(index, 5) for index in (labels, labels[mixing.partners]))
    share = mixing.shares.unsqueeze(1)
    assert torch.allclose(targets, own * share + partner * (1 - share))
    assert torch.allclose(targets.sum(1), torch.ones(64))


@pytest.mark.parametrize(("probability", "switch"), [(1.0, 0.5), (0.3, 0.2), (0.0, 0.5)])
def test_images_are_mixed_and_cut_as_often_as_asked(probability: float, switch: float) -> None:
    mixing = draw(8000, 0.8, 1.0, probability, switch)
    blended = mixing.weights < 1
    cut = mixing.boxes.any(1)
    assert not (blended & cut).any()
    assert blended.float().mean().item() == pytest.approx(probability * (1 - switch), abs=0.02)
    # A few boxes are too small to hold a pixel.
    assert probability * switch - 0.05 < cut.float().mean().item() < probability * switch + 0.02


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_weights_follow_the_beta_distribution(alpha: float) -> None:
    weights = draw(8000, alpha, 0.0).weights
    assert weights.mean().item() == pytest.approx(0.5, abs=0.02)
    assert weights.var().item() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.06)


def test_an_image_that_is_not_mixed_stays_to_the_last_bit() -> None:
    images = torch.randn(200, 3, *SIZE, generator=generator_for("pictures"))
    mixing = draw(200, 0.8, 1.0, probability=0.5)
    whole = mixing.shares == 1
    assert torch.equal(mix(images, mixing)[whole], images[whole]) and 80 < whole.sum() < 130


def test_partners_are_a_permutation_and_the_global_generator_is_left_alone() -> None:
    state = torch.get_rng_state()
    assert sorted(draw(50, 0.8, 1.0).partners.tolist()) == list(range(50))
    assert torch.equal(torch.get_rng_state(), state)


def test_switching_mixup_off_leaves_the_boxes_of_cutmix() -> None:
    both, alone = draw(50, 0.8, 1.0, switch=1.0), draw(50, 0.0, 1.0)
    assert torch.equal(both.boxes, alone.boxes) and torch.equal(both.partners, alone.partners)


def test_cut_boxes_have_their_share_where_the_border_cuts_nothing_off() -> None:
    shares = torch.full((500,), 0.25)
    boxes = draw_cuts(shares, (40, 60), generator_for("cuts"))
    assert (boxes[:, 2].max(), boxes[:, 3].max()) == (20, 30)
    assert ((boxes[:, :2] >= 0) & (boxes[:, :2] + boxes[:, 2:] <= torch.tensor([40, 60]))).all()


def test_erased_boxes_have_the_asked_frequency_areas_and_lie_inside() -> None:
    boxes = draw_erased(8000, (60, 80), 0.25, (0.1, 0.2), generator_for("erase"))
    chosen = boxes[boxes.any(1)]
    assert len(chosen) / 8000 == pytest.approx(0.25, abs=0.015)
    area = chosen[:, 2] * chosen[:, 3] / (60 * 80)
    assert area.min() > 0.09 and area.max() < 0.21 and area.mean().item() == pytest.approx(0.15, abs=0.003)
    assert ((chosen[:, :2] >= 0) & (chosen[:, :2] + chosen[:, 2:] <= torch.tensor([60, 80]))).all()


def test_an_area_that_fits_nowhere_erases_nothing() -> None:
    assert not draw_erased(50, (8, 8), 1.0, (1.0, 1.0), generator_for("erase")).any()
