"""Start the page: one address, printed once, and a browser that opens it."""

import contextlib
import errno
import os
import secrets
import socket
import sys
import threading
import webbrowser
from collections.abc import Iterator

from .. import terminal
from ..config.inference import InferenceConfig
from ..config.serve import LOCAL, ServeConfig

INSTALL = "task=serve needs FastAPI: pip install -r requirements-web.txt"


def serve(config: InferenceConfig) -> None:
    """Serve the page until Ctrl-C. Raises ValueError if its libraries are missing or the port is taken."""
    try:
        import fastapi  # noqa: F401
        import jinja2  # noqa: F401
        import python_multipart  # noqa: F401
        import uvicorn
    except ImportError as error:
        raise ValueError(f"{INSTALL} ({error.name} is missing)") from error
    from .app import build_app

    settings = config.serve
    with _bind(settings) as listener:
        port = listener.getsockname()[1]
        token = "" if settings.local or settings.token == "off" else secrets.token_urlsafe(24)
        app = build_app(config, _list_hosts(settings), token)
        server = uvicorn.Server(
            uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=3, server_header=False)
        )
        address = f"http://{_shown_host(settings)}:{port}/{f'?token={token}' if token else ''}"
        _announce(settings, address)
        if settings.open_browser and _has_display():
            threading.Thread(target=_open_browser, args=(server, address), daemon=True).start()
        terminal.console.quiet = True  # what tasks show of their progress has no place here
        try:
            server.run(sockets=[listener])
        finally:
            terminal.console.quiet = False
            terminal.say("the page has ended; what it has started goes on training")


@contextlib.contextmanager
def _bind(settings: ServeConfig) -> Iterator[socket.socket]:
    """Yield a socket that listens. Raises ValueError if that is not possible."""
    # With the protocol named, asyncio sends small answers at once; otherwise the last part waits for 40 milliseconds.
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((settings.host, settings.port))
            listener.listen(256)
        except OSError as error:
            raise ValueError(_explain(settings, error)) from error
        yield listener


def _explain(settings: ServeConfig, error: OSError) -> str:
    """Return why the page cannot listen, and what to type instead."""
    if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
        return (
            f"serve.host={settings.host} is not an address of this machine; {LOCAL}: for this machine only, 0.0.0.0: "
            "for others, too"
        )
    taken = ", perhaps by another page" if error.errno == errno.EADDRINUSE else ""
    return (
        f"serve.port={settings.port} cannot be used ({error.strerror or error}{taken}); serve.port=0 takes any free one"
    )


def _list_hosts(settings: ServeConfig) -> set[str] | None:
    """Return the names by which the page may be called; with a token, or for predictions only, any."""
    return {LOCAL, "localhost"} if settings.local else None


def _shown_host(settings: ServeConfig) -> str:
    return socket.gethostname() if settings.host == "0.0.0.0" else settings.host


def _announce(settings: ServeConfig, address: str) -> None:
    terminal.say(f"page      {address}")
    if not settings.local:
        who = "this token" if settings.token == "auto" else "no token"
        does = (
            "see your runs and predict" if settings.read_only else "see your runs, and start training on this machine"
        )
        terminal.warn(f"warning   others can reach this address: whoever has {who} can {does}")
    terminal.say("Ctrl-C ends the page; training goes on without it")


def _has_display() -> bool:
    """Return whether there is a screen; without one, Linux would open a browser in this terminal, or none."""
    return sys.platform != "linux" or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))


def _open_browser(server: object, address: str) -> None:
    """Open the page once the server answers."""
    started = threading.Event()
    while not getattr(server, "started", False):
        started.wait(0.05)
    with contextlib.suppress(webbrowser.Error):
        webbrowser.open(address)
