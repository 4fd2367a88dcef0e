"""Predictions for uploaded images, for the page, for programs and for hosting services. Nothing is stored."""

import asyncio
import time
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, File, Query, Request, UploadFile
from starlette.concurrency import run_in_threadpool

from ..machine.disk import short_path
from ..run.saved import SavedRun
from ..tables import format_percent
from .errors import PageError
from .index import make_id
from .predictions import Result, describe_result, read_upload
from .routes_runs import state_of
from .state import State

router = APIRouter(tags=["predict"])
UPLOADS = {"/api/predict", "/invocations"}


@router.post("/api/predict", summary="Predict images: curl -F files=@cat.jpg '…/api/predict?run=best'")
async def predict(
    request: Request,
    files: Annotated[list[UploadFile], File(description="images, several at once")],
    run: Annotated[str, Query(description="best, latest, a run's number in the table, or its id")] = "best",
    topk: Annotated[int, Query(ge=1, description="classes per image")] = 5,
    attention: Annotated[bool, Query(description="also where the model looked, and what it saw")] = False,
) -> dict[str, Any]:
    state = state_of(request)
    if len(files) > state.config.serve.max_files:
        raise PageError(f"{len(files)} images in one request; at most {state.config.serve.max_files}", 413)
    uploads = [(Path(file.filename or "image").name, await file.read()) for file in files]
    return await _predict(state, uploads, run, topk, attention)


@router.post("/invocations", summary="Predict one image sent as the body, as hosting services do")
async def invoke(request: Request, run: str = "best", topk: Annotated[int, Query(ge=1)] = 5) -> dict[str, Any]:
    kind = request.headers.get("content-type", "").partition(";")[0]
    if kind.startswith("multipart/"):
        raise PageError("/invocations takes one image as the body, e.g. curl --data-binary @cat.jpg", 415)
    name = {"application/x-npy": "image.npy"}.get(kind, "image")
    answer = await _predict(state_of(request), [(name, await request.body())], run, topk, False)
    return {**answer["results"][0], "run": answer["run"]}


@router.get("/ping", summary="Whether the server is alive, as hosting services ask")
@router.get("/health", summary="Whether the server is alive")
def answer_health() -> dict[str, str]:
    return {"status": "ok"}


async def _predict(
    state: State, uploads: list[tuple[str, bytes]], wanted: str, topk: int, attention: bool
) -> dict[str, Any]:
    started = time.perf_counter()
    run = await run_in_threadpool(_open, state, wanted)
    results = await asyncio.gather(*(_answer(state, run, *upload, topk, attention) for upload in uploads))
    if all(result.error for result in results):
        raise PageError("; ".join(dict.fromkeys(str(result.error) for result in results[:3])), 422)
    return {
        "run": {
            "id": make_id(run.folder),
            "name": short_path(run.folder.absolute()),
            "dataset": run.dataset,
            "val_acc": run.val_acc,
            "text": f"{run.dataset}, validation accuracy {format_percent(run.val_acc)}",
        },
        "results": [result.to_json() for result in results],
        "seconds": round(time.perf_counter() - started, 4),
    }


def _open(state: State, wanted: str) -> SavedRun:
    run = state.index.open_run(wanted)
    if not run.has_weights():
        raise PageError("the run has no weights yet: they are there after its first epoch", 409)
    state.open_look(run)
    return run


async def _answer(state: State, run: SavedRun, name: str, content: bytes, topk: int, attention: bool) -> Result:
    look = state.open_look(run)
    try:
        pixels, notes = await asyncio.get_running_loop().run_in_executor(
            state.decoders, read_upload, content, name, look, state.config.serve.max_pixels
        )
    except (OSError, ValueError, MemoryError) as error:
        return Result(name, error=str(error) or "the picture does not fit into memory")
    answer = await asyncio.wrap_future(state.predictions.ask(run, pixels, topk, attention))
    if not attention:  # nothing to compress, which takes time
        return describe_result(name, pixels, notes, answer)
    return await run_in_threadpool(describe_result, name, pixels, notes, answer)
