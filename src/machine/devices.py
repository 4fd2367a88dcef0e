"""The device, and what is decided for it before it computes."""

import contextlib
import os

import torch


def choose_device(wanted: str) -> tuple[torch.device, str]:
    """Return the device for `device=auto|cpu|cuda|cuda:N|mps`, and the reason for the log."""
    wanted, reason = _find_device() if wanted == "auto" else (wanted, f"device={wanted}")
    if wanted.startswith("cuda"):
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        index = int(wanted.partition(":")[2] or 0)
        if index >= count:
            raise ValueError(f"device={wanted}, but torch sees {count} CUDA device(s); use device=auto or device=cpu")
        reason += f": {torch.cuda.get_device_name(index)}"
    if wanted == "mps" and not torch.backends.mps.is_available():
        raise ValueError("device=mps, but MPS is not available here; use device=auto or device=cpu")
    return torch.device(wanted), reason


def _find_device() -> tuple[str, str]:
    if torch.cuda.is_available():
        return "cuda", "CUDA device found"
    if torch.backends.mps.is_available():
        return "mps", "no CUDA device, but MPS found"
    why = "torch is built without CUDA" if torch.version.cuda is None else "torch sees no CUDA device"
    return "cpu", f"{why}, and MPS is not available"


def choose_algorithms(deterministic: bool) -> None:
    """Allow only deterministic operations, or all. An operation without a deterministic version warns.

    Call this before the device is used, because cuBLAS reads its workspace setting then.
    """
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(deterministic, warn_only=True)


def autocast(device: torch.device, precision: torch.dtype) -> contextlib.AbstractContextManager:
    if precision == torch.float32:
        return contextlib.nullcontext()
    return torch.autocast(device.type, precision)
