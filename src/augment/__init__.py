"""Augmentation of whole batches on the device, each image with its own draw.

Letters: B batch, n images of a group or a chunk, C channels, h w stored pixels, H W pixels of the result, S steps,
K classes. Images come as uint8 (B,C,h,w) and leave as float32 (B,C,H,W), normalised. The way of a batch:

    draw (CPU)  →  geometry, one resampling  →  color, uint8  →  normalize  →  erase  →  mix

The draws are a `Plan` of the whole batch; who holds only a part of the images takes that part of the plan.
"""

from .normalize import normalize
from .pipeline import Augmentation, Plan

__all__ = ["Augmentation", "Plan", "normalize"]
