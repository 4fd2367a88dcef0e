"""Names that other libraries give to the tensors of a Vision Transformer, mapped to those of timm, as in `model.py`.

Of torchvision, Hugging Face (ViT, DeiT, DINOv2, MAE, CLIP; names of transformers 4 and 5), and what DeiT and DINOv2
call their registers. CLIP as OpenCLIP stores it is left to timm, see `convert.py`. Letters in shapes: N tokens, D
embedding dimension.
"""

import re

import torch
from torch import Tensor

# A tensor that only one library has under this name, with the prefix of the transformer in front.
TORCHVISION = re.compile(r"(.*?)encoder\.layers\.encoder_layer_0\.self_attention\.in_proj_weight")
HUGGING_FACE = re.compile(
    r"(.*?)(?:encoder\.)?layers?\.0\.(?:attention\.attention\.query|attention\.q_proj|self_attn\.q_proj)\.weight"
)
OPENCLIP = re.compile(r"(.*?)transformer\.resblocks\.0\.attn\.in_proj_weight")
TEXT = re.compile(r"text_model\.")  # the other half of CLIP

OF_TORCHVISION = {
    r"class_token": "cls_token",
    r"conv_proj\.": "patch_embed.proj.",
    r"encoder\.pos_embedding": "pos_embed",
    r"encoder\.ln\.": "norm.",
    r"heads\.head\.": "head.",
    r"encoder\.layers\.encoder_layer_(\d+)\.ln_([12])\.": r"blocks.\1.norm\2.",
    r"encoder\.layers\.encoder_layer_(\d+)\.self_attention\.in_proj_": r"blocks.\1.attn.qkv.",
    r"encoder\.layers\.encoder_layer_(\d+)\.self_attention\.out_proj\.": r"blocks.\1.attn.proj.",
    r"encoder\.layers\.encoder_layer_(\d+)\.mlp\.(?:0|linear_1)\.": r"blocks.\1.mlp.fc1.",
    r"encoder\.layers\.encoder_layer_(\d+)\.mlp\.(?:3|linear_2)\.": r"blocks.\1.mlp.fc2.",
}
_LAYER = r"(?:encoder\.)?layers?\.(\d+)\."
OF_HUGGING_FACE = {
    r"embeddings\.(?:cls_token|class_embedding)": "cls_token",
    r"embeddings\.(?:distillation_token|register_tokens)": "reg_token",
    r"embeddings\.mask_token": "mask_token",
    r"embeddings\.(?:position_embeddings|position_embedding\.weight)": "pos_embed",
    r"embeddings\.(?:patch_embeddings\.projection|patch_embedding)\.": "patch_embed.proj.",
    r"pre_layrnorm\.": "norm_pre.",
    r"(?:post_)?layernorm\.": "norm.",
    _LAYER + r"(?:layernorm_before|norm1|layer_norm1)\.": r"blocks.\1.norm1.",
    _LAYER + r"(?:layernorm_after|norm2|layer_norm2)\.": r"blocks.\1.norm2.",
    _LAYER + r"(?:attention\.attention\.|attention\.|self_attn\.)(query|key|value|[qkv]_proj)\.": r"blocks.\1.attn.\2.",
    _LAYER + r"(?:attention\.output\.dense|attention\.o_proj|self_attn\.out_proj)\.": r"blocks.\1.attn.proj.",
    _LAYER + r"(?:intermediate\.dense|mlp\.fc1)\.": r"blocks.\1.mlp.fc1.",
    _LAYER + r"(?:output\.dense|mlp\.fc2)\.": r"blocks.\1.mlp.fc2.",
    _LAYER + r"layer_scale([12])\.lambda1": r"blocks.\1.ls\2.gamma",
}
HEADS = {r"(?:cls_)?classifier\.": "head.", r"distillation_classifier\.": "head_dist."}
PARTS = re.compile(r"(blocks\.\d+\.attn\.)(?:query|key|value|[qkv]_proj)\.(weight|bias)")
# Other names of registers, with those who use them. The distillation token of DeiT is one: a token more between class
# token and patches.
SYNONYMS = {"dist_token": "DeiT", "register_tokens": "DINOv2", "storage_tokens": "DINOv3"}

# What only other architectures have: a name, what it says about them, and whom it is known from.
OTHERS = {
    r"rope|periods|inv_freq": "rotary position embeddings, as DINOv3 has",
    r"relative_position|rel_pos": "windows or relative positions, as Swin, BEiT and SAM have",
    r"\.mlp\.(w12|w[123]|gate_proj|fc1_g|weights_in)\.": "gated MLPs (SwiGLU), as DINOv2's and DINOv3's largest have",
    r"attn_pool|MAPHead|head\.probe": "pooling by attention, as SigLIP has",
    r"patch_embed\.backbone|conv_root": "a convolutional network in front, as the hybrids R50+ViT have",
    r"fc_norm\.": "a norm after averaging the tokens (fc_norm), as timm's models with global_pool=avg have",
    r"\.(attns|ffns)\.\d": "parallel branches",
}


def explain_others(names: list[str]) -> str:
    """Return what tells that tensors of these names are of no plain Vision Transformer, "" if nothing does."""
    joined = [(name, what) for pattern, what in OTHERS.items() for name in names if re.search(pattern, name)]
    return f"{joined[0][1]} ({joined[0][0]})" if joined else ""


def rename(weights: dict[str, Tensor]) -> tuple[dict[str, Tensor], str]:
    """Return weights under timm's names, and whose names they had: "torchvision", "Hugging Face", or "" as they are."""
    for library, marker, rules in (
        ("torchvision", TORCHVISION, OF_TORCHVISION),
        ("Hugging Face", HUGGING_FACE, OF_HUGGING_FACE),
    ):
        found = [match[1] for name in weights if not TEXT.search(name) and (match := marker.fullmatch(name))]
        found = [prefix for prefix in found if prefix == "" or prefix.endswith(".")]
        if found and library == "Hugging Face" and not any("position_embedding" in name for name in weights):
            raise ValueError("it has no position embeddings but rotary ones, as DINOv3")
        if found:
            return _rename(weights, min(found, key=len), rules), library
    return weights, ""


def _rename(weights: dict[str, Tensor], prefix: str, rules: dict[str, str]) -> dict[str, Tensor]:
    """Return the transformer below a prefix, and the head, which may be beside it, under timm's names."""
    renamed: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        if name.endswith("embeddings.position_ids"):  # counted from 0, in files of older versions
            continue
        inside = name.startswith(prefix)
        for pattern, ours in ((rules if inside else {}) | HEADS).items():
            short, count = re.subn(rf"^{pattern}", ours, name.removeprefix(prefix) if inside else name)
            if count:
                renamed[short] = tensor
                break
        else:
            if inside and not TEXT.search(name):
                renamed[name.removeprefix(prefix)] = tensor
    return _join(_shape(renamed))


def _shape(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return class token (1,1,D) and positions (1,N,D) with the axis of the batch, which CLIP leaves out."""
    for name, ndim in (("cls_token", 3), ("pos_embed", 3)):
        if name in weights:
            while weights[name].ndim < ndim:
                weights[name] = weights[name].unsqueeze(0)
    return weights


def _join(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return weights with queries, keys and values in one matrix (3·D,D), and one bias (3·D,)."""
    joined: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        match = PARTS.fullmatch(name)
        if match is None:
            joined[name] = tensor
            continue
        ours = f"{match[1]}qkv.{match[2]}"
        if ours not in joined:
            joined[ours] = torch.cat([_find_part(weights, match, kind) for kind in ("q", "k", "v")])
    return joined


def _find_part(weights: dict[str, Tensor], match: re.Match[str], kind: str) -> Tensor:
    long = {"q": "query", "k": "key", "v": "value"}[kind]
    names = [f"{match[1]}{part}.{match[2]}" for part in (f"{kind}_proj", long)]
    found = next((weights[name] for name in names if name in weights), None)
    if found is None:
        raise ValueError(f"has {match[0]}, but no {names[0]}")
    return found


def use_synonyms(weights: dict[str, Tensor]) -> tuple[dict[str, Tensor], str]:
    """Return weights in which the registers are called so, and the library that calls them otherwise, or ""."""
    for name, library in SYNONYMS.items():
        if name in weights and "reg_token" not in weights:
            return {("reg_token" if key == name else key): tensor for key, tensor in weights.items()}, library
    return weights, ""


def use_layer_scale(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return weights in which LayerScale has timm's name; DeiT III calls it gamma_1 and gamma_2."""
    return {re.sub(r"^(blocks\.\d+\.)gamma_([12])$", r"\1ls\2.gamma", name): value for name, value in weights.items()}
