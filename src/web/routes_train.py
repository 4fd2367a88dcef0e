"""Start, stop and resume training, what the form for it needs; and export runs."""

from typing import Annotated, Any

from fastapi import APIRouter, Body, Request
from fastapi.responses import FileResponse

from .errors import PageError
from .exports import check_formats
from .folders import list_folders
from .form import describe_form
from .routes_runs import state_of
from .state import State

router = APIRouter(prefix="/api", tags=["train"])
Formats = Annotated[list[str], Body(embed=True, description="as in formats= of the command line: ['timm', 'onnx']")]
Words = Annotated[list[str], Body(embed=True, description="settings as typed: ['dataset=digits', 'seed=1']")]


def writable(request: Request) -> State:
    """Return the state. Raises PageError if the page only shows and predicts."""
    state = state_of(request)
    if state.config.serve.read_only:
        raise PageError(
            "this page is read-only (serve.read_only=true): it starts, stops, resumes and exports nothing", 403
        )
    return state


@router.get("/options", summary="The options of each group, and every key with its type, range and help")
def get_options(request: Request) -> dict[str, Any]:
    state = state_of(request)
    running = [state.index.describe(run) for run in state.jobs.list_running()]
    return {**describe_form(), "running": running}


@router.get("/folders", summary="Folders of this machine, to complete a path")
def get_folders(request: Request, path: str = "") -> dict[str, Any]:
    return list_folders(path, writable(request).roots)


@router.post("/check", summary="Check settings as the command line does, without starting anything")
def check(request: Request, words: Words) -> dict[str, str]:
    return {"command": writable(request).jobs.check(words)}


@router.post("/reports", summary="Look at the images of a data set", status_code=201)
def start_report(request: Request, words: Words) -> dict[str, str]:
    return {"id": writable(request).reports.start(words).id}


@router.get("/reports/{report}", summary="How far a report is, and what it says")
def get_report(request: Request, report: str) -> dict[str, Any]:
    return writable(request).reports.describe(report)


@router.get("/reports/{report}/{name}", summary="A picture of a report", response_class=FileResponse)
def get_report_picture(request: Request, report: str, name: str) -> FileResponse:
    return FileResponse(writable(request).reports.find_picture(report, name))


@router.post("/start", summary="Start training, or let it follow what runs now", status_code=201)
def start(request: Request, words: Words, queue: Annotated[bool, Body()] = False) -> dict[str, Any]:
    jobs = writable(request).jobs
    return jobs.describe(jobs.start(words, queue))


@router.get("/starts", summary="What is starting, or could not start")
def get_starts(request: Request) -> dict[str, Any]:
    return {"starts": state_of(request).jobs.list_starts()}


@router.get("/starts/{start}", summary="One of them")
def get_start(request: Request, start: str) -> dict[str, Any]:
    jobs = state_of(request).jobs
    return jobs.describe(jobs.open_start(start))


@router.post("/runs/{run}/stop", summary="Save and stop a run, as Ctrl-C does")
def stop(request: Request, run: str) -> dict[str, str]:
    state = writable(request)
    return {"message": state.jobs.stop(state.index.open_run(run))}


@router.post("/runs/{run}/resume", summary="Continue a run from its last checkpoint", status_code=201)
def resume(request: Request, run: str, words: Words = []) -> dict[str, Any]:  # noqa: B006 - FastAPI copies it
    state = writable(request)
    return state.jobs.describe(state.jobs.resume(state.index.open_run(run), words))


@router.post("/runs/{run}/exports", summary="Write a run in formats of other programs", status_code=201)
def export(request: Request, run: str, formats: Formats) -> dict[str, Any]:
    state = writable(request)
    found = state.index.open_run(run)
    return state.jobs.describe(state.jobs.export(found, check_formats(found, formats)))


@router.post("/sweeps/{sweep}/stop", summary="Save and stop the running jobs of a sweep, and begin no others")
def stop_sweep(request: Request, sweep: str) -> dict[str, str]:
    state = writable(request)
    return {"message": state.jobs.stop_sweep(state.index.open_sweep(sweep))}


@router.post("/sweeps/{sweep}/resume", summary="Continue a sweep", status_code=201)
def resume_sweep(request: Request, sweep: str) -> dict[str, Any]:
    state = writable(request)
    return state.jobs.describe(state.jobs.resume_sweep(state.index.open_sweep(sweep)))
