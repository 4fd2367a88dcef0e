"""Who this process is among those that torchrun has started, which part of the work is its own, and how all agree.

There are two groups. The default one moves tensors where they are: nccl between CUDA devices, gloo on the CPU. The
control group is gloo on the host, so that asking the others something waits for no device.
"""

import atexit
import gc
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

BACKENDS = {"cpu": "gloo", "cuda": "nccl"}
PATIENCE = timedelta(days=1)  # on the control group, where all wait for one that decodes a data set
FAREWELL = timedelta(seconds=10)  # at exit, for those that still have something to do

T = TypeVar("T")
Number = TypeVar("Number", int, float)


@dataclass(frozen=True)
class World:
    """One of `size` processes, number `rank` of all and `local_rank` of those on its machine.

    What is said to be collective waits for every process and must be called by all, in the same order.
    """

    rank: int
    local_rank: int
    size: int
    control: "dist.ProcessGroup | None" = field(default=None, repr=False, compare=False)

    @property
    def main(self) -> bool:
        """Whether this is the process that writes files and speaks to the user."""
        return self.rank == 0

    def share(self, count: int) -> slice:
        """Return this process's part of `count` things in order; the parts cover them and differ by one at most.

        Where there are fewer things than processes, parts are empty, never that of rank 0 unless all are.
        """
        return slice(-(-count * self.rank // self.size), -(-count * (self.rank + 1) // self.size))

    def sum(self, *tensors: Tensor) -> None:
        """Add up each tensor over the processes, in place and on its device; collective, and the host does not wait."""
        if self.size > 1:
            for tensor in tensors:
                dist.all_reduce(tensor)

    def max(self, value: Number) -> Number:
        """Return the largest of the processes' numbers, integers exact to 2^53; collective."""
        if self.size == 1:
            return value
        largest = torch.tensor(value, dtype=torch.float64)
        dist.all_reduce(largest, dist.ReduceOp.MAX, self.control)
        return type(value)(largest.item())

    def broadcast(self, value: T) -> T:
        """Return what rank 0 gave: anything that can be pickled, its tensors on the CPU; collective."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, group=self.control)
        return box[0]

    def agreement(self, count: int) -> "Agreement":
        """Return a new agreement on `count` numbers; collective only when it is called."""
        return Agreement(self, count)


class Agreement:
    """Agree on a few numbers, at every step say, without waiting: the answer is about the call before.

    By then the others have long made that call. All get the same answer at the same call, so that all can act on it
    together: leave the loop after a signal that one of them got, save when one of their clocks says so.
    """

    def __init__(self, world: World, count: int) -> None:
        self._world, self._count = world, count
        self._pending: tuple[dist.Work, Tensor] | None = None

    def __call__(self, values: Sequence[float]) -> list[float]:
        """Return the maxima over the processes of what was given one call ago, at first zeros; collective.

        A world of one gets its values back at once.
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
        """Return the answer that is still on its way, zeros where none is."""
        if self._pending is None:
            return [0.0] * self._count
        work, maxima = self._pending
        self._pending = None
        work.wait()
        return maxima.tolist()


_joined: World | None = None  # a process joins once, and stays for all jobs of a sweep


def join_world(device: torch.device) -> World:
    """Return this process's place, as torchrun's environment has it; what `local_device` returned is its device.

    Raises ValueError for devices that processes cannot share a model over.
    """
    global _joined
    size = _world_size()
    if size == 1:
        return World(0, 0, 1)
    if device.type not in BACKENDS:
        raise ValueError(f"device={device.type} with {size} processes; allowed: device={' or '.join(BACKENDS)}")
    if _joined is None:
        _joined = _join(device, size)
    elif dist.get_backend() != BACKENDS[device.type]:
        raise ValueError(
            f"device={device.type} after a job on another device; with several processes all jobs share it"
        )
    return _joined


def local_device(device: torch.device) -> torch.device:
    """Return the device of this process: a bare `cuda` gets the number of the process on its machine."""
    size = _world_size()
    if size == 1 or device.type != "cuda":
        return device
    if device.index is not None:
        raise ValueError(f"device={device} with {size} processes: leave the number out, each process takes its own")
    local_rank, count = _read("LOCAL_RANK"), torch.cuda.device_count()
    if local_rank >= count:
        raise ValueError(
            f"device=cuda: process {local_rank} of this machine has no device, torch sees {count}; start as many "
            f"processes as there are (torchrun --nproc-per-node={max(count, 1)}), or use device=cpu"
        )
    return torch.device("cuda", local_rank)


def _world_size() -> int:
    return int(os.environ.get("WORLD_SIZE", 1))


def _read(name: str) -> int:
    if name not in os.environ:
        raise ValueError(f"WORLD_SIZE={_world_size()} is in the environment, but no {name}; start with torchrun")
    return int(os.environ[name])


def _join(device: torch.device, size: int) -> World:
    rank, local_rank = _read("RANK"), _read("LOCAL_RANK")
    if device.type == "cuda":
        torch.cuda.set_device(device)  # what allocates without naming a device, as fully_shard does, finds its own
    dist.init_process_group(BACKENDS[device.type], device_id=device if device.type == "cuda" else None)
    control = dist.new_group(backend="gloo", timeout=PATIENCE)
    assert isinstance(control, dist.ProcessGroup)  # every process is in it
    world = World(rank, local_rank, size, control)
    atexit.register(_leave, world)
    return world


def _leave(world: World) -> None:
    """Destroy the groups. nccl would wait, maybe for ever, for what another process never sent, so that is aborted."""
    if not dist.is_initialized():
        return
    gc.collect()  # models in circles, whose hooks must not outlive the groups
    if dist.get_backend() == "nccl":
        try:
            dist.barrier(world.control, async_op=True).wait(FAREWELL)
        except RuntimeError:
            assert dist.group.WORLD is not None
            dist.group.WORLD.abort()
            return
    dist.destroy_process_group()
