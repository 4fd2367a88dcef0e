"""Batches on their way to the device: asked for as they are needed, and made by workers that outlive signals."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from helpers import hold_images
from torch import Tensor

from src.data.batches import iterate_batches
from src.data.images import Preprocessing
from src.data.load import Split
from src.data.storage import PREFETCH, Images, Stream

CPU = torch.device("cpu")
NUMBERED = torch.arange(60, dtype=torch.uint8).view(60, 1, 1, 1)  # images that hold their own position
ROOT = Path(__file__).parents[1]


def build_split(place: str) -> Split:
    labels = torch.arange(60)
    if place == "memory":
        return Split(hold_images(NUMBERED), labels)
    if place == "disk":
        return Split(Images(NUMBERED, mapped=True), labels)
    return Split(Stream(NUMBERED.numpy().reshape(60, 1, 1), Preprocessing((1, 1), "crop", "bicubic", 1)), labels)


@pytest.mark.parametrize("place", ["memory", "disk", "stream"])
def test_images_come_with_the_positions_that_they_have_in_the_split(place: str) -> None:
    split = build_split(place)
    for wanted in ([[3, 1, 2], [7], [], [5, 5]], [[0], [59, 58]]):
        batches = list(iterate_batches(split, (torch.tensor(batch, dtype=torch.int64) for batch in wanted), CPU))
        assert [batch.tolist() for _, batch in batches] == wanted
        assert [images.flatten().tolist() for images, _ in batches] == wanted
        assert all(images.shape[1:] == (1, 1, 1) for images, _ in batches)


@pytest.mark.parametrize("place", ["memory", "disk", "stream"])
def test_positions_are_asked_for_as_they_are_needed(place: str) -> None:
    asked: list[int] = []

    def endless() -> Iterator[Tensor]:
        while True:
            asked.append(len(asked) % 60)
            yield torch.tensor([asked[-1]])

    split = build_split(place)
    batches = iterate_batches(split, endless(), CPU)
    assert [next(batches)[1].item() for _ in range(5)] == [0, 1, 2, 3, 4]
    assert len(asked) <= 5 + PREFETCH * (2 + (os.cpu_count() or 1))
    # What was left over is not taken for what comes next.
    assert [batch.tolist() for _, batch in iterate_batches(split, [torch.tensor([9])], CPU)] == [[9]]


def test_an_error_in_making_the_positions_is_raised_where_the_batch_is_used() -> None:
    def fail() -> Iterator[Tensor]:
        yield torch.tensor([0])
        raise ValueError("no more positions")

    batches = iterate_batches(build_split("disk"), fail(), CPU)
    next(batches)
    with pytest.raises(ValueError, match="no more positions"):
        next(batches)


SCRIPT = """
import signal, sys
import numpy as np, torch
from torch.utils.data._utils import worker
from src.data.batches import iterate_batches
from src.data.images import Preprocessing
from src.data.load import Split
from src.data.storage import Stream

def main():
    worker.MP_STATUS_CHECK_INTERVAL = 0.05
    stream = Stream(np.zeros((8, 1, 1), np.uint8), Preprocessing((1, 1), "crop", "bicubic", 1))
    batches = iterate_batches(Split(stream, torch.zeros(8)), torch.arange(8).repeat(20).split(1), torch.device("cpu"))
    next(batches)
    for process in stream._loader._iterator._workers:
        print(process.pid, flush=True)
        next(batches)  # they take turns: each has begun
    print("ready", flush=True)
    sys.stdin.readline()
    print(sum(1 for _ in batches), flush=True)
    return stream, batches  # still there when the program ends

if __name__ == "__main__":
    kept = main()
"""


@pytest.fixture
def script() -> Iterator[subprocess.Popen[str]]:
    """Start a program that streams, up to a batch of each worker; they hold its output open as long as they live."""
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield process
        process.kill()


def read_workers(script: subprocess.Popen[str]) -> list[int]:
    assert script.stdout is not None
    return [int(line) for line in iter(script.stdout.readline, "ready\n")]


@pytest.mark.skipif(not hasattr(signal, "sigwaitinfo"), reason="the sender of a signal is not known here")
def test_workers_go_on_after_signals_to_all_of_a_job_and_end_with_their_program(
    script: subprocess.Popen[str],
) -> None:
    workers = read_workers(script)
    for worker in workers:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
            os.kill(worker, number)
    output, _ = script.communicate("\n", timeout=60)  # returns when the last of them has closed it
    assert workers and (output, script.returncode) == (f"{160 - 1 - len(workers)}\n", 0)


def test_workers_end_with_a_program_that_is_killed(script: subprocess.Popen[str]) -> None:
    assert read_workers(script)
    script.kill()
    assert script.communicate(timeout=60) == ("", None)
