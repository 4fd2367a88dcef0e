"""Models on the Hugging Face Hub: from its cache, or fetched; without a network, how to fetch them elsewhere."""

import contextlib
import difflib
import functools
import os
import shlex
import socket
import threading
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from ..machine.disk import read_object
from .cards import CARD_FILES

INSTALL = "pip install -r requirements-export.txt"  # brings huggingface_hub and timm
PATIENCE = 1.0  # seconds until a hub that does not answer counts as out of reach
NO_ANSWER = "the Hugging Face Hub does not answer"
# In the order of preference; an index names the parts of large weights.
WEIGHTS = (
    *("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json"),
    *("open_clip_model.safetensors", "open_clip_pytorch_model.bin"),
)


def fetch_model(wanted: str) -> Path:
    """Return the folder with the files of `timm:MODEL` or `hf-hub:OWNER/NAME`.

    Raises ValueError within about a second if they are neither in the cache nor can be fetched.
    """
    try:
        import huggingface_hub as hub
    except ImportError as error:
        raise ValueError(f"init.weights={wanted} needs huggingface_hub: {INSTALL}") from error
    repo = _name_repository(wanted)
    cached = _find_cached(hub, repo)
    # What another program has fetched may lack the files that say how images are normalized.
    if cached is not None and all(hub.try_to_load_from_cache(repo, name) is not None for name in CARD_FILES):
        return cached
    endpoint = os.environ.get("HF_ENDPOINT", "").rstrip("/") or hub.constants.ENDPOINT
    why = "HF_HUB_OFFLINE is set" if hub.constants.HF_HUB_OFFLINE else "" if _answers(endpoint) else NO_ANSWER
    if not why:
        try:
            return _download(hub, repo, endpoint)
        except hub.errors.LocalEntryNotFoundError:
            why = NO_ANSWER
        except Exception as error:  # of the hub, of the library it uses for HTTP, and of the disk
            raise ValueError(_explain_failure(hub, error, wanted, repo)) from error
    if cached is not None:
        return cached
    raise ValueError(_explain_elsewhere(wanted, repo, why))


def _find_cached(hub: Any, repo: str) -> Path | None:
    """Return the folder in the cache that has the weights of a repository, None if there is none with all parts."""
    for name in WEIGHTS:
        path = hub.try_to_load_from_cache(repo, name)
        if isinstance(path, str) and all(part.is_file() for part in list_parts(Path(path))):
            return Path(path).parent
    return None


def _name_repository(wanted: str) -> str:
    """Return OWNER/NAME; that of a model of timm without a tag is the one that timm would load."""
    kind, _, name = wanted.partition(":")
    if kind != "timm":
        return name
    if "." in name:
        return f"timm/{name}"
    try:
        import timm
    except ImportError as error:
        raise ValueError(
            f"init.weights={wanted} has no tag, such as {name}.augreg_in21k; timm knows the usual one: {INSTALL}"
        ) from error
    config = timm.get_pretrained_cfg(name)
    if config is None or not config.hf_hub_id:
        near = difflib.get_close_matches(name, timm.list_models("vit*", pretrained=True), n=1) or [
            "vit_small_patch16_224"
        ]
        raise ValueError(f"init.weights={wanted}: timm has no weights of this name; did you mean timm:{near[0]}?")
    return str(config.hf_hub_id)


@functools.lru_cache  # asked for each job of a sweep
def _answers(endpoint: str) -> bool:
    """Return whether the hub, or the proxy on the way to it, takes a connection.

    In a thread, as looking up a name may take longer than any timeout.
    """
    address = urlsplit(endpoint)
    proxy = None if proxy_bypass(address.hostname or "") else getproxies().get(address.scheme)
    place = urlsplit(proxy if proxy and "://" in proxy else f"http://{proxy}") if proxy else address
    port = place.port or (443 if place.scheme == "https" else 80)
    answers: list[bool] = []

    def knock() -> None:
        with contextlib.suppress(OSError), socket.create_connection((place.hostname or "", port), PATIENCE):
            answers.append(True)

    thread = threading.Thread(target=knock, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    return bool(answers)


def _download(hub: Any, repo: str, endpoint: str) -> Path:
    def get(name: str) -> Path | None:
        try:
            return Path(hub.hf_hub_download(repo, name, endpoint=endpoint, etag_timeout=5))
        except hub.errors.LocalEntryNotFoundError:  # out of reach, which is no answer
            raise
        except hub.errors.EntryNotFoundError:
            return None

    for name in CARD_FILES:
        get(name)
    path = next((found for name in WEIGHTS if (found := get(name)) is not None), None)
    if path is None:
        raise ValueError(f"it has none of {', '.join(WEIGHTS)}")
    for part in list_parts(path)[1:]:
        if get(part.name) is None:
            raise ValueError(f"it has no {part.name}, which {path.name} names")
    return path.parent


def list_parts(path: Path) -> list[Path]:
    """Return a file of weights, and those that it stands for: an index names the parts of large weights."""
    if not path.name.endswith(".index.json"):
        return [path]
    names = read_object(path).get("weight_map")
    parts = sorted({str(name) for name in names.values()}) if isinstance(names, dict) else []
    if not parts or any(Path(name).name != name or "\\" in name for name in parts):
        raise ValueError("it names no files beside it")
    return [path, *(path.parent / name for name in parts)]


def _explain_elsewhere(wanted: str, repo: str, why: str) -> str:
    """Return how to fetch a model on another machine, and what to type then."""
    folder = repo.rpartition("/")[2]
    command = shlex.join(["hf", "download", repo, "--local-dir", folder])
    return (
        f"init.weights={wanted} is not in the cache of Hugging Face, and {why}; where there is a network, run\n"
        f"  {command}\nthen copy that folder here and type init.weights={folder}"
    )


def _explain_failure(hub: Any, error: Exception, wanted: str, repo: str) -> str:
    if isinstance(error, hub.errors.GatedRepoError):
        return (
            f"init.weights={wanted}: {repo} asks for its terms to be accepted; do so on its page, then: hf auth login"
        )
    if isinstance(error, hub.errors.RepositoryNotFoundError):
        return f"init.weights={wanted}: the Hugging Face Hub has no {repo}, or it is private: hf auth login"
    reason = (str(error) or type(error).__name__).splitlines()[0]
    return f"init.weights={wanted} cannot be fetched: {reason}"
