"""Which files are predicted: those of a file, a folder or a glob; and which are left out, each with the reason."""

import glob
import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from ..config.checks import explain_address
from ..data.files import explain_ignored, explain_no_image, refuse_closed, walk


@dataclass
class Inputs:
    """files: the images; others: the files and folders that are left out, each with the reason."""

    files: list[Path]
    others: dict[Path, str] = field(default_factory=dict)

    def describe_others(self) -> str:
        """Return how many files are left out and how many for each reason; "" if there are none."""
        reasons = Counter(self.others.values()).most_common()
        listed = ", ".join(f"{count:,} {reason}" for reason, count in reasons)
        return f"{len(self.others):,} file{'' if len(self.others) == 1 else 's'} left out: {listed}" if reasons else ""


def find_inputs(wanted: str, key: str = "input") -> Inputs:
    """Return the images of a file, a folder (recursively) or a glob. Raises FileNotFoundError if there are none.

    key: what was typed, for messages. Raises ValueError for an address.
    """
    if address := explain_address(key, wanted):
        raise ValueError(address)
    path = Path(os.path.expanduser(wanted))
    if path.exists() and not path.is_dir():
        return Inputs([path])  # whatever its name is
    fixed = len(fixed_part(path).parts)
    if "**" in path.parts:
        refuse_closed(fixed_part(path))
    found = [path] if path.is_dir() else sorted(glob.glob(os.path.expanduser(wanted), recursive=True))
    reasons: dict[Path, str] = {}  # of each file once, "" for images
    for match in map(Path, found):
        ignored = next(filter(None, map(explain_ignored, match.parts[fixed:])), "")
        if ignored or not match.is_dir():
            reasons[match] = ignored or explain_no_image(match, match.name)
    for folder in (match for match in map(Path, found) if match.is_dir() and match not in reasons):
        reasons |= dict(sorted(walk(folder)))
    inputs = Inputs(
        [file for file, reason in reasons.items() if not reason],
        {file: reason for file, reason in reasons.items() if reason},
    )
    if not inputs.files:
        raise FileNotFoundError("; ".join(filter(None, [_explain_none(wanted, path), inputs.describe_others()])))
    return inputs


def fixed_part(path: Path) -> Path:
    """Return the folder in front of the first part of a glob that is not a name; a path without one as it is."""
    end = next((place for place, part in enumerate(path.parts) if glob.has_magic(part)), len(path.parts))
    return Path(*path.parts[:end])


def _explain_none(wanted: str, path: Path) -> str:
    if path.is_dir():
        return f"there are no images in the folder {wanted}"
    return f"no image matches {wanted}" if glob.has_magic(wanted) else f"there is no file or folder {wanted}"
