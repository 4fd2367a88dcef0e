"""What a run tells its user: how to continue it, what to do with its results, why a file could not be written."""

import errno
import shlex
from pathlib import Path

from ..distributed.torchrun import name_launcher, read_place
from ..machine.disk import short_path
from . import files


def resume_command(folder: Path) -> str:
    return f"{name_launcher(read_place())} train.py resume={shlex.quote(short_path(folder))}"


def is_full_disk(error: OSError) -> bool:
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def explain_write_error(error: OSError, path: Path, folder: Path, checkpoint: str) -> str:
    """Return which file could not be written, and how to continue; checkpoint: a clause about the last one."""
    if not folder.is_dir():
        return f"the folder of the run, {folder}, is gone: it was moved or deleted while the run used it"
    remedy = "free some space" if is_full_disk(error) else "fix this"
    return (
        f"cannot write {path}: {error.strerror or error}; {checkpoint}; "
        f"{remedy} and continue with: {resume_command(folder)}"
    )


def list_next_steps(folder: Path, profiled: bool) -> list[tuple[str, str]]:
    """Return the results in the folder and the commands that use them, each with a name."""
    folder = Path(short_path(folder))
    quoted = shlex.quote(str(folder))
    steps = [
        ("curves", f"{folder / files.CURVES}"),
        ("test", f"{folder / files.TEST_METRICS}, {Path(files.PER_CLASS).name}, {Path(files.CONFUSION).name}"),
        ("figures", f"{(folder / files.PREDICTIONS).parent}"),
        ("weights", f"{folder / files.BEST}"),
        ("predict", f"python inference.py run={quoted} input=IMAGE"),
        ("browse", f"tensorboard --logdir {quoted}"),
    ]
    if profiled:
        steps.insert(0, ("profile", f"{folder / files.PROFILE_TRACE}, {Path(files.PROFILE_TABLE).name}"))
    return steps
