"""From a run directory and image files to probabilities and features. Letters: n images, K classes, D features."""

import itertools
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..augment.normalize import normalize
from ..data.decode import map_in_order
from ..engine.attention import attention_to_patches
from ..engine.trial import Trial, Work, choose_kernels, compile_blocks
from ..machine.devices import autocast, choose_device
from ..machine.kernels import PRECISIONS, Wanted, choose_precision, suits
from ..machine.memory import keep_freed_memory
from ..run.best import load_best
from ..run.saved import SavedRun

WHATEVER_IS_FASTEST = Wanted()


class Predictor:
    """The best weights of a run, with the classes and the preprocessing of its training."""

    def __init__(self, run: SavedRun, device: str, wanted: Wanted = WHATEVER_IS_FASTEST) -> None:
        config, self.classes, self.preprocessing = run.load()
        self.device, _ = choose_device(device)
        keep_freed_memory()
        # The test accuracy of the run was measured in its precision, so other settings do not change what is predicted.
        trained = config.training.precision
        precision = trained if wanted.precision == "auto" and suits(trained, self.device) else wanted.precision
        self._wanted = replace(wanted, precision=choose_precision(precision, self.device))
        self.precision = PRECISIONS[self._wanted.precision]
        self._compiled: Trial | None = None  # the trial after which the model was compiled
        self.model = load_best(run.folder, config.model).to(self.device)

    def stack(self, pixels: Sequence[np.ndarray]) -> Tensor:
        """Return preprocessed pixels (H,W,C) of several images as one tensor (n,C,H,W)."""
        return torch.from_numpy(np.stack(pixels).transpose(0, 3, 1, 2).copy())

    @torch.no_grad()
    def predict(self, images: Tensor) -> Tensor:
        """Return probabilities (n,K) float32 on the CPU for preprocessed uint8 images (n,C,H,W)."""
        inputs = normalize(images.to(self.device), self.preprocessing.mean, self.preprocessing.std)
        with autocast(self.device, self.precision):
            logits = self.model(inputs)
        return logits.float().softmax(1).cpu()

    def embed(self, images: Tensor) -> Tensor:
        """Return features (n,D) float32 on the CPU for preprocessed uint8 images (n,C,H,W): what the head gets."""
        return self.embed_and_predict(images)[0]

    @torch.no_grad()
    def embed_and_predict(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return what `embed` and what `predict` returns, computed together."""
        inputs = normalize(images.to(self.device), self.preprocessing.mean, self.preprocessing.std)
        with autocast(self.device, self.precision):
            features = self.model.pool(self.model.forward_features(inputs))
            logits = self.model.head(features)
        return features.float().cpu(), logits.float().softmax(1).cpu()

    @torch.no_grad()
    def attend(self, images: Tensor) -> Tensor:
        """Return where the last layer looks in preprocessed images (n,C,H,W): (n, rows, columns), 1 if everywhere."""
        inputs = normalize(images.to(self.device), self.preprocessing.mean, self.preprocessing.std)
        maps = attention_to_patches(self.model, inputs, [len(self.model.blocks) - 1])
        return maps[:, 0] * self.model.num_tokens

    def predict_files(
        self, files: Sequence[Path], batch_size: int, notes: Counter[str] | None = None
    ) -> Iterator[tuple[list[Path], Tensor, list[str]]]:
        """Yield for each batch the files read, their probabilities (n,K), and a line for each unreadable file.

        The next files are decoded while the model computes, as `choose_computing` has chosen.
        """
        with closing(self.read_files(files, batch_size, notes)) as batches:
            for read, images, errors in batches:
                yield read, self.predict(images) if read else torch.empty(0, len(self.classes)), errors

    def read_files(
        self, files: Sequence[Path], batch_size: int, notes: Counter[str] | None = None
    ) -> Generator[tuple[list[Path], Tensor, list[str]], None, None]:
        """Yield for each batch the files read, their images uint8 (n,C,H,W), and a line for each unreadable file.

        notes: counts what ambiguous files were taken for. The next files are decoded meanwhile.
        """
        nothing = torch.empty(0, self.preprocessing.channels, *self.preprocessing.size, dtype=torch.uint8)
        with closing(map_in_order(self._read, files)) as results:
            for first in range(0, len(files), batch_size):
                read, images, errors = [], [], []
                batch = files[first : first + batch_size]
                for path, result in zip(batch, itertools.islice(results, len(batch)), strict=True):
                    if isinstance(result, OSError):
                        errors.append(str(result))
                        continue
                    read.append(path)
                    images.append(result[0])
                    if notes is not None:
                        notes.update(result[1])
                yield read, torch.stack(images) if images else nothing, errors

    def _read(self, path: Path) -> tuple[Tensor, list[str]] | OSError:
        """Return the uint8 tensor (C,H,W) of a file and its notes, or what is wrong with it."""
        notes = Counter[str]()
        try:
            return self.preprocessing.read(path, notes), list(notes.elements())
        except OSError as error:
            return error

    def choose_computing(self, batch_size: int, total: int) -> Trial:
        """Find the fastest way to predict `total` images, and use it from now on; a compiled model stays as it is."""
        if self._compiled is None:
            trial = choose_kernels(self.model, Work(min(batch_size, total), total, training=False), self._wanted)
            if not trial.chosen.compile:
                return trial
            compile_blocks(self.model)
            self._compiled = trial
        return self._compiled

    def top(self, probabilities: Tensor, k: int) -> list[tuple[str, float]]:
        """Return the k most probable classes (at most all K) with their probabilities; probabilities: (K,)."""
        values, indices = probabilities.topk(min(k, len(self.classes)))
        return [(self.classes[i], p) for i, p in zip(indices.tolist(), values.tolist(), strict=True)]
