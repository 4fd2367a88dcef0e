"""How nearly published weights give here what they give in their own library, and a run what its exports give.

    python benchmarks/weights_parity.py sources                                     a table for docs/weights.md
    python benchmarks/weights_parity.py targets outputs/2026-01-31/12-00-00 …       one for docs/export.md

`sources` builds each architecture at its real size with random weights, writes them as they are published, lets
`init.weights` read them, and compares two images at the size of the weights. It needs requirements-dev.txt, and some
minutes. `targets` reads the parity.json of runs that were exported.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import numpy as np  # noqa: E402
import timm  # noqa: E402
import torch  # noqa: E402
import torchvision  # noqa: E402
import transformers  # noqa: E402
from published import as_npz, as_openclip, load, randomize  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from src.machine.disk import read_object  # noqa: E402
from src.machine.memory import format_bytes  # noqa: E402
from src.run.files import EXPORTS, PARITY  # noqa: E402
from src.tables import Table  # noqa: E402

Reference = Callable[[Tensor], Tensor]
SPREAD = 0.02  # of the random values, as of trained weights
SMALL: dict[str, Any] = {"hidden_size": 384, "num_attention_heads": 6}


def make_sources(folder: Path) -> Iterator[tuple[str, str, Path, str, Reference]]:
    """Yield for each source its name, its architecture, where it is written, what is compared, and the reference."""
    path = folder / "torchvision.pth"
    model: Any = randomize(torchvision.models.vit_b_16(), SPREAD)
    torch.save(model.state_dict(), path)
    yield "torchvision", "vit_b_16", path, "logits", model

    path = folder / "dino.pth"
    model = randomize(timm.create_model("vit_small_patch8_224", num_classes=0), SPREAD)
    torch.save({"teacher": {f"backbone.{name}": value for name, value in model.state_dict().items()}}, path)
    yield "DINO", "ViT-S/8", path, "tokens", model.forward_features

    path = folder / "deit.pth"
    model = randomize(timm.create_model("deit_tiny_distilled_patch16_224"), SPREAD)
    torch.save({"model": model.state_dict()}, path)
    yield "DeiT, distilled", "DeiT-Ti/16", path, "tokens", model.forward_features

    path = folder / "mae.pth"
    model = randomize(timm.create_model("vit_base_patch16_224", num_classes=0), SPREAD)
    torch.save({"model": model.state_dict() | {"mask_token": torch.zeros(1, 1, 512)}}, path)
    yield "MAE", "ViT-B/16", path, "tokens", model.forward_features

    path = folder / "augreg.npz"
    model = randomize(timm.create_model("vit_small_patch16_224"), SPREAD)
    np.savez(path, **as_npz(model))
    yield "the original code (.npz)", "ViT-S/16", path, "logits", model

    path = folder / "open_clip.bin"
    model = randomize(timm.create_model("vit_base_patch32_clip_224", num_classes=512), SPREAD)
    nn.init.zeros_(model.head.bias)
    torch.save(as_openclip(model), path)
    yield "OpenCLIP, image tower", "ViT-B/32", path, "logits", model

    path = folder / "timm"
    path.mkdir()
    model = randomize(timm.create_model("vit_small_patch16_224"), SPREAD)
    timm.models.save_for_hf(model, str(path), model_config=model.pretrained_cfg)
    yield "timm, a folder of the Hub", "ViT-S/16", path, "logits", model

    hugging_face: list[tuple[str, Any, Any]] = [
        ("vit", transformers.ViTConfig(), transformers.ViTForImageClassification),
        ("deit", transformers.DeiTConfig(**SMALL, intermediate_size=1536), transformers.DeiTModel),
        ("dinov2", transformers.Dinov2Config(**SMALL, patch_size=14, image_size=518), transformers.Dinov2Model),
        (
            "dinov2_with_registers",
            transformers.Dinov2WithRegistersConfig(**SMALL, patch_size=14, image_size=518),
            transformers.Dinov2WithRegistersModel,
        ),
        ("clip_vision_model", transformers.CLIPVisionConfig(hidden_act="gelu"), transformers.CLIPVisionModel),
    ]
    for name, config, build in hugging_face:
        path = folder / name
        model = randomize(build(config), SPREAD)
        model.save_pretrained(path)
        size = {384: "S", 768: "B"}[config.hidden_size]
        kind = "logits" if name == "vit" else "class token" if name.startswith("clip") else "tokens"
        yield f"Hugging Face, {name}", f"ViT-{size}/{config.patch_size}", path, kind, read_output(model, kind)


def read_output(model: Any, kind: str) -> Reference:
    names = {"logits": "logits", "class token": "pooler_output", "tokens": "last_hidden_state"}
    return lambda images: getattr(model(images), names[kind])


@torch.no_grad()
def measure(path: Path, kind: str, reference: Reference) -> tuple[float, float]:
    """Return the largest difference of an output, and their standard deviation."""
    ours, _ = load(path)
    images = torch.randn(2, 3, *ours.image_size, generator=torch.Generator().manual_seed(0))
    theirs = reference(images)
    given = ours(images) if kind == "logits" else ours.forward_features(images)
    given = given[:, 0] if kind == "class token" else given
    return (given - theirs).abs().max().item(), theirs.std().item()


def tabulate_sources() -> Table:
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name, architecture, path, kind, reference in make_sources(Path(folder)):
            difference, spread = measure(path, kind, reference)
            rows.append((name, architecture, kind, f"{spread:.2f}", f"{difference:.1e}"))
            print(*rows[-1], sep="  ", file=sys.stderr)
    return Table(("source", "architecture", "compared", "their sd", "largest difference"), rows)


def tabulate_targets(runs: list[Path]) -> Table:
    rows = []
    for run in runs:
        for name, facts in read_object(run / EXPORTS / PARITY)["formats"].items():
            size = format_bytes(sum(file["bytes"] for file in facts["files"].values()))
            numbers = f"{facts['max_probability_difference']:.1e}", f"{facts['same_class']:.1%}"
            rows.append((run.name, f"`{name}`", facts["read_by"], size, facts["source"], *numbers))
    return Table(("run", "format", "read by", "size", "checked on", "max Δp", "same class"), rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("sources", "targets"))
    parser.add_argument("runs", type=Path, nargs="*")
    arguments = parser.parse_args()
    transformers.logging.set_verbosity_error()
    table = tabulate_sources() if arguments.what == "sources" else tabulate_targets(arguments.runs)
    print(table.to_markdown())


if __name__ == "__main__":
    main()
