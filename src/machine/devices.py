"""The device and its threads, kernels, and precision."""

import contextlib
import os

import torch
from torch import nn

_NUM_THREADS = torch.get_num_threads()  # by default, or from OMP_NUM_THREADS


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


def limit_threads(device: torch.device, gflops: float) -> None:
    """Use a single CPU thread for small steps, of less than 1 GFLOP each.

    Measured on two cores with GNU OpenMP: a second thread did not make such steps faster, and made them three times
    slower as soon as another program was running.
    """
    if device.type == "cpu":
        torch.set_num_threads(1 if gflops < 1 else _NUM_THREADS)


def choose_kernels(device: torch.device, gflops: float, num_tokens: int) -> bool:
    """Choose how a CPU multiplies float32 matrices, for steps of `gflops`; return whether torch's default was changed.

    MKL does not use the AVX512 units of AMD processors, oneDNN does: 222 instead of 96 GFLOP/s on one core, and half
    the time for a step of 32 px images (D 192, 9 layers, batch 16). torch calls oneDNN only if bf16 products are
    allowed, which oneDNN does not use without AMX; the check below makes sure that results are float32. Fused
    attention makes products too small for oneDNN, so it is turned off, up to a number of tokens for which the whole
    attention matrix needs little memory. Small steps (digits: 0.3 GFLOP) are faster with torch's default.
    """
    if device.type != "cpu":
        return False
    products = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    products.fp32_precision = "none"
    better = gflops >= 1 and _is_amd() and torch.backends.cpu.get_cpu_capability() == "AVX512"
    if better:
        products.fp32_precision = "bf16"
        better = _multiplies_in_float32()
    if not better:
        products.fp32_precision = "none"
    torch.backends.cuda.enable_flash_sdp(not better or num_tokens > 256)  # for the CPU too, despite its name
    return better


def compile_network(network: nn.Module) -> None:
    """Compile a network at its first use, for the kernels chosen.

    The key of torch's cache on disk does not include whether attention is fused; without the tag, it would return code
    compiled for the other choice.
    """
    import torch.compiler.config

    torch.compiler.config.cache_key_tag = f"fused attention: {torch.backends.cuda.flash_sdp_enabled()}"
    network.compile()


def _is_amd() -> bool:
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            return "AuthenticAMD" in file.read()
    except OSError:  # not on Linux
        return False


def _multiplies_in_float32() -> bool:
    generator = torch.Generator().manual_seed(0)
    left, right = torch.randn(2, 512, 512, generator=generator)
    error = (left @ right).double() - left.double() @ right.double()
    return error.abs().max().item() < 1e-3  # the standard deviation of the sums is 23; bf16 is off by 0.2


def choose_precision(wanted: str, device: torch.device) -> torch.dtype:
    """Return the dtype of matrix products for `training.precision=auto|bf16|fp16|float32`; weights stay float32.

    fp16 overflows at 65,504, so its loss is scaled (arXiv 1710.03740, section 3.2).
    """
    on_cuda = device.type == "cuda"
    native = on_cuda and torch.cuda.is_bf16_supported(including_emulation=False)
    if wanted == "bf16" and on_cuda and not native:
        raise ValueError("training.precision=bf16 is not supported by this CUDA device; use fp16, float32 or auto")
    if wanted == "auto":
        wanted = "float32" if not on_cuda else "bf16" if native else "fp16"
    return {"bf16": torch.bfloat16, "fp16": torch.float16, "float32": torch.float32}[wanted]


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
