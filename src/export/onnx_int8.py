"""model_int8.onnx: model.onnx with the weights of its large products in 8 bits, a quarter of the size.

The matrices of attention and MLP are stored as integers and multiplied as such, with a scale for each input (ONNX
Runtime's dynamic quantization). Letters: n images, K classes.
"""

import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from .. import terminal
from ..machine.disk import write_bytes
from ..machine.memory import format_bytes
from .bundle import Bundle
from .onnx_files import build_picture_model, describe, open_session, predict_pictures, quiet, run_picture

if TYPE_CHECKING:
    from onnx import ModelProto
    from onnxruntime import InferenceSession

INT8 = "model_int8.onnx"
REPEATS, TIMED = 7, 8  # of the timing: rounds, and pictures in each


def write_int8(bundle: Bundle, folder: Path) -> list[str]:
    content = _quantize(build_picture_model(bundle.model, bundle.preprocessing))
    write_bytes(folder / INT8, describe(content, bundle))
    return [INT8]


def _quantize(content: bytes) -> bytes:
    """Return an ONNX file with weights of 8 bits.

    Without sign, since products of signed weights overflow 16 bits on CPUs before VNNI: on the digits, that changed
    probabilities by 0.18 instead of 0.01. The patches keep their precision: what is lost there is lost for all layers.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory() as name, quiet():
        plain, prepared, small = (Path(name, f"{step}.onnx") for step in ("plain", "prepared", "small"))
        plain.write_bytes(content)
        quant_pre_process(plain, prepared)
        quantize_dynamic(prepared, small, op_types_to_quantize=["MatMul"], weight_type=QuantType.QUInt8)
        return _drop_unused(onnx.load(small))


def _drop_unused(proto: "ModelProto") -> bytes:
    """Return the file without sets of operations that only ONNX Runtime knows, and that no node of it uses."""
    import onnx

    used = {node.domain for node in proto.graph.node}
    kept = [entry for entry in proto.opset_import if entry.domain in used]
    del proto.opset_import[:]
    proto.opset_import.extend(kept)
    onnx.checker.check_model(proto)
    return bytes(proto.SerializeToString())


def predict_int8(bundle: Bundle, folder: Path) -> Tensor:
    return predict_pictures(bundle, folder / INT8)


def compare_int8(bundle: Bundle, folder: Path) -> dict[str, Any]:
    """Return, and print, the size and the time for a picture beside those of model.onnx."""
    full = build_picture_model(bundle.model, bundle.preprocessing)
    small = (folder / INT8).read_bytes()
    pictures = [np.ascontiguousarray(image.permute(1, 2, 0).numpy()) for image in bundle.samples.inputs[:TIMED]]
    seconds, seconds_int8 = time_by_turns([open_session(full), open_session(small)], pictures)
    terminal.say(
        f"onnx-int8: {format_bytes(len(small))} instead of {format_bytes(len(full))}; a picture of the model's size "
        f"takes {1000 * seconds_int8:.2f} ms instead of {1000 * seconds:.2f} ms here, one at a time"
    )
    return {
        "float32_bytes": len(full),
        "milliseconds": round(1000 * seconds_int8, 3),
        "float32_milliseconds": round(1000 * seconds, 3),
    }


def time_by_turns(sessions: "Sequence[InferenceSession]", pictures: Sequence[np.ndarray]) -> list[float]:
    """Return the median seconds for a picture of each session: by turns, so that a busy machine slows down all."""
    rounds = []
    for _ in range(REPEATS + 1):
        times = []
        for session in sessions:
            start = time.perf_counter()
            for picture in pictures:
                run_picture(session, picture)
            times.append((time.perf_counter() - start) / len(pictures))
        rounds.append(times)
    return [statistics.median(times) for times in zip(*rounds[1:], strict=True)]  # the first round warms up
