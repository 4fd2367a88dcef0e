"""Files that torch alone opens, without our code: model.pt2 of torch.export, and model.torchscript.pt.

Both take uint8 pixels that are resized already, normalize them, and return probabilities; the classes are inside.
Letters: B batch, C channels, H W pixels, n images, K classes.
"""

import io
import warnings
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn

from .. import terminal
from ..data.images import Preprocessing
from ..machine.disk import format_portable_json, write_bytes
from ..model import VisionTransformer
from ..run.files import CLASSES, PREPROCESSING
from .bundle import Bundle
from .parity import predict_parts

EXPORTED, TRACED = "model.pt2", "model.torchscript.pt"
SOURCES = ("stack_trace", "from_node", "source_fn_stack")  # of the metadata of a node of a graph
IDENTITY = ".data/serialization_id"  # what the writer of a file adds itself
DEPRECATED = "torchscript: torch deprecates TorchScript since 2.11 and may remove it; pt2 is what it recommends"


class Classifier(nn.Module):
    """A model with the normalization before it and the softmax behind it."""

    mean: Tensor
    std: Tensor

    def __init__(self, model: VisionTransformer, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.model = model
        for name in ("mean", "std"):
            levels = torch.tensor(getattr(preprocessing, name)) * 255
            self.register_buffer(name, levels.view(1, -1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:  # uint8 (B, C, H, W)
        return self.model((images.float() - self.mean) / self.std).softmax(1)  # (B, K)


def write_exported(bundle: Bundle, folder: Path) -> list[str]:
    """Write what `torch.export.load` reads, for batches of any size."""
    example = _make_example(bundle)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        batch = torch.export.Dim("batch", min=1)
        program = torch.export.export(_classify(bundle), (example,), dynamic_shapes=({0: batch},))
        _forget_sources(program)
        content = io.BytesIO()
        torch.export.save(program, content, extra_files=_list_extra(bundle))
    write_bytes(folder / EXPORTED, content.getvalue())
    return [EXPORTED]


def _forget_sources(program: torch.export.ExportedProgram) -> None:
    """Remove where in the code each operation comes from, with the paths of this machine."""
    for module in program.graph_module.modules():
        if isinstance(module, torch.fx.GraphModule):
            for node in module.graph.nodes:
                for key in SOURCES:
                    node.meta.pop(key, None)


def write_traced(bundle: Bundle, folder: Path) -> list[str]:
    """Write what `torch.jit.load` reads."""
    terminal.warn(DEPRECATED)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        program = torch.jit.trace(_classify(bundle), _make_example(bundle), check_trace=False)
        content = io.BytesIO()
        torch.jit.save(program, content, _extra_files=_list_extra(bundle))
    write_bytes(folder / TRACED, _drop_debugging(content.getvalue()))
    return [TRACED]


def _drop_debugging(content: bytes) -> bytes:
    """Return a TorchScript file without its `.debug_pkl`, which has stack traces with the paths of this machine."""
    reader, result = torch._C.PyTorchFileReader(io.BytesIO(content)), io.BytesIO()
    writer = torch._C.PyTorchFileWriter(result)
    for name in reader.get_all_records():
        if not name.endswith(".debug_pkl") and name != IDENTITY:
            record = reader.get_record(name)
            writer.write_record(name, record, len(record))
    writer.write_end_of_file()
    return result.getvalue()


def predict_exported(bundle: Bundle, folder: Path) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return predict_parts(torch.export.load(folder / EXPORTED).module(), bundle.samples.inputs)


def predict_traced(bundle: Bundle, folder: Path) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return predict_parts(torch.jit.load(folder / TRACED, "cpu"), bundle.samples.inputs)


def _classify(bundle: Bundle) -> Classifier:
    return Classifier(bundle.model, bundle.preprocessing).eval()


def _make_example(bundle: Bundle) -> Tensor:
    """Return a batch of two: torch.export takes a batch of one for a constant."""
    look = bundle.preprocessing
    return torch.zeros(2, look.channels, *look.size, dtype=torch.uint8)


def _list_extra(bundle: Bundle) -> dict[str, str]:
    """Return the files inside: the names of the classes, and how pictures become pixels."""
    look = asdict(bundle.preprocessing)
    return {CLASSES: format_portable_json(bundle.classes), PREPROCESSING: format_portable_json(look)}
