"""Low-rank adapters, LoRA (Hu et al., arXiv 2106.09685): W + B A in place of a frozen matrix W; B and A are trained.

Adapted are the matrices of attention, `qkv` and `proj` of each block, which the paper studies: at an equal number of
parameters, a small rank in all of them was best (section 7.1, Table 5). The paper scales B A by α / r and sets α to the
first rank that it tries (section 4.1). Here α is the rank, so the factor is 1; training.lr does what α would.

Letters: r rank; the linear layer maps I features to O.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..model import VisionTransformer


class AdaptedLinear(nn.Module):
    """A linear layer with frozen weights and an adapter, which starts at 0.

    Its state dict is that of a plain layer, with the adapter merged into the weight. It loads such weights, which leave
    the adapter at 0, and also the parameters apart, as a checkpoint has them.
    """

    def __init__(self, linear: nn.Linear, rank: int, generator: torch.Generator) -> None:
        """Take over the weights of `linear`; generator: on the CPU, for A."""
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias
        num_out, num_in = linear.weight.shape
        a = torch.randn(rank, num_in, generator=generator) / num_in**0.5
        self.lora_a = nn.Parameter(a.to(linear.weight))
        self.lora_b = nn.Parameter(linear.weight.new_zeros(num_out, rank))

    def forward(self, x: Tensor) -> Tensor:  # (..., I)
        # A first: r numbers per token are cheaper than B A, which also has gradients as large as those of W.
        return F.linear(x, self.weight, self.bias) + F.linear(F.linear(x, self.lora_a), self.lora_b)  # (..., O)

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        weight = self.weight + self.lora_b @ self.lora_a
        destination[f"{prefix}weight"] = weight if keep_vars else weight.detach()
        if self.bias is not None:
            destination[f"{prefix}bias"] = self.bias if keep_vars else self.bias.detach()

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *details: Any) -> None:
        if f"{prefix}lora_b" not in state_dict:
            state_dict |= {f"{prefix}lora_a": self.lora_a, f"{prefix}lora_b": torch.zeros_like(self.lora_b)}
        super()._load_from_state_dict(state_dict, prefix, *details)


def add_adapters(model: VisionTransformer, rank: int, generator: torch.Generator) -> int:
    """Put adapters on the attention of each block, in place, after freezing; return their number of parameters.

    Raises ValueError for a rank at which they are no smaller than what they adapt.
    """
    if rank >= model.embedding_dim:
        raise ValueError(
            f"init.lora_rank={rank} is not below model.embedding_dim={model.embedding_dim}; usual ranks are 4 to 16"
        )
    adapted = []
    for block in model.blocks:
        attention = block.get_submodule("attn")
        for name in ("qkv", "proj"):
            linear = attention.get_submodule(name)
            assert isinstance(linear, nn.Linear)
            adapted.append(AdaptedLinear(linear, rank, generator))
            setattr(attention, name, adapted[-1])
    return sum(layer.lora_a.numel() + layer.lora_b.numel() for layer in adapted)
