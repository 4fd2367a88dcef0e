"""The page that runs a model without a server: its parts, classes of any name, and where its runtime is from."""

import base64
import hashlib
import io
import json
import os
import re
import tarfile
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from helpers import compose_inference
from onnx import TensorProto, helper

from src.data.images import Preprocessing
from src.export import web_page, web_runtime
from src.export.bundle import Bundle, Samples
from src.export.formats import FORMATS
from src.export.web_page import PAGE
from src.export.web_runtime import MODULE, PACKAGE, SCRIPT, open_runtime
from src.run.saved import SavedRun

HOSTILE = ["</script><script>alert(1)</script>", "<!--<script>", "{{model}} {{facts}}", "a & b", "not utf-8: \udcff"]
LOOK = Preprocessing((8, 8), "crop", "bilinear", 3, (0.5,) * 3, (0.5,) * 3)
CONTENT = {SCRIPT: b"export const env = {};", MODULE: b"\0asm and more"}


def make_archive(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"package/dist/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An archive with something else in the place of the runtime, which is 14 MB and comes from npm."""
    for name, content in CONTENT.items():
        monkeypatch.setitem(web_runtime.DIGESTS, name, hashlib.sha256(content).hexdigest())
    return make_archive(tmp_path / "runtime [1].tgz", CONTENT)


def make_onnx() -> bytes:
    """Return a model that answers with the shares of red, green and blue in a picture; it takes no time to export."""
    nodes = [
        helper.make_node("Cast", ["image"], ["levels"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["levels", "sides"], ["means"], keepdims=0),
        helper.make_node("ReduceSum", ["means"], ["sum"], keepdims=1),
        helper.make_node("Div", ["means", "sum"], ["probabilities"]),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["height", "width", 3])
    result = helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [3])
    sides = onnx.numpy_helper.from_array(np.array([0, 1]), "sides")
    graph = helper.make_graph(nodes, "shares", [image], [result], [sides])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return bytes(model.SerializeToString())


@pytest.fixture
def bundle(archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    monkeypatch.setattr(web_page, "build_picture_model", lambda model, look: make_onnx())
    pictures = [np.random.default_rng(i).integers(0, 256, (5 + i, 9, 3), dtype=np.uint8) for i in range(3)]
    shares = torch.tensor(np.array([picture.mean((0, 1)) / picture.mean((0, 1)).sum() for picture in pictures]))
    samples = Samples(pictures, torch.stack([LOOK(picture) for picture in pictures]), shares.float(), "3 made images")
    run = SavedRun(tmp_path, "finished", {"test_acc": 0.75, "best_val_acc": 0.5})
    model: Any = torch.nn.Linear(2, 3)
    config: Any = None
    return Bundle(run, config, model, HOSTILE, LOOK, samples, str(archive))


class Reader(HTMLParser):
    """Reads a page as browsers do: its scripts, the text around them, and its tags."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.policy = ""
        self._open: dict[str, str | None] | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        facts = dict(attrs)
        if facts.get("http-equiv") == "Content-Security-Policy":
            self.policy = str(facts["content"])
        if tag == "script":
            self.scripts.append((facts, ""))
            self._open = facts

    def handle_endtag(self, tag: str) -> None:
        self._open = None

    def handle_data(self, data: str) -> None:
        if self._open is not None:
            facts, before = self.scripts[-1]
            self.scripts[-1] = facts, before + data


def read_page(folder: Path) -> Reader:
    reader = Reader()
    reader.feed((folder / PAGE).read_text(encoding="utf-8"))
    return reader


def test_the_model_in_the_page_predicts_what_the_run_predicts(bundle: Bundle, tmp_path: Path) -> None:
    assert FORMATS["web"].write(bundle, tmp_path) == [PAGE]
    predicted = FORMATS["web"].predict(bundle, tmp_path)
    assert (predicted - bundle.samples.probabilities).abs().max() < 1e-6


def test_no_name_of_a_class_becomes_a_part_of_the_page(bundle: Bundle, tmp_path: Path) -> None:
    web_page.write_web(bundle, tmp_path)
    hostile = read_page(tmp_path)
    web_page.write_web(replace(bundle, classes=["plain"]), tmp_path)
    plain = read_page(tmp_path)
    assert hostile.tags == plain.tags
    assert [facts for facts, _ in hostile.scripts] == [facts for facts, _ in plain.scripts]
    told = json.loads(hostile.scripts[0][1])
    assert told["classes"] == HOSTILE and told["test_acc"] == 0.75 and told["gray"] is False


def test_the_page_carries_the_runtime_and_its_license(bundle: Bundle, tmp_path: Path) -> None:
    web_page.write_web(bundle, tmp_path)
    parts = {str(facts.get("id")): text for facts, text in read_page(tmp_path).scripts}
    assert base64.b64decode(parts["runtime"]) == CONTENT[SCRIPT]
    assert base64.b64decode(parts["module"]) == CONTENT[MODULE]
    text = (tmp_path / PAGE).read_text(encoding="utf-8")
    assert PACKAGE in text and "Copyright (c) Microsoft Corporation" in text and "MIT License" in text


def test_the_policy_allows_the_script_of_the_page_and_no_network(bundle: Bundle, tmp_path: Path) -> None:
    web_page.write_web(bundle, tmp_path)
    page = read_page(tmp_path)
    (script,) = (text for facts, text in page.scripts if not facts)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}' blob: 'wasm-unsafe-eval';" in page.policy
    assert (
        "default-src 'none'" in page.policy and "connect-src" not in page.policy and "unsafe-inline" not in page.policy
    )


def test_the_template_holds_no_code_of_others_and_names_no_address_to_load() -> None:
    template = web_page.TEMPLATE.read_text(encoding="utf-8")
    assert len(template) < 20_000
    assert not re.findall(r"(?:src|href|url\()\s*=?\s*[\"']?(?:https?:)?//", template)
    assert "innerHTML" not in template and "document.write" not in template


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({SCRIPT: CONTENT[SCRIPT]}, f"its {MODULE} is missing"),
        ({**CONTENT, SCRIPT: b"other"}, f"its {SCRIPT} is not the one of this version"),
    ],
)
def test_another_version_of_the_runtime_is_refused(
    files: dict[str, bytes], message: str, archive: Path, tmp_path: Path
) -> None:
    other = make_archive(tmp_path / "other.tgz", files)
    with pytest.raises(
        ValueError, match=re.escape(f"web_runtime={other} is not {PACKAGE}: {message}; npm pack {PACKAGE}")
    ):
        open_runtime(str(other))


def test_a_runtime_that_is_no_archive_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "runtime.tgz"
    path.write_text("not an archive")
    with pytest.raises(ValueError, match=f"web_runtime={path} is not an archive that npm pack has made"):
        open_runtime(str(path))


def test_without_npm_the_command_for_elsewhere_is_named(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    explain = FORMATS["web"].explain
    assert explain(bundle) == ""
    assert explain(replace(bundle, web_runtime=None)) == (
        "npm, which fetches onnxruntime-web@1.30.0, is not installed; elsewhere, npm pack onnxruntime-web@1.30.0 makes "
        "a file; name it here: web_runtime=FILE.tgz"
    )
    assert explain(replace(bundle, web_runtime="gone.tgz")) == "web_runtime=gone.tgz is not a file"


@pytest.mark.parametrize("others", [("task=export",), ("task=export", "formats=[onnx,timm]"), ("task=list",)])
def test_a_runtime_without_a_page_is_refused(others: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=r"web_runtime is for task=export formats=\[web\]; leave it out otherwise"):
        compose_inference("web_runtime=x.tgz", *others)
    assert compose_inference("web_runtime=x.tgz", "task=export", "formats=[onnx,web]").web_runtime == "x.tgz"


def make_npm(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a program named npm before others."""
    program = folder / "bin" / "npm"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")


def test_npm_fetches_the_runtime(archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_npm(tmp_path, f'[ "$1 $2" = "pack {PACKAGE}" ] && cp "{archive}" onnxruntime-web.tgz', monkeypatch)
    runtime = open_runtime(None)
    assert (runtime.script, runtime.module) == (CONTENT[SCRIPT], CONTENT[MODULE])


def test_npm_without_a_network_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_npm(
        tmp_path,
        'echo "npm error code ENOTFOUND" >&2; echo "npm error network request failed" >&2; exit 1',
        monkeypatch,
    )
    with pytest.raises(
        ValueError, match=r"npm could not fetch onnxruntime-web@1.30.0 \(network request failed\); elsewhere"
    ):
        open_runtime(None)


def test_models_that_no_browser_can_feed_or_hold_are_refused(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    explain = FORMATS["web"].explain
    five = replace(bundle, preprocessing=replace(LOOK, channels=5))
    assert explain(five) == "the page shows pictures in color, and the model takes 5 channels"
    monkeypatch.setattr(web_page, "LARGEST", 20)
    assert explain(bundle) == "browsers open pages with weights of up to 20 B, and these have 36 B"
