"""Parts of a batch, as micro-batches and several processes make them, are to the last bit those of one call."""

from typing import Any

import pytest
import torch
from torch import Tensor

from src.augment import chunks as chunks_module
from src.augment.mixing import Mixing
from src.augment.pipeline import Augmentation, Plan
from src.seeding import generator_for

BATCH = 11
PARTS = (slice(0, 3), slice(3, 7), slice(7, 11))
LABELS = torch.arange(BATCH) % 5
PARTS_ON: dict[str, Any] = {
    **{"horizontal_flip": 0.5, "rotation": 15.0, "translation": 0.1, "brightness": 0.4, "hue": 0.1, "sharpness": 0.2},
    **dict.fromkeys(("grey", "posterize", "solarize", "equalize", "autocontrast"), 0.2),
    **{"erasing": 0.5},
}
MIXING: dict[str, dict[str, Any]] = {
    "unmixed": {},
    "mixup": {"mixup": 0.8},
    "cutmix": {"cutmix": 1.0},
    "both": {"mixup": 0.8, "cutmix": 1.0, "mix_prob": 0.7, "mix_switch": 0.4},
}
CROPS: dict[str, dict[str, Any]] = {"pad": {"pad_crop": 0.2}, "resize": {"random_resized_crop": 0.2}}
POLICIES = ("randaugment", "trivialaugment")
RATIOS = torch.rand(BATCH, generator=generator_for("ratios")) + 0.5
every_mixing = pytest.mark.parametrize("mixing", MIXING)
every_crop = pytest.mark.parametrize("crop", CROPS)


def build(mixing: str = "both", crop: str = "pad", policy: str | None = "randaugment") -> Augmentation:
    look: dict[str, Any] = {"size": (16, 12), "mean": (0.5, 0.4, 0.3), "std": (0.25, 0.22, 0.21), "num_classes": 5}
    return Augmentation(**look, **PARTS_ON, **MIXING[mixing], **CROPS[crop], policy=policy)


def make_images(augmentation: Augmentation) -> Tensor:
    shape = (BATCH, 3, *augmentation.stored_size)
    return torch.randint(256, shape, generator=generator_for("pictures"), dtype=torch.uint8)


def draw(augmentation: Augmentation, ratios: Tensor | None = RATIOS) -> Plan:
    return augmentation.draw(BATCH, augmentation.stored_size, generator_for("draws"), ratios)


def call(augmentation: Augmentation) -> tuple[Tensor, Tensor]:
    return augmentation(make_images(augmentation), LABELS, generator_for("draws"), RATIOS)


def hold_mixing(partners: list[int], shares: list[float]) -> Plan:
    """Return a plan in which all is known but the mixing does not matter."""
    plan = draw(build("unmixed", policy=None))
    weights = torch.tensor(shares)
    plan.mixing = Mixing(torch.tensor(partners), weights, torch.zeros(BATCH, 4, dtype=torch.int64), weights)
    return plan


@every_mixing
@every_crop
@pytest.mark.parametrize("policy", POLICIES)
def test_parts_made_of_no_more_than_their_rows_are_those_of_one_call(mixing: str, crop: str, policy: str) -> None:
    augmentation = build(mixing, crop, policy)
    (whole, targets), images, plan = call(augmentation), make_images(augmentation), draw(augmentation)
    assert torch.equal(augmentation.targets(LABELS, plan), targets)
    for part in PARTS:
        loaded = images.index_select(0, plan.rows(part))
        assert torch.equal(augmentation.apply(loaded, plan.take(part)), whole[part])


@every_mixing
@every_crop
def test_micro_batches_of_levels_made_once_are_those_of_one_call(mixing: str, crop: str) -> None:
    augmentation = build(mixing, crop)
    (whole, _), images, plan = call(augmentation), make_images(augmentation), draw(augmentation)
    levels = augmentation.move_and_color(images, plan)
    assert levels.dtype == torch.uint8 and torch.equal(augmentation.finish(levels, plan), whole)
    assert torch.equal(torch.cat([augmentation.finish(levels, plan, part) for part in PARTS]), whole)


@every_mixing
def test_micro_batches_of_a_process_are_those_of_one_call(mixing: str) -> None:
    augmentation = build(mixing, "resize")
    (whole, _), images, plan = call(augmentation), make_images(augmentation), draw(augmentation)
    for first, last in ((0, 6), (6, 11)):
        part = slice(first, last)
        local = plan.take(part)
        levels = augmentation.move_and_color(images.index_select(0, plan.rows(part)), local)
        made = [augmentation.finish(levels, local, slice(i, i + 2)) for i in range(0, last - first, 2)]
        assert torch.equal(torch.cat(made), whole[part])


@every_mixing
@every_crop
def test_each_image_can_be_made_alone(mixing: str, crop: str) -> None:
    augmentation = build(mixing, crop)
    (whole, _), images, plan = call(augmentation), make_images(augmentation), draw(augmentation)
    for place in range(BATCH):
        part = slice(place, place + 1)
        rows = plan.rows(part)
        assert rows[0] == place and len(rows) <= 2
        assert torch.equal(augmentation.apply(images.index_select(0, rows), plan.take(part)), whole[part])


def test_chunks_in_threads_give_parts_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    augmentation = build("both", "resize")
    (whole, _), images, plan = call(augmentation), make_images(augmentation), draw(augmentation)
    monkeypatch.setattr(chunks_module, "CHUNK_BYTES", 2 * 18 * 14 * 3)
    part = slice(2, 10)
    local = plan.take(part)
    levels = augmentation.move_and_color(images.index_select(0, plan.rows(part)), local)
    assert torch.equal(augmentation.finish(levels, local, slice(1, 7)), whole[3:9])


def test_rows_are_the_part_and_then_each_partner_outside_of_it_once() -> None:
    #                        own: 3  4  5  6
    plan = hold_mixing([1, 2, 0, 9, 5, 4, 2, 8, 7, 3, 10], [0.5] * BATCH)
    assert plan.rows(slice(3, 7)).tolist() == [3, 4, 5, 6, 2, 9]
    assert plan.rows(slice(0, 3)).tolist() == [0, 1, 2]
    assert plan.rows(slice(None)).tolist() == list(range(BATCH))
    assert plan.rows(slice(5, 5)).tolist() == []


def test_partners_of_which_nothing_is_seen_are_not_needed() -> None:
    plan = hold_mixing([1, 2, 0, 9, 5, 4, 2, 8, 7, 3, 10], [0.5, 0.5, 0.5, 1.0, 1.0, 0.5, 0.5, 1.0, 1.0, 1.0, 1.0])
    assert plan.rows(slice(3, 7)).tolist() == [3, 4, 5, 6, 2]
    assert plan.mixing is not None
    plan.mixing.boxes[3] = torch.tensor([0, 0, 1, 1])
    assert plan.rows(slice(3, 7)).tolist() == [3, 4, 5, 6, 2, 9]


def test_partners_become_places_among_the_rows() -> None:
    plan = hold_mixing([1, 2, 0, 9, 5, 4, 2, 8, 7, 3, 10], [0.5] * BATCH).take(slice(3, 7))
    assert plan.mixing is not None and plan.mixing.partners.tolist() == [5, 2, 1, 4]
    assert (plan.num_finished, len(plan.ops), len(plan.erased), len(plan.moves.boxes)) == (4, 6, 6, 6)


def test_without_mixing_a_part_needs_itself_alone() -> None:
    plan = draw(build("unmixed"))
    assert plan.rows(slice(3, 7)).tolist() == [3, 4, 5, 6] and plan.take(slice(3, 7)).num_finished == 4


def test_mixing_that_is_left_out_leaves_the_other_draws() -> None:
    augmentation = build("both")
    with_mixing = draw(augmentation)
    plan = augmentation.draw(BATCH, (16, 12), generator_for("draws"), RATIOS, mix=False)
    assert plan.mixing is None and with_mixing.mixing is not None
    assert torch.equal(plan.erased, with_mixing.erased) and torch.equal(plan.strengths, with_mixing.strengths)


def test_ratios_of_the_whole_batch_shape_the_crops_of_its_parts() -> None:
    augmentation = build("unmixed", "resize")
    with_ratios, without = draw(augmentation), draw(augmentation, None)
    assert not torch.equal(with_ratios.moves.boxes, without.moves.boxes)
    assert torch.equal(with_ratios.take(slice(3, 7)).moves.boxes, with_ratios.moves.boxes[3:7])


def test_the_first_images_can_be_finished_alone() -> None:
    augmentation = build("both")
    first = augmentation.apply(make_images(augmentation), draw(augmentation), 4)
    assert len(first) == 4 and torch.equal(first, call(augmentation)[0][:4])


@every_mixing
def test_a_part_of_no_images_is_empty(mixing: str) -> None:
    augmentation = build(mixing)
    plan = draw(augmentation).take(slice(5, 5))
    assert augmentation.apply(make_images(augmentation)[:0], plan).shape == (0, 3, 16, 12)


def test_images_that_are_not_those_of_the_plan_are_refused() -> None:
    augmentation = build("both")
    with pytest.raises(AssertionError, match="4 images for a plan of 11"):
        augmentation.apply(make_images(augmentation)[3:7], draw(augmentation))


@every_mixing
def test_nothing_is_asked_back_from_the_device_for_a_part(mixing: str) -> None:
    """Tensors of the device `meta` hold no values: reading one, as for a decision, is an error."""
    augmentation = build(mixing, "resize")
    plan = draw(augmentation)
    local = plan.take(slice(3, 7))
    levels = augmentation.move_and_color(make_images(augmentation)[plan.rows(slice(3, 7))].to("meta"), local)
    assert augmentation.finish(levels, local, slice(1, 3)).device.type == "meta"
