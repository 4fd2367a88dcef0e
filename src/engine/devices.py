"""The device, its threads, memory and precision."""

import contextlib
import ctypes
import os

import torch
from torch import nn

_NUM_THREADS = torch.get_num_threads()  # as the machine or OMP_NUM_THREADS has it


def choose_device(wanted: str) -> tuple[torch.device, str]:
    """Return the device for `device=auto|cpu|cuda|cuda:N|mps` and, in words, why it is that one."""
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if wanted == "auto":
        wanted = "cuda" if cuda else "mps" if mps else "cpu"
        looked = "a CUDA device was found" if cuda else "no CUDA device, but MPS was found"
        if wanted == "cpu":
            why = "torch is built without CUDA" if torch.version.cuda is None else "torch sees no CUDA device"
            looked = f"looked for CUDA ({why}) and MPS (not available)"
    else:
        looked = f"device={wanted}"
    if wanted.startswith("cuda"):
        count = torch.cuda.device_count() if cuda else 0
        index = int(wanted.partition(":")[2] or 0)
        if index >= count:
            raise ValueError(f"device={wanted}, but torch sees {count} CUDA device(s); use device=auto or device=cpu")
        looked += f": {torch.cuda.get_device_name(index)}"
    if wanted == "mps" and not mps:
        raise ValueError("device=mps, but MPS is not available here; use device=auto or device=cpu")
    return torch.device(wanted), looked


def limit_threads(device: torch.device, gflops: float) -> None:
    """Use one CPU thread for steps of little work, `gflops` each, where a second one is not worth waiting for.

    Measured on two cores with GNU OpenMP: below 1 GFLOP per step no gain from the second, and three times slower
    steps with it as soon as another program is running.
    """
    if device.type == "cpu":
        torch.set_num_threads(1 if gflops < 1 else _NUM_THREADS)


def choose_kernels(device: torch.device, gflops: float, num_tokens: int) -> bool:
    """Choose how a CPU multiplies float32 matrices, for steps of `gflops` work; return whether not as torch does.

    MKL leaves the AVX512 units of AMD processors unused, oneDNN does not: one core multiplied at 222 instead of 96
    GFLOP/s, and a step of 32 px images (D 192, 9 layers, batch 16) took half the time. torch asks oneDNN only where
    products of bf16 are allowed, which it has no use for without AMX; that the results are float32 is looked at here.
    The fused attention splits into products too small for oneDNN, so attention is then done in whole ones, for as
    many tokens as that needs little memory. Small steps (digits: 0.3 GFLOP) are faster as they were.
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
    torch.backends.cuda.enable_flash_sdp(not better or num_tokens > 256)  # of the CPU too, in spite of its name
    return better


def compile_network(network: nn.Module) -> None:
    """Let a network be compiled at its first use, for the kernels chosen.

    torch's cache on the disk does not ask whether attention was fused: it would give back what another choice made.
    """
    import torch.compiler.config

    torch.compiler.config.cache_key_tag = f"fused attention: {torch.backends.cuda.flash_sdp_enabled()}"
    network.compile()


def _is_amd() -> bool:
    try:
        with open("/proc/cpuinfo") as file:
            return "AuthenticAMD" in file.read()
    except OSError:  # no Linux
        return False


def _multiplies_in_float32() -> bool:
    generator = torch.Generator().manual_seed(0)
    left, right = torch.randn(2, 512, 512, generator=generator)
    error = (left @ right).double() - left.double() @ right.double()
    return error.abs().max().item() < 1e-3  # of sums with a deviation of 23; bf16 is off by 0.2


def keep_freed_memory() -> None:
    """Let the C library keep what is freed for the next step, where it would give it back to the system.

    Every batch of 224 px images would else be made of pages that the system clears one by one: measured with glibc,
    that is a third of the time of augmenting it. Other C libraries are left as they are.
    """
    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL("libc.so.6")
        library.mallopt(-4, 0)  # M_MMAP_MAX: no block is mapped, and unmapped, on its own
        library.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: the largest number that mallopt takes


def choose_precision(wanted: str, device: torch.device) -> torch.dtype:
    """Return the dtype of matrix products for `training.precision=auto|bf16|fp16|float32`; weights stay float32.

    Half precision without bf16 overflows at 65,504, so its gradients are scaled (arXiv 1710.03740, section 3.2).
    """
    on_cuda = device.type == "cuda"
    native = on_cuda and torch.cuda.is_bf16_supported(including_emulation=False)
    if wanted == "bf16" and on_cuda and not native:
        raise ValueError("training.precision=bf16 is not supported by this CUDA device; use fp16, float32 or auto")
    if wanted == "auto":
        wanted = "float32" if not on_cuda else "bf16" if native else "fp16"
    return {"bf16": torch.bfloat16, "fp16": torch.float16, "float32": torch.float32}[wanted]


def choose_algorithms(deterministic: bool) -> None:
    """Allow only operations that give the same bits each time, or all; what has no such form warns when it is used.

    To be called before the device does anything, as cuBLAS then reserves its workspace.
    """
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(deterministic, warn_only=True)


def autocast(device: torch.device, precision: torch.dtype) -> contextlib.AbstractContextManager:
    if precision == torch.float32:
        return contextlib.nullcontext()
    return torch.autocast(device.type, precision)
