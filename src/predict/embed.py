"""`task=embed`: features of images in a file, or the nearest neighbors of an image among others.

Letters: n images, K classes, D features.
"""

import contextlib
import errno
import os
import signal
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .. import terminal
from ..config.inference import InferenceConfig
from ..data.images import Preprocessing
from ..data.read import count_notes, parse_image, read_content
from ..signals import Interrupts, name_signal
from ..tables import Table
from .features import list_beside, open_features
from .inputs import Inputs, find_inputs
from .neighbors import Image, Nearest
from .output import open_output
from .predictor import Predictor
from .session import SHOWN, Tally, choose_one, open_predictor
from .summary import Summary

Use = Callable[[list[Image], Tensor], None]  # what is done with the images of a batch and their features (n,D)

PICTURE_ROWS, PICTURE_COLUMNS = 12, 12  # queries and neighbors that a picture has room for
THUMBNAIL = 320  # pixels of the longer side


def embed_images(config: InferenceConfig) -> None:
    """Write the features of `input`, or find the neighbors of `query` in it.

    Raises ValueError if no image can be read, OSError if the output cannot be written.
    """
    inputs = find_inputs(str(config.input))
    if config.output is not None:
        _refuse_inside(Path(os.path.expanduser(config.output)), str(config.input), str(config.output))
    if config.query is None:
        _write_features(config, inputs)
    else:
        _find_neighbors(config, inputs, find_inputs(config.query, "query"))


def _refuse_inside(output: Path, wanted: str, typed: str) -> None:
    """Raise ValueError for an output that would be read as an image of the input the next time."""
    folder = Path(os.path.expanduser(wanted))
    inside = folder.is_dir() and output.resolve().is_relative_to(folder.resolve())
    if inside and output.suffix.lower() in (".npy", ".png"):
        raise ValueError(f"output={typed} is in input={wanted}, and would be one of its images next time")


def _write_features(config: InferenceConfig, inputs: Inputs) -> None:
    """Write the features of all images; a signal leaves the file with those that are done."""
    run, output = choose_one(config), Path(os.path.expanduser(str(config.output)))
    tally, stopped = Tally(), None
    with Interrupts(), open_features(output) as add:
        predictor = open_predictor(run, config)
        terminal.warn(inputs.describe_others())

        def use(images: list[Image], features: Tensor) -> None:
            add([_as_row(image) for image in images], features.numpy())

        try:
            _embed(predictor, inputs.files, [Summary(predictor.classes, str(config.input))], config, tally, use)
        except KeyboardInterrupt as error:
            if not tally.predicted:
                raise
            stopped = error
        _refuse_none(tally, "input", config.input)
    if stopped is not None:
        name = name_signal(getattr(stopped, "signal", signal.SIGINT))
        terminal.say(f"stopped by {name} after {tally.predicted + tally.unreadable:,} of {len(inputs.files):,} files")
    beside = f", the files in the same order to {list_beside(output)}" if output.suffix.lower() == ".npy" else ""
    terminal.say(f"{tally.predicted:,} × {predictor.model.embedding_dim:,} features written to {output}{beside}")
    terminal.say(tally.describe(len(inputs.others), "embedded"))
    if stopped is not None:
        raise stopped


def _find_neighbors(config: InferenceConfig, inputs: Inputs, wanted: Inputs) -> None:
    """Print the neighbors of each query, and draw them or write them into a table."""
    run, tally = choose_one(config), Tally()
    output = None if config.output is None else Path(os.path.expanduser(config.output))
    if output is not None and output.suffix.lower() == ".png":
        _check_picture(output)  # it is written at the end, after all the work
    with contextlib.ExitStack() as stack:
        stack.enter_context(Interrupts())
        table = None if output is None or output.suffix.lower() == ".png" else stack.enter_context(open_output(output))
        predictor = open_predictor(run, config)
        terminal.warn(inputs.describe_others())
        folders = Summary(predictor.classes, str(config.input)), Summary(predictor.classes, str(config.query))
        queries, asked = _embed_all(predictor, wanted.files, folders, config)
        nearest = Nearest(queries, asked, config.topk)
        _embed(predictor, inputs.files, folders[:1], config, tally, nearest.add)
        _refuse_none(tally, "input", config.input)
        rows = _list_neighbors(nearest)
        if not rows:
            raise ValueError(f"input={config.input} has only the query itself; name a folder with other images")
        if table is not None:
            table(rows)
        elif output is not None:
            _draw(nearest, predictor.preprocessing, output)
    if output is None or len(queries) <= SHOWN:
        _show(nearest)
    if output is not None:
        terminal.say(f"neighbors written to {output}")
    if score := nearest.score():
        terminal.say(score)
    terminal.say(tally.describe(len(inputs.others), "compared"))


def _check_picture(path: Path) -> None:
    """Raise OSError if no picture can be written there."""
    if path.is_dir():
        raise IsADirectoryError(f"output={path} is a folder; name a file, such as {path / 'neighbors.png'}")
    if not os.access(path.absolute().parent, os.W_OK):
        raise PermissionError(f"output={path} cannot be written: {os.strerror(errno.EACCES)}")


def _embed_all(
    predictor: Predictor, files: Sequence[Path], folders: Sequence[Summary], config: InferenceConfig
) -> tuple[list[Image], Tensor]:
    """Return the readable files of `query` with their features (n,D)."""
    images, parts, tally = list[Image](), list[Tensor](), Tally()

    def use(batch: list[Image], features: Tensor) -> None:
        images.extend(batch)
        parts.append(features)

    _embed(predictor, files, folders, config, tally, use)
    _refuse_none(tally, "query", config.query)
    return images, torch.cat(parts)


def _embed(
    predictor: Predictor,
    files: Sequence[Path],
    folders: Sequence[Summary],
    config: InferenceConfig,
    tally: Tally,
    use: Use,
) -> None:
    """Compute the features of the files, batch by batch; a signal ends it between two.

    folders: know the classes of files by their folders; the first that knows one decides.
    """
    notes = Counter[str]()  # what ambiguous files were taken for
    trial = predictor.choose_computing(config.batch_size, len(files))
    if trial.rates:
        terminal.warn(f"computing in {trial.describe()}")
    try:
        with (
            Interrupts() as interrupts,
            terminal.show_progress(len(files), "embedding") as advance,
            contextlib.closing(predictor.read_files(files, config.batch_size, notes)) as batches,
        ):
            for read, pixels, errors in batches:
                computed = predictor.embed_and_predict(pixels) if read else None
                interrupts.defer = True
                for line in errors:
                    terminal.warn(f"left out: {line}")
                if computed is not None:
                    features, probabilities = computed
                    use(_describe(predictor, folders, read, probabilities), features)
                tally.predicted += len(read)
                tally.unreadable += len(errors)
                advance(len(read) + len(errors))
                interrupts.release()
    finally:
        for line in count_notes(notes):
            terminal.warn(line)


def _describe(
    predictor: Predictor, folders: Sequence[Summary], read: Sequence[Path], probabilities: Tensor
) -> list[Image]:
    tops = [predictor.top(row, 1)[0] for row in probabilities]
    known = [next(filter(None, (folder.find_class(path) for folder in folders)), None) for path in read]
    return [Image(path, name, *top) for path, name, top in zip(read, known, tops, strict=True)]


def _refuse_none(tally: Tally, key: str, wanted: str | None) -> None:
    if not tally.predicted:
        raise ValueError(f"{key}={wanted}: none of {tally.unreadable:,} file(s) is a readable image")


def _as_row(image: Image) -> dict[str, str | float]:
    """Return a row of a table; without a folder called like a class, its class is empty."""
    confidence = round(image.confidence, 6)
    return {"file": str(image.path), "class": image.true or "", "predicted": image.predicted, "confidence": confidence}


def _list_neighbors(nearest: Nearest) -> list[dict[str, str | float]]:
    """Return a row for each query and each of its neighbors."""
    return [
        {"query": str(query.path), "rank": rank, "similarity": round(near.similarity, 6), **_as_row(near.image)}
        for query, neighbors in nearest
        for rank, near in enumerate(neighbors, start=1)
    ]


def _show(nearest: Nearest) -> None:
    """Print a table for each query."""
    columns = ("no", "similarity", "class", "predicted", "file")
    for query, neighbors in nearest:
        terminal.show_heading(f"{query.path}: {query.true or query.predicted + '?'}")
        rows = [
            (str(rank), f"{near.similarity:.3f}", near.image.true or "", near.image.predicted, str(near.image.path))
            for rank, near in enumerate(neighbors, start=1)
        ]
        table = Table(columns, rows, right=columns[:2])
        named = any(near.image.true for near in neighbors)
        table = table if named else table.pick([0, 1, 3, 4])
        terminal.show_table(table.columns, table.rows, table.right)


def _draw(nearest: Nearest, preprocessing: Preprocessing, output: Path) -> None:
    """Draw the neighbors, as many as a picture has room for."""
    from ..plots.images import Shown, plot_neighbors

    def show(image: Image, similarity: float | None = None) -> Shown:
        picture = _thumbnail(image.path, preprocessing)
        return Shown(picture, image.path.name, image.true or image.predicted, image.true is not None, similarity)

    rows = list(nearest)
    if len(rows) > PICTURE_ROWS or max(len(neighbors) for _, neighbors in rows) > PICTURE_COLUMNS:
        terminal.warn(
            f"the picture shows at most {PICTURE_ROWS} queries with {PICTURE_COLUMNS} neighbors each; "
            "output=neighbors.csv has all of them"
        )
    shown = [
        (show(query), [show(near.image, near.similarity) for near in neighbors[:PICTURE_COLUMNS]])
        for query, neighbors in rows[:PICTURE_ROWS]
    ]
    plot_neighbors(shown, output)


def _thumbnail(path: Path, preprocessing: Preprocessing) -> np.ndarray:
    """Return the whole picture in a file, (h,w,C), in the colors that the model gets, but with its own proportions."""
    picture = parse_image(read_content(path, preprocessing.reading), path, preprocessing.reading, 2 * THUMBNAIL)
    scale = min(1, THUMBNAIL / max(picture.width, picture.height))
    size = max(1, round(picture.height * scale)), max(1, round(picture.width * scale))
    return replace(preprocessing, size=size, resize="squash").pixels(picture.pixels)
