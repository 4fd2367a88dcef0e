"""The words of refusal: checks whose messages name the key to change, and the sizes that they speak of."""

import dataclasses
import math
from collections.abc import Collection
from typing import Any


def check(condition: bool, message: str) -> None:
    """Raise ValueError with `message`, which names the key to change, unless `condition` holds."""
    if not condition:
        raise ValueError(message)


def check_choice(key: str, value: str, allowed: Collection[str]) -> None:
    check(value in allowed, f"{key}={value} is not known; allowed: {', '.join(allowed)}")


def check_option(group: str, config: Any, keys: dict[str, set[str]]) -> None:
    """Refuse an unknown `name`, and a key that the named option of the group would silently ignore."""
    check_choice(f"{group}.name", config.name, keys)
    for field in dataclasses.fields(config):
        if field.name != "name" and field.name not in keys[config.name]:
            known = ", ".join(sorted(keys[config.name]))
            check(
                getattr(config, field.name) is None,
                f"{group}.{field.name} means nothing for {group}={config.name}; its keys: {known}",
            )


def as_size(key: str, value: Any) -> tuple[int, int] | None:
    """Return (height, width) from null, one number or a pair; config files hold either."""
    if value is None:
        return None
    pair = list(value) if isinstance(value, list | tuple) else [value, value]
    valid = len(pair) == 2 and all(isinstance(side, int) and side > 0 for side in pair)
    check(valid, f"{key}={value} is not a size; write one number of pixels or [height,width]")
    return (pair[0], pair[1])


def common_divisors(size: tuple[int, int]) -> list[int]:
    common = math.gcd(*size)
    return [patch for patch in range(1, common + 1) if common % patch == 0]


def format_size(size: tuple[int, int]) -> str:
    return str(size[0]) if size[0] == size[1] else f"[{size[0]},{size[1]}]"


def check_device(device: str) -> None:
    name, _, index = device.partition(":")
    known = name in ("auto", "cpu", "cuda", "mps") and (not index or index.isdigit())
    check(known, f"device={device} is not known; allowed: auto, cpu, cuda, cuda:N, mps")
