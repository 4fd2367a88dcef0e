"""From a run directory and image files to class probabilities. Letters: n images, K classes."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ..augment.normalize import normalize
from ..engine.evaluation import count_gflops
from ..machine.devices import autocast, choose_device, choose_kernels, choose_precision
from ..model import VisionTransformer
from ..run.files import BEST
from ..run.saved import SavedRun


class Predictor:
    """The best weights of a run, with the classes and the preprocessing of its training."""

    def __init__(self, run: SavedRun, device: str) -> None:
        config, self.classes, self.preprocessing = run.load()
        self.device, _ = choose_device(device)
        self.precision = choose_precision(config.training.precision, self.device)
        model = VisionTransformer(**asdict(config.model))
        self.gflops = count_gflops(model)
        self.model = model.to(self.device).eval()
        try:
            self.model.load_state_dict(load_file(run.folder / BEST))
        except (SafetensorError, RuntimeError) as error:
            raise ValueError(f"the weights of {run.folder} are damaged or of another model: {error}") from error

    @torch.no_grad()
    def predict(self, images: Tensor) -> Tensor:
        """Return probabilities (n,K) float32 on the CPU for preprocessed uint8 images (n,C,H,W)."""
        inputs = normalize(images.to(self.device), self.preprocessing.mean, self.preprocessing.std)
        with autocast(self.device, self.precision):
            logits = self.model(inputs)
        return logits.float().softmax(1).cpu()

    def predict_files(
        self, files: Sequence[Path], batch_size: int, notes: Counter[str] | None = None
    ) -> Iterator[tuple[list[Path], Tensor, list[str]]]:
        """Yield for each batch the files read, their probabilities (n,K), and a line for each unreadable file."""
        choose_kernels(self.device, self.gflops * min(batch_size, len(files)), self.model.num_tokens)
        for first in range(0, len(files), batch_size):
            read, images, errors = [], [], []
            for path in files[first : first + batch_size]:
                try:
                    images.append(self.preprocessing.read(path, notes))
                    read.append(path)
                except OSError as error:
                    errors.append(str(error))
            probabilities = self.predict(torch.stack(images)) if images else torch.empty(0, len(self.classes))
            yield read, probabilities, errors

    def top(self, probabilities: Tensor, k: int) -> list[tuple[str, float]]:
        """Return the k most probable classes (at most all K) with their probabilities; probabilities: (K,)."""
        values, indices = probabilities.topk(min(k, len(self.classes)))
        return [(self.classes[i], p) for i, p in zip(indices.tolist(), values.tolist(), strict=True)]
