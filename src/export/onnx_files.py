"""ONNX files: model.onnx takes a picture as it is, model_batch.onnx a batch of normalized images.

Letters: B batch, H W pixels of a picture, h w of the model's input, C channels, n images, K classes.
"""

import functools
import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from ..augment.normalize import normalize
from ..data.images import Preprocessing
from ..machine.disk import write_bytes
from ..machine.memory import format_bytes
from ..model import VisionTransformer
from .bundle import Bundle
from .color import count_channels
from .parity import predict_parts
from .resampling import PicturePreprocessing

if TYPE_CHECKING:
    from onnx import ModelProto
    from onnxruntime import InferenceSession

PICTURE, BATCH = "model.onnx", "model_batch.onnx"
PACKAGES = ("onnx", "onnxscript", "onnxruntime")
LARGEST = 2**31 - 2**24  # bytes of weights: a protobuf holds 2 GB, and the graph needs some of it
EXAMPLE = (37, 53)  # height and width of the picture that is traced; the file takes any


class PictureClassifier(nn.Module):
    """A model with everything before and behind it: picture, uint8 (H,W,3) -> probabilities (K,)."""

    def __init__(self, model: VisionTransformer, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.preprocess, self.model = PicturePreprocessing(preprocessing), model

    def forward(self, picture: Tensor) -> Tensor:
        return self.model(self.preprocess(picture)).softmax(1)[0]


def explain_onnx(bundle: Bundle) -> str:
    size = 4 * sum(parameter.numel() for parameter in bundle.model.parameters())
    return "" if size <= LARGEST else f"an ONNX file holds 2 GB, and the weights have {format_bytes(size)}"


def write_onnx(bundle: Bundle, folder: Path) -> list[str]:
    """Write the model for single pictures, and the one for batches."""
    write_bytes(folder / PICTURE, describe(build_picture_model(bundle.model, bundle.preprocessing), bundle))
    batch = torch.zeros(2, bundle.preprocessing.channels, *bundle.preprocessing.size)
    content = _export(bundle.model, batch, {0: "batch"}, "images", "logits")
    write_bytes(folder / BATCH, describe(content, bundle))
    return [PICTURE, BATCH]


@functools.lru_cache(1)  # it takes ten seconds, and three formats begin with it
def build_picture_model(model: VisionTransformer, preprocessing: Preprocessing) -> bytes:
    """Return the content of an ONNX file that takes uint8 pictures (H,W,3), or (H,W,C), and returns (K,)."""
    picture = torch.zeros(*EXAMPLE, count_channels(preprocessing), dtype=torch.uint8)
    classifier = PictureClassifier(model, preprocessing).eval()
    return _export(classifier, picture, {0: "height", 1: "width"}, "image", "probabilities")


@torch.no_grad()
def _export(model: nn.Module, example: Tensor, free: dict[int, str], name: str, result: str) -> bytes:
    """Return the content of an ONNX file; free: the names of the sides of its input that may have any size."""
    import onnx

    with quiet():
        program = torch.onnx.export(
            model,
            (example,),
            input_names=[name],
            output_names=[result],
            dynamic_shapes=(free,),
            external_data=False,
            verbose=False,
        )
    assert program is not None
    proto = program.model_proto
    _forget_sources(proto)
    onnx.checker.check_model(proto, full_check=True)
    return bytes(proto.SerializeToString())


def _forget_sources(proto: "ModelProto") -> None:
    """Remove where in the code each operation comes from, with the paths of this machine."""
    graph = proto.graph
    for part in (proto, graph, *graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer):
        del part.metadata_props[:]
        part.ClearField("doc_string")


def describe(content: bytes, bundle: Bundle) -> bytes:
    """Return an ONNX file with the classes and all that a user of it has to know in its metadata, as JSON."""
    import onnx

    proto = onnx.load_model_from_string(content)
    onnx.helper.set_model_props(proto, {key: json.dumps(value) for key, value in list_facts(bundle).items()})
    return bytes(proto.SerializeToString())


def list_facts(bundle: Bundle) -> dict[str, Any]:
    """Return the classes, how pictures are prepared, and the measured accuracies of a run."""
    look, run = bundle.preprocessing, bundle.run
    prepared = ("size", "resize", "interpolation", "channels", "mean", "std")
    accuracies = {"val_acc": run.val_acc, "test_acc": run.number("test_acc")}
    return {
        "classes": bundle.classes,
        "preprocessing": {key: getattr(look, key) for key in prepared},
        "model": run.choices().get("model", "vit"),
        **{key: value for key, value in accuracies.items() if value is not None},
    }


@contextmanager
def quiet() -> Iterator[None]:
    """Silence what exporters say about themselves, for which some would set up logging; what matters is checked."""
    handler, disabled = logging.NullHandler(), logging.root.manager.disable
    logging.root.addHandler(handler)
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
        logging.root.removeHandler(handler)


def predict_onnx(bundle: Bundle, folder: Path) -> Tensor:
    """Return of what both files predict the probabilities (n,K) that are less close to the run's."""
    ours = bundle.samples.probabilities
    one, other = predict_pictures(bundle, folder / PICTURE), predict_logits(bundle, folder).softmax(1)
    return torch.where((one - ours).abs() >= (other - ours).abs(), one, other)


def predict_pictures(bundle: Bundle, model: Path | bytes) -> Tensor:
    """Return probabilities (n,K) of the samples' pictures, as they are, from an ONNX file or its content."""
    session = open_session(model)
    return torch.from_numpy(np.stack([run_picture(session, picture) for picture in bundle.samples.pictures]))


def run_picture(session: "InferenceSession", picture: np.ndarray) -> np.ndarray:
    """Return probabilities (K,) of a picture, uint8 (H,W,C); a gray one is fed in color."""
    image = np.repeat(picture, 3, axis=2) if picture.shape[2] == 1 else picture
    return np.asarray(session.run(None, {"image": np.ascontiguousarray(image)})[0])


def predict_logits(bundle: Bundle, folder: Path) -> Tensor:
    """Return logits (n,K), which the file for batches gives."""
    session, look = open_session(folder / BATCH), bundle.preprocessing

    def predict(images: Tensor) -> Tensor:
        return torch.from_numpy(np.asarray(session.run(None, {"images": images.numpy()})[0]))

    return predict_parts(predict, normalize(bundle.samples.inputs, look.mean, look.std))


def open_session(model: Path | bytes) -> "InferenceSession":
    """Return a session on the CPU, of a file or its content."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    return onnxruntime.InferenceSession(
        model if isinstance(model, bytes) else str(model), options, providers=["CPUExecutionProvider"]
    )
