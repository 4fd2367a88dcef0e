"""The keys of the schema, and suggestions for a key that it does not have."""

import dataclasses
import difflib
from typing import get_type_hints

# Names that other tools give our keys.
_SYNONYMS = {
    "model.num_layers": "depth layers n_layer num_hidden_layers",
    "model.embedding_dim": "embed_dim dim hidden_size hidden_dim d_model n_embd width",
    "model.num_heads": "heads n_head num_attention_heads",
    "model.image_size": "img_size input_size resolution",
    "model.patch_size": "patch",
    "model.in_channels": "in_chans channels",
    "model.num_classes": "classes",
    "model.dropout": "drop_rate drop",
    "model.attention_dropout": "attn_drop attn_drop_rate",
    "model.drop_path": "drop_path_rate stochastic_depth",
    "model.pooling": "global_pool pool",
    "model.position_embedding": "pos_embed",
    "model.num_registers": "reg_tokens",
    "model.layer_scale": "init_values",
    "training.lr": "learning_rate lr",
    "training.batch_size": "bs batch",
    "training.epochs": "num_epochs max_epochs",
    "training.clip_norm": "grad_clip clip_grad gradient_clip_val",
    "training.label_smoothing": "smoothing",
    "training.patch_dropout": "patch_drop_rate token_dropout",
    "training.precision": "amp fp16 mixed_precision",
    "training.accumulate": "accumulation_steps accum_iter grad_accum_steps gradient_accumulation_steps "
    "accumulate_grad_batches",
    "training.micro_batch_size": "micro_batch",
    "training.ema": "model_ema ema_decay model_ema_decay",
    "training.early_stopping": "patience",
    "training.max_minutes": "max_time",
    "training.compile": "torch_compile torchcompile",
    "training.gradient_checkpointing": "grad_checkpointing",
    "training.checkpoint_minutes": "checkpoint_interval save_every",
    "training.strategy": "fsdp ddp",
    "init.weights": "pretrained finetune weights pretrained_path initial_checkpoint",
    "init.freeze": "freeze_backbone linear_probe",
    "init.layer_decay": "layer_wise_lr_decay llrd",
    "init.lora_rank": "lora lora_r peft",
    "resume": "resume_from resume_from_checkpoint ckpt_path",
    "optimizer": "opt optim",
    "optimizer.weight_decay": "wd",
    "scheduler": "sched lr_scheduler",
    "scheduler.warmup_epochs": "warmup",
    "scheduler.min_lr": "eta_min",
    "augmentation": "aug",
    "augmentation.horizontal_flip": "hflip",
    "augmentation.mixup": "mixup_alpha",
    "augmentation.cutmix": "cutmix_alpha",
    "augmentation.erasing": "random_erasing reprob",
    "augmentation.rotation": "degrees",
    "augmentation.repeats": "repeated_augmentation",
    "dataset": "data",
    "dataset.root": "data_dir data_path data_root path",
    "dataset.table": "csv csv_file csv_path file",
    "dataset.label_column": "target target_column label",
    "dataset.handle": "slug kaggle_handle",
    "dataset.group_pattern": "groups group_by",
    "dataset.val_share": "val_size val_split validation_split",
    "dataset.test_share": "test_size test_split",
    "seed": "random_seed",
    "device": "gpu accelerator",
    "input": "image images",
    "query": "similar",
    "run": "checkpoint",
    "topk": "top_k k neighbors num_neighbors",
}
SYNONYMS = {synonym: key for key, synonyms in _SYNONYMS.items() for synonym in synonyms.split()}


def list_keys(schema: type) -> list[str]:
    """Return the schema's dotted keys, and its groups."""
    keys = []
    for name, kind in get_type_hints(schema).items():
        keys.append(name)
        if dataclasses.is_dataclass(kind):
            keys += [f"{name}.{key}" for key in list_keys(kind)]  # type: ignore[arg-type]
    return keys


def suggest_keys(key: str, schema: type) -> list[str]:
    """Return up to three keys that `key` probably stands for, the most probable first."""
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
