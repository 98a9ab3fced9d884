"""The moving parts of the job: readers ahead, one encoder, one writer.

    items ──▶ N reader threads ──▶ frames, bounded by bytes ──▶ encode + compress ──▶ writer thread
              (a child process each)                            (the calling thread)

Each video is one item: what goes wrong with it ends that item only.  A store that cannot be
written ends the run.
"""

import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor

from vidcomp.api import Gathered, Prepared
from vidcomp.errors import VidcompError
from vidcomp.sample.decode import Backend, stream_frames
from vidcomp.sample.decode.isolate import DecodeWorker
from vidcomp.types import Frames, Source, VideoTokens

from .inputs import Item
from .queues import ByteQueue, WriterThread

__all__ = ["Done", "Engine", "Failed", "Waits"]

_QUEUE_BYTES = 512 * 2**20


@dataclass(slots=True)
class Waits:
    """Seconds that the run spent waiting, by what it waited for."""

    decode_s: float = 0.0
    """The encoder waited for frames."""
    write_s: float = 0.0
    """The encoder waited for the writer."""
    encode_s: float = 0.0
    """The encoder worked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """An item that gave no record."""

    item: Item
    stage: str
    """decode, encode, compress or write."""
    error: Exception


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """An item's tokens, ready to be written."""

    item: Item
    video: VideoTokens
    num_frames: int
    num_seconds: float
    """Length of the sampled range."""
    num_tokens_in: int
    seconds: float
    """From the start of decoding to the compressed tokens."""
    source: Source | None
    """What was read, and how."""


@dataclass(slots=True)
class _Open(Gathered):
    """A video whose chunks are arriving."""

    started: float = field(default_factory=time.perf_counter)


@dataclass(frozen=True, slots=True)
class _Event:
    """What a reader hands on: a chunk, the end of an item, or its error."""

    item: Item
    frames: Frames | None = None
    error: Exception | None = None

    @property
    def num_bytes(self) -> int:
        """Bytes of the pixels."""
        return 0 if self.frames is None else self.frames.data.nbytes


class _Chunk(NamedTuple):
    """A chunk that is ready to be encoded."""

    event: _Event
    frames: Frames
    keep: Tensor | None
    """Patches to encode; all if ``None``."""


class Engine:
    """Runs items through a prepared recipe and hands finished ones to a writer.

    Args:
        workers: videos decoded at the same time, each by its own reader.
        isolation: ``process`` reads in child processes, so that a native crash or a hang is that
            file's error; ``thread`` reads in this process.
        backend: decoder, see ``DecodeRequest``.
        batch_frames: frames that one pass of the encoder may mix from several videos.
        stall_s: seconds without a chunk after which a reader's file is given up.
    """

    def __init__(
        self,
        *,
        workers: int = 1,
        isolation: str = "process",
        backend: Backend = "auto",
        batch_frames: int = 64,
        stall_s: float = 60.0,
    ) -> None:
        self._backend, self._batch_frames = backend, batch_frames
        self._readers = [
            DecodeWorker(stall_s=stall_s) if isolation == "process" else None
            for _ in range(workers)
        ]
        for reader in self._readers:
            if reader is not None:
                reader.start()  # children warm up while the model loads
        self.waits = Waits()

    def __enter__(self) -> "Engine":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """End the child processes."""
        for reader in self._readers:
            if reader is not None:
                reader.close()

    def run(
        self,
        prepared: Prepared,
        items: Iterable[Item],
        write: Callable[[Done], None],
    ) -> Generator[Done | Failed, None, None]:
        """Outcomes as they come, in no fixed order; ``Done`` ones are written and durable-to-be.

        Closing the iterator stops the run: what is in flight is dropped, what was written stays.
        """
        queue: ByteQueue[_Event] = ByteQueue(_QUEUE_BYTES)
        lease = iter(items)
        lock = threading.Lock()
        opened: dict[str, _Open] = {}
        readers = [
            threading.Thread(
                target=self._read, args=(reader, prepared, lease, lock, opened, queue), daemon=True
            )
            for reader in self._readers
        ]
        writer = WriterThread(write)
        watcher = threading.Thread(target=_close_after, args=(readers, queue), daemon=True)
        for thread in (*readers, watcher, writer):
            thread.start()
        try:
            while batch := self._next_batch(queue):
                yield from self._encode(prepared, batch, opened, writer)
                yield from writer.outcomes()
            writer.finish()
            yield from writer.outcomes()
        finally:
            queue.close()
            writer.abandon()
            for thread in (*readers, writer):
                thread.join(timeout=5)

    def _read(
        self,
        reader: DecodeWorker | None,
        prepared: Prepared,
        lease: Iterator[Item],
        lock: threading.Lock,
        opened: dict[str, _Open],
        queue: ByteQueue[_Event],
    ) -> None:
        frames_of = stream_frames if reader is None else reader.frames
        while not queue.closed:
            with lock:
                item = next(lease, None)
            if item is None:
                return
            request = prepared.request(
                item.path, start_s=item.start_s, end_s=item.end_s, backend=self._backend
            )
            opened[item.key] = _Open(request)
            last = _Event(item)
            try:
                for frames in frames_of(request):
                    if not queue.put(_Event(item, frames)):
                        return
            except Exception as error:  # noqa: BLE001  # any failure of a file is that item's outcome
                last = _Event(item, error=error)
            queue.put(last)

    def _next_batch(self, queue: ByteQueue[_Event]) -> list[_Event]:
        """Wait for one event, then take what is ready until the encoder's batch is full."""
        started = time.perf_counter()
        first = queue.get(wait=True)
        self.waits.decode_s += time.perf_counter() - started
        batch = [] if first is None else [first]
        held = _num_frames(first)
        while batch and held < self._batch_frames and (event := queue.get(wait=False)) is not None:
            batch.append(event)
            held += _num_frames(event)
        return batch

    def _encode(
        self,
        prepared: Prepared,
        batch: list[_Event],
        opened: dict[str, _Open],
        writer: WriterThread[Done],
    ) -> Iterator[Failed]:
        started = time.perf_counter()
        chunks = []
        for event in batch:
            if (frames := event.frames) is None or event.item.key not in opened:
                continue
            try:
                chunks.append(_Chunk(event, frames, opened[event.item.key].keep(prepared, frames)))
            except Exception as error:  # noqa: BLE001  # any failure of a video is its outcome
                del opened[event.item.key]
                yield Failed(item=event.item, stage="encode", error=error)
        for (event, _, _), result in zip(chunks, _encode_chunks(prepared, chunks), strict=True):
            video = opened.get(event.item.key)
            if isinstance(result, Exception):
                if opened.pop(event.item.key, None) is not None:
                    yield Failed(item=event.item, stage="encode", error=result)
            elif video is not None and event.frames is not None:
                video.add(event.frames, result)
        for event in batch:
            if event.frames is None and (video := opened.pop(event.item.key, None)) is not None:
                outcome = _finish(prepared, event, video)
                if isinstance(outcome, Failed):
                    yield outcome
                else:
                    waited = time.perf_counter()
                    writer.put(outcome)
                    self.waits.write_s += time.perf_counter() - waited
        self.waits.encode_s += time.perf_counter() - started


def _num_frames(event: _Event | None) -> int:
    return 0 if event is None or event.frames is None else len(event.frames)


def _encode_chunks(prepared: Prepared, chunks: list[_Chunk]) -> list[VideoTokens | Exception]:
    """Tokens of each chunk; if the mixed pass fails, each alone, so that the culprit is known."""
    if not chunks:
        return []
    try:
        return [*prepared.encode([c.frames for c in chunks], [c.keep for c in chunks])]
    except Exception as error:  # noqa: BLE001  # told apart below, chunk by chunk
        if len(chunks) == 1:
            return [error]
    results: list[VideoTokens | Exception] = []
    for chunk in chunks:
        try:
            results += prepared.encode([chunk.frames], [chunk.keep])
        except Exception as error:  # noqa: BLE001  # any failure of a video is its outcome
            results.append(error)
    return results


def _finish(prepared: Prepared, event: _Event, video: _Open) -> Done | Failed:
    """Compress a video whose last chunk has been encoded."""
    item = event.item
    if event.error is not None:
        return Failed(item=item, stage="decode", error=event.error)
    if not video.parts:
        empty = VidcompError(f"{item.path} gave no frames: check the file and the time range")
        return Failed(item=item, stage="decode", error=empty)
    try:
        dense = video.dense
        small = prepared.reduce(dense, video.num_frames, video.num_seconds).to("cpu")
    except Exception as error:  # noqa: BLE001  # any failure of a video is its outcome
        return Failed(item=item, stage="compress", error=error)
    return Done(
        item=item,
        video=small,
        num_frames=video.num_frames,
        num_seconds=video.num_seconds,
        num_tokens_in=len(dense),
        seconds=time.perf_counter() - video.started,
        source=video.source,
    )


def _close_after(readers: list[threading.Thread], queue: ByteQueue[_Event]) -> None:
    for thread in readers:
        thread.join()
    queue.close()
