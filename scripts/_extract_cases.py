"""What the benchmarks of the job time: the job itself, and its halves done alone."""

import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch

from vidcomp.api import Prepared, encode_stream
from vidcomp.config import identity
from vidcomp.pipelines.extraction.engine import Done, Engine
from vidcomp.pipelines.inputs import Item
from vidcomp.sample.decode import stream_frames
from vidcomp.store import CacheWriter

__all__ = ["WAIT_S", "decoding", "encoding", "job_of", "looping"]

WAIT_S = 0.12
"""Seconds that an encoder like a device takes for a clip."""


def _touch(items: Iterable[Item]) -> None:
    """Make readers scan the files anew: they remember what has not changed."""
    for item in items:
        Path(item.path).touch()


def job_of(
    engine: Engine, prepared: Prepared, items: Sequence[Item], scratch: Path
) -> Callable[[], None]:
    """The job: read, encode, compress, write and commit into a new store."""

    def job() -> None:
        _touch(items)
        out = Path(tempfile.mkdtemp(dir=scratch))
        with CacheWriter(
            out, identity=identity(prepared.recipe), weights={}, settings=prepared.recipe.store
        ) as writer:

            def write(done: Done) -> None:
                writer.add(done.item.key, done.video, {}, None)

            assert len(list(engine.run(prepared, items, write))) == len(items)

    return job


def decoding(prepared: Prepared, items: Sequence[Item]) -> Callable[[], None]:
    """Read all that the encoder would get, one file after another in this process."""

    def decode() -> None:
        _touch(items)
        for item in items:
            for _ in stream_frames(prepared.request(item.path)):
                pass

    return decode


def encoding(prepared: Prepared, items: Sequence[Item]) -> Callable[[], None]:
    """Encode, with the frames of all items at hand."""
    chunks = [list(stream_frames(prepared.request(item.path))) for item in items]

    def encode() -> None:
        for parts in chunks:
            prepared.encode(parts)

    return encode


def looping(prepared: Prepared, items: Sequence[Item], scratch: Path) -> Callable[[], None]:
    """The naive loop: one video after another, a file of tensors each."""

    def loop() -> None:
        _touch(items)
        out = Path(tempfile.mkdtemp(dir=scratch))
        for i, item in enumerate(items):
            request = prepared.request(item.path)
            video = encode_stream(prepared, stream_frames(request), request)
            torch.save(video.reduce().tokens, out / f"{i}.pt")

    return loop
