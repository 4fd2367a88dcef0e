"""The jobs of a sweep from what is typed: values are combined, paired, drawn at random, or read from a file.

A job is the list of overrides that would train it alone. The same overrides give the same jobs.
"""

import csv
import itertools
import math
import random
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override
from hydra.errors import HydraException

from ..config.checks import check
from ..config.overrides import format_number, name_key, quote_path, type_value
from ..config.sweep import SweepConfig

Overrides = list[str]
MAX_JOBS = 10_000  # of a sweep; up to so many combinations, random ones are drawn without repetition


def expand(overrides: list[str], settings: SweepConfig | None, parser: OverridesParser) -> list[Overrides]:
    """Return the overrides of each job; settings: None for all combinations.

    Raises ValueError with the key if there are no jobs: values to pair differ in number, or one is an interval.
    """
    if settings is None:
        return _cross(_list_values(_parse(overrides, parser)))
    parsed = _parse(add_params(overrides, settings.params), parser)
    with _seeded(settings.seed):
        if settings.random is not None:
            jobs = _draw(parsed, settings)
        elif settings.zip:
            jobs = _pair(_list_values(parsed))
        else:
            jobs = _cross(_list_values(parsed))
    if settings.file is None:
        return jobs
    typed = {name_key(override) for override in overrides}
    listed = read_experiments(Path(settings.file))
    listed = [[quote_path(word) for word in job if name_key(word) not in typed] for job in listed]
    for word in dict.fromkeys(word for job in listed for word in job):
        _check_listed(word, settings.file, parser)
    return [[*first, *second] for first in listed for second in jobs]


def add_params(overrides: list[str], params: dict[str, Any]) -> Overrides:
    """Return the overrides together with those of `sweep.params`; for the same key, the typed one wins."""
    typed = {name_key(override) for override in overrides}
    for key in params:
        check(
            not _is_for_sweep(name_key(key)),
            f"sweep.params: {key} cannot be swept; it is a setting of the sweep itself",
        )
    given = {key: value if isinstance(value, str) else type_value(value) for key, value in params.items()}
    return [f"{key}={value}" for key, value in given.items() if key not in typed] + overrides


def _is_for_sweep(key: str) -> bool:
    return key.startswith(("hydra.", "hydra/", "sweep."))


def _parse(overrides: list[str], parser: OverridesParser) -> list[Override]:
    return parser.parse_overrides(overrides)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed Python's generator, which Hydra's `shuffle(…)` uses, so that the order is the same each time."""
    before = random.getstate()
    random.seed(seed)
    try:
        yield
    finally:
        random.setstate(before)


def _list_values(parsed: list[Override]) -> list[Overrides]:
    """Return, for each key in the order typed, an override for each of its values."""
    lists = []
    for override in parsed:
        if override.is_discrete_sweep():
            lists.append(list_choices(override))
        elif override.is_sweep_override():
            raise ValueError(
                f"{override.input_line} is an interval, not a list of values: add sweep.random=20 to draw from it, "
                "sweep.search=tpe to search it, or type range(…) or a,b,c"
            )
        else:
            lists.append([str(override.input_line)])
    return lists


def list_choices(override: Override) -> Overrides:
    """Return an override for each of the values. Raises ValueError if there are more than a sweep may have jobs."""
    key = override.get_key_element()
    try:
        values = list(itertools.islice(override.sweep_string_iterator(), MAX_JOBS + 1))
    except HydraException as error:
        raise ValueError(f"{override.input_line} cannot be read: {str(error).splitlines()[0]}") from error
    check(len(values) <= MAX_JOBS, f"{override.input_line} has more than {MAX_JOBS:,} values")
    return [f"{key}={value}" for value in values]


def _cross(lists: list[Overrides]) -> list[Overrides]:
    count = math.prod(len(values) for values in lists)
    check(count <= MAX_JOBS, f"{count:,} jobs are more than the {MAX_JOBS:,} of a sweep; sweep.random=20 draws some")
    return [list(job) for job in itertools.product(*lists)]


def _pair(lists: list[Overrides]) -> list[Overrides]:
    """Use the n-th value of each key for the n-th job; a key with one value has it in every job."""
    counts = {name_key(values[0]): len(values) for values in lists if len(values) > 1}
    if len(set(counts.values())) > 1:
        found = ", ".join(f"{key} has {count}" for key, count in counts.items())
        raise ValueError(
            f"sweep.zip=true pairs the values of all keys, so all keys need the same number of values: {found}"
        )
    num_jobs = max(counts.values(), default=1)
    return [[values[number % len(values)] for values in lists] for number in range(num_jobs)]


def _draw(parsed: list[Override], settings: SweepConfig) -> list[Overrides]:
    """Draw `sweep.random` jobs, without repetition if all combinations can be listed; several seeds repeat each job."""
    assert settings.random is not None
    repeated = [override for override in parsed if override.is_discrete_sweep() and override.key_or_group == "seed"]
    drawn = [override for override in parsed if override not in repeated]
    lists = [list_choices(override) if override.is_discrete_sweep() else [] for override in drawn]
    swept = [override for override in drawn if override.is_sweep_override()]
    check(bool(swept), "sweep.random draws from several values or an interval: type some, e.g. model.num_layers=4,6,8")
    size = math.prod(len(values) for values in lists if values)
    if all(override.is_discrete_sweep() for override in swept) and size <= MAX_JOBS:
        check(settings.random <= size, f"sweep.random={settings.random}, but there are only {size} combinations")
        combinations = _cross(_list_values(drawn))
        jobs = random.Random(settings.seed).sample(combinations, settings.random)
    else:
        jobs = [
            [_draw_one(override, values, random.Random(f"{settings.seed} {number} {position}"))
             for position, (override, values) in enumerate(zip(drawn, lists, strict=True))]
            for number in range(settings.random)
        ]  # fmt: skip
    return [[*job, *repeat] for job in jobs for repeat in _cross(_list_values(repeated))]


def _draw_one(override: Override, values: Overrides, generator: random.Random) -> str:
    if values:
        return generator.choice(values)
    if not override.is_sweep_override():
        return str(override.input_line)
    low, high, logarithmic, whole = read_interval(override)
    if whole:
        value: float = generator.randint(int(low), int(high))
    elif logarithmic:
        value = math.exp(generator.uniform(math.log(low), math.log(high)))
    else:
        value = generator.uniform(low, high)
    return f"{override.get_key_element()}={format_number(value)}"


def read_interval(override: Override) -> tuple[float, float, bool, bool]:
    """Return low and high of `interval(low, high)`, whether it is logarithmic, and whether it has whole numbers.

    These are typed `tag(log, interval(1e-4, 1e-2))` and `int(interval(2, 8))`.
    """
    interval = override.value()
    assert isinstance(interval, IntervalSweep) and interval.start is not None and interval.end is not None
    low, high, logarithmic = interval.start, interval.end, "log" in interval.tags
    text = override.input_line
    unknown = ", ".join(sorted(interval.tags - {"log"}))
    check(not unknown, f"{text}: the tag {unknown} is not known; allowed: log")
    check(low < high, f"{text}: the second number must be larger than the first")
    check(low > 0 or not logarithmic, f"{text}: tag(log, …) needs numbers above 0")
    return low, high, logarithmic, isinstance(low, int) and isinstance(high, int)


def _check_listed(word: str, file: str, parser: OverridesParser) -> None:
    """Raise ValueError if an override in a file is malformed, has several values, or is not for a job."""
    try:
        override = parser.parse_override(word)
    except HydraException as error:
        raise ValueError(f"sweep.file={file}: {word} cannot be read: {str(error).splitlines()[0]}") from error
    check(not override.is_sweep_override(), f"sweep.file={file}: {word} gives several values; write a line for each")
    key = name_key(word)
    check(not _is_for_sweep(key), f"sweep.file={file}: {key} is a setting of the sweep itself; type it instead")


def read_experiments(path: Path) -> list[Overrides]:
    """Read the jobs of a file: a .yaml list of mappings or lines, a .csv table with a column per key, or a text file
    with a line of overrides per job. Raises ValueError if it is malformed."""
    check(path.is_file(), f"sweep.file={path} is not a file")
    try:
        text = path.read_text(encoding="utf-8-sig")  # spreadsheets add a byte order mark
        if path.suffix.lower() in (".yaml", ".yml"):
            entries = yaml.safe_load(text)
            check(isinstance(entries, list), f"sweep.file={path} must be a list: an item (- …) for each job")
            jobs = [_read_entry(entry, path) for entry in entries]
        elif path.suffix.lower() == ".csv":
            jobs = _read_rows(text, path)
        else:
            jobs = [shlex.split(line, comments=True) for line in text.splitlines()]
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"sweep.file={path} cannot be read: {error}") from error
    except ValueError as error:  # from shlex: an unclosed quote
        message = str(error)
        raise ValueError(message if message.startswith("sweep.file") else f"sweep.file={path}: {message}") from error
    jobs = [job for job in jobs if job]
    check(bool(jobs), f"sweep.file={path} contains no jobs")
    for override in (override for job in jobs for override in job):
        check(
            "=" in override or override.startswith("~"), f"sweep.file={path}: {override} is not of the form key=value"
        )
    return jobs


def _read_rows(text: str, path: Path) -> list[Overrides]:
    rows = list(csv.DictReader(text.splitlines(), skipinitialspace=True))
    check(not any(None in row for row in rows), f"sweep.file={path}: a row has more cells than there are columns")
    return [[f"{key}={value}" for key, value in row.items() if value] for row in rows]


def _read_entry(entry: Any, path: Path) -> Overrides:
    if isinstance(entry, str):
        return shlex.split(entry)
    check(
        isinstance(entry, dict), f"sweep.file={path}: {entry} is neither a mapping (key: value) nor a line of key=value"
    )
    return list(_flatten(entry))


def _flatten(values: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}={type_value(value)}"
