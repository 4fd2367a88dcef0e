"""The formats that `task=export` writes: how each is written, read back, and how nearly it must agree."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from .bundle import Bundle


@dataclass(frozen=True)
class Format:
    """A format.

    write: writes its files into a folder that exists, and returns their names; predict: returns the probabilities
    float32 (n,K) of the samples, computed from the written files alone; needs: the packages that both import; tolerance:
    the largest difference of a probability from the run's that is not an error; agreement: the least share of images
    with the same first class; explain: why the format cannot express this run, "" if it can.
    """

    write: Callable[[Bundle, Path], list[str]]
    predict: Callable[[Bundle, Path], Tensor]
    needs: tuple[str, ...]
    tolerance: float
    agreement: float = 1.0
    explain: Callable[[Bundle], str] = lambda bundle: ""


FORMATS: dict[str, Format] = {}
