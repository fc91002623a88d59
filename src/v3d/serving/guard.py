"""What stands before every request: who may ask, from where, and how much they may send."""

from __future__ import annotations

import hmac
import json
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

LOCAL = ("localhost", "127.0.0.1", "[::1]", "::1")
_COOKIE = "v3d-token"
_SAFE = ("GET", "HEAD", "OPTIONS")
_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
)


@dataclass(frozen=True)
class Rules:
    """Who may ask.

    Attributes:
        hosts: names that a request may call this server by; another one is a page that had its own name
            pointed at this machine. () allows all.
        token: what `Authorization: Bearer` must say; None asks for none. Browsers come with `?token=` once,
            and keep it in a cookie, which they send with no form or script of another site.
        most_bytes: of a request's body.
        open_paths: that need no token.
    """

    hosts: tuple[str, ...] = LOCAL
    token: str | None = None
    most_bytes: int = 512 << 20
    open_paths: tuple[str, ...] = ("/health",)


class Guard:
    """ASGI middleware that refuses what `Rules` do not allow, each with one sentence of JSON."""

    def __init__(self, app: App, rules: Rules) -> None:
        """`app`: what is guarded."""
        self._app, self._rules = app, rules

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        headers = {
            name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]
        }
        refusal = self._refusal(scope, headers)
        if refusal is not None and refusal[0] == 401 and self._comes_with_token(scope):
            await self._let_in(scope, send)
            return
        if refusal is not None:
            await _answer(send, *refusal)
            return
        received, started, too_large = 0, False, False

        async def counted() -> Message:
            nonlocal received, too_large
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._rules.most_bytes:
                too_large = True
                return {"type": "http.disconnect"}
            return message

        async def with_headers(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                if too_large:
                    message = {**message, "status": 413}
                message = {**message, "headers": [*message.get("headers", ()), *_HEADERS]}
            await send(message)

        try:
            await self._app(scope, counted, with_headers)
        except Exception:
            if not too_large or started:
                raise
            await _answer(send, 413, self._too_large())

    def _comes_with_token(self, scope: Message) -> bool:
        """Whether a browser opens the page with the token in its address."""
        (given,) = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[:1]
        token = self._rules.token or ""
        return scope["method"] == "GET" and hmac.compare_digest(given.encode(), token.encode())

    async def _let_in(self, scope: Message, send: Send) -> None:
        """Put the token into a cookie, and lead to the same address without it."""
        cookie = f"{_COOKIE}={quote(self._rules.token or '', safe='')}; Path=/; HttpOnly; SameSite=Lax"
        place = "/" + quote(scope["path"].lstrip("/"))
        headers = [(b"location", place.encode()), (b"set-cookie", cookie.encode()), *_HEADERS]
        await send({"type": "http.response.start", "status": 303, "headers": headers})
        await send({"type": "http.response.body", "body": b""})

    def _too_large(self) -> str:
        return f"A request has at most {self._rules.most_bytes >> 20} MB."

    def _refusal(self, scope: Message, headers: dict[str, str]) -> tuple[int, str] | None:
        """Status and sentence, or None where nothing speaks against the request."""
        host = _name(headers.get("host", ""))
        if self._rules.hosts and host not in self._rules.hosts:
            return 403, "This server does not go by that name."
        if "://" in scope["path"]:  # the page's framework would fetch it
            return 403, "This server fetches nothing from elsewhere."
        if scope["method"] not in _SAFE:
            origin = headers.get("origin")
            if headers.get("sec-fetch-site") == "cross-site" or (
                origin is not None and urlsplit(origin).netloc.lower() != headers.get("host", "").lower()
            ):
                return 403, "Pages of other sites may not send requests to this server."
        token = self._rules.token
        if token is not None and scope["path"] not in self._rules.open_paths:
            bearer = headers.get("authorization", "").removeprefix("Bearer ").encode("latin-1")
            if not hmac.compare_digest(bearer or _cookie(headers).encode(), token.encode()):
                return (
                    401,
                    "This server wants a token: Authorization: Bearer TOKEN; browsers: ?token=TOKEN.",
                )
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > self._rules.most_bytes:
            return 413, self._too_large()
        return None


def _name(host: str) -> str:
    """A Host header without its port."""
    if host.startswith("["):
        return host.partition("]")[0].lower() + "]"
    return host.partition(":")[0].lower()


def _cookie(headers: dict[str, str]) -> str:
    """The token that a browser keeps."""
    for part in headers.get("cookie", "").split(";"):
        name, _, value = part.strip().partition("=")
        if name == _COOKIE:
            return unquote(value)
    return ""


async def _answer(send: Send, status: int, sentence: str) -> None:
    body = json.dumps({"detail": sentence}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        *_HEADERS,
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
