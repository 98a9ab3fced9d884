"""The moving parts of the job: readers ahead, one encoder, one writer.

    items ──▶ N reader threads ──▶ frames, bounded by bytes ──▶ encode ──▶ compress + write
              (a child process each)                   (the calling thread)    (a thread)

Each video is one item: what goes wrong with it ends that item only.  A store that cannot be
written ends the run.
"""

import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from vidcomp.api import Prepared
from vidcomp.sample.decode import Backend, stream_frames
from vidcomp.sample.decode.isolate import DecodeWorker
from vidcomp.types import Frames

from ..inputs import Item
from .batches import Batches, Chunk
from .fetch import frames_of
from .live import Closed, Opened, follow, live_settings
from .outcomes import Done, Failed, Followed, Open, finish
from .queues import ByteQueue, WriterThread

__all__ = ["Done", "Engine", "Failed", "Followed", "Waits"]

_TICK_S = 0.5
"""How often a run that waits looks whether its time is up."""
_LINGER_S = 7.0
"""How long a run that drains waits for frames that a live source has sent already."""


@dataclass(slots=True)
class Waits:
    """Seconds that the run spent waiting, by what it waited for."""

    decode_wait_s: float = 0.0
    """The encoder waited for frames."""
    encode_wait_s: float = 0.0
    """Readers waited for the encoder, on average over them."""
    write_wait_s: float = 0.0
    """The encoder waited for the writer, which compresses first."""
    encode_s: float = 0.0
    """The encoder worked."""


@dataclass(frozen=True, slots=True)
class _Event:
    """What a reader hands on: a chunk, the end of an item, or its error."""

    video: Open
    frames: Frames | None = None
    error: Exception | None = None
    is_end: bool = False
    """A live source is over; its windows have ended before."""

    @property
    def num_bytes(self) -> int:
        """Bytes of the pixels."""
        return 0 if self.frames is None else self.frames.data.nbytes


_Ended = tuple[Open, Exception | None]
"""A video whose reader has stopped, and why if not because it was at the end."""
_Writer = WriterThread[_Ended, Done | Failed]


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
        recycle_after: int = 2000,
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
        self._linger_until = 0.0
        self._stall_s = stall_s
        self._following: list[DecodeWorker] = []  # those that read a source without an end

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
        now = time.monotonic()
        self._linger_until = now + min(_LINGER_S, grace_s / 2)
        self._drain_by = now + grace_s

    def _let_go(self) -> None:
        """End the wait for live sources that send nothing more, so that windows can be closed."""
        if self.is_draining and time.monotonic() > self._linger_until:
            for reader in [*self._following]:
                reader.close()

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
    ) -> Generator[Done | Failed | Followed, None, None]:
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

        def conclude(ended: _Ended) -> Done | Failed:
            outcome = finish(*ended)
            if isinstance(outcome, Done):
                write(outcome)
            return outcome

        writer = WriterThread(conclude)
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
        writer.join(timeout=5)
        patience_s = time.monotonic() + 5  # of all together: some may wait for items in vain
        for thread in readers:
            thread.join(timeout=max(0.0, patience_s - time.monotonic()))

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
                if item.live is not None:
                    self._read_live(reader, prepared, item, queue)
                    continue
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
        video = Open(item, prepared.gather(request))
        try:
            read = stream_frames if reader is None else reader.frames
            for frames in frames_of(request, read, lambda: not queue.closed):
                if not self._put(queue, _Event(video, self._ready(prepared, frames))):
                    return None
                if video.is_over:  # it has failed: the rest of it is not wanted
                    return None
                del frames  # its memory goes back to the reader as soon as it is encoded
        except Exception as error:  # noqa: BLE001  # any failure of a file is that item's outcome
            if not last and not getattr(error, "was_fresh", True) and not queue.closed:
                video.is_over = True
                return error
            self._put(queue, _Event(video, error=error))
            return None
        video.end_reading()
        self._put(queue, _Event(video))
        return None

    def _read_live(
        self,
        reader: DecodeWorker | None,
        prepared: Prepared,
        item: Item,
        queue: ByteQueue[_Event],
    ) -> None:
        """Hand on a source's windows, each as a video, until the source or the run ends."""
        settings = live_settings(item, prepared, self._stall_s)
        request = prepared.request(item.path, live=settings)
        video: Open | None = None
        read = stream_frames if reader is None else reader.frames
        steps = follow(item, request, read, lambda: self.is_draining or queue.closed)
        self._following += [reader] if reader is not None else []
        try:
            for step in steps:
                if isinstance(step, Opened):
                    video = Open(step.item, prepared.gather(step.request))
                    continue
                assert video is not None  # noqa: S101  # a window is opened before all else
                if isinstance(step, Closed):
                    video.item, video.damage = step.item, step.damage
                    self._put(queue, _Event(video))
                elif not self._put(queue, _Event(video, self._ready(prepared, step))):
                    return
                del step  # memory of frames goes back as soon as they are encoded
            if not self.is_draining:
                self._put(queue, _Event(Open(item, prepared.gather(request)), is_end=True))
        except Exception as error:  # noqa: BLE001  # any failure of a source is that item's outcome
            self._put(queue, _Event(Open(item, prepared.gather(request)), error=error))
        finally:
            steps.close()
            self._following = [other for other in self._following if other is not reader]

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
            waited_s = time.perf_counter() - started
            event.video.waited_s += waited_s
            self.waits.encode_wait_s += waited_s / len(self._readers)

    def _next_batch(self, queue: ByteQueue[_Event]) -> list[_Event] | None:
        """What is ready, until the encoder's batch is full; ``None`` if nothing will come.

        Nothing, after a moment without frames: what was written meanwhile can be told.
        """
        self._let_go()
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
        self, prepared: Prepared, batch: list[_Event], writer: _Writer
    ) -> Iterator[Failed | Followed]:
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
                yield event.video.fail("encode", error)
        begun = time.perf_counter()
        results = self._batches.encode(prepared, chunks)
        frame_s = (time.perf_counter() - begun) / max(1, sum(len(c.frames) for c in chunks))
        for event, chunk, result in zip(events, chunks, results, strict=True):
            event.video.encode_s += frame_s * len(chunk.frames)
            if event.video.is_over:
                continue  # an earlier chunk of this batch failed
            try:
                if isinstance(result, Exception):
                    raise result
                event.video.tokens.add(chunk.frames, result)
            except Exception as error:  # noqa: BLE001  # any failure of a video is its outcome
                yield event.video.fail("encode", error)
        for event in batch:
            if event.frames is None and not event.video.is_over:
                event.video.is_over = True
                if event.is_end:
                    yield Followed(item=event.video.item)
                else:
                    waiting = time.perf_counter()
                    writer.put((event.video, event.error))
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


def _close_after(readers: list[threading.Thread], queue: ByteQueue[_Event]) -> None:
    for thread in readers:
        thread.join()
    queue.close()
