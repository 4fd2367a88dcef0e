"""What the files of other programs give before the softmax. Letters: n images, K classes."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

from ..augment.normalize import normalize
from ..machine.disk import read_json
from . import hf_folder, timm_folder
from .bundle import Bundle
from .color import feed
from .parity import predict_parts


def predict_timm_logits(bundle: Bundle, folder: Path) -> Tensor:
    """Return logits (n,K) of timm, or, where it is not installed, of our model from the same files."""
    described = read_json(folder / timm_folder.CONFIG)["pretrained_cfg"]
    model = timm_folder.open_with_timm(folder) if find_spec("timm") else timm_folder.read_back(folder)
    return _predict(model, bundle, described["mean"], described["std"])


def predict_hf_logits(bundle: Bundle, folder: Path) -> Tensor:
    """Return logits (n,K) of transformers, or, where it is not installed, of our model from the same files."""
    described = read_json(folder / hf_folder.FOLDER / hf_folder.PROCESSOR)
    installed = find_spec("transformers") is not None
    model = hf_folder.open_with_transformers(folder) if installed else hf_folder.read_back(folder)
    return _predict(model, bundle, described["image_mean"], described["image_std"])


def _predict(model: torch.nn.Module, bundle: Bundle, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    def predict(images: Tensor) -> Tensor:
        outputs = model(normalize(feed(images), mean, std))
        return outputs if isinstance(outputs, Tensor) else outputs.logits

    return predict_parts(predict, bundle.samples.inputs)
