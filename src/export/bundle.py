"""What every format is written from, and the images on which each is checked. Letters: n images, K classes."""

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from ..config.schema import TrainConfig
from ..data.images import Preprocessing
from ..model import VisionTransformer
from ..run.saved import SavedRun


@dataclass(frozen=True)
class Samples:
    """The images that every written file has to predict as the run does.

    pictures: uint8 (H,W,C), of any size each, as they are decoded, with the channels of the model; inputs: uint8
    (n,C,h,w), the same ones preprocessed; probabilities: float32 (n,K), what the run predicts, in float32; source: a
    few words for people, such as "64 test images"; logits: float32 (n,K), before the softmax, None if not known.
    """

    pictures: list[np.ndarray]
    inputs: Tensor
    probabilities: Tensor
    source: str
    logits: Tensor | None = None


@dataclass(frozen=True)
class Bundle:
    """A run that is exported.

    model: its best weights, in float32, on the CPU, in evaluation mode; web_runtime: the key of that name.
    """

    run: SavedRun
    config: TrainConfig
    model: VisionTransformer
    classes: list[str]
    preprocessing: Preprocessing
    samples: Samples
    web_runtime: str | None = None
