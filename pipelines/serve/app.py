"""The application: OpenAI's paths for models, files and chats, token maps, and the page."""

import asyncio
import base64
import hashlib
import io
import json
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, StreamingResponse
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from vidcomp.errors import BudgetError, ConfigError, DecodeError, ShapeError, VidcompError

from ..show import draw
from .backend import Backend
from .chat import Answering, Begun, choose
from .fetch import fetch
from .forms import receive
from .guards import Guard, error_json
from .jobs import Job, ModelThread
from .library import Library, Stored
from .limits import Limits, Recent, RefusedError
from .schema import ChatRequest, parse_chat
from .shelf import Choice, Shelf, Tokens

__all__ = ["Server", "make_app"]

_POLL_S = 0.25
"""How soon a client that has gone is noticed."""


@dataclass(eq=False, kw_only=True)
class Server:
    """What the paths share."""

    backend: Backend
    library: Library
    limits: Limits = field(default_factory=Limits)
    default: Choice = field(default_factory=Choice)
    may_fetch: bool = False
    token: str | None = None
    hosts: frozenset[str] | None = None
    shelf: Shelf = field(init=False)
    thread: ModelThread = field(init=False)

    def __post_init__(self) -> None:
        self.shelf = Shelf(lambda *made: self.backend.encode(*made), self.limits.remembered)
        self.thread = ModelThread(self.limits.waiting)
        self._answers: Recent[str, tuple[Tokens, ...]] = Recent(self.limits.remembered)
        self._links: Recent[str, str] = Recent(self.limits.remembered)
        self._pictures: Recent[str, bytes] = Recent(self.limits.remembered)
        self.turn = asyncio.Semaphore(1)
        self._closed = False
        self._drawing = asyncio.Semaphore(1)
        self._fetching = asyncio.Semaphore(2)

    def close(self) -> None:
        """Stop the model and end the cache; a second call does nothing."""
        if not self._closed:
            self._closed = True
            self.thread.close()
            self.shelf.close()
            self.library.close()

    async def videos(self, asked: ChatRequest) -> list[Stored]:
        """The videos of a conversation, fetched if they are links.

        Raises:
            RefusedError: one that may not be had.
        """
        found = []
        for turn in asked.messages:
            for part in turn.parts:
                if part.type == "video_url":
                    found.append(await self._video(part.video_url.url))
        return found

    async def _video(self, url: str) -> Stored:
        if "://" not in url and not url.startswith("data:"):
            return await run_in_threadpool(self.library.find, url)
        if not self.may_fetch or not url.startswith(("http://", "https://")):
            raise RefusedError(
                "the id of an upload or the path of a file in the server's folder was wanted, got "
                "a link: upload the video, or start the server with --allow-fetch",
                code="invalid_url",
                param="messages",
            )
        async with self._fetching:
            known = self._links.get(url)
            if known is not None:
                return await run_in_threadpool(self.library.find, known)
            stored = await run_in_threadpool(self._fetch, url)
            self._links.add(url, stored.id)
            return stored

    def _fetch(self, url: str) -> Stored:
        source, name = fetch(url, self.limits)
        with source:
            return self.library.add(source, name)

    def remember(self, answer: Answering) -> None:
        """Keep what the token maps of an answer need."""
        if answer.begun is not None:
            self._answers.add(answer.id, answer.begun.videos)

    async def picture(self, answer_id: str, place: int) -> bytes:
        """The token map of a video of an answer, as PNG.

        Raises:
            RefusedError: the answer is forgotten, or had no such video.
        """
        videos = self._answers.get(answer_id) or ()
        if not 0 <= place < len(videos):
            raise RefusedError(
                "the token map of a recent answer was wanted, got another: ask again", status=404
            )
        tokens = videos[place]
        async with self._drawing:
            done = self._pictures.get(tokens.key)
            if done is None:
                done = await run_in_threadpool(self._draw, tokens)
                self._pictures.add(tokens.key, done)
        return done

    def _draw(self, tokens: Tokens) -> bytes:
        image = draw(
            tokens.video,
            self.backend.request(tokens.path),
            num_before=tokens.video.grid.num_patches,
            budget=None,
            max_frames=16,
            title="video",
        )
        with io.BytesIO() as target:
            image.save(target, "PNG")
            return target.getvalue()

    async def follow(self, request: Request, answer: Answering, job: Job) -> AsyncIterator[str]:
        """Pieces of an answer (an empty one when it begins), while the client is there."""
        try:
            ended, looked_s = False, time.monotonic()
            while not ended:
                ended, event = await job.next(_POLL_S)
                if event is not None:
                    answer.note(event)
                    if isinstance(event, Begun):
                        self.remember(answer)
                        yield ""
                    elif isinstance(event, str):
                        yield event
                if not ended and time.monotonic() - looked_s >= _POLL_S:
                    looked_s = time.monotonic()
                    if await request.is_disconnected():
                        return
        finally:
            self.thread.cancel(job)


def make_app(server: Server) -> Guard:
    """The ASGI application."""

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        yield
        await run_in_threadpool(server.close)

    app = FastAPI(lifespan=life, docs_url=None, redoc_url=None, openapi_url=None)
    app.add_exception_handler(VidcompError, _failed)
    app.add_exception_handler(HTTPException, _failed_path)
    _add_page(app, server)
    _add_files(app, server)
    _add_chat(app, server)
    return Guard(app, server.limits, server.token, server.hosts)


def _add_page(app: FastAPI, server: Server) -> None:
    page = (resources.files(__package__) / "page.html").read_text(encoding="utf-8")
    headers = {"content-security-policy": _policy(page), "referrer-policy": "no-referrer"}

    @app.get("/")
    async def index() -> Response:
        return HTMLResponse(page, headers=headers)

    @app.get("/health")
    async def health() -> dict[str, Any]:
        return {
            "status": "ok",
            "waiting": server.thread.num_waiting,
            "busy": server.thread.is_busy,
            "needs_token": server.token is not None,
        }

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [_model(server)]}

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        _check_model(server, name)
        return _model(server)

    @app.get("/v1/maps/{answer_id}/{place}")
    async def token_map(answer_id: str, place: int) -> Response:
        picture = await server.picture(answer_id, place)
        return Response(picture, media_type="image/png", headers={"cache-control": "private"})


def _add_files(app: FastAPI, server: Server) -> None:
    @app.get("/v1/files")
    async def files() -> dict[str, Any]:
        found = await run_in_threadpool(lambda: [one.to_json() for one in server.library])
        return {"object": "list", "data": found, "has_more": False}

    @app.post("/v1/files")
    async def upload(request: Request) -> dict[str, object]:
        return (await receive(request, server.library, server.turn)).to_json()

    @app.get("/v1/files/{name:path}")
    async def file(name: str) -> Response:
        if name.endswith("/content"):
            stored = await run_in_threadpool(server.library.find, name.removesuffix("/content"))
            headers = {"x-content-type-options": "nosniff", "content-security-policy": "sandbox"}
            return FileResponse(stored.path, filename=stored.name, headers=headers)
        return JSONResponse((await run_in_threadpool(server.library.find, name)).to_json())

    @app.delete("/v1/files/{name}")
    async def remove(name: str) -> dict[str, Any]:
        await run_in_threadpool(server.library.remove, name)
        return {"id": name, "object": "file", "deleted": True}


def _add_chat(app: FastAPI, server: Server) -> None:
    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        asked = parse_chat(await request.body(), server.limits)
        _check_model(server, asked.model)
        choice = choose(asked, server.default)
        videos = await server.videos(asked)
        answer = Answering(model=server.backend.name, asked=asked)
        work = answer.work(server.backend, server.shelf, videos, choice, server.limits)
        job = Job(work)
        server.thread.submit(job)
        said = server.follow(request, answer, job)
        if not asked.stream:
            async for _ in said:
                pass
            if answer.ended is None:
                return Response(status_code=499)  # nobody reads it
            return JSONResponse(answer.whole())
        try:
            await anext(said)  # errors before the first word have a status of their own
        except StopAsyncIteration:
            return Response(status_code=499)
        headers = {"cache-control": "no-cache", "x-accel-buffering": "no"}
        return StreamingResponse(
            _events(answer, said), media_type="text/event-stream", headers=headers
        )


async def _events(answer: Answering, said: AsyncIterator[str]) -> AsyncIterator[str]:
    """Server-sent events of an answer that has begun."""
    first = answer.chunk({"role": "assistant", "content": ""})
    yield _event(first | {"vidcomp": answer.facts()})
    try:
        async for piece in said:
            if piece:
                yield _event(answer.chunk({"content": piece}))
    except VidcompError as error:
        yield _event(_error_of(error)[1])
        return
    finally:
        await said.aclose()  # type: ignore[attr-defined]  # a generator
    if answer.ended is not None:
        yield _event(answer.chunk({}, answer.ended.reason))
        options = answer.asked.stream_options
        if options is not None and options.include_usage:
            yield _event(answer.last_chunk())
        yield "data: [DONE]\n\n"


def _event(value: dict[str, Any]) -> str:
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n"


def _model(server: Server) -> dict[str, Any]:
    return {
        "id": server.backend.name,
        "object": "model",
        "created": _STARTED,
        "owned_by": "vidcomp",
        "vidcomp": {"method": server.default.method, "budget": server.default.budget},
    }


_STARTED = int(time.time())


def _check_model(server: Server, name: str) -> None:
    if name != server.backend.name:
        raise RefusedError(
            f"the model {server.backend.name!r} is served, got {name[:200]!r}: ask for it",
            status=404,
            code="model_not_found",
            param="model",
        )


def _error_of(error: VidcompError) -> tuple[int, dict[str, Any]]:
    """(status, body)."""
    if isinstance(error, RefusedError):
        kind = "server_error" if error.status >= 500 else "invalid_request_error"
        kind = "rate_limit_error" if error.status == 429 else kind
        return error.status, error_json(str(error), kind=kind, code=error.code, param=error.param)
    asked = isinstance(error, ConfigError | BudgetError | DecodeError | ShapeError)
    kind = "invalid_request_error" if asked else "server_error"
    return 400 if asked else 500, error_json(str(error), kind=kind)


async def _failed(request: Request, error: Exception) -> Response:
    del request
    status, body = _error_of(error)  # type: ignore[arg-type]  # registered for these only
    headers = {"retry-after": "1"} if status in (429, 503) else {}
    return JSONResponse(body, status_code=status, headers=headers)


async def _failed_path(request: Request, error: Exception) -> Response:
    status = getattr(error, "status_code", 500)
    what = f"{request.method} {request.url.path[:200]}"
    body = error_json(f"there is nothing at {what}: see docs/serving.md", kind="not_found_error")
    return JSONResponse(body, status_code=status)


def _policy(page: str) -> str:
    """Only the page's own script and style run, and they reach only this server."""

    def allowed(tag: str) -> str:
        (text,) = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        return f"{tag}-src 'sha256-{digest}'"

    return (
        f"default-src 'none'; {allowed('script')}; {allowed('style')}; img-src blob:; "
        f"media-src blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
        f"frame-ancestors 'none'"
    )
