"""What the answers share. All of it can be built again from the folders: nothing is lost when the page ends."""

import os
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import TYPE_CHECKING

from ..config.inference import InferenceConfig
from ..run.files import PREPROCESSING
from ..run.saved import SavedRun
from .cache import FileCache
from .errors import PageError
from .folders import open_roots
from .index import RunIndex
from .jobs import Jobs
from .predictions import Predictions
from .reports import Reports

if TYPE_CHECKING:  # they import torch, which the first page does not wait for
    from ..data.images import Preprocessing
    from .images import TestImages


LARGEST_INPUT = 2**26  # values of an image; a stranger's run may claim anything


def _begin_decoding() -> None:
    from ..machine.kernels import use_one_thread

    use_one_thread()


class State:
    def __init__(self, config: InferenceConfig) -> None:
        self.config = config
        self.roots = open_roots(config.serve.roots)
        # What is started here is written into outputs and multirun, wherever else runs are searched.
        self.index = RunIndex(list(dict.fromkeys([*config.roots, "outputs", "multirun"])))
        self.predictions = Predictions(config)
        self.jobs = Jobs(self.index, self.roots)
        self.reports = Reports(self.jobs)
        self.decoders = ThreadPoolExecutor(os.cpu_count(), "decode", _begin_decoding)
        self._looks = FileCache(lambda folder: SavedRun(folder, "", {}).load()[2], (PREPROCESSING,), most=16)

    @cached_property
    def images(self) -> "TestImages":
        from .images import TestImages

        return TestImages(self.roots, self.config.serve.max_pixels)

    def open_look(self, run: SavedRun) -> "Preprocessing":
        """Return how a run wants its images. Raises PageError if it is damaged."""
        try:
            look = self._looks(run.folder)
            height, width = look.size
            if height * width * look.channels > LARGEST_INPUT:
                raise PageError("the images of this run are too large to be predicted here", 409)
            return look
        except ValueError as error:
            raise PageError(str(error), 409) from error

    def close(self) -> None:
        self.reports.close()
        self.jobs.close()
        self.decoders.shutdown(wait=False, cancel_futures=True)
