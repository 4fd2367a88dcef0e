"""`torchrun … train.py`: two processes train what one does, into one folder, and take over each other's runs."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import CACHE, TINY
from test_continue import begin, read_rows, resume

from src.run.files import TEST_PREDICTIONS
from src.run.saved import read_run

ROOT = Path(__file__).resolve().parents[1]
# Nothing that is drawn by each process for itself; shares of 32 and 31 images, two micro-batches and one; mixing.
# SGD, as Adam makes whole steps of the rounding in gradients that should be zero, such as those of the keys' biases.
SETTINGS = [
    *(
        *TINY,
        "scheduler=constant",
        "optimizer=sgd",
        "training.lr=0.02",
        "model.dropout=0",
        "augmentation.mixup=0.5",
        "augmentation.cutmix=0.5",
    ),
    *("training.batch_size=63", "training.micro_batch_size=31", "training.ema=0.9", "training.class_weights=balanced"),
    *("training.tensorboard=false", "device=cpu"),
]


def torchrun(*words: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "train.py"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run([*command, *words], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=200)


def read_numbers(folder: Path) -> np.ndarray:
    return np.array([[float(text) for text in row.values()] for row in read_rows(folder)])


def assert_equal_predictions(one: Path, two: Path) -> None:
    mine, others = (list(csv.DictReader((folder / TEST_PREDICTIONS).read_text().splitlines())) for folder in (one, two))
    confidences = [[float(row.pop("confidence")) for row in rows] for rows in (mine, others)]
    assert len(mine) > 300 and mine == others
    assert np.allclose(confidences[0], confidences[1], atol=1e-4)


@pytest.mark.usefixtures("empty_pictures")  # in this process; the others draw theirs
def test_two_processes_train_what_one_does_and_take_over_each_others_runs(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    result = torchrun(f"hydra.run.dir={two}", f"dataset.cache_dir={CACHE.name}", *SETTINGS)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("epoch 1/2") == 1 and "cpu, 2 processes (ddp)" in result.stdout
    begin(one, SETTINGS)
    assert np.allclose(read_numbers(one), read_numbers(two), rtol=1e-4, atol=1e-6)
    assert_equal_predictions(one, two)

    resume(two, epochs=3)
    result = torchrun(f"resume={one}", "training.epochs=3", "training.strategy=fsdp")
    assert result.returncode == 0, result.stderr
    assert "2 processes (fsdp)" in result.stdout and "resumed   in epoch 3 after step 0 of 19" in result.stdout
    assert np.allclose(read_numbers(one), read_numbers(two), rtol=1e-4, atol=1e-6)
    states = [torch.load(folder / "checkpoints" / "last.pt", weights_only=True)["trainer"] for folder in (one, two)]
    for part in ("model", "ema"):
        assert states[0][part].keys() == states[1][part].keys()
        for name, tensor in states[0][part].items():
            assert torch.allclose(tensor, states[1][part][name], atol=1e-4), name
    assert {read_run(folder).status for folder in (one, two)} == {"finished"}
    assert (one / "figures" / "attention.png").stat().st_size > 0
