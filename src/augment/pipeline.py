"""The augmentation of a batch from its draws to what the model sees."""

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

    Made for a whole batch, taken apart for those who hold only some of its images: what an image becomes depends on
    its place in the whole batch alone.
    """

    moves: Moves
    ops: Tensor
    strengths: Tensor
    erased: Tensor
    mixing: Mixing | None

    @property
    def num_finished(self) -> int:
        """Return how many images come out, the first of those that go in; the rest are only partners of them."""
        return len(self.ops if self.mixing is None else self.mixing.partners)

    def rows(self, part: slice) -> Tensor:
        """Return the places (n,) of the images that the part is made of: its own, then their partners elsewhere."""
        own = torch.arange(self.num_finished)[part]
        if self.mixing is None:
            return own
        partners = seen_partners(self.mixing, part)
        return torch.cat((own, partners[~torch.isin(partners, own)].unique()))

    def take(self, part: slice) -> "Plan":
        """Return the plan for the images at `rows(part)`, in that order, of which those of the part are finished."""
        rows = self.rows(part)
        return replace(self._select(rows), mixing=None if self.mixing is None else take_mixing(self.mixing, part, rows))

    def _select(self, rows: slice | Tensor) -> "Plan":
        """Return the plan of some images by themselves, unmixed."""
        moves = Moves(self.moves.boxes[rows], self.moves.flips[rows], self.moves.inverses[rows])
        return Plan(moves, self.ops[rows], self.strengths[rows], self.erased[rows], mixing=None)


@dataclass(kw_only=True)
class Augmentation:
    """Draw and apply the augmentations of `configs/augmentation/none.yaml`, where each key is explained.

    size: (H, W) of the result; mean, std: per channel, of pixels in [0,1]. What is not given is off.
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
        """The (h, w) to keep training pictures at: 8/7 of the result where crops are enlarged to it (256 for 224)."""
        if self.random_resized_crop == 0:
            return self.size
        return round(self.size[0] * 8 / 7), round(self.size[1] * 8 / 7)

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

        images: (B,C,h,w) uint8, fastest if stored channels-last; labels: (B,) int64; the others as for `draw`.
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
        """Draw for a batch of images of `stored` size (h, w), for all of it even where only a part is made.

        generator: on the CPU; ratios: (B,) width/height of the original pictures, on the CPU, which random-resized
        crops then follow; None: that of the stored ones; mix: whether mixup and cutmix are applied.
        """
        # Each part has a generator of its own: switching one leaves the others' draws.
        *shifts, flips = torch.rand(3, batch, generator=generator)
        crop, affine, color, policy, erase = (_spawn(generator) for _ in range(5))
        if self.random_resized_crop > 0:
            ratios = torch.full((batch,), stored[1] / stored[0]) if ratios is None else ratios
            boxes = draw_resized_crops(stored, self.size, ratios, self.random_resized_crop, self.crop_ratio, crop)
        else:
            assert stored == self.size, f"images of {stored} without random_resized_crop must be of {self.size}"
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

        images: (n,C,h,w) uint8, those that the plan is for.
        """
        return self.finish(self.move_and_color(images, plan), plan, slice(count))

    @one_core()
    def move_and_color(self, images: Tensor, plan: Plan) -> Tensor:
        """Return the levels (n,C,H,W) uint8, after geometry and color, of the images (n,C,h,w) uint8 of the plan."""
        assert len(images) == len(plan.ops), f"{len(images)} images for a plan of {len(plan.ops)}"
        chunks = self._split(images)
        if len(chunks) == 1:
            return self._make_levels(images, plan)
        levels = torch.empty((*images.shape[:2], *self.size), dtype=torch.uint8, device=images.device)
        run_chunks(lambda chunk: levels[chunk].copy_(self._make_levels(images[chunk], plan._select(chunk))), chunks)
        return levels

    @one_core()
    def finish(self, levels: Tensor, plan: Plan, part: slice = slice(None)) -> Tensor:
        """Return the images (m,C,H,W) float32 of a part of those that the plan finishes, mixed with their partners.

        levels: (n,C,H,W) uint8, of all images of the plan, as `move_and_color` returns them.
        """
        first, last, _ = part.indices(plan.num_finished)
        result = torch.empty_like(levels[first : max(first, last)], dtype=torch.float32)

        def work(chunk: slice) -> None:
            rows, images = slice(first + chunk.start, first + chunk.stop), result[chunk]
            self._normalize_and_erase(levels[rows], plan.erased[rows], images)
            if plan.mixing is not None:
                # Normalizing partners again is cheaper than a second batch of floats.
                others = plan.mixing.partners[rows]
                partners = levels.index_select(0, others.to(levels.device, non_blocking=True))
                partners = self._normalize_and_erase(partners, plan.erased[others], torch.empty_like(images))
                mix_images(images, partners, plan.mixing, rows)

        run_chunks(work, self._split(result))
        return result

    def targets(self, labels: Tensor, plan: Plan) -> Tensor:
        """Return the labels (B,) or, if mixed, targets (B,K) float32; both, as the plan, of the whole batch."""
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
        """Return the chunks in which images (n,C,H,W) are made: all at once where another device works on them."""
        if images.device.type != "cpu" and len(images):
            return [slice(0, len(images))]
        height, width = self.stored_size  # at least as large as the images that are made
        return split(len(images), images.shape[1] * height * width)

    def _make_levels(self, images: Tensor, plan: Plan) -> Tensor:
        fill = (torch.tensor(self.mean) * 255).round().to(images.device, non_blocking=True)
        moved = move_pixels(images, plan.moves, self.size, fill, one_by_one=images.device.type == "cpu")
        return apply_colors(moved, plan.ops, plan.strengths)

    def _normalize_and_erase(self, levels: Tensor, erased: Tensor, result: Tensor) -> Tensor:
        """Write the levels (n,C,H,W) uint8, normalized and with the boxes (n,4) erased, to the result, float32."""
        normalize(levels, self.mean, self.std, out=result)
        if erased.any():
            # Zero is the mean after normalization.
            result.mul_(~mask_boxes(erased.to(levels.device, non_blocking=True), self.size))
        return result


def _spawn(generator: torch.Generator) -> torch.Generator:
    """Return a generator seeded by the next number of `generator`."""
    return torch.Generator().manual_seed(int(torch.randint(2**62, (), generator=generator)))
