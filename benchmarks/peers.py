"""The models that `model_speed.py` compares: this one, and those of other packages, in the same dimensions."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from src.model import VisionTransformer


@dataclass(frozen=True)
class Size:
    """The dimensions of all models in a table; batches: the defaults for the CPU and for CUDA."""

    title: str
    image_size: int
    patch_size: int
    dim: int
    depth: int
    heads: int
    num_classes: int
    batches: dict[str, tuple[int, ...]]


SIZES = {
    "32px": Size("32 px, patch 4, dim 192, depth 9, heads 3", 32, 4, 192, 9, 3, 10, {"cpu": (16,), "cuda": (64, 512)}),
    "tiny": Size("ViT-Ti/16, 224 px", 224, 16, 192, 12, 3, 1000, {"cpu": (8,), "cuda": (256,)}),
    "small": Size("ViT-S/16, 224 px", 224, 16, 384, 12, 6, 1000, {"cpu": (4,), "cuda": (256,)}),
    "base": Size("ViT-B/16, 224 px", 224, 16, 768, 12, 12, 1000, {"cpu": (2,), "cuda": (128,)}),
}


def build_ours(size: Size, pooling: str) -> VisionTransformer:
    return VisionTransformer(
        image_size=size.image_size, patch_size=size.patch_size, num_classes=size.num_classes, embedding_dim=size.dim,
        num_layers=size.depth, num_heads=size.heads, pooling=pooling,
    )  # fmt: skip


def build_timm(size: Size) -> nn.Module:
    from timm.models.vision_transformer import VisionTransformer as Timm

    return Timm(
        img_size=size.image_size, patch_size=size.patch_size, num_classes=size.num_classes, embed_dim=size.dim,
        depth=size.depth, num_heads=size.heads,
    )  # fmt: skip


def build_lucidrains(size: Size, name: str) -> nn.Module:
    import vit_pytorch

    return getattr(vit_pytorch, name)(
        image_size=size.image_size, patch_size=size.patch_size, num_classes=size.num_classes, dim=size.dim,
        depth=size.depth, heads=size.heads, mlp_dim=4 * size.dim, dim_head=size.dim // size.heads,
    )  # fmt: skip


def build_torchvision(size: Size) -> nn.Module:
    from torchvision.models.vision_transformer import VisionTransformer as Torchvision

    return Torchvision(
        size.image_size, size.patch_size, size.depth, size.heads, size.dim, 4 * size.dim, num_classes=size.num_classes
    )


class Transformers(nn.Module):
    """Hugging Face's ViT, reduced to its logits."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        from transformers import ViTConfig, ViTForImageClassification

        options: dict[str, Any] = {
            "hidden_size": size.dim,
            "num_hidden_layers": size.depth,
            "num_attention_heads": size.heads,
            "intermediate_size": 4 * size.dim,
            "image_size": size.image_size,
            "patch_size": size.patch_size,
            "num_labels": size.num_classes,
        }
        self.vit = ViTForImageClassification(ViTConfig(**options))

    def forward(self, images: Tensor) -> Tensor:
        return self.vit(pixel_values=images).logits


class TorchEncoder(nn.Module):
    """A ViT around torch's nn.TransformerEncoder."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        dim, num_patches = size.dim, (size.image_size // size.patch_size) ** 2
        self.patches = nn.Conv2d(3, dim, size.patch_size, size.patch_size)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.positions = nn.Parameter(0.02 * torch.randn(1, num_patches + 1, dim))
        layer = nn.TransformerEncoderLayer(
            dim, size.heads, 4 * dim, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, size.depth, nn.LayerNorm(dim), enable_nested_tensor=False)
        self.head = nn.Linear(dim, size.num_classes)

    def forward(self, images: Tensor) -> Tensor:
        x = self.patches(images).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1) + self.positions
        return self.head(self.encoder(x)[:, 0])


@dataclass(frozen=True)
class Peer:
    """A package, its module, and its models by the name of their row."""

    package: str
    module: str
    builders: dict[str, Callable[[Size], nn.Module]]


PEERS = {
    "timm": Peer("timm", "timm", {"timm": build_timm}),
    "lucidrains": Peer(
        "vit-pytorch",
        "vit_pytorch",
        {
            "lucidrains ViT": lambda size: build_lucidrains(size, "ViT"),
            "lucidrains SimpleViT": lambda size: build_lucidrains(size, "SimpleViT"),
        },
    ),
    "torchvision": Peer("torchvision", "torchvision", {"torchvision": build_torchvision}),
    "transformers": Peer("transformers", "transformers", {"Hugging Face": Transformers}),
    "torch": Peer("torch", "torch", {"nn.TransformerEncoder": TorchEncoder}),
}
PLAIN = {"lucidrains SimpleViT"}  # without a class token
