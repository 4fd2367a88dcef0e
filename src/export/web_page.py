"""index.html: one file that runs the model in a browser, without a server and without a network.

It carries ONNX Runtime's WebAssembly and model.onnx in Base64, so that it opens from a disk as well as from a server.
Letters: n images, K classes.
"""

import base64
import hashlib
import html
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ..machine.disk import write_bytes
from ..machine.memory import format_bytes
from .bundle import Bundle
from .onnx_files import build_picture_model, describe, explain_onnx, list_facts, predict_pictures
from .web_runtime import PACKAGE, explain_runtime, open_runtime

PAGE, TEMPLATE = "index.html", Path(__file__).with_name("page.html")
MODEL = re.compile(rb'<script id="model" type="[^"]*">([A-Za-z0-9+/=]*)</script>')
PLACE = re.compile(r"\{\{(\w+)\}\}")
LARGEST = 380_000_000  # bytes of weights: in Base64, they are one text, of which browsers allow 512 MiB


def explain_web(bundle: Bundle) -> str:
    if bundle.preprocessing.channels not in (1, 3):
        return f"the page shows pictures in color, and the model takes {bundle.preprocessing.channels} channels"
    size = 4 * sum(parameter.numel() for parameter in bundle.model.parameters())
    if size > LARGEST:
        return f"browsers open pages with weights of up to {format_bytes(LARGEST)}, and these have {format_bytes(size)}"
    return explain_onnx(bundle) or explain_runtime(bundle.web_runtime)


def write_web(bundle: Bundle, folder: Path) -> list[str]:
    """Write the page. Raises ValueError if there is no runtime for it."""
    runtime = open_runtime(bundle.web_runtime)
    model = describe(build_picture_model(bundle.model, bundle.preprocessing), bundle)
    parts = {
        "title": html.escape(list_facts(bundle)["model"]),
        "package": PACKAGE,
        "facts": _as_script(_list_shown(bundle)),
        "runtime": _encode(runtime.script),
        "module": _encode(runtime.module),
        "model": _encode(model),
    }
    write_bytes(folder / PAGE, build_page(TEMPLATE.read_text(encoding="utf-8"), parts).encode("utf-8"))
    return [PAGE]


def build_page(template: str, parts: Mapping[str, str]) -> str:
    """Return the page with its parts, and a policy that allows the template's script and style, and nothing else."""
    digests = {name: _digest(template, name) for name in ("script", "style")}
    # In one pass: what looks like a place in the name of a class stays as it is.
    return PLACE.sub(lambda match: {**parts, **digests}[match[1]], template)


def _digest(template: str, tag: str) -> str:
    """Return what the policy says of the only inline script, or style, of the template."""
    (content,) = re.findall(rf"<{tag}>(.*?)</{tag}>", template, re.DOTALL)
    assert not PLACE.search(content)
    return f"sha256-{_encode(hashlib.sha256(content.encode()).digest())}"


def _encode(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")


def _as_script(value: Any) -> str:
    """Return JSON that stands in a script element: no name in it can end that, or begin another."""
    return json.dumps(value).replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _list_shown(bundle: Bundle) -> dict[str, Any]:
    """Return what the page tells about the model, besides its answers."""
    facts, look = list_facts(bundle), bundle.preprocessing
    return {
        "classes": facts["classes"],
        "model": facts["model"],
        "parameters": sum(parameter.numel() for parameter in bundle.model.parameters()),
        "test_acc": facts.get("test_acc"),
        "val_acc": facts.get("val_acc"),
        "size": list(look.size),
        "gray": look.channels == 1,
        "crops": look.resize == "crop",
    }


def predict_web(bundle: Bundle, folder: Path) -> Tensor:
    """Return probabilities (n,K) of the pictures, from the model in the page."""
    return predict_pictures(bundle, read_model(folder / PAGE))


def read_model(page: Path) -> bytes:
    """Return the ONNX file in a page."""
    match = MODEL.search(page.read_bytes())
    assert match is not None
    return base64.b64decode(match[1], validate=True)
