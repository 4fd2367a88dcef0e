"""What a user reads after a mistake: the key, what is wrong with it, and what to type instead."""

import dataclasses
import difflib
import re
from pathlib import Path
from typing import get_type_hints

from hydra.errors import HydraException

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

# Launchers of Hydra's that configs/hydra/launcher/ builds on, and what brings them.
LAUNCHERS = {
    **dict.fromkeys(("joblib", "submitit_slurm", "submitit_local"), "-r requirements-sweep.txt"),
    "ray": "-r requirements-ray.txt",
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


def explain_flag(flag: str, schema: type) -> str:
    """Return what to type instead of a setting with dashes, such as --epochs=5 or --epochs."""
    name, _, value = flag.lstrip("-").partition("=")
    name = name.replace("-", "_")
    key = name if name in list_keys(schema) else (suggest_keys(name, schema) or [name])[0]
    return f"{flag} is not an option; settings are typed without dashes: {key}={value or 'VALUE'}"


def explain(error: BaseException, schema: type, configs: Path) -> str:
    """Return one to three lines about a configuration error: key, reason, what to type."""
    notes = getattr(error, "__notes__", [])
    # Our own checks and what the system says are already so; but Hydra's errors may be OSErrors too.
    if type(error) is ValueError or (isinstance(error, OSError) and not isinstance(error, HydraException)):
        return "\n".join([str(error), *notes])
    chain: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None:
        chain.append(cause)
        cause = cause.__cause__
    text = "\n".join(str(link) for link in chain)
    return "\n".join([_explain(text, schema, configs), *notes])


def _explain(text: str, schema: type, configs: Path) -> str:
    found = re.search(r"full_key: (\S+)", text)
    key = found[1] if found else ""
    file = re.search(r"In '([^']+)'", text)
    where = f" (in {configs.name}/{file[1]}.yaml)" if file and "Could not find" not in text else ""
    if re.search(r"Key '.*' (not in|is not in struct)", text) and key:
        return f"{key} is not a key{where}.{_did_you_mean(suggest_keys(key, schema))}"
    launcher = re.search(r"Could not (?:find|load) 'hydra/launcher/(\w+)'", text)
    if launcher and launcher[1] in LAUNCHERS:
        return f"hydra/launcher={launcher[1]} is not installed: pip install {LAUNCHERS[launcher[1]]}"
    if missing := re.search(r"Could not find '([^']+)'", text):
        return _explain_option(missing[1], text)
    if ambiguous := re.search(r"Ambiguous value for argument '(.*)'", text):
        return (
            f"{ambiguous[1]} gives several values: add --multirun to try each, "
            "or write [a,b] for one list and quote text that holds a comma"
        )
    if wrong := re.search(r"Value '(.*?)'.* (?:could not be converted to|is not a valid) (\w+)", text):
        kind = {"Integer": "a whole number", "Float": "a number", "bool": "true or false"}.get(wrong[2], wrong[2])
        return f"{key}={wrong[1]} is not {kind}{where}"
    if "is not Optional" in text or "Incompatible value 'None'" in text:
        return f"{key} must not be null{where}"
    if "not set" in text or "Missing mandatory value" in text or "MISSING" in text:
        return f"{key or text.splitlines()[0]} has no value{where}"
    if "override" in text and "missing EQUAL" in text:
        word = re.search(r"override '(.*?)'", text)
        return f"'{word[1] if word else text}' is not of the form key=value"
    noise = re.compile(r"^\s*$|hydra\.cc|^\s+(full_key|object_type|reference_type)")
    lines = [line for line in text.splitlines() if not noise.search(line)]
    return "\n".join(dict.fromkeys(lines[:2])) + where


def _explain_option(option: str, text: str) -> str:
    group, _, name = option.rpartition("/")
    if not group:
        return f"configs/{option}.yaml does not exist"
    available = re.findall(r"^\t(\S+)$", text.split("Config search path")[0], flags=re.MULTILINE)
    near = difflib.get_close_matches(name, available, n=1)
    hint = f" Did you mean {group}={near[0]}?" if near else ""
    return f"{group}={name} is not an option.{hint}\n{group} can be: {', '.join(available) or 'nothing yet'}"


def _did_you_mean(suggestions: list[str]) -> str:
    if not suggestions:
        return " `--cfg job` shows all keys."
    return f" Did you mean {' or '.join(suggestions)}?"
