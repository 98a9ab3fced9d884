"""A model that answers at once, and a server of it in a thread."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

import vidcomp as vc
from vidcomp.functional.resize import Resize
from vidcomp.sample.decode import DecodeRequest
from vidcomp.sample.uniform import Uniform
from vidcomp.types import Grid, VideoTokens

for _name in ("fastapi", "python_multipart"):
    pytest.importorskip(_name)
httpx = pytest.importorskip("httpx")
uvicorn = pytest.importorskip("uvicorn")

from vidcomp.pipelines.serve.app import Server, make_app  # noqa: E402
from vidcomp.pipelines.serve.backend import Asked, Talk  # noqa: E402
from vidcomp.pipelines.serve.library import Library  # noqa: E402
from vidcomp.pipelines.serve.limits import Limits  # noqa: E402


class FakeModel:
    """Says the question again, word by word, and counts what it is asked to do."""

    name = "tiny"
    dtype = torch.float32

    def __init__(self, pause_s: float = 0.0, salt: str = "") -> None:
        self.pause_s, self.salt = pause_s, salt
        self.encoded: list[tuple[str, str]] = []
        self.said = 0
        self.closed = 0
        self.asked: Asked | None = None
        self.messages: Sequence[Any] = ()

    @property
    def identity(self) -> dict[str, Any]:
        return {"model": self.salt, "extras": [], "frame_extras": ["pts_s"]}

    def encode(self, path, choice):
        self.encoded.append((path.name, choice.label))
        grid = Grid(4, 4, 4)
        spans = torch.arange(4.0)[:, None] + torch.tensor([0.0, 1.0])
        extras = {"pts_s": torch.arange(4, dtype=torch.float64)[:, None]}
        generator = torch.Generator().manual_seed(0)
        tokens = torch.randn(grid.num_patches, 8, generator=generator)
        video = VideoTokens.from_grid(tokens, grid, spans, frame_extras=extras)
        if choice.method is None:
            return video
        return vc.compressor(choice.method)(
            video, vc.Budget.parse(choice.budget).resolve(len(video), 4, 4.0)
        )

    def talk(self, messages, videos, asked):
        self.asked, self.messages = asked, messages
        words = messages[-1]["content"][-1]["text"].split()
        new = 0

        def pieces():
            nonlocal new
            try:
                for word in words[: asked.new_tokens]:
                    time.sleep(self.pause_s)
                    new += 1
                    self.said += 1
                    yield word + " "
            finally:
                self.closed += 1

        num_video = sum(len(one.video) for one in videos)
        return Talk(
            pieces=pieces(),
            num_prompt=num_video + 10,
            num_video=num_video,
            num_reused=0,
            num_new=lambda: new,
        )

    def request(self, path):
        resize = Resize(mode="stretch", height=32, width=32)
        return DecodeRequest(path=str(path), sampler=Uniform(num_frames=4), resize=resize)


def make_server(folder: Path, model: FakeModel | None = None, **settings: Any) -> Server:
    limits = settings.pop("limits", Limits())
    videos = settings.pop("videos", None)
    check = settings.pop("check", None)
    library = Library(folder / "uploads", videos, limits, check)
    return Server(backend=model or FakeModel(), library=library, limits=limits, **settings)


@contextlib.contextmanager
def running(server: Server, **settings: Any) -> Iterator[str]:
    """The address of the server while it runs."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        held.listen(512)
        config = uvicorn.Config(
            make_app(server),
            log_level="critical",
            lifespan="on",
            timeout_graceful_shutdown=2,
            **settings,
        )
        uvicorn_server = uvicorn.Server(config)
        thread = threading.Thread(target=uvicorn_server.run, kwargs={"sockets": [held]})
        thread.start()
        until = time.monotonic() + 20
        while not uvicorn_server.started and time.monotonic() < until:
            time.sleep(0.01)
        try:
            yield f"http://127.0.0.1:{held.getsockname()[1]}"
        finally:
            uvicorn_server.should_exit = True
            thread.join(20)
            assert not thread.is_alive()


def ask(question: str = "what is it", video: str | None = None, **more: Any) -> dict[str, Any]:
    content: list[dict[str, Any]] = [{"type": "text", "text": question}]
    if video is not None:
        content.insert(0, {"type": "video_url", "video_url": {"url": video}})
    return {"model": "tiny", "messages": [{"role": "user", "content": content}], **more}
