"""How fast the page's server predicts: against a plain FastAPI app with timm, and against a folder in one command.

    python benchmarks/serve_speed.py [--images 512] [--clients 1 8 32] [--size 224] [--model vit_tiny] [--rounds 5]

The photos, the training and the weights are those of predict_speed.py. Each server is a process of its own and gets one
JPEG per request; the clients are threads of one other process, each with a connection that is kept, and send the next
file as soon as their last one is answered. The plain app is what one writes in an afternoon: Image.open, Resize and
CenterCrop, one forward pass per request; its endpoint is `async def`, where requests wait for each other, or `def`,
where each has a thread. The folder is `inference.py input=FOLDER output=out.csv` on the same files; its rate has no
start in it: it is measured from the rows of its first batch to those of its last, by watching the table.

In each round every server gets all files in the same order from 1, 8 and 32 clients, and the folder is predicted once,
in turn. The table has the medians of the rounds: images per second, and the median and the 95th percentile of the time
until an answer is there; ratios are medians of the rounds' own. The plain app that they are to is the faster one.
"""

import argparse
import contextlib
import csv
import http.client
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import date
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from predict_speed import HEIGHT, ROOT, TIMM, WIDTH, describe_processor, save_photos, train

LOCAL = "127.0.0.1"
BOUNDARY = "a-boundary-that-is-in-no-photo"
HEADERS = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
WARM_UP = 64  # images that each server gets before it is measured
PLAIN = """
import json, sys
from pathlib import Path

import timm, torch, uvicorn
from fastapi import FastAPI, UploadFile
from PIL import Image
from safetensors.torch import load_file
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Normalize, Resize, ToTensor

run, port, name, size = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
classes = json.loads((run / "classes.json").read_text())
look = json.loads((run / "preprocessing.json").read_text())
resize = Resize(size, InterpolationMode.BICUBIC)
transform = Compose([resize, CenterCrop(size), ToTensor(), Normalize(look["mean"], look["std"])])
model = timm.create_model(name, img_size=size, num_classes=len(classes)).eval()
model.load_state_dict(load_file(run / "checkpoints" / "best.safetensors"))
app = FastAPI()

@app.post("/predict")
KIND predict(files: UploadFile):
    x = transform(Image.open(files.file).convert("RGB"))
    with torch.inference_mode():
        confidence, index = model(x[None]).softmax(1)[0].max(0)
    return {"class": classes[index], "confidence": confidence.item()}

uvicorn.run(app, port=port, log_level="warning")
"""
SERVER, FOLDER = "task=serve", "inference.py, the folder"
KINDS = {"plain FastAPI, async def": "async def", "plain FastAPI, def": "def"}


@dataclass
class Load:
    """What clients met: images per second, the seconds until each answer, and what was predicted for each file."""

    rate: float
    latencies: list[float] = field(default_factory=list)
    predicted: list[tuple[str, float]] = field(default_factory=list)

    def percentile(self, percent: int) -> float:
        """Return the milliseconds within which so many of the answers came."""
        return 1000 * statistics.quantiles(self.latencies, n=100, method="inclusive")[percent - 1]


def ask(port: int, path: str, files: Sequence[Path], clients: int) -> Load:
    """Send the files, one per request, from so many clients at once."""
    bodies = [_make_body(file) for file in files]
    answers, latencies = [b""] * len(files), [0.0] * len(files)
    positions = iter(range(len(files)))

    def work(_: int) -> None:
        connection = http.client.HTTPConnection(LOCAL, port, timeout=600)
        for position in positions:  # each is taken by one thread
            began = time.perf_counter()
            connection.request("POST", path, bodies[position], HEADERS)
            response = connection.getresponse()
            answers[position] = response.read()
            latencies[position] = time.perf_counter() - began
            if response.status != http.client.OK:
                raise RuntimeError(f"{path}: {response.status} {answers[position]!r}")
        connection.close()

    with ThreadPoolExecutor(clients) as pool:
        started = time.perf_counter()
        list(pool.map(work, range(clients)))
        seconds = time.perf_counter() - started
    return Load(len(files) / seconds, latencies, [_read_answer(answer) for answer in answers])


def _make_body(file: Path) -> bytes:
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="files"; filename="{file.name}"\r\n'
    return f"{head}Content-Type: image/jpeg\r\n\r\n".encode() + file.read_bytes() + f"\r\n--{BOUNDARY}--\r\n".encode()


def _read_answer(answer: bytes) -> tuple[str, float]:
    values: dict[str, Any] = json.loads(answer)
    (result,) = values.get("results", [values])
    return result["class"], result["confidence"]


@contextlib.contextmanager
def started(command: list[str]) -> Iterator[int]:
    """Yield the port of a server whose command has {port} in it; it ends afterwards."""
    with socket.socket() as free:
        free.bind((LOCAL, 0))
        port = free.getsockname()[1]
    with subprocess.Popen([word.format(port=port) for word in command], stdout=subprocess.DEVNULL) as process:
        try:
            while process.poll() is None:
                with contextlib.suppress(OSError), socket.create_connection((LOCAL, port)):
                    break
                time.sleep(0.1)
            if process.poll() is not None:
                raise RuntimeError(f"{' '.join(command)}: has ended")
            yield port
        finally:
            process.terminate()


def predict_folder(command: list[str], table: Path, files: Sequence[Path]) -> Load:
    """Return the images per second of a command from its first rows to its last ones, and its table.

    The first batch takes a second longer than others: threads start, and memory is new.
    """
    table.unlink(missing_ok=True)
    arrivals = [(0.0, 0)]  # when there was another number of lines, and which
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            lines = table.read_bytes().count(b"\n") if table.exists() else 0
            if lines > arrivals[-1][1]:
                arrivals.append((time.perf_counter(), lines))
            time.sleep(0.005)
    if process.returncode or len(arrivals) < 3:
        raise RuntimeError(f"{' '.join(command)}: failed, or all images were one batch")
    (begun, first), (ended, last) = arrivals[1], arrivals[-1]
    with table.open(newline="") as file:
        rows = {row["file"]: (row["class"], float(row["confidence"])) for row in csv.DictReader(file)}
    return Load((last - first) / (ended - begun), [], [rows[str(file)] for file in files])


Rounds = dict[tuple[str, int], list[Load]]  # of each row and number of clients, 0 for a folder


def compare_rates(mine: list[Load], theirs: list[Load]) -> str:
    ratios = [one.rate / other.rate for one, other in zip(mine, theirs, strict=True)]
    return f"{statistics.median(ratios):.2f}× ({min(ratios):.2f}–{max(ratios):.2f})"


def print_table(rounds: Rounds, title: str) -> None:
    print(f"| {title} | clients | images/s | p50 ms | p95 ms | to the folder | to the plain app |")
    print("|---|---|---|---|---|---|---|")
    for (row, clients), loads in rounds.items():
        cells = [f"{statistics.median(load.rate for load in loads):.0f}"]
        for percent in (50, 95):
            found = [load.percentile(percent) for load in loads if load.latencies]
            cells.append(f"{statistics.median(found):.0f}" if found else "")
        cells += ["", ""] if row != SERVER else compare_with_others(rounds, clients)
        print(f"| {row} | {clients or ''} | {' | '.join(cells)} |")


def compare_with_others(rounds: Rounds, clients: int) -> list[str]:
    """Return how fast the server is in comparison with the folder, and with the faster of the plain apps."""
    mine = rounds[SERVER, clients]
    plain = [
        max(pair, key=lambda load: load.rate) for pair in zip(*(rounds[kind, clients] for kind in KINDS), strict=True)
    ]
    return [compare_rates(mine, rounds[FOLDER, 0]), compare_rates(mine, plain)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--size", type=int, default=224, help="of the model's images, in pixels")
    parser.add_argument("--model", choices=TIMM, default="vit_tiny")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_photos(folder / "photos", 96, "train")
        save_photos(folder / "new", given.images, "new")
        train(folder / "photos", folder / "run", given.model, given.size)
        rounds = measure(folder, given)
    print(f"python {os.path.relpath(sys.argv[0])} {' '.join(sys.argv[1:])}".rstrip())
    versions = ", ".join(f"{library} {version(library)}" for library in ("torch", "timm", "fastapi", "uvicorn"))
    print(f"{versions}, Python {platform.python_version()}, {date.today()}")
    print(f"{describe_processor()}, {os.cpu_count()} cores, medians of {given.rounds} rounds\n")
    print_table(rounds, f"{given.images:,} JPEGs of {WIDTH}x{HEIGHT}, {given.model}/16 at {given.size} px")
    print()
    table = rounds[FOLDER, 0][0].predicted
    for row, clients in [(SERVER, max(given.clients)), (next(iter(KINDS)), max(given.clients))]:
        answers = rounds[row, clients][0].predicted
        same = sum(mine[0] == theirs[0] for mine, theirs in zip(answers, table, strict=True))
        largest = max(abs(mine[1] - theirs[1]) for mine, theirs in zip(answers, table, strict=True))
        print(f"{row}: the class of inference.py for {same:,} of {len(table):,}, confidence within {largest:.0e}")


def measure(folder: Path, given: argparse.Namespace) -> Rounds:
    """Return what the servers and the folder did in each round."""
    files = sorted((folder / "new").glob("*.jpg"))
    inference = [sys.executable, str(ROOT / "inference.py"), "precision=float32"]
    page = [*inference, "task=serve", "serve.port={port}", "serve.open_browser=false", f"roots={folder}"]
    commands, paths = {SERVER: page}, {SERVER: "/api/predict?run=best&topk=1"}
    for kind, keyword in KINDS.items():
        script = folder / f"plain_{keyword.replace(' ', '_')}.py"
        script.write_text(PLAIN.replace("KIND", keyword))
        commands[kind] = [
            sys.executable,
            str(script),
            str(folder / "run"),
            "{port}",
            TIMM[given.model],
            str(given.size),
        ]
        paths[kind] = "/predict"
    table = folder / "out.csv"
    words = [f"run={folder / 'run'}", f"input={folder / 'new'}", f"output={table}", "topk=1"]
    rounds: Rounds = {}
    with contextlib.ExitStack() as stack:
        ports = {row: stack.enter_context(started(command)) for row, command in commands.items()}
        clients = stack.enter_context(ProcessPoolExecutor(1, get_context("spawn")))
        for row, port in ports.items():
            clients.submit(ask, port, paths[row], files[:WARM_UP], 8).result()
        for number in range(given.rounds):
            order = list(ports)[:: -1 if number % 2 else 1]
            for row, count in ((row, count) for row in order for count in given.clients):
                load = clients.submit(ask, ports[row], paths[row], files, count).result()
                rounds.setdefault((row, count), []).append(load)
            rounds.setdefault((FOLDER, 0), []).append(predict_folder([*inference, *words], table, files))
    keys = [*((row, count) for row in (*KINDS, SERVER) for count in given.clients), (FOLDER, 0)]
    return {key: rounds[key] for key in keys}


if __name__ == "__main__":
    main()
