"""The augmentation of a batch from its draws to what the model sees."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .boxes import draw_erased, draw_resized_crops, draw_shifts, mask_boxes
from .chunks import one_core, run_chunks, split
from .color import apply_colors, draw_colors
from .geometry import Moves, inverse_affine, move_pixels
from .mixing import draw_mixing, mix_images, mix_targets
from .normalize import normalize
from .policy import draw_policy, policy_colors, policy_inverses


@dataclass
class Plan:
    """What happens to each image before it is mixed: moves, color steps (B,S) and boxes (B,4) to erase; on the CPU."""

    moves: Moves
    ops: Tensor
    strengths: Tensor
    erased: Tensor

    def part(self, part: slice) -> "Plan":
        moves = Moves(self.moves.boxes[part], self.moves.flips[part], self.moves.inverses[part])
        return Plan(moves, self.ops[part], self.strengths[part], self.erased[part])


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

        images: (B,C,h,w) uint8, fastest if stored channels-last; labels: (B,) int64; generator: on the CPU;
        ratios: (B,) width/height of the original pictures, on the CPU, which random-resized crops then follow; None:
        that of the stored ones; mix: whether mixup and cutmix are applied.
        """
        batch, channels, *stored = images.shape
        plan = self._draw(batch, (stored[0], stored[1]), ratios, generator)
        on_cpu = images.device.type == "cpu"
        image_bytes = channels * max(stored[0] * stored[1], self.size[0] * self.size[1])
        chunks = split(batch, image_bytes) if on_cpu else [slice(0, batch)]
        levels = torch.empty((batch, channels, *self.size), dtype=torch.uint8, device=images.device)

        def move_and_color(part: slice) -> None:
            levels[part] = self._apply(images[part], plan.part(part), one_by_one=on_cpu)

        run_chunks(move_and_color, chunks)
        result = torch.empty_like(levels, dtype=torch.float32)
        if not mix or self.mix_prob == 0 or not (self.mixup or self.cutmix):
            run_chunks(lambda part: self._finish(levels[part], plan.erased[part], result[part]), chunks)
            return result, labels
        strengths = (self.mixup, self.cutmix, self.mix_prob, self.mix_switch)
        mixing = draw_mixing(batch, self.size, *strengths, _spawn(generator))

        def finish_and_mix(part: slice) -> None:
            self._finish(levels[part], plan.erased[part], result[part])
            # Normalizing partners again is cheaper than a second batch of floats.
            others = mixing.partners[part]
            partners = levels.index_select(0, others.to(levels.device, non_blocking=True))
            partners = self._finish(partners, plan.erased[others], torch.empty_like(result[part]))
            mix_images(result[part], partners, mixing, part)

        run_chunks(finish_and_mix, chunks)
        return result, mix_targets(labels, mixing, self.num_classes)

    def _draw(self, batch: int, stored: tuple[int, int], ratios: Tensor | None, generator: torch.Generator) -> Plan:
        """Draw everything but the mixing, each part from its own generator: switching one leaves the others' draws."""
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
        return Plan(Moves(boxes, flips < self.horizontal_flip, inverses), ops, strengths, erased)

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

    def _apply(self, images: Tensor, plan: Plan, one_by_one: bool) -> Tensor:
        """Return the levels (n,C,H,W) uint8 of the images (n,C,h,w) after geometry and color."""
        fill = (torch.tensor(self.mean) * 255).round().to(images.device, non_blocking=True)
        return apply_colors(move_pixels(images, plan.moves, self.size, fill, one_by_one), plan.ops, plan.strengths)

    def _finish(self, levels: Tensor, erased: Tensor, result: Tensor) -> Tensor:
        """Write the levels (n,C,H,W) uint8, normalized and with the boxes (n,4) erased, to the result, float32."""
        normalize(levels, self.mean, self.std, out=result)
        if erased.any():
            # Zero is the mean after normalization.
            result.mul_(~mask_boxes(erased.to(levels.device, non_blocking=True), self.size))
        return result


def _spawn(generator: torch.Generator) -> torch.Generator:
    """Return a generator seeded by the next number of `generator`."""
    return torch.Generator().manual_seed(int(torch.randint(2**62, (), generator=generator)))
