"""The processes started by torchrun: this process's rank, its share of the work, and how all of them agree.

There are two groups. The default group communicates tensors on their device: nccl for CUDA, gloo for the CPU. The
control group is gloo on the host, so that exchanging values never waits for a device.
"""

import atexit
import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from .torchrun import Place, read_place

BACKENDS = {"cpu": "gloo", "cuda": "nccl"}
CONTROL_TIMEOUT = timedelta(days=1)  # long, because all processes may wait for one that decodes a data set
EXIT_TIMEOUT = timedelta(seconds=10)  # for the other processes to finish their work at exit

T = TypeVar("T")
Number = TypeVar("Number", int, float)


@dataclass(frozen=True)
class World:
    """One of `size` processes: number `rank` among all, number `local_rank` on its machine.

    Collective methods wait for every process; all processes must call them, in the same order.
    """

    rank: int
    local_rank: int
    size: int
    control: "dist.ProcessGroup | None" = field(default=None, repr=False, compare=False)

    @property
    def main(self) -> bool:
        """Whether this is the process that writes files and talks to the user."""
        return self.rank == 0

    def share(self, count: int) -> slice:
        """Return this process's part of `count` items; the parts cover them in order and differ by at most one.

        With fewer items than processes, some parts are empty, but not that of rank 0 unless all are.
        """
        return slice(-(-count * self.rank // self.size), -(-count * (self.rank + 1) // self.size))

    def sum(self, *tensors: Tensor) -> None:
        """Sum each tensor over the processes, in place on its device; collective, but the host does not wait."""
        if self.size > 1:
            for tensor in tensors:
                dist.all_reduce(tensor)

    def max(self, value: Number) -> Number:
        """Return the maximum of a number over the processes, exact for integers up to 2^53; collective."""
        if self.size == 1:
            return value
        largest = torch.tensor(value, dtype=torch.float64)
        dist.all_reduce(largest, dist.ReduceOp.MAX, self.control)
        return type(value)(largest.item())

    def broadcast(self, value: T) -> T:
        """Return the value of rank 0, which may be any picklable object with its tensors on the CPU; collective."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, group=self.control)
        return box[0]

    def ask_main(self, function: Callable[..., T], *arguments: Any) -> T:
        """Return what the function gives in rank 0; the other processes do not call it; collective."""
        return self.broadcast(function(*arguments) if self.main else None)  # type: ignore[return-value]

    def agreement(self, count: int) -> "Agreement":
        """Return a new agreement on `count` numbers; only calling it is collective."""
        return Agreement(self, count)


class Agreement:
    """Agree on a few numbers, for example in every step, without waiting: each call returns the previous result.

    By then, the other processes have made that previous call. All get the same answer in the same call, so they can
    act on it together: leave the loop after one of them got a signal, or save when the clock of one says so.
    """

    def __init__(self, world: World, count: int) -> None:
        self._world, self._count = world, count
        self._pending: tuple[dist.Work, Tensor] | None = None

    def __call__(self, values: Sequence[float]) -> list[float]:
        """Return the maxima over the processes of the values of the previous call, at first zeros; collective.

        A single process gets its values back immediately.
        """
        assert len(values) == self._count
        if self._world.size == 1:
            return list(values)
        agreed = self._drain()
        maxima = torch.tensor(values, dtype=torch.float64)
        work = dist.all_reduce(maxima, dist.ReduceOp.MAX, self._world.control, async_op=True)
        self._pending = work, maxima
        return agreed

    def _drain(self) -> list[float]:
        """Return the pending answer, zeros if there is none."""
        if self._pending is None:
            return [0.0] * self._count
        work, maxima = self._pending
        self._pending = None
        work.wait()
        return maxima.tolist()


_joined: World | None = None  # a process joins once, for all jobs of a sweep


def join_world(device: torch.device) -> World:
    """Return this process's world; the first call joins the process groups. `device` is that of `local_device`.

    Raises ValueError if several processes cannot train on such a device, or torchrun did not start them.
    """
    global _joined
    place = read_place()
    if place.size == 1:
        return World(0, 0, 1)
    if device.type not in BACKENDS:
        raise ValueError(f"device={device.type} with {place.size} processes; allowed: device={' or '.join(BACKENDS)}")
    if _joined is None:
        _joined = _join(device, place)
    elif dist.get_backend() != BACKENDS[device.type]:
        raise ValueError(
            f"device={device.type} after a job on another device; with several processes, all jobs must use the same"
        )
    return _joined


def local_device(device: torch.device) -> torch.device:
    """Return the device of this process: `cuda` without an index becomes `cuda:local_rank`."""
    place = read_place()
    if place.size == 1 or device.type != "cuda":
        return device
    if device.index is not None:
        raise ValueError(
            f"device={device} with {place.size} processes: leave the number out, each process takes its own"
        )
    count = torch.cuda.device_count()
    if place.local_rank >= count:
        raise ValueError(
            f"device=cuda: process {place.local_rank} of this machine has no device, torch sees {count}; start as many "
            f"processes as there are (torchrun --nproc-per-node={max(count, 1)}), or use device=cpu"
        )
    return torch.device("cuda", place.local_rank)


def _join(device: torch.device, place: Place) -> World:
    if device.type == "cuda":
        torch.cuda.set_device(device)  # for code that allocates on the current device, as fully_shard does
    dist.init_process_group(BACKENDS[device.type], device_id=device if device.type == "cuda" else None)
    control = dist.new_group(backend="gloo", timeout=CONTROL_TIMEOUT)
    assert isinstance(control, dist.ProcessGroup)  # every process is in it
    world = World(place.rank, place.local_rank, place.size, control)
    atexit.register(_leave, world)
    return world


def _leave(world: World) -> None:
    """Destroy the groups; abort nccl's if another process does not follow, because nccl might wait for it forever."""
    if not dist.is_initialized():
        return
    gc.collect()  # models in reference cycles, whose hooks must not outlive the groups
    if dist.get_backend() == "nccl":
        try:
            dist.barrier(world.control, async_op=True).wait(EXIT_TIMEOUT)
        except RuntimeError:
            assert dist.group.WORLD is not None
            dist.group.WORLD.abort()
            return
    dist.destroy_process_group()
