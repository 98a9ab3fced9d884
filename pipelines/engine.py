"""The moving parts of the job: readers ahead, one encoder, one writer.

    items ──▶ N reader threads ──▶ frames, bounded by bytes ──▶ encode + compress ──▶ writer thread
              (a child process each)                            (the calling thread)

Each video is one item: what goes wrong with it ends that item only.  A store that cannot be
written ends the run.
"""

import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch

from vidcomp.api import Arriving, Prepared
from vidcomp.errors import VidcompError
from vidcomp.sample.decode import Backend, stream_frames
from vidcomp.sample.decode.isolate import DecodeWorker
from vidcomp.types import Frames, Source, VideoTokens

from .batches import Batches, Chunk, is_out_of_memory, release_memory
from .inputs import Item
from .queues import ByteQueue, WriterThread

__all__ = ["Done", "Engine", "Failed", "Waits"]

_TICK_S = 0.5
"""How often a run that waits looks whether its time is up."""


@dataclass(slots=True)
class Waits:
    """Seconds that the run spent waiting, by what it waited for."""

    decode_wait_s: float = 0.0
    """The encoder waited for frames."""
    encode_wait_s: float = 0.0
    """Readers waited for the encoder, on average over them."""
    write_wait_s: float = 0.0
    """The encoder waited for the writer."""
    encode_s: float = 0.0
    """The encoder worked, and compressed."""


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


@dataclass(slots=True, eq=False)
class _Open:
    """A video whose chunks are arriving."""

    item: Item
    tokens: Arriving
    started: float = field(default_factory=time.perf_counter)
    is_over: bool = False
    """Its outcome is known, or another attempt takes its place: what still arrives is dropped."""


@dataclass(frozen=True, slots=True)
class _Event:
    """What a reader hands on: a chunk, the end of an item, or its error."""

    video: _Open
    frames: Frames | None = None
    error: Exception | None = None

    @property
    def num_bytes(self) -> int:
        """Bytes of the pixels."""
        return 0 if self.frames is None else self.frames.data.nbytes


class Engine:
    """Runs items through a prepared recipe and hands finished ones to a writer.

    Args:
        workers: videos decoded at the same time, each by its own reader.
        isolation: ``process`` reads in child processes, so that a native crash or a hang is that
            file's error; ``thread`` reads in this process.
        backend: decoder, see ``DecodeRequest``.
        batch_frames: frames that one pass of the encoder may mix from several videos.
        stall_s: seconds without a chunk after which a reader's file is given up.
        recycle_after: videos after which a child process is replaced by a fresh one.
        queue_bytes: pixels that may wait for the encoder; one chunk may always.
    """

    def __init__(
        self,
        *,
        workers: int = 1,
        isolation: str = "process",
        backend: Backend = "auto",
        batch_frames: int = 64,
        stall_s: float = 60.0,
        recycle_after: int = 500,
        queue_bytes: int = 512 << 20,
    ) -> None:
        self._backend, self._queue_bytes = backend, queue_bytes
        self._batches = Batches(batch_frames)
        self._readers = [
            DecodeWorker(stall_s=stall_s, recycle_after=recycle_after)
            if isolation == "process"
            else None
            for _ in range(workers)
        ]
        for reader in self._readers:
            if reader is not None:
                reader.start()  # children warm up while the model loads
        self.waits = Waits()
        self._drain_by: float | None = None

    def __enter__(self) -> "Engine":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """End the child processes."""
        for reader in self._readers:
            if reader is not None:
                reader.close()

    def drain(self, grace_s: float) -> None:
        """Begin no more videos; those begun may go on for ``grace_s`` seconds, then are dropped.

        Takes no lock: a signal's handler may call it.
        """
        self._drain_by = time.monotonic() + grace_s

    @property
    def is_draining(self) -> bool:
        """Whether no more videos are begun."""
        return self._drain_by is not None

    @property
    def _is_late(self) -> bool:
        return self._drain_by is not None and time.monotonic() > self._drain_by

    def run(
        self,
        prepared: Prepared,
        items: Iterable[Item],
        write: Callable[[Done], None],
    ) -> Generator[Done | Failed, None, None]:
        """Outcomes as they come, in no fixed order; ``Done`` ones are written and durable-to-be.

        Closing the iterator stops the run: what is in flight is dropped, what was written stays.

        Raises:
            StoreError: a record cannot be written.
            VidcompError: the device has failed; no video is to blame.
        """
        queue: ByteQueue[_Event] = ByteQueue(self._queue_bytes)
        lease = _Lease(items, self)
        readers = [
            threading.Thread(target=self._read, args=(reader, prepared, lease, queue), daemon=True)
            for reader in self._readers
        ]
        writer = WriterThread(write)
        watcher = threading.Thread(target=_close_after, args=(readers, queue), daemon=True)
        for thread in (*readers, watcher, writer):
            thread.start()
        try:
            while (batch := self._next_batch(queue)) is not None:
                yield from self._encode(prepared, batch, writer)
                yield from writer.outcomes()
            writer.finish()
            yield from writer.outcomes()
            if lease.error is not None:
                raise lease.error
        finally:
            queue.close()
            writer.abandon()
            self._join(readers, writer)

    def _join(self, readers: Sequence[threading.Thread], writer: threading.Thread) -> None:
        """Wait for threads that have nothing more to do; a child that keeps one busy is ended."""
        patience_s = time.monotonic() + 1
        for thread, reader in zip(readers, self._readers, strict=True):
            thread.join(timeout=max(0.0, patience_s - time.monotonic()))
            if thread.is_alive() and reader is not None:
                reader.close()
        for thread in (*readers, writer):
            thread.join(timeout=5)

    def _read(
        self,
        reader: DecodeWorker | None,
        prepared: Prepared,
        lease: "_Lease",
        queue: ByteQueue[_Event],
    ) -> None:
        """Read one item after another, as long as there are any."""
        try:
            while not queue.closed and (item := lease.next()) is not None:
                for last in (False, True):
                    error = self._read_one(reader, prepared, item, queue, last=last)
                    if error is None:
                        break
        except Exception as error:  # noqa: BLE001  # raised again where the run is
            lease.error = error
            queue.close()

    def _read_one(
        self,
        reader: DecodeWorker | None,
        prepared: Prepared,
        item: Item,
        queue: ByteQueue[_Event],
        *,
        last: bool,
    ) -> Exception | None:
        """Hand on one item's chunks; an error is returned if another attempt may find it wrong.

        A file that ended a child process is read once more by a fresh child: an earlier file may
        have left the first one damaged.
        """
        request = prepared.request(
            item.path, start_s=item.start_s, end_s=item.end_s, backend=self._backend
        )
        video = _Open(item, prepared.gather(request))
        try:
            for frames in stream_frames(request) if reader is None else reader.frames(request):
                if not self._put(queue, _Event(video, self._ready(prepared, frames))):
                    return None
                del frames  # its memory goes back to the reader as soon as it is encoded
        except Exception as error:  # noqa: BLE001  # any failure of a file is that item's outcome
            if not last and not getattr(error, "was_fresh", True) and not queue.closed:
                video.is_over = True
                return error
            self._put(queue, _Event(video, error=error))
            return None
        self._put(queue, _Event(video))
        return None

    def _ready(self, prepared: Prepared, frames: Frames) -> Frames:
        """In memory that a device can fetch while it works."""
        device: torch.device | None = getattr(prepared.encoder, "device", None)
        if device is None or device.type != "cuda":
            return frames
        return replace(frames, data=frames.data.pin_memory())

    def _put(self, queue: ByteQueue[_Event], event: _Event) -> bool:
        started = time.perf_counter()
        try:
            return queue.put(event)
        finally:
            self.waits.encode_wait_s += (time.perf_counter() - started) / len(self._readers)

    def _next_batch(self, queue: ByteQueue[_Event]) -> list[_Event] | None:
        """What is ready, until the encoder's batch is full; ``None`` if nothing will come.

        Nothing, after a moment without frames: what was written meanwhile can be told.
        """
        started = time.perf_counter()
        first = queue.get(_TICK_S)
        self.waits.decode_wait_s += time.perf_counter() - started
        if first is None or self._is_late:
            return None if self._is_late or queue.is_over else []
        batch, held = [first], _num_frames(first)
        while held < self._batches.max_frames and (event := queue.get()) is not None:
            batch.append(event)
            held += _num_frames(event)
        return batch

    def _encode(
        self, prepared: Prepared, batch: list[_Event], writer: WriterThread[Done]
    ) -> Iterator[Failed]:
        """Encode a batch's chunks, and end the videos that are complete."""
        started, waited = time.perf_counter(), 0.0
        events, chunks = [], []
        for event in batch:
            if event.frames is None or event.video.is_over:
                continue
            try:
                chunks.append(Chunk(event.frames, event.video.tokens.keep(event.frames)))
                events.append(event)
            except Exception as error:  # noqa: BLE001  # any failure of a video is its outcome
                yield _fail(event.video, "encode", error)
        results = self._batches.encode(prepared, chunks)
        for event, chunk, result in zip(events, chunks, results, strict=True):
            if event.video.is_over:
                continue  # an earlier chunk of this batch failed
            try:
                if isinstance(result, Exception):
                    raise result
                event.video.tokens.add(chunk.frames, result)
            except Exception as error:  # noqa: BLE001  # any failure of a video is its outcome
                yield _fail(event.video, "encode", error)
        for event in batch:
            if event.frames is None and not event.video.is_over:
                event.video.is_over = True
                outcome = _finish(event)
                if isinstance(outcome, Failed):
                    yield outcome
                else:
                    waiting = time.perf_counter()
                    writer.put(outcome)
                    waited += time.perf_counter() - waiting
        self.waits.write_wait_s += waited
        self.waits.encode_s += time.perf_counter() - started - waited


class _Lease:
    """Hands items out, one at a time; none once the run drains."""

    def __init__(self, items: Iterable[Item], engine: Engine) -> None:
        self._items, self._engine = iter(items), engine
        self._lock = threading.Lock()
        self.error: Exception | None = None
        """Why there are no more, if not because all are done."""

    def next(self) -> Item | None:
        """The next item to read; ``None`` if there is none."""
        with self._lock:
            return None if self._engine.is_draining else next(self._items, None)


def _num_frames(event: _Event) -> int:
    return 0 if event.frames is None else len(event.frames)


def _fail(video: _Open, stage: str, error: Exception) -> Failed:
    video.is_over = True
    return Failed(item=video.item, stage=stage, error=error)


def _finish(event: _Event) -> Done | Failed:
    """Compress a video whose last chunk has been encoded."""
    item, video = event.video.item, event.video.tokens
    if event.error is not None:
        return Failed(item=item, stage="decode", error=event.error)
    if not video.num_frames:
        empty = VidcompError(f"{item.path} gave no frames: check the file and the time range")
        return Failed(item=item, stage="decode", error=empty)
    try:
        small = _reduced(video)
    except Exception as error:  # noqa: BLE001  # any failure of a video is its outcome
        return Failed(item=item, stage="compress", error=error)
    return Done(
        item=item,
        video=small,
        num_frames=video.num_frames,
        num_seconds=video.num_seconds,
        num_tokens_in=video.num_tokens,
        seconds=time.perf_counter() - event.video.started,
        source=video.source,
    )


def _reduced(video: Arriving) -> VideoTokens:
    """Compressed, on the CPU; tried twice if the device's memory is full of other things."""
    try:
        return video.reduce().to("cpu")
    except Exception as error:
        if not is_out_of_memory(error):
            raise
    release_memory()
    try:
        return video.reduce().to("cpu")
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise VidcompError(
            f"memory ran out while {video.num_tokens} tokens were compressed: set "
            f"compress.stream=true, sample fewer frames, or use a device with more memory"
        ) from error


def _close_after(readers: list[threading.Thread], queue: ByteQueue[_Event]) -> None:
    for thread in readers:
        thread.join()
    queue.close()
