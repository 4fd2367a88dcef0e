"""The application: pages, addresses, errors, and the guard in front of them."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, Response
from fastapi.staticfiles import StaticFiles
from fastapi.templating import Jinja2Templates
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartParser

from ..config.inference import InferenceConfig
from . import routes_predict, routes_runs, routes_train
from .answers import Answer, clean
from .errors import PageError
from .guard import HEADERS, Guard
from .state import State

HERE = Path(__file__).parent
TITLE = "Vision Transformers"
PAGES = {
    "/": ("runs", "Runs"),
    "/runs/{id}": ("run", "Run"),
    "/sweeps/{id}": ("sweep", "Sweep"),
    "/compare": ("compare", "Compare"),
    "/predict": ("predict", "Predict"),
    "/train": ("train", "Train"),
    "/docs": ("docs", "API"),
}
templates = Jinja2Templates(HERE / "templates")  # autoescapes .html


def build_app(config: InferenceConfig, hosts: set[str] | None, token: str = "") -> FastAPI:
    """Return the application. hosts: names by which it may be called, None: any; token: needed if not empty."""
    state = State(config)
    max_bytes = config.serve.max_megabytes * 2**20
    # Uploads are in memory only: Starlette would store large ones in temporary files.
    MultiPartParser.spool_max_size = max_bytes + 1

    @contextlib.asynccontextmanager
    async def close_at_the_end(app: FastAPI) -> AsyncIterator[None]:
        yield
        state.close()

    app = FastAPI(title=TITLE, default_response_class=Answer, docs_url=None, redoc_url=None, lifespan=close_at_the_end)
    app.state.page = state
    for routes in (routes_runs, routes_predict, routes_train):
        app.include_router(routes.router)
    app.mount("/static", StaticFiles(directory=HERE / "static"))
    for path in PAGES:
        app.add_api_route(path, show_page, include_in_schema=False, response_class=HTMLResponse)
    app.add_exception_handler(HTTPException, answer_error)
    app.add_exception_handler(RequestValidationError, answer_invalid)
    app.add_exception_handler(OSError, answer_gone)
    app.add_exception_handler(Exception, answer_bug)
    app.add_middleware(Guard, hosts=hosts, token=token, max_bytes=max_bytes, uploads=routes_predict.UPLOADS)
    return app


def show_page(request: Request) -> Response:
    """Return a page; what it shows first is in it, the rest is asked for by its scripts."""
    page, title = PAGES[request.scope["route"].path]
    state: State = request.app.state.page
    wanted = request.path_params.get("id", "")
    initial: Any = None
    if page == "runs":
        with contextlib.suppress(PageError):
            query = request.query_params
            initial = routes_runs.list_runs(state, query.get("filter", ""), query.get("sort", "started"))
    elif page == "run":
        initial = routes_runs.show_run(state, wanted)
    elif page == "sweep":
        state.index.open_sweep(wanted)
    facts = {
        "page": page,
        "title": title,
        "id": wanted,
        "initial": clean(initial),
        "read_only": state.config.serve.read_only,
    }
    return templates.TemplateResponse(request, f"{page}.html", facts)


def answer_error(request: Request, error: Exception) -> Response:
    """Return an error as a page where a page was asked for, as JSON otherwise."""
    assert isinstance(error, HTTPException)
    message = error.detail if isinstance(error, PageError) else f"{error.detail}: {request.url.path}"
    if "text/html" in request.headers.get("accept", "") and not request.url.path.startswith("/api/"):
        state: State = request.app.state.page
        facts = {
            **{"page": "error", "title": "Not here", "id": "", "initial": None, "message": message},
            **{"status": error.status_code, "read_only": state.config.serve.read_only},
        }
        return templates.TemplateResponse(request, "error.html", facts, error.status_code)
    return Answer({"error": message, "key": getattr(error, "key", None)}, error.status_code)


def answer_invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    name = ".".join(str(part) for part in first["loc"][1:])
    return Answer({"error": f"{name}: {first['msg']}", "key": name}, 422)


def answer_gone(request: Request, error: Exception) -> Response:
    """Answer for a file that was there a moment ago: a run may be moved or deleted while it is shown."""
    return answer_error(request, PageError(f"a file is gone, or cannot be read: {error}", 404))


def answer_bug(request: Request, error: Exception) -> Response:
    message = f"this is a bug in the page: {type(error).__name__}: {error}; the terminal shows where"
    return Answer({"error": message, "key": None}, 500, HEADERS)
