"""The comments of `configs/`, by key: what a key means, its unit, what null does. They are the help of forms."""

import functools
import re
from pathlib import Path

from .options import CONFIGS

KEY = re.compile(r"^(\s*)([A-Za-z_]\w*):(\s.*)?$")
COMMENT = re.compile(r"(?:^|\s)#\s?(.*)$")


@functools.cache
def read_comments() -> dict[str, str]:
    """Return the comment of each key of training, on one line."""
    comments = _read(CONFIGS / "config.yaml", "")
    for group in sorted(path.name for path in CONFIGS.iterdir() if path.is_dir() and path.name != "hydra"):
        # Of a key that several options explain, your own images are what people ask about.
        for path in sorted((CONFIGS / group).glob("*.yaml"), key=lambda path: (path.stem != "image_folder", path)):
            for key, comment in _read(path, f"{group}.").items():
                comments.setdefault(key, comment)
    return comments


@functools.cache
def describe_option(group: str, option: str) -> str:
    """Return the comment at the top of an option's file, "" if there is none."""
    lines = []
    for line in (CONFIGS / group / f"{option}.yaml").read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        if not line.startswith("# @"):
            lines.append(line.lstrip("# ").strip())
    return " ".join(lines)


def _read(path: Path, prefix: str) -> dict[str, str]:
    """Return the comments of a file: behind a value, and going on in the lines below it that have nothing else."""
    comments: dict[str, str] = {}
    parents: list[tuple[int, str]] = []
    last = ""
    for line in path.read_text(encoding="utf-8").splitlines():
        code, comment = _split(line)
        found = KEY.match(code)
        if found:
            depth = len(found[1])
            parents = [parent for parent in parents if parent[0] < depth]
            last = prefix + ".".join([*(name for _, name in parents), found[2]])
            parents.append((depth, found[2]))
            if comment:
                comments[last] = comment
        elif not code.strip() and comment and last in comments and line.startswith(" "):
            comments[last] += f" {comment}"
        else:
            last = ""
    return comments


def _split(line: str) -> tuple[str, str]:
    """Return code and comment of a line; a # in quotes begins none."""
    bare = re.sub(r"'[^']*'|\"[^\"]*\"", lambda quoted: "_" * len(quoted[0]), line)
    found = COMMENT.search(bare)
    return (line[: found.start()].rstrip(), line[found.start(1) :].strip()) if found else (line, "")
