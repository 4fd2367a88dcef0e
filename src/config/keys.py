"""The keys of the schema, and the ones that a misspelt key probably means."""

import dataclasses
import difflib
from typing import get_type_hints

# The field's other names for our keys, so that habits from other tools get an answer.
SYNONYMS = {
    "depth": "model.num_layers",
    "layers": "model.num_layers",
    "n_layer": "model.num_layers",
    "num_hidden_layers": "model.num_layers",
    "embed_dim": "model.embedding_dim",
    "dim": "model.embedding_dim",
    "hidden_size": "model.embedding_dim",
    "hidden_dim": "model.embedding_dim",
    "d_model": "model.embedding_dim",
    "n_embd": "model.embedding_dim",
    "width": "model.embedding_dim",
    "heads": "model.num_heads",
    "n_head": "model.num_heads",
    "num_attention_heads": "model.num_heads",
    "img_size": "model.image_size",
    "input_size": "model.image_size",
    "resolution": "model.image_size",
    "patch": "model.patch_size",
    "in_chans": "model.in_channels",
    "channels": "model.in_channels",
    "classes": "model.num_classes",
    "drop_rate": "model.dropout",
    "drop": "model.dropout",
    "attn_drop": "model.attention_dropout",
    "attn_drop_rate": "model.attention_dropout",
    "drop_path_rate": "model.drop_path",
    "stochastic_depth": "model.drop_path",
    "global_pool": "model.pooling",
    "pool": "model.pooling",
    "pos_embed": "model.position_embedding",
    "reg_tokens": "model.num_registers",
    "init_values": "model.layer_scale",
    "learning_rate": "training.lr",
    "lr": "training.lr",
    "bs": "training.batch_size",
    "batch": "training.batch_size",
    "num_epochs": "training.epochs",
    "max_epochs": "training.epochs",
    "grad_clip": "training.clip_norm",
    "clip_grad": "training.clip_norm",
    "gradient_clip_val": "training.clip_norm",
    "smoothing": "training.label_smoothing",
    "patch_drop_rate": "training.patch_dropout",
    "token_dropout": "training.patch_dropout",
    "amp": "training.precision",
    "fp16": "training.precision",
    "mixed_precision": "training.precision",
    "accumulation_steps": "training.accumulate",
    "accum_iter": "training.accumulate",
    "grad_accum_steps": "training.accumulate",
    "gradient_accumulation_steps": "training.accumulate",
    "accumulate_grad_batches": "training.accumulate",
    "micro_batch": "training.micro_batch_size",
    "model_ema": "training.ema",
    "ema_decay": "training.ema",
    "model_ema_decay": "training.ema",
    "patience": "training.early_stopping",
    "max_time": "training.max_minutes",
    "torch_compile": "training.compile",
    "torchcompile": "training.compile",
    "grad_checkpointing": "training.gradient_checkpointing",
    "checkpoint_interval": "training.checkpoint_minutes",
    "save_every": "training.checkpoint_minutes",
    "fsdp": "training.strategy",
    "ddp": "training.strategy",
    "pretrained": "init.weights",
    "finetune": "init.weights",
    "weights": "init.weights",
    "pretrained_path": "init.weights",
    "initial_checkpoint": "init.weights",
    "freeze_backbone": "init.freeze",
    "linear_probe": "init.freeze",
    "layer_wise_lr_decay": "init.layer_decay",
    "llrd": "init.layer_decay",
    "resume_from": "resume",
    "resume_from_checkpoint": "resume",
    "ckpt_path": "resume",
    "wd": "optimizer.weight_decay",
    "opt": "optimizer",
    "optim": "optimizer",
    "warmup": "scheduler.warmup_epochs",
    "sched": "scheduler",
    "lr_scheduler": "scheduler",
    "eta_min": "scheduler.min_lr",
    "aug": "augmentation",
    "hflip": "augmentation.horizontal_flip",
    "mixup_alpha": "augmentation.mixup",
    "cutmix_alpha": "augmentation.cutmix",
    "random_erasing": "augmentation.erasing",
    "reprob": "augmentation.erasing",
    "degrees": "augmentation.rotation",
    "repeated_augmentation": "augmentation.repeats",
    "data": "dataset",
    "data_dir": "dataset.root",
    "data_path": "dataset.root",
    "data_root": "dataset.root",
    "path": "dataset.root",
    "csv": "dataset.table",
    "csv_file": "dataset.table",
    "csv_path": "dataset.table",
    "file": "dataset.table",
    "target": "dataset.label_column",
    "target_column": "dataset.label_column",
    "label": "dataset.label_column",
    "slug": "dataset.handle",
    "kaggle_handle": "dataset.handle",
    "groups": "dataset.group_pattern",
    "group_by": "dataset.group_pattern",
    "val_size": "dataset.val_share",
    "val_split": "dataset.val_share",
    "validation_split": "dataset.val_share",
    "test_size": "dataset.test_share",
    "test_split": "dataset.test_share",
    "random_seed": "seed",
    "gpu": "device",
    "accelerator": "device",
    "image": "input",
    "images": "input",
    "checkpoint": "run",
    "top_k": "topk",
    "k": "topk",
}


def list_keys(schema: type) -> list[str]:
    """Return the schema's keys with dots, the groups themselves included."""
    keys = []
    for name, kind in get_type_hints(schema).items():
        keys.append(name)
        if dataclasses.is_dataclass(kind):
            keys += [f"{name}.{key}" for key in list_keys(kind)]  # type: ignore[arg-type]
    return keys


def suggest_keys(key: str, schema: type) -> list[str]:
    """Return up to three valid keys that `key` probably means, the most probable first."""
    keys = list_keys(schema)
    last = key.rsplit(".", 1)[-1]
    if SYNONYMS.get(last) in keys:
        return [SYNONYMS[last]]
    by_name: dict[str, list[str]] = {}
    for known in keys:
        by_name.setdefault(known.rsplit(".", 1)[-1], []).append(known)
    alike = difflib.get_close_matches(key, keys, n=1, cutoff=0.9) or difflib.get_close_matches(
        key, keys, n=2, cutoff=0.75
    )
    near = [*by_name.get(last, []), *alike]
    for name in difflib.get_close_matches(last, by_name, n=1, cutoff=0.75):
        near += by_name[name]
    return list(dict.fromkeys(near))[:3]
