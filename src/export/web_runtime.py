"""ONNX Runtime for browsers, which a page carries with it: from npm, or from a file that npm has fetched elsewhere.

It is 14 MB, so it is not among the files of this project. Its digests are: what runs in a page is what was tried.
"""

import hashlib
import os
import shutil
import subprocess
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

PACKAGE = "onnxruntime-web@1.30.0"  # MIT License, Copyright (c) Microsoft Corporation
SCRIPT, MODULE = "ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"
DIGESTS = {
    SCRIPT: "11e64bd8ffe11bd1a2a2f0d6275fdfbbba7262f0b76b99b53d228a8a22ef3d90",
    MODULE: "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
}
BY_HAND = f"elsewhere, npm pack {PACKAGE} makes a file; name it here: web_runtime=FILE.tgz"
PATIENCE = 60  # seconds for 33 MB


@dataclass(frozen=True)
class Runtime:
    """script: the JavaScript module; module: what it runs, WebAssembly."""

    script: bytes
    module: bytes


def explain_runtime(archive: str | None) -> str:
    """Return why there is no way to the runtime, "" if there is one; archive: what `web_runtime` names."""
    if archive is None:
        return "" if shutil.which("npm") else f"npm, which fetches {PACKAGE}, is not installed; {BY_HAND}"
    return "" if Path(os.path.expanduser(archive)).is_file() else f"web_runtime={archive} is not a file"


def open_runtime(archive: str | None) -> Runtime:
    """Return the runtime from an archive of npm, or fetch that. Raises ValueError, saying what to do instead."""
    if archive is not None:
        return _read_archive(Path(os.path.expanduser(archive)), f"web_runtime={archive}")
    with tempfile.TemporaryDirectory() as folder:
        return _read_archive(_fetch(Path(folder)), "what npm has fetched")


def prepare_runtime(archive: str | None, folder: Path) -> str:
    """Return a path to the archive, fetched into the folder if none is named. Raises ValueError if it is not usable."""
    if reason := explain_runtime(archive):
        raise ValueError(f"formats=[web]: {reason}")
    if archive is not None:
        open_runtime(archive)
        return archive
    path = _fetch(folder)
    _read_archive(path, "what npm has fetched")
    return str(path)


def _fetch(folder: Path) -> Path:
    npm = shutil.which("npm")
    assert npm is not None  # see `explain_runtime`
    options = ["--ignore-scripts", "--prefer-offline", "--fetch-retries=1", "--loglevel=error"]
    try:
        done = subprocess.run(
            [npm, "pack", PACKAGE, *options],
            cwd=folder,  # where the file goes; and no package.json of the user's is near
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=PATIENCE,
        )
    except subprocess.TimeoutExpired as error:
        raise ValueError(f"npm could not fetch {PACKAGE} within {PATIENCE} seconds; {BY_HAND}") from error
    except OSError as error:
        raise ValueError(f"npm could not fetch {PACKAGE} ({error}); {BY_HAND}") from error
    found = list(folder.glob("*.tgz"))
    if done.returncode or len(found) != 1:
        lines = [line.removeprefix("npm error ").strip() for line in done.stderr.splitlines() if line.strip()]
        reason = next((line for line in lines if not line.startswith("code ")), f"exit code {done.returncode}")
        raise ValueError(f"npm could not fetch {PACKAGE} ({reason[:200]}); {BY_HAND}")
    return found[0]


def _read_archive(path: Path, name: str) -> Runtime:
    try:
        with tarfile.open(path) as archive:
            files = {file: _read_member(archive, f"package/dist/{file}") for file in DIGESTS}
    except (OSError, tarfile.TarError, EOFError) as error:
        reason = str(error).splitlines()[0].rstrip(":")  # then follows a line for each kind of compression
        raise ValueError(f"{name} is not an archive that npm pack has made: {reason}") from error
    for file, content in files.items():
        if content is None or hashlib.sha256(content).hexdigest() != DIGESTS[file]:
            wrong = "is missing" if content is None else "is not the one of this version"
            raise ValueError(f"{name} is not {PACKAGE}: its {file} {wrong}; npm pack {PACKAGE} makes the right file")
    return Runtime(files[SCRIPT] or b"", files[MODULE] or b"")


def _read_member(archive: tarfile.TarFile, name: str) -> bytes | None:
    try:
        file = archive.extractfile(name)
    except KeyError:
        return None
    return None if file is None else file.read()
