"""Exports of a run: which formats there are, the files in its folder `exports`, and how closely they agree."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..export.web_runtime import PACKAGE
from ..machine.disk import read_object
from ..run.files import BEST, EXPORTS, PARITY
from ..run.saved import SavedRun
from ..run.validate import as_number
from .errors import PageError
from .index import make_id

INSTALL = "pip install -r requirements-export.txt"
CARD = ("README.md", PARITY, "training.yaml", "per_class.csv", "confusion_matrix.png", "curves.png")
ONNX = ("onnx", "onnxscript", "onnxruntime")


@dataclass(frozen=True)
class Choice:
    """A format as the page offers it; files: all that it may write; needs: packages; program: what fetches the rest.

    A copy of what `export.formats` has, since that imports torch, and the page answers before.
    """

    text: str
    files: tuple[str, ...]
    needs: tuple[str, ...] = ()
    program: str = ""


CHOICES = {
    "timm": Choice(
        "for timm, and for transformers where timm is installed; loads from the Hub",
        ("config.json", "model.safetensors"),
    ),
    "hf": Choice(
        "for transformers without timm",
        ("hf/config.json", "hf/model.safetensors", "hf/preprocessor_config.json"),
    ),
    "pt2": Choice("for torch alone, without this code (torch.export)", ("model.pt2",)),
    "torchscript": Choice("for programs with an older torch; torch deprecates it", ("model.torchscript.pt",)),
    "onnx": Choice(
        "for any language, by ONNX Runtime; takes pictures of any size, or batches",
        ("model.onnx", "model_batch.onnx"),
        ONNX,
    ),
    "onnx-int8": Choice("the same with weights of 8 bits, a quarter of the size", ("model_int8.onnx",), ONNX),
    "web": Choice("a page that predicts in any browser, in one file, without a server", ("index.html",), ONNX, "npm"),
}
OFFERED = (*CARD, *(name for choice in CHOICES.values() for name in choice.files))


def check_formats(run: SavedRun, formats: Sequence[str]) -> list[str]:
    """Return the formats, each once. Raises PageError if they, or the run, cannot be exported."""
    if not run.has_weights():
        raise PageError("the run has no weights yet: it can be exported after its first epoch", 409)
    for name in formats:
        if name not in CHOICES:
            raise PageError(f"{name} is not a format; there are: {', '.join(CHOICES)}", 400, "formats")
        if missing := _explain_missing(name):
            raise PageError(f"{name} {missing}", 400, "formats")
    if not formats:
        raise PageError("choose a format", 400, "formats")
    return list(dict.fromkeys(formats))


def describe_exports(run: SavedRun) -> dict[str, Any]:
    """Return the formats that can be chosen, the files that are there, and how closely each format agrees."""
    record = read_object(run.folder / EXPORTS / PARITY) if find_export(run, PARITY) else {}
    known = formats if isinstance(formats := record.get("formats"), dict) else {}
    return {
        "formats": [
            {"name": name, "text": choice.text, "missing": _explain_missing(name)} for name, choice in CHOICES.items()
        ],
        "files": [
            {"name": name, "bytes": path.stat().st_size, "url": _address(run, name, path)}
            for name in OFFERED
            if (path := find_export(run, name))
        ],
        "agreement": [_describe(name, known[name]) for name in CHOICES if isinstance(known.get(name), dict)],
        "outdated": _explain_outdated(run, as_number(record.get("best_epoch"))),
        "possible": (run.folder / BEST).is_file(),
    }


def find_export(run: SavedRun, name: str) -> Path | None:
    """Return the path of a file that an export has written, None for any other name, and for links."""
    path = run.folder / EXPORTS / name
    if name not in OFFERED or any(part.is_symlink() for part in (path, path.parent, run.folder / EXPORTS)):
        return None
    return path if path.is_file() else None


def _explain_missing(name: str) -> str:
    """Return what a format needs that is not installed, and how it gets there; "" if nothing is missing."""
    choice = CHOICES[name]
    packages = [package for package in choice.needs if find_spec(package) is None]
    if packages:
        return f"needs {', '.join(packages)}: {INSTALL}"
    if choice.program and shutil.which(choice.program) is None:
        return f"needs {choice.program}, or, in a terminal, web_runtime=FILE.tgz of npm pack {PACKAGE}"
    return ""


def _address(run: SavedRun, name: str, path: Path) -> str:
    return f"/api/runs/{make_id(run.folder)}/exports/{name}?v={path.stat().st_mtime_ns}"


def _explain_outdated(run: SavedRun, epoch: float | None) -> str:
    """Return that the run has improved since it was exported, "" if it has not."""
    best = run.number("best_epoch")
    if epoch is None or best is None or epoch == best:
        return ""
    return f"These files have the weights of epoch {epoch:.0f}; the best ones are now those of epoch {best:.0f}."


def _describe(name: str, facts: dict[str, Any]) -> dict[str, Any]:
    keys = {"difference": "max_probability_difference", "same": "same_class", "images": "images", "seconds": "seconds"}
    return {"format": name, **{key: as_number(facts.get(value)) for key, value in keys.items()}}
