"""Predictions for many clients: one thread computes, and takes all waiting images of a run together.

So a slow prediction blocks no page, and many small requests are as fast as one large one.
"""

import base64
import threading
from collections import Counter, OrderedDict, deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..config.inference import InferenceConfig
from ..run.files import BEST
from ..run.saved import SavedRun
from .errors import PageError
from .pictures import encode, to_picture

if TYPE_CHECKING:  # they import torch, which the table of runs does not need
    from ..data.images import Preprocessing
    from ..predict.predictor import Predictor

LOADED = 2  # models in memory
MOST_WAITING = 2**29  # bytes of images that wait; more are refused


@dataclass
class Result:
    """What a run predicts for a file: as `inference.py` writes it, or what is wrong with the file.

    top: the most probable classes with their probabilities; attention: (rows, columns), 1 if the model looked
    everywhere alike; input: a PNG of what the model saw, in Base64.
    """

    file: str
    top: list[dict[str, str | float]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    error: str | None = None
    attention: list[list[float]] | None = None
    input: str | None = None

    def to_json(self) -> dict[str, Any]:
        best = self.top[0] if self.top else {"class": None, "confidence": None}
        return {"file": self.file, "class": best["class"], "confidence": best["confidence"], **vars(self)}


@dataclass
class _Waiting:
    """An image that waits for its probabilities."""

    run: SavedRun
    pixels: np.ndarray
    topk: int
    attention: bool
    answer: "Future[tuple[list[tuple[str, float]], list[list[float]] | None]]" = field(default_factory=Future)


class Predictions:
    """The models that are in memory, and the images that wait for them."""

    def __init__(self, config: InferenceConfig) -> None:
        self._config = config
        self._waiting: deque[_Waiting] = deque()
        self._some = threading.Condition()
        self._open: OrderedDict[tuple[Path, int], Predictor] = OrderedDict()
        self._thread: threading.Thread | None = None

    def ask(
        self, run: SavedRun, pixels: np.ndarray, topk: int, attention: bool
    ) -> "Future[tuple[list[tuple[str, float]], list[list[float]] | None]]":
        """Return the classes and the attention for an image (H,W,C), once they are there. Raises PageError if busy."""
        item = _Waiting(run, pixels, topk, attention)
        with self._some:
            if sum(other.pixels.nbytes for other in self._waiting) + pixels.nbytes > MOST_WAITING:
                raise PageError("too many images are waiting; try again in a moment", 503)
            self._waiting.append(item)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, daemon=True, name="predictions")
                self._thread.start()
            self._some.notify()
        return item.answer

    def _work(self) -> None:
        while True:
            with self._some:
                while not self._waiting:
                    self._some.wait()
                batch = self._take()
            batch = [item for item in batch if item.answer.set_running_or_notify_cancel()]
            try:
                self._answer(batch)
            except Exception as error:  # whatever it is, the next ones are answered
                status = 409 if isinstance(error, OSError | ValueError) else 500
                failure = (
                    error if isinstance(error, PageError) else PageError(str(error) or type(error).__name__, status)
                )
                for item in batch:
                    if not item.answer.done():
                        item.answer.set_exception(failure)

    def _take(self) -> list[_Waiting]:
        """Return the images of the run that is next, at most a batch of them."""
        folder = self._waiting[0].run.folder
        batch, rest = list[_Waiting](), deque[_Waiting]()
        while self._waiting:
            item = self._waiting.popleft()
            (batch if item.run.folder == folder and len(batch) < self._config.batch_size else rest).append(item)
        self._waiting = rest
        return batch

    def _answer(self, batch: Sequence[_Waiting]) -> None:
        if not batch:  # nobody waits any more
            return
        predictor = self._load(batch[0].run)
        images = predictor.stack([item.pixels for item in batch])
        for place, (item, probabilities) in enumerate(zip(batch, predictor.predict(images), strict=True)):
            maps = predictor.attend(images[place : place + 1])[0].tolist() if item.attention else None
            item.answer.set_result((predictor.top(probabilities, item.topk), maps))

    def _load(self, run: SavedRun) -> "Predictor":
        """Return the predictor of a run, whose weights may have changed since the last time."""
        from ..machine.kernels import Wanted
        from ..predict.predictor import Predictor

        try:
            key = run.folder, (run.folder / BEST).stat().st_mtime_ns
        except OSError as error:
            raise PageError(f"the run has no weights yet, or they are gone: {run.folder}", 404) from error
        if key not in self._open:
            for old in [old for old in self._open if old[0] == run.folder]:
                del self._open[old]
            while len(self._open) >= LOADED:
                self._open.popitem(last=False)
            predictor = Predictor(run, self._config.device, Wanted.of(self._config))
            # As for a few images in the terminal: no trial, which would delay the first answer.
            predictor.choose_computing(self._config.batch_size, self._config.batch_size)
            self._open[key] = predictor
        self._open.move_to_end(key)
        return self._open[key]


def read_upload(content: bytes, name: str, look: "Preprocessing", max_pixels: int) -> tuple[np.ndarray, list[str]]:
    """Return the pixels (H,W,C) of an uploaded file, read as training reads files, and notes. Raises OSError."""
    from ..data.read import count_notes

    try:
        pixels, picture = replace(look, max_pixels=min(look.max_pixels, max_pixels)).parse(content, Path(name))
    except OSError as error:
        if max_pixels < look.max_pixels:  # the key that decides
            raise OSError(str(error).replace("dataset.max_pixels", "serve.max_pixels")) from error
        raise
    return pixels, count_notes(Counter(picture.notes))


def describe_result(
    file: str,
    pixels: np.ndarray,
    notes: list[str],
    answer: tuple[list[tuple[str, float]], list[list[float]] | None],
) -> Result:
    """Return a result; with attention, what the model saw, too."""
    top, attention = answer
    shown: list[dict[str, str | float]] = [{"class": name, "confidence": round(value, 6)} for name, value in top]
    if attention is None:
        return Result(file, shown, notes)
    rounded = [[round(value, 4) for value in row] for row in attention]
    picture = base64.b64encode(encode(to_picture(pixels))).decode()
    return Result(file, shown, notes, None, rounded, picture)
