"""Who may ask, and how much: hosts, origins, the token, sizes; and the headers that keep a page to itself.

Any web page in the same browser can send requests to this machine; so a request that changes something must come from
our own page, or from a program, which sends no origin.
"""

import asyncio
import hmac
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .errors import PageError

POLICY = (
    "default-src 'self'; img-src 'self' blob:; object-src 'none'; base-uri 'none'; frame-ancestors 'none'; "
    "form-action 'self'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
}
COOKIE = "vit_token"
OPEN = ("/health", "/ping")  # say only that the server is alive
JSON_BYTES = 2**20  # of a request that is not an upload
BUDGET = 2**28  # bytes of uploads in memory at once; others wait
PATIENCE = 30.0  # seconds for a part of an upload to come, and for others to be done


class Guard:
    """Refuses what must not be answered. hosts: allowed names in the header Host, None: any; token: "" for none."""

    def __init__(self, app: ASGIApp, hosts: set[str] | None, token: str, max_bytes: int, uploads: set[str]) -> None:
        self._app, self._hosts, self._token = app, hosts, token
        self._max_bytes, self._uploads = max_bytes, uploads
        self._budget = max(BUDGET, max_bytes)
        self._free, self._freed = self._budget, asyncio.Condition()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_safely(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        headers = Headers(scope=scope)
        try:
            self._check_host(headers)
            self._check_origin(scope, headers)
            if self._wants_cookie(scope):
                await self._give_cookie(scope)(scope, receive, send_safely)
                return
            self._check_token(scope, headers)
            await self._pass_on(scope, headers, receive, send_safely)
        except ClientDisconnect:  # nobody waits for the answer
            return
        except PageError as error:
            wants_page = "text/html" in headers.get("accept", "")
            answer: Response = JSONResponse({"error": error.message, "key": error.key}, error.status)
            if wants_page:
                answer = PlainTextResponse(error.message, error.status)
            await answer(scope, receive, send_safely)

    def _check_host(self, headers: Headers) -> None:
        name = headers.get("host", "").lower()
        host = name.rsplit(":", 1)[0] if not name.endswith("]") else name
        if self._hosts is not None and host not in self._hosts:
            raise PageError("this is not an address of the page; use the one that the program has printed", 400)

    def _check_origin(self, scope: Scope, headers: Headers) -> None:
        origin, site = headers.get("origin"), headers.get("sec-fetch-site")
        navigates = scope["method"] == "GET" and headers.get("sec-fetch-mode") == "navigate"
        if origin is not None and origin.partition("://")[2].lower() != headers.get("host", "").lower():
            raise PageError("another web page sent this request, so it was refused", 403)
        if site is not None and site not in ("same-origin", "none") and not navigates:
            raise PageError("another web page sent this request, so it was refused", 403)

    def _wants_cookie(self, scope: Scope) -> bool:
        query = scope.get("query_string", b"").decode("latin-1")
        return bool(self._token) and scope["method"] == "GET" and "token" in parse_qs(query)

    def _give_cookie(self, scope: Scope) -> Any:
        """Return what turns the token of the printed address into a cookie, so that it stays in no history."""
        values = parse_qs(scope["query_string"].decode("latin-1"))
        if not self._matches(values.get("token", [""])[0]):
            raise PageError("this is not the token of the page; use the address that the program has printed", 401)
        answer = RedirectResponse("/" + scope["path"].lstrip("/\\"), 303)
        answer.set_cookie(COOKIE, self._token, httponly=True, samesite="strict", max_age=30 * 86400)
        return answer

    def _check_token(self, scope: Scope, headers: Headers) -> None:
        if not self._token or scope["path"] in OPEN:
            return
        given = headers.get("authorization", "").removeprefix("Bearer ").strip()
        if not given:
            try:
                morsel = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
            except CookieError:
                morsel = None
            given = morsel.value if morsel else ""
        if not self._matches(given):
            raise PageError(
                "a token is needed: open the address that the program has printed, or send the header "
                "'Authorization: Bearer TOKEN'",
                401,
            )

    def _matches(self, given: str) -> bool:
        return hmac.compare_digest(given.encode("utf-8", "replace"), self._token.encode())

    async def _pass_on(self, scope: Scope, headers: Headers, receive: Receive, send: Send) -> None:
        """Pass a request on, of which no more than its limit is read; uploads wait until there is memory for them."""
        upload = scope["path"] in self._uploads
        limit = self._max_bytes if upload else JSON_BYTES
        length = headers.get("content-length", "")
        size = int(length) if length.isdecimal() and len(length) < 16 else limit
        if size > limit:
            raise PageError(_explain_size(limit), 413)
        if scope["method"] != "POST" or not upload:
            await self._app(scope, _limit(receive, limit), send)
            return
        try:
            async with asyncio.timeout(PATIENCE), self._freed:
                await self._freed.wait_for(lambda: self._free >= size)
                self._free -= size
        except TimeoutError:
            raise PageError("too many uploads are on their way; try again in a moment", 503) from None
        try:
            await self._app(scope, _limit(receive, limit, PATIENCE), send)
        finally:
            async with self._freed:
                self._free += size
                self._freed.notify_all()


def _limit(receive: Receive, limit: int, patience: float | None = None) -> Receive:
    """Return `receive`, which raises PageError once a body is longer than the limit, or no part of it has come."""
    read, whole = 0, False

    async def receive_some() -> Message:
        nonlocal read, whole
        try:
            async with asyncio.timeout(None if whole else patience):
                message = await receive()
        except TimeoutError:
            raise PageError("the upload has stopped on its way; send it again", 408) from None
        whole = not message.get("more_body", False)
        read += len(message.get("body", b""))
        if read > limit:
            raise PageError(_explain_size(limit), 413)
        return message

    return receive_some


def _explain_size(limit: int) -> str:
    return f"the request is larger than {limit / 2**20:,.0f} MB; send fewer or smaller images (serve.max_megabytes)"
