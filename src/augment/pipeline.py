"""The augmentation of a batch, from the random draws to the model's input."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .boxes import draw_erased, draw_resized_crops, draw_shifts, mask_boxes
from .chunks import one_core, run_chunks, split
from .color import apply_colors, draw_colors
from .geometry import Moves, inverse_affine, move_pixels
from .mixing import Mixing, draw_mixing, mix_images, mix_targets, seen_partners, take_mixing
from .normalize import normalize
from .policy import draw_policy, policy_colors, policy_inverses


@dataclass
class Plan:
    """What happens to each image of a batch: moves, color steps (B,S), boxes (B,4) to erase, mixing; on the CPU.

    It is drawn for a whole batch, then split over micro-batches and processes: the result for an image depends only
    on its position in the whole batch.
    """

    moves: Moves
    ops: Tensor
    strengths: Tensor
    erased: Tensor
    mixing: Mixing | None

    @property
    def num_finished(self) -> int:
        """Return how many images come out: the first of those that go in. The rest are only their partners."""
        return len(self.ops if self.mixing is None else self.mixing.partners)

    def rows(self, part: slice) -> Tensor:
        """Return the positions (n,) of the images that a part needs: its own, then their partners in other parts."""
        own = torch.arange(self.num_finished)[part]
        if self.mixing is None:
            return own
        partners = seen_partners(self.mixing, part)
        return torch.cat((own, partners[~torch.isin(partners, own)].unique()))

    def take(self, part: slice) -> "Plan":
        """Return the plan for the images at `rows(part)`, in that order; it finishes those of the part."""
        rows = self.rows(part)
        return replace(self._select(rows), mixing=None if self.mixing is None else take_mixing(self.mixing, part, rows))

    def _select(self, rows: slice | Tensor) -> "Plan":
        """Return the plan of some images, without mixing."""
        moves = Moves(self.moves.boxes[rows], self.moves.flips[rows], self.moves.inverses[rows])
        return Plan(moves, self.ops[rows], self.strengths[rows], self.erased[rows], mixing=None)


def stored_size(size: tuple[int, int], random_resized_crop: float) -> tuple[int, int]:
    """Return the (h, w) at which to store training images: 8/7 of the result if crops are resized (256 for 224)."""
    return size if random_resized_crop == 0 else (round(size[0] * 8 / 7), round(size[1] * 8 / 7))


@dataclass(kw_only=True)
class Augmentation:
    """Draw and apply the augmentations of `configs/augmentation/none.yaml`, which explains each key.

    size: (H, W) of the result; mean, std: per channel, for pixels in [0,1]. By default, everything is off.
    """

    size: tuple[int, int]
    mean: Sequence[float]
    std: Sequence[float]
    num_classes: int
    random_resized_crop: float = 0.0
    crop_ratio: Sequence[float] = (0.75, 1.3333)
    pad_crop: float = 0.0
    horizontal_flip: float = 0.0
    rotation: float = 0.0
    shear: float = 0.0
    translation: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    grey: float = 0.0
    posterize: float = 0.0
    posterize_bits: int = 4
    solarize: float = 0.0
    solarize_threshold: float = 128.0
    equalize: float = 0.0
    autocontrast: float = 0.0
    sharpness: float = 0.0
    sharpness_factor: float = 2.0
    policy: str | None = None
    num_ops: int = 2
    magnitude: int = 9
    erasing: float = 0.0
    erasing_area: Sequence[float] = (0.02, 0.33)
    mixup: float = 0.0
    cutmix: float = 0.0
    mix_prob: float = 1.0
    mix_switch: float = 0.5

    @property
    def stored_size(self) -> tuple[int, int]:
        return stored_size(self.size, self.random_resized_crop)

    @one_core()
    def __call__(
        self,
        images: Tensor,
        labels: Tensor,
        generator: torch.Generator,
        ratios: Tensor | None = None,
        mix: bool = True,
    ) -> tuple[Tensor, Tensor]:
        """Return images (B,C,H,W) float32, and the labels (B,) or, if mixed, targets (B,K) float32.

        images: (B,C,h,w) uint8, fastest if channels-last; labels: (B,) int64; the others as for `draw`.
        """
        plan = self.draw(len(images), (images.shape[2], images.shape[3]), generator, ratios, mix)
        return self.apply(images, plan), self.targets(labels, plan)

    def draw(
        self,
        batch: int,
        stored: tuple[int, int],
        generator: torch.Generator,
        ratios: Tensor | None = None,
        mix: bool = True,
    ) -> Plan:
        """Draw the plan of a whole batch of images of `stored` size (h, w), even if only a part of it will be made.

        generator: on the CPU; ratios: (B,) width/height of the original pictures for random-resized crops, on the CPU;
        None: that of the stored images; mix: whether to apply mixup and cutmix.
        """
        # Separate generators: turning one augmentation on or off does not change the draws of the others.
        *shifts, flips = torch.rand(3, batch, generator=generator)
        crop, affine, color, policy, erase = (_spawn(generator) for _ in range(5))
        if self.random_resized_crop > 0:
            ratios = torch.full((batch,), stored[1] / stored[0]) if ratios is None else ratios
            boxes = draw_resized_crops(stored, self.size, ratios, self.random_resized_crop, self.crop_ratio, crop)
        else:
            assert stored == self.size, f"without random_resized_crop, images must be {self.size}, not {stored}"
            boxes = draw_shifts(torch.stack(shifts), self.pad_crop, self.size)
        inverses = self._draw_affine(batch, affine)
        ops, strengths = self._draw_colors(batch, color)
        if self.policy is not None:
            steps = draw_policy(self.policy, batch, self.num_ops, self.magnitude, self.size, policy)
            inverses = inverses @ policy_inverses(*steps, self.size)
            policy_ops, policy_strengths = policy_colors(*steps)
            ops, strengths = torch.cat((ops, policy_ops), 1), torch.cat((strengths, policy_strengths), 1)
        erased = draw_erased(batch, self.size, self.erasing, self.erasing_area, erase)
        mixing = self._draw_mixing(batch, generator) if mix else None
        return Plan(Moves(boxes, flips < self.horizontal_flip, inverses), ops, strengths, erased, mixing)

    def apply(self, images: Tensor, plan: Plan, count: int | None = None) -> Tensor:
        """Return the first `count` images, by default all that the plan finishes, (count,C,H,W) float32.

        images: (n,C,h,w) uint8, all images of the plan.
        """
        return self.finish(self.move_and_color(images, plan), plan, slice(count))

    @one_core()
    def move_and_color(self, images: Tensor, plan: Plan) -> Tensor:
        """Apply geometry and color to the images (n,C,h,w) uint8 of the plan; return (n,C,H,W) uint8."""
        assert len(images) == len(plan.ops), f"{len(images)} images for a plan of {len(plan.ops)}"
        chunks = self._split(images)
        if len(chunks) == 1:
            return self._make_levels(images, plan)
        levels = torch.empty((*images.shape[:2], *self.size), dtype=torch.uint8, device=images.device)
        run_chunks(lambda chunk: levels[chunk].copy_(self._make_levels(images[chunk], plan._select(chunk))), chunks)
        return levels

    @one_core()
    def finish(self, levels: Tensor, plan: Plan, part: slice = slice(None)) -> Tensor:
        """Return a part of the images that the plan finishes, normalized and mixed, (m,C,H,W) float32.

        levels: (n,C,H,W) uint8, all images of the plan, as returned by `move_and_color`.
        """
        first, last, _ = part.indices(plan.num_finished)
        result = torch.empty_like(levels[first : max(first, last)], dtype=torch.float32)

        def work(chunk: slice) -> None:
            rows, images = slice(first + chunk.start, first + chunk.stop), result[chunk]
            self._normalize_and_erase(levels[rows], plan.erased[rows], images)
            if plan.mixing is not None:
                # Normalizing partners twice is cheaper than a second batch of floats.
                others = plan.mixing.partners[rows]
                partners = levels.index_select(0, others.to(levels.device, non_blocking=True))
                partners = self._normalize_and_erase(partners, plan.erased[others], torch.empty_like(images))
                mix_images(images, partners, plan.mixing, rows)

        run_chunks(work, self._split(result))
        return result

    def targets(self, labels: Tensor, plan: Plan) -> Tensor:
        """Return the labels (B,) or, if mixed, targets (B,K) float32, of the whole batch that the plan is for."""
        return labels if plan.mixing is None else mix_targets(labels, plan.mixing, self.num_classes)

    def _draw_mixing(self, batch: int, generator: torch.Generator) -> Mixing | None:
        if self.mix_prob == 0 or not (self.mixup or self.cutmix):
            return None
        strengths = (self.mixup, self.cutmix, self.mix_prob, self.mix_switch)
        return draw_mixing(batch, self.size, *strengths, _spawn(generator))

    def _draw_affine(self, batch: int, generator: torch.Generator) -> Tensor:
        """Return the matrices (B,3,3) that undo rotation, shear and a translation by whole pixels."""
        if not (self.rotation or self.shear or self.translation):
            return torch.eye(3, dtype=torch.float64).expand(batch, 3, 3)
        angle, shear, *shifts = 2 * torch.rand(4, batch, generator=generator, dtype=torch.float64) - 1
        down, right = ((shift * self.translation * side).round() for shift, side in zip(shifts, self.size, strict=True))
        tangent = (shear * self.shear).deg2rad().tan()
        return inverse_affine(angle * self.rotation, tangent, torch.zeros(batch), right, down, pivot=(0, 0))

    def _draw_colors(self, batch: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        jitter = {name: getattr(self, name) for name in ("brightness", "contrast", "saturation", "hue")}
        chances = {
            "grey": (self.grey, 0.0),
            "posterize": (self.posterize, self.posterize_bits),
            "solarize": (self.solarize, self.solarize_threshold),
            "equalize": (self.equalize, 0.0),
            "autocontrast": (self.autocontrast, 0.0),
            "sharpness": (self.sharpness, self.sharpness_factor),
        }
        return draw_colors(batch, jitter, chances, generator)

    def _split(self, images: Tensor) -> list[slice]:
        """Return the chunks in which to make images (n,C,H,W): all at once unless they are on the CPU."""
        if images.device.type != "cpu" and len(images):
            return [slice(0, len(images))]
        height, width = self.stored_size  # at least the size of the result
        return split(len(images), images.shape[1] * height * width)

    def _make_levels(self, images: Tensor, plan: Plan) -> Tensor:
        fill = (torch.tensor(self.mean) * 255).round().to(images.device, non_blocking=True)
        moved = move_pixels(images, plan.moves, self.size, fill, one_by_one=images.device.type == "cpu")
        return apply_colors(moved, plan.ops, plan.strengths)

    def _normalize_and_erase(self, levels: Tensor, erased: Tensor, result: Tensor) -> Tensor:
        """Write the levels (n,C,H,W) uint8 to the result, float32, normalized and with the boxes (n,4) erased."""
        normalize(levels, self.mean, self.std, out=result)
        if erased.any():
            # After normalization, zero is the mean.
            result.mul_(~mask_boxes(erased.to(levels.device, non_blocking=True), self.size))
        return result


def _spawn(generator: torch.Generator) -> torch.Generator:
    """Return a generator seeded with the next number of `generator`."""
    return torch.Generator().manual_seed(int(torch.randint(2**62, (), generator=generator)))
