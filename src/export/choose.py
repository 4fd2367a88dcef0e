"""Which formats are written: those that `formats` names, or `all` that can be."""

import difflib
from collections.abc import Sequence
from importlib.util import find_spec

from .bundle import Bundle
from .formats import FORMATS

INSTALL = "pip install -r requirements-export.txt"
ALL = "all"


def check_formats(wanted: Sequence[str]) -> None:
    """Raise ValueError for a format that is not known, or whose packages are missing; before any work."""
    for name in wanted:
        if name not in FORMATS and name != ALL:
            near = difflib.get_close_matches(name.lower(), FORMATS, n=2, cutoff=0.5)
            hint = f"; did you mean {' or '.join(near)}?" if near else ""
            raise ValueError(f"formats=[{name}] is not known; allowed: {', '.join([*FORMATS, ALL])}{hint}")
    if ALL in wanted:
        return
    missing = {name: _find_missing(name) for name in wanted}
    if lacking := {name: packages for name, packages in missing.items() if packages}:
        packages = list(dict.fromkeys(package for group in lacking.values() for package in group))
        verb = "is" if len(packages) == 1 else "are"
        raise ValueError(f"formats=[{','.join(lacking)}]: {', '.join(packages)} {verb} not installed: {INSTALL}")


def choose_formats(wanted: Sequence[str], bundle: Bundle) -> tuple[list[str], dict[str, str]]:
    """Return the formats to write, and of `all` those left out, each with the reason.

    Raises ValueError if one that is named cannot express the run.
    """
    reasons = {name: _explain(name, bundle) for name in FORMATS}
    able = [name for name in FORMATS if not reasons[name]]
    if ALL in wanted:
        return able, {name: reason for name, reason in reasons.items() if reason}
    for name in wanted:
        if reasons[name]:
            others = f"; formats that can be written: {', '.join(able)}" if able else ""
            raise ValueError(f"formats=[{name}]: {reasons[name]}{others}")
    return list(dict.fromkeys(wanted)), {}


def _explain(name: str, bundle: Bundle) -> str:
    if missing := _find_missing(name):
        return f"needs {', '.join(missing)}: {INSTALL}"
    return FORMATS[name].explain(bundle)


def _find_missing(name: str) -> list[str]:
    return [package for package in FORMATS[name].needs if find_spec(package) is None]
