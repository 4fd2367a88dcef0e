"""What the files of a run hold is checked here before it is used: they may be damaged, or a stranger's.

What cannot be used raises ValueError with one sentence; of what is only told, the parts of a wrong kind are unknown.
"""

from collections.abc import Mapping
from typing import Any

from ..config.checks import check
from ..config.schema import TrainConfig

TEXTS = ("status", "error", "ended", "started", "dataset", "root", "model", "best_weights", "host", "slurm_job")
NUMBERS = (
    *("embedding_dim", "num_layers", "parameters", "micro_batch_size", "peak_memory", "epoch", "epochs", "best_epoch"),
    *("best_val_acc", "best_val_loss", "test_acc", "seconds", "pid", "process_started"),
)
LARGEST = 1e18  # more than any number of a run
SIDE = 2**15  # pixels


def as_number(value: Any) -> float | None:
    """Return a number as it is, None for anything else: texts, NaN, infinity, and what does not fit into a float."""
    known = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < LARGEST
    return value if known else None


def check_facts(facts: Any) -> dict[str, Any]:
    """Return the content of status.json, in which what is not of its kind is unknown. Raises ValueError for no status.

    What a later version adds stays as it is.
    """
    if not isinstance(facts, dict) or not isinstance(facts.get("status"), str):
        raise ValueError("it has no status")
    texts = {key: facts[key] if isinstance(facts[key], str) else None for key in TEXTS if key in facts}
    numbers = {key: as_number(facts[key]) for key in NUMBERS if key in facts}
    return facts | texts | numbers


def check_parts(config: TrainConfig, classes: Any, fields: Any) -> None:
    """Check classes.json, and preprocessing.json, against the configuration and each other."""
    named = isinstance(classes, list) and bool(classes) and all(isinstance(name, str) for name in classes)
    check(named, "classes.json is not a list of names")
    wanted = config.model.num_classes
    check(wanted in (None, len(classes)), f"classes.json has {len(classes)} classes, the model {wanted}")
    check(isinstance(fields, dict), "preprocessing.json is not an object")
    size, channels = fields.get("size"), fields.get("channels")
    whole = isinstance(size, list) and len(size) == 2 and all(type(side) is int and 0 < side < SIDE for side in size)
    check(whole, "preprocessing.json has no size")
    check(type(channels) is int and 0 < channels < SIDE, "preprocessing.json has no channels")
    for key, least in (("mean", None), ("std", 0.0)):
        values = fields.get(key)
        numbers = isinstance(values, list) and len(values) == channels and all(map(_is_number, values))
        check(numbers and (least is None or min(values) > least), f"preprocessing.json has no {key} of each channel")
    levels, pixels = fields.get("value_range"), fields.get("max_pixels", 1)
    fits = levels is None or (
        isinstance(levels, list) and len(levels) == 2 and all(map(_is_number, levels)) and levels[0] < levels[1]
    )
    check(fits, "preprocessing.json has an invalid value_range")
    check(type(pixels) is int and 0 < pixels < LARGEST, "preprocessing.json has an invalid max_pixels")
    for key, allowed in (
        ("resize", ("crop", "squash")),
        ("interpolation", ("bicubic", "bilinear", "nearest")),
        ("axes", (None, "hwc", "chw")),
        ("pages", ("first", "bands")),
    ):
        check(fields.get(key, allowed[0]) in allowed, f"preprocessing.json has an unknown {key}")


def _is_number(value: Any) -> bool:
    return as_number(value) is not None


def check_environment(value: Any) -> dict[str, Any]:
    """Return what environment.json holds, without what is not of its kind."""
    facts = value if isinstance(value, dict) else {}
    kinds = {"choices": dict, "images": dict, "resumed": list, "cwd": str, "data_fingerprint": str, "overrides": list}
    return {key: fact for key, fact in facts.items() if fact is None or isinstance(fact, kinds.get(key, object))}


def check_checkpoint(content: Any) -> None:
    """Check the content of last.pt: the kinds of what it has. What it lacks, the trainer finds as it loads it."""
    check(isinstance(content, dict), "it is not a checkpoint of a run")
    state, own = content.get("trainer"), content.get("run")
    check(isinstance(state, dict) and isinstance(own, dict), "it is not a checkpoint of a run")
    for key, least in (("epoch", 1), ("step", 0), ("seen", 0)):
        number = state.get(key, least)
        check(type(number) is int and least <= number < LARGEST, f"its {key} is not a number")
    check(_is_number(state.get("lr", 0)), "its lr is not a number")
    for key in ("loss_sum", "num_right"):
        check(key not in state or getattr(state[key], "shape", None) == (), f"its {key} is not a number")
    for key in ("model", "optimizer", "scaler"):
        check(isinstance(state.get(key, {}), dict), f"its {key} is not a state")
    check(isinstance(state.get("ema"), dict | None), "its ema is not a state")
    size, ended = state.get("micro_batch_size"), state.get("ended")
    check(size is None or (type(size) is int and size > 0), "its micro_batch_size is invalid")
    check(ended is None or isinstance(ended, str), "its end is not a text")
    rows, best = own.get("rows"), own.get("best")
    tabular = isinstance(rows, list) and all(isinstance(row, Mapping) and type(row.get("epoch")) is int for row in rows)
    check(tabular and all(_is_row(row) for row in rows), "its rows are not epochs")
    check(_is_number(own.get("seconds")), "its seconds are not a number")
    known = best == {} or (
        isinstance(best, dict)
        and type(best.get("epoch")) is int
        and all(isinstance(best.get(key), float) for key in ("val_acc", "val_loss"))
        and isinstance(best.get("kind"), str)
    )
    check(known, "its best epoch is invalid")


def _is_row(row: Mapping[Any, Any]) -> bool:
    return all(isinstance(key, str) and (value is None or type(value) in (int, float)) for key, value in row.items())
