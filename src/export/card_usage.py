"""How to use each written file: code that runs as it stands in the folder of the export, with a picture image.jpg."""

from collections.abc import Callable, Mapping
from pathlib import PurePosixPath
from typing import Any

from ..data.images import Preprocessing
from .bundle import Bundle

TOP = 5  # classes that the examples print
KINDS = {1: "gray", 3: "RGB"}


def describe_input(look: Preprocessing) -> str:
    """Return what a picture goes through before the model."""
    height, width = look.size
    kind = KINDS.get(look.channels, f"{look.channels}-channel")
    part = "The largest centered part of this shape" if look.resize == "crop" else "The whole picture, of any shape,"
    how = "nearest pixel" if look.interpolation == "nearest" else f"{look.interpolation}, antialiased"
    mean, std = (", ".join(f"{value:.6g}" for value in values) for values in (look.mean, look.std))
    levels = look.value_range
    scaled = "" if levels is None else f"Values from {levels[0]:g} to {levels[1]:g} become 0 to 255. "
    return (
        f"Input: {kind}, {width} × {height} px. {scaled}{part} is resized ({how}), scaled to [0, 1], and "
        f"normalized with mean ({mean}) and standard deviation ({std}). The examples run in this "
        "folder, with a picture `image.jpg`."
    )


def list_examples(bundle: Bundle, formats: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return a heading and a block of code for each format that was written and is known here."""
    blocks = []
    for name, example in EXAMPLES.items():
        if name in formats:
            title, code = example(bundle, [str(file) for file in formats[name].get("files") or ()])
            blocks += [f"### {title}", code]
    return blocks


def _find(names: list[str], suffix: str, default: str) -> str:
    """Return the first file with a suffix."""
    return next((name for name in names if name.endswith(suffix)), default)


def _python(*lines: str) -> str:
    return "\n".join(("```python", *lines, "```"))


def _open_picture(bundle: Bundle) -> list[str]:
    """Return lines that make `images`, uint8 (1,C,H,W), resized as the run does; the file normalizes them."""
    look = bundle.preprocessing
    height, width = look.size
    if look.channels not in KINDS:
        return [f"images = torch.zeros(1, {look.channels}, {height}, {width}, dtype=torch.uint8)  # yours, resized"]
    part = [
        f"scale = min(picture.width / {width}, picture.height / {height})",
        f"w, h = (max(1, round(scale * side)) for side in ({width}, {height}))",
        "left, top = (picture.width - w) // 2, (picture.height - h) // 2",
        "picture = picture.crop((left, top, left + w, top + h))",
    ]
    method = f"Image.Resampling.{look.interpolation.upper()}"
    return [
        f'picture = Image.open("image.jpg").convert("{"RGB" if look.channels == 3 else "L"}")',
        *(part if look.resize == "crop" else []),
        f"pixels = np.array(picture.resize(({width}, {height}), {method}))",
        f"images = torch.from_numpy(pixels).reshape(1, {height}, {width}, {look.channels}).permute(0, 3, 1, 2)",
    ]


def _show_top(bundle: Bundle) -> list[str]:
    return [
        f"for probability, index in zip(*probabilities.topk({min(TOP, len(bundle.classes))})):",
        '    print(f"{probability:.2%}  {classes[index]}")',
    ]


def _use_timm(bundle: Bundle, names: list[str]) -> tuple[str, str]:
    height, width = bundle.preprocessing.size
    opened = [
        "settings = timm.data.resolve_model_data_config(model)",
        "transform = timm.data.create_transform(**settings, is_training=False)",
        'images = transform(Image.open("image.jpg").convert("RGB")).unsqueeze(0)',
    ]
    if bundle.preprocessing.channels not in KINDS:
        height, width = bundle.preprocessing.size
        opened = [f"images = torch.zeros(1, {bundle.preprocessing.channels}, {height}, {width})  # yours, as above"]
    return "timm", _python(
        *["import timm", "import torch", "from PIL import Image", ""],
        'model = timm.create_model("local-dir:.", pretrained=True).eval()  # published: "hf-hub:OWNER/NAME"',
        *opened,
        *["with torch.inference_mode():", "    probabilities = model(images).softmax(1)[0]"],
        'classes = model.pretrained_cfg["label_names"]',
        *_show_top(bundle),
    )


def _use_hf(bundle: Bundle, names: list[str]) -> tuple[str, str]:
    folder = PurePosixPath(_find(names, "config.json", "hf/config.json")).parent
    return "transformers", _python(
        *["from transformers import AutoImageProcessor, AutoModelForImageClassification, pipeline", ""],
        'place = "."  # published: "OWNER/NAME"',
        f'model = AutoModelForImageClassification.from_pretrained(place, subfolder="{folder}")',
        f'processor = AutoImageProcessor.from_pretrained(place, subfolder="{folder}")',
        'classify = pipeline("image-classification", model=model, image_processor=processor)',
        f'for answer in classify("image.jpg", top_k={min(TOP, len(bundle.classes))}):',
        "    print(f\"{answer['score']:.2%}  {answer['label']}\")",
    )


def _use_onnx(bundle: Bundle, names: list[str]) -> tuple[str, str]:
    batch = next((name for name in names if name.endswith("batch.onnx")), None)
    more = (
        f"\n\n`{batch}` takes batches of normalized images, float32 (B,C,H,W), and returns logits (B,K)."
        if batch
        else ""
    )
    return "ONNX Runtime", _run_onnx(bundle, _find(names, ".onnx", "model.onnx")) + more


def _use_int8(bundle: Bundle, names: list[str]) -> tuple[str, str]:
    return "ONNX Runtime, weights of 8 bits", _run_onnx(bundle, _find(names, ".onnx", "model_int8.onnx"))


def _run_onnx(bundle: Bundle, name: str) -> str:
    opened = 'picture = np.asarray(Image.open("image.jpg").convert("RGB"))  # uint8 (H,W,3), any size'
    if bundle.preprocessing.channels not in KINDS:
        opened = f"picture = np.zeros((100, 100, {bundle.preprocessing.channels}), np.uint8)  # yours, any size"
    return _python(
        *["import json", "import numpy as np", "import onnxruntime", "from PIL import Image", ""],
        f'session = onnxruntime.InferenceSession("{name}")',
        'classes = json.loads(session.get_modelmeta().custom_metadata_map["classes"])',
        opened,
        "probabilities = session.run(None, {session.get_inputs()[0].name: picture})[0].ravel()",
        f"for index in probabilities.argsort()[::-1][:{min(TOP, len(bundle.classes))}]:",
        '    print(f"{probabilities[index]:.2%}  {classes[index]}")',
    )


def _use_pt2(bundle: Bundle, names: list[str]) -> tuple[str, str]:
    name = _find(names, ".pt2", "model.pt2")
    return "torch.export", _run_torch(bundle, f'torch.export.load("{name}", extra_files=extra).module()')


def _use_torchscript(bundle: Bundle, names: list[str]) -> tuple[str, str]:
    name = _find(names, ".pt", "model.torchscript.pt")
    return "TorchScript", _run_torch(bundle, f'torch.jit.load("{name}", _extra_files=extra)')


def _run_torch(bundle: Bundle, load: str) -> str:
    return _python(
        *["import json", "import numpy as np", "import torch", "from PIL import Image", ""],
        'extra = {"classes.json": ""}',
        f"model = {load}",
        'classes = json.loads(extra["classes.json"])',
        *_open_picture(bundle),
        *["with torch.inference_mode():", "    probabilities = model(images)[0]"],
        *_show_top(bundle),
    )


def _use_web(bundle: Bundle, names: list[str]) -> tuple[str, str]:
    name = _find(names, ".html", "index.html")
    return "In the browser", (
        f"Open `{name}` and drop a picture on it. The file holds the model and all that computes it: no server, no "
        "network; pictures stay on the machine."
    )


EXAMPLES: dict[str, Callable[[Bundle, list[str]], tuple[str, str]]] = {
    "timm": _use_timm,
    "hf": _use_hf,
    "onnx": _use_onnx,
    "onnx-int8": _use_int8,
    "pt2": _use_pt2,
    "torchscript": _use_torchscript,
    "web": _use_web,
}
