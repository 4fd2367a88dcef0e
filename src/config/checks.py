"""Rules for the values of keys, written in the metadata of the schema's fields, and the checker that applies them."""

import dataclasses
import math
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

LARGEST_SIDE = 2**14  # pixels of an image
SWITCHES = {
    **dict.fromkeys(("true", "yes", "y", "on", "1"), True),
    **dict.fromkeys(("false", "no", "n", "off", "0"), False),
}


@dataclass(frozen=True)
class Rule:
    """The values that a key may have.

    verb, words: what the message says about others: KEY=VALUE must be at least 1. null: what null does; empty if the
    key must not be null. example: a value to write, for keys that have none in YAML. most: the largest number, beyond
    which nothing works, so that only those who exceed it need to know. low, choices: for forms, what `words` says.
    """

    allows: Callable[[Any], bool]
    words: str
    null: str = ""
    verb: str = "must be"
    example: str = ""
    most: float = math.inf
    low: float = -math.inf
    choices: tuple[str, ...] = ()

    def check(self, key: str, value: Any) -> None:
        if value is None:
            missing = f"{key} is not set; write {key}={self.example}" if self.example else f"{key} must not be null"
            check(bool(self.null), missing)
        elif not self.allows(value):
            words = "finite" if value in (math.inf, -math.inf) else self.words
            if isinstance(value, int | float) and self.most < value < math.inf:
                words = f"at most {self.most:,}"
            null = f"; null: {self.null}" if self.null else ""
            raise ValueError(f"{key}={value} {self.verb} {words}{null}")


# The schema says `field(metadata=at_least(1))`: if these functions called `field`, mypy would see defaults.
Metadata = dict[str, Rule]


def at_least(low: float, below: float = math.inf, null: str = "", most: float = math.inf) -> Metadata:
    end = f" and below {below}" if below < math.inf else ""
    return {
        "rule": Rule(
            lambda value: low <= value < below and value <= most, f"at least {low}{end}", null, most=most, low=low
        )
    }


def above(low: float, below: float = math.inf, null: str = "", most: float = math.inf) -> Metadata:
    end = f" and below {below}" if below < math.inf else ""
    return {
        "rule": Rule(lambda value: low < value < below and value <= most, f"above {low}{end}", null, most=most, low=low)
    }


def above_up_to(low: float, high: float, null: str = "") -> Metadata:
    return {"rule": Rule(lambda value: low < value <= high, f"above {low} and at most {high}", null, low=low)}


def between(low: float, high: float, what: str = "", null: str = "") -> Metadata:
    """Allow `low`, `high` and all values between; `what` names the quantity."""
    return {"rule": Rule(lambda value: low <= value <= high, f"{what} from {low} to {high}".lstrip(), null)}


def one_of(*choices: str, null: str = "") -> Metadata:
    return {
        "rule": Rule(
            lambda value: value in choices, ", ".join(choices), null, "is not known; allowed:", choices=choices
        )
    }


def each(item: Metadata, null: str = "") -> Metadata:
    """Allow lists whose items `item` allows."""
    rule = item["rule"]
    return {"rule": Rule(lambda values: all(map(rule.allows, values)), f"numbers, each {rule.words}", null)}


def pair(item: Metadata, ascending: bool = False) -> Metadata:
    """Allow lists of two items that `item` allows."""
    rule, order = item["rule"], ", the smaller first" if ascending else ""

    def allows(values: list[float]) -> bool:
        return len(values) == 2 and all(map(rule.allows, values)) and (values[0] <= values[1] or not ascending)

    return {"rule": Rule(allows, f"two numbers{order}, each {rule.words}")}


def text(example: str, pattern: str = ".*", form: str = "") -> Metadata:
    """Require a text, of which `pattern` matches the whole."""
    matches = re.compile(pattern, re.DOTALL).fullmatch
    return {"rule": Rule(lambda value: matches(value) is not None, form, verb="is not of the form", example=example)}


def check_fields(group: str, config: Any, keys: Collection[str] | None = None) -> None:
    """Check the values of a dataclass by the rules of its fields; with `keys`, only those that an option has.

    Raises ValueError, which names the key, its value and what is allowed.
    """
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        rule = field.metadata.get("rule")
        if rule is not None and (keys is None or field.name in keys):
            rule.check(f"{group}.{field.name}" if group else field.name, value)


def check(condition: bool, message: str) -> None:
    """Raise ValueError with `message`, which names the key to change, unless `condition` holds."""
    if not condition:
        raise ValueError(message)


def check_choice(key: str, value: str, allowed: Collection[str]) -> None:
    one_of(*allowed)["rule"].check(key, value)


def check_device(device: str) -> None:
    known = re.fullmatch(r"auto|cpu|mps|cuda(:\d{1,4})?", device) is not None
    number = device.partition(":")[2]
    wanted = f"cuda:{number}" if number.isdigit() else "cuda"
    meant = f"; did you mean device={wanted}?" if re.match(r"gpu|nvidia|\d", device.lower()) else ""
    check(known, f"device={device} is not known; allowed: auto, cpu, cuda, cuda:N, mps{meant}")


def check_compile(key: str, value: Any) -> None:
    check(value == "auto" or isinstance(value, bool), f"{key}={value} is not known; allowed: auto, true, false")


def read_switch(value: Any) -> bool | None:
    """Return what a value means where YAML has true or false; None if it is neither."""
    return SWITCHES.get(str(value).lower())


def as_check(value: Any) -> bool | str:
    """Return `check` as true, false or a folder. Raises ValueError for what is hardly meant as a folder."""
    switch = read_switch(value)
    if switch is not None:
        return switch
    slip = re.fullmatch(r"[-+]?\d+(\.\d*)?|none|", str(value), re.IGNORECASE)
    check(slip is None, f"check={value} is neither true nor false; a folder of that name is typed check=./{value}")
    return str(value)


def as_size(key: str, value: Any) -> tuple[int, int] | None:
    """Return (height, width) for null, one number or a pair: an image size in a config file."""
    if value is None:
        return None
    pair = list(value) if isinstance(value, list | tuple) else [value, value]
    valid = len(pair) == 2 and all(type(side) is int and side > 0 for side in pair)
    check(valid, f"{key}={value} is not a size; write one number of pixels or [height,width]")
    check(max(pair) <= LARGEST_SIDE, f"{key}={value} is too large; at most {LARGEST_SIDE} pixels")
    return (pair[0], pair[1])


def common_divisors(size: tuple[int, int]) -> list[int]:
    common = math.gcd(*size)
    return [patch for patch in range(1, common + 1) if common % patch == 0]


def format_size(size: tuple[int, int]) -> str:
    return str(size[0]) if size[0] == size[1] else f"[{size[0]},{size[1]}]"


def explain_address(key: str, wanted: str) -> str:
    """Return what to do instead of typing an address such as https://…; "" for a path."""
    kind = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://", wanted)
    if not kind:
        return ""
    if kind[1].lower() == "file":
        return f"{key}={wanted} is an address; type the path alone: {key}={wanted[len(kind[0]) :]}"
    return f"{key}={wanted} is an address, and nothing is downloaded; download it first and type the path of the copy"
