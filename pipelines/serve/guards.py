"""What stands before the application: who asks, from where, how much is sent, how slowly."""

import asyncio
import hmac
import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from .limits import Limits, RefusedError

__all__ = ["Guard", "error_json"]

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_OPEN = ("/", "/health")
_UPLOADS = "/v1/files"
_FORM_BYTES = 1 << 16
"""Of an upload beside its file."""


def error_json(
    message: str, *, kind: str, code: str | None = None, param: str | None = None
) -> dict[str, Any]:
    """An error as OpenAI's clients read it."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


class Guard:
    """An ASGI application in front of another one.

    Args:
        app: what is asked after all checks.
        limits: of bodies.
        token: that ``Authorization: Bearer`` must hold; ``None``: none is asked for.
        hosts: names that the server answers to, so that a page elsewhere cannot reach it by a name
            of its own; ``None`` for any.
    """

    def __init__(
        self, app: App, limits: Limits, token: str | None, hosts: frozenset[str] | None
    ) -> None:
        self._app, self._limits, self._hosts = app, limits, hosts
        self._token = None if token is None else token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name.lower(): value for name, value in scope["headers"]}
        refusal = self._refusal(scope, headers)
        if refusal is not None:
            await _answer(send, *refusal)
            return
        await self._app(scope, self._limited(scope, receive), send)

    def _refusal(self, scope: Scope, headers: dict[bytes, bytes]) -> tuple[int, str] | None:
        host = headers.get(b"host", b"").decode("latin-1")
        if self._hosts is not None and _name(host) not in self._hosts:
            return 421, f"this server is not called {host[:100]!r}: ask it by its own address"
        origin = headers.get(b"origin", b"").decode("latin-1")
        if origin and origin.partition("://")[2] != host:
            return 403, "pages of other servers may not ask this one: open the page from here"
        if not self._may(scope["path"], headers):
            return 401, "a token was wanted, got none or another: send Authorization: Bearer TOKEN"
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or int(length) > self._most(scope):
            return 413, f"a body of at most {self._most(scope):,} bytes was wanted: send less"
        return None

    def _may(self, path: str, headers: dict[bytes, bytes]) -> bool:
        if self._token is None or path in _OPEN:
            return True
        kind, _, given = headers.get(b"authorization", b"").partition(b" ")
        same = hmac.compare_digest(given.strip(), self._token)
        return kind.lower() == b"bearer" and same

    def _most(self, scope: Scope) -> int:
        if scope["path"] == _UPLOADS:
            return self._limits.upload_bytes + _FORM_BYTES
        return self._limits.body_bytes

    def _limited(self, scope: Scope, receive: Receive) -> Receive:
        """Bodies are counted while they arrive, as lengths that were announced may be lies."""
        left, done = self._most(scope), False

        async def limited() -> Message:
            nonlocal left, done
            if done:  # waiting for the client to go may take as long as it likes
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), self._limits.idle_s)
            except TimeoutError as error:
                raise RefusedError(
                    "the request stopped on its way: send it again", status=408, code="timeout"
                ) from error
            left -= len(message.get("body", b""))
            done = not message.get("more_body", False)
            if left < 0:
                raise RefusedError(
                    f"a body of at most {self._most(scope):,} bytes was wanted: send less",
                    status=413,
                    code="too_large",
                )
            return message

        return limited


def _name(host: str) -> str:
    """Without the port."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.rpartition(":")[0] if ":" in host else host


async def _answer(send: Send, status: int, message: str) -> None:
    kind = "authentication_error" if status == 401 else "invalid_request_error"
    body = json.dumps(error_json(message, kind=kind)).encode()
    headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
