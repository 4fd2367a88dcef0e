"""The formats that `task=export` writes: how each is written, read back, and how nearly it must agree."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from .bundle import Bundle
from .hf_folder import explain_hf, predict_hf, preprocess_with_transformers, write_hf
from .logits import predict_hf_logits, predict_timm_logits
from .onnx_files import PACKAGES, explain_onnx, predict_logits, predict_onnx, write_onnx
from .onnx_int8 import compare_int8, predict_int8, write_int8
from .parity import LOG_TOLERANCE
from .timm_folder import explain_timm, predict_timm, preprocess_with_timm, write_timm
from .torch_files import predict_exported, predict_traced, write_exported, write_traced
from .web_page import explain_web, predict_web, write_web


@dataclass(frozen=True)
class Format:
    """A format.

    write: writes its files into a folder that exists, and returns their names; predict: returns the probabilities
    float32 (n,K) of the samples, computed from the written files alone; needs: the packages that both import;
    tolerance: the largest difference of a probability from the run's that is not an error; agreement: the least share
    of images with the same first class; log_tolerance: as tolerance, of the logarithm of a probability; logits: as
    predict, before the softmax, for files that give it; explain: why the format cannot express this run, "" if it can.

    reader: the package that reads the files; without it, they are read back by our code. preprocess: returns the
    probabilities of the pictures, resized by that package, whose rounding may differ; None if it cannot. use: how to
    open the files in `{folder}`, for people. details: returns what else parity.json has to tell of the written files.
    """

    write: Callable[[Bundle, Path], list[str]]
    predict: Callable[[Bundle, Path], Tensor]
    needs: tuple[str, ...]
    tolerance: float
    agreement: float = 1.0
    log_tolerance: float = LOG_TOLERANCE
    logits: Callable[[Bundle, Path], Tensor] | None = None
    explain: Callable[[Bundle], str] = lambda bundle: ""
    reader: str = ""
    preprocess: Callable[[Bundle, Path], Tensor | None] | None = None
    use: str = ""
    details: Callable[[Bundle, Path], dict[str, object]] = lambda bundle, folder: {}


FORMATS: dict[str, Format] = {
    "timm": Format(
        write_timm,
        predict_timm,
        needs=(),
        tolerance=1e-5,
        logits=predict_timm_logits,
        explain=explain_timm,
        reader="timm",
        preprocess=preprocess_with_timm,
        use='timm.create_model("local-dir:{folder}", pretrained=True)',
    ),
    "hf": Format(
        write_hf,
        predict_hf,
        needs=(),
        tolerance=1e-5,
        logits=predict_hf_logits,
        explain=explain_hf,
        reader="transformers",
        preprocess=preprocess_with_transformers,
        use='transformers.pipeline("image-classification", model="{folder}/hf")',
    ),
    "pt2": Format(
        write_exported,
        predict_exported,
        needs=(),
        tolerance=1e-5,
        use='torch.export.load("{folder}/model.pt2").module()(images)',
    ),
    "torchscript": Format(
        write_traced,
        predict_traced,
        needs=(),
        tolerance=1e-5,
        use='torch.jit.load("{folder}/model.torchscript.pt")(images)',
    ),
    "onnx": Format(
        write_onnx,
        predict_onnx,
        needs=PACKAGES,
        tolerance=1e-5,
        logits=predict_logits,
        explain=explain_onnx,
        reader="onnxruntime",
        use='onnxruntime.InferenceSession("{folder}/model.onnx").run(None, {{"image": pixels}})',
    ),
    "onnx-int8": Format(
        write_int8,
        predict_int8,
        needs=PACKAGES,
        tolerance=0.2,  # rounded weights are another model: what counts is the class
        agreement=0.95,
        log_tolerance=math.inf,
        explain=explain_onnx,
        reader="onnxruntime",
        use='onnxruntime.InferenceSession("{folder}/model_int8.onnx").run(None, {{"image": pixels}})',
        details=compare_int8,
    ),
    "web": Format(
        write_web,
        predict_web,
        needs=PACKAGES,
        tolerance=1e-5,
        explain=explain_web,
        reader="onnxruntime",
        use="open {folder}/index.html in a browser",
    ),
}
