"""Runs, sweeps, comparisons: what is in their folders."""

import asyncio
import contextlib
import shlex
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import FileResponse, Response
from starlette.concurrency import run_in_threadpool

from ..machine.disk import short_path
from ..run.files import SWEEP_PICTURE
from ..run.saved import SavedRun
from . import compare, results
from .details import describe_details, find_file, read_classes, read_log, read_metrics
from .errors import PageError
from .exports import describe_exports, find_export
from .predictions import describe_result
from .state import State

router = APIRouter(prefix="/api", tags=["runs"])


def state_of(request: Request) -> State:
    return request.app.state.page


def describe_run(state: State, run: SavedRun) -> dict[str, Any]:
    """Return a run as the table shows it, with its number and sweep."""
    found = state.index.find()
    folders = [other.folder for other in found.runs]
    number = folders.index(run.folder) + 1 if run.folder in folders else None
    return state.index.describe(run, number, found.sweep_of.get(run.folder))


def list_runs(
    state: State, filter: str = "", sort: str = "started", page: int = 1, flat: bool = False, weights: bool = False
) -> dict[str, Any]:
    return state.index.list_rows(filter.strip() or None, sort, page, flat, weights)


def show_run(state: State, wanted: str) -> dict[str, Any]:
    run = state.index.open_run(wanted)
    tested: list[results.Tested] = []
    with contextlib.suppress(PageError):  # what is wrong with the table is said where it is shown
        tested = results.read_tested(run)
    confused = results.list_confused(tested)
    return {
        "run": describe_run(state, run),
        **describe_details(run),
        "confused": confused,
        "exports": show_exports(state, run),
    }


@router.get("/runs", summary="The table of runs")
def get_runs(
    request: Request,
    filter: Annotated[str, Query(description="conditions, as in inference.py: val_acc>0.9 status=finished")] = "",  # noqa: A002
    sort: Annotated[str, Query(description="started, val_acc, … or any key; -val_acc reverses it")] = "started",
    page: int = 1,
    flat: Annotated[bool, Query(description="jobs of sweeps as rows of their own")] = False,
    weights: Annotated[bool, Query(description="only runs that can predict")] = False,
) -> dict[str, Any]:
    return list_runs(state_of(request), filter, sort, page, flat, weights)


@router.get("/runs/{run}", summary="A run: configuration, environment, results, files")
def get_run(request: Request, run: str) -> dict[str, Any]:
    return show_run(state_of(request), run)


@router.get("/runs/{run}/metrics", summary="The epochs after a number")
def get_metrics(request: Request, run: str, since: int = 0) -> dict[str, Any]:
    state = state_of(request)
    found = state.index.open_run(run)
    return {**read_metrics(found, since), "run": describe_run(state, found)}


@router.get("/runs/{run}/log", summary="The last lines of the log")
def get_log(request: Request, run: str, lines: Annotated[int, Query(ge=1, le=10_000)] = 200) -> dict[str, Any]:
    return {"lines": read_log(state_of(request).index.open_run(run), lines)}


@router.get("/runs/{run}/confusion", summary="The confusion matrix of the test images")
def get_confusion(request: Request, run: str) -> dict[str, Any]:
    found = state_of(request).index.open_run(run)
    return results.count_confusion(results.read_tested(found), read_classes(found) or [])


@router.get("/runs/{run}/predictions", summary="The test images, by class and by right or wrong")
def get_predictions(
    request: Request,
    run: str,
    true: str | None = None,
    predicted: str | None = None,
    correct: bool | None = None,
    order: Annotated[str, Query(pattern="confident|unsure")] = "confident",
    page: int = 1,
    size: Annotated[int, Query(ge=1, le=500)] = 48,
) -> dict[str, Any]:
    tested = results.read_tested(state_of(request).index.open_run(run))
    return results.select_tested(tested, true, predicted, correct, order, page, size)


def open_tested(state: State, wanted: str, index: int) -> tuple[SavedRun, results.Tested]:
    run = state.index.open_run(wanted)
    tested = results.read_tested(run)
    if not 0 <= index < len(tested):
        raise PageError(f"the test split has no image {index}", 404)
    return run, tested[index]


@router.get("/runs/{run}/images/test/{index}", summary="A test image", response_class=Response)
def get_image(request: Request, run: str, index: int, size: Annotated[int, Query(ge=8, le=1024)] = 160) -> Response:
    state = state_of(request)
    content = state.images.read(*open_tested(state, run, index), size)
    return Response(content, media_type="image/png", headers={"Cache-Control": "private, max-age=300"})


@router.get("/runs/{run}/explain/test/{index}", summary="A test image: what the model saw, where it looked, its answer")
async def explain_image(
    request: Request, run: str, index: int, topk: Annotated[int, Query(ge=1)] = 5
) -> dict[str, Any]:
    state = state_of(request)
    found, tested = await run_in_threadpool(open_tested, state, run, index)
    pixels = await run_in_threadpool(state.images.pixels, found, tested)
    # Without a thread that waits: slow predictions must not take all of those that answer pages.
    answer = await asyncio.wrap_future(state.predictions.ask(found, pixels, topk, attention=True))
    result = await run_in_threadpool(describe_result, tested.image, pixels, [], answer)
    return {**result.to_json(), "class_true": tested.true}


@router.get(
    "/runs/{run}/files/{name:path}", summary="A file of a run: weights, tables, figures", response_class=FileResponse
)
def get_file(request: Request, run: str, name: str) -> FileResponse:
    path = find_file(state_of(request).index.open_run(run), name)
    if path is None:
        raise PageError("the run has no such file, or it is not offered", 404)
    shown = path.suffix == ".png"
    return FileResponse(path, filename=None if shown else path.name, headers={"Cache-Control": "private, max-age=300"})


@router.get(
    "/runs/{run}/exports", summary="The exports of a run: formats, files, how closely they agree, and the last start"
)
def get_exports(request: Request, run: str) -> dict[str, Any]:
    state = state_of(request)
    return show_exports(state, state.index.open_run(run))


def show_exports(state: State, run: SavedRun) -> dict[str, Any]:
    started = state.jobs.find_export(run)
    command = f"python inference.py task=export run={shlex.quote(short_path(run.folder))}"
    last = None if started is None else state.jobs.describe(started)
    return {**describe_exports(run), "command": command, "started": last}


@router.get("/runs/{run}/exports/{name:path}", summary="A file of an export, to download", response_class=FileResponse)
def get_export(request: Request, run: str, name: str) -> FileResponse:
    path = find_export(state_of(request).index.open_run(run), name)
    if path is None:
        raise PageError("the run has no such export, or it is not offered", 404)
    # Never shown by the browser: a page of an export has scripts, and a run may be a stranger's.
    headers = {"Content-Security-Policy": "sandbox; default-src 'none'"}
    return FileResponse(path, media_type="application/octet-stream", filename=path.name, headers=headers)


@router.get("/sweeps/{sweep}", summary="A sweep: its ranking and its jobs")
def get_sweep(request: Request, sweep: str) -> dict[str, Any]:
    index = state_of(request).index
    return compare.describe_sweep(index, index.open_sweep(sweep))


@router.get("/sweeps/{sweep}/picture", summary="The picture of a sweep", response_class=FileResponse)
def get_sweep_picture(request: Request, sweep: str) -> FileResponse:
    path = state_of(request).index.open_sweep(sweep).folder / SWEEP_PICTURE
    if not path.is_file() or path.is_symlink():
        raise PageError("the sweep has no picture yet", 404)
    return FileResponse(path)


@router.get("/compare", summary="Runs side by side: settings, results, seeds, image by image")
def get_comparison(request: Request, run: Annotated[list[str], Query()]) -> dict[str, Any]:
    state = state_of(request)
    return compare.compare(state.config, [state.index.open_run(wanted) for wanted in run[:100]])
