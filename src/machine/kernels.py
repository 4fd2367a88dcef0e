"""How a device computes: in which precision, by which kernels, with how many threads.

What can be chosen is listed here; what is fastest is found by a trial (`engine/trial.py`), because it depends on the
processor, on the sizes of the model and on the batch.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from functools import cache
from typing import Any

import torch

PRECISIONS = {"bf16": torch.bfloat16, "fp16": torch.float16, "float32": torch.float32}
CPU = torch.device("cpu")
LONGEST_WHOLE = 260  # tokens, such as 256 patches, up to which whole attention matrices need little memory
_NUM_THREADS = torch.get_num_threads()  # by default, or from OMP_NUM_THREADS


@dataclass(frozen=True)
class Wanted:
    """What was asked for by the keys of these names; "auto" and None leave it to the trial."""

    precision: str = "auto"
    kernels: str = "auto"
    attention: str = "auto"
    threads: int | None = None
    compile: bool | str = "auto"

    @classmethod
    def of(cls, config: Any) -> "Wanted":
        """Return the keys of a section that has all of them: `training`, or the configuration of inference."""
        return cls(**{field.name: getattr(config, field.name) for field in fields(cls)})


@dataclass(frozen=True)
class Kernels:
    """How a device computes.

    precision: of matrix products, `bf16`, `fp16` or `float32`; weights stay float32. kernels: who multiplies float32
    matrices on a CPU, `torch` (its default, MKL where torch is built with it) or `onednn`. attention: `fused`, which
    never stores attention matrices, or `whole`, see `MultiHeadSelfAttention`. threads: of the CPU. compile: whether the
    model is compiled first.
    """

    precision: str
    kernels: str
    attention: str
    threads: int
    compile: bool = False

    @property
    def dtype(self) -> torch.dtype:
        return PRECISIONS[self.precision]

    def use(self) -> None:
        """Use these threads and products from now on in this process; the rest is up to who has the model."""
        torch.set_num_threads(self.threads)
        # torch calls oneDNN only if bf16 products are allowed, which oneDNN does not use without AMX.
        _products().fp32_precision = "bf16" if self.kernels == "onednn" else "none"

    def describe(self) -> str:
        """Return such as "float32 by oneDNN, whole attention, 2 threads"."""
        by = " by oneDNN" if self.kernels == "onednn" else ""
        threads = f"{self.threads} thread{'' if self.threads == 1 else 's'}"
        return f"{self.precision}{by}, {self.attention} attention, {threads}{', compiled' if self.compile else ''}"


def use_one_thread() -> None:
    """Let the calling thread compute alone from now on: helpers of several threads would wait for work in turn, busily.

    It leaves the number of other threads as it is, once they have set theirs, as `Kernels.use` does.
    """
    torch.get_num_threads()  # its first call in a thread takes the number of the process
    torch.set_num_threads(1)


def choose_precision(wanted: str, device: torch.device) -> str:
    """Return the precision for `precision=auto|bf16|fp16|float32` without a trial: of `auto`, the safe one on a CPU.

    fp16 overflows at 65,504, so its loss is scaled (arXiv 1710.03740, section 3.2).
    """
    on_cuda = device.type == "cuda"
    if wanted == "bf16" and on_cuda and not has_bf16(device):
        raise ValueError("precision=bf16 is not supported by this CUDA device; use fp16, float32 or auto")
    if wanted == "auto":
        return "float32" if not on_cuda else "bf16" if has_bf16(device) else "fp16"
    return wanted


def default_kernels(wanted: Wanted, device: torch.device, small: bool = False) -> Kernels:
    """Return what is wanted, and torch's defaults for the rest; small: for steps of less than 1 GFLOP.

    A second thread does not make such steps faster, and makes them three times slower as soon as another program runs
    (measured on two cores, with GNU OpenMP).
    """
    return Kernels(
        choose_precision(wanted.precision, device),
        "torch" if wanted.kernels == "auto" else wanted.kernels,
        "fused" if wanted.attention == "auto" else wanted.attention,
        wanted.threads or (1 if small and device.type == "cpu" else _NUM_THREADS),
        wanted.compile is True,
    )


def list_kernels(wanted: Wanted, device: torch.device, num_tokens: int) -> list[Kernels]:
    """Return what a CPU could compute with, torch's default first; on other devices, that alone.

    Raises ValueError for kernels that would not compute what was asked for.
    """
    first = default_kernels(wanted, device)
    if first.kernels == "onednn" and not onednn_multiplies_in_float32():
        raise ValueError(
            "kernels=onednn would multiply float32 matrices in bf16 on this processor; use torch or auto, "
            "and precision=bf16 if that is what you want"
        )
    if device.type != "cpu":
        return [first]
    return list(dict.fromkeys([first, *_list_others(wanted, first, num_tokens)]))


def _list_others(wanted: Wanted, first: Kernels, num_tokens: int) -> Iterator[Kernels]:
    precisions = ["float32", "bf16"] if wanted.precision == "auto" and has_bf16(CPU) else [first.precision]
    attentions = ["fused", "whole"] if wanted.attention == "auto" and num_tokens <= LONGEST_WHOLE else [first.attention]
    for precision, attention in itertools.product(precisions, attentions):
        kernels = [first.kernels]
        # The products of fused attention are too small for oneDNN.
        if wanted.kernels == "auto" and precision == "float32" and attention == "whole":
            kernels += ["onednn"] if onednn_multiplies_in_float32() else []
        yield from (replace(first, precision=precision, kernels=name, attention=attention) for name in kernels)


def fewer_threads(wanted: Wanted, chosen: Kernels) -> list[Kernels]:
    """Return the same with fewer threads, for steps that many threads do not make faster."""
    if wanted.threads is not None:
        return []
    counts = sorted({1, chosen.threads // 2} - {0, chosen.threads}, reverse=True)
    return [replace(chosen, threads=count) for count in counts]


@cache
def has_bf16(device: torch.device) -> bool:
    """Return whether a device multiplies bf16 matrices natively: a CPU does with AVX512_BF16 or AMX."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # torch 2.14 has it
    return any(supported for name, supported in capabilities.items() if str(name).endswith("bf16"))


def suits(precision: str, device: torch.device) -> bool:
    """Return whether a precision is native to the device, and not slower than float32."""
    return precision == "float32" or (has_bf16(device) if precision == "bf16" else device.type == "cuda")


@cache
def onednn_multiplies_in_float32() -> bool:
    """Return whether oneDNN, asked by the only switch that torch has, computes in float32: with AMX it does not.

    On AMD processors with AVX512, it then takes half of the time: MKL does not use these units there.
    """
    products = _products()
    before, products.fp32_precision = products.fp32_precision, "bf16"
    generator = torch.Generator().manual_seed(0)
    left, right = torch.randn(2, 512, 512, generator=generator)
    error = (left @ right).double() - left.double() @ right.double()
    products.fp32_precision = before
    return error.abs().max().item() < 1e-3  # the standard deviation of the sums is 23; bf16 is off by 0.2


def _products() -> Any:
    return torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
