"""Every item has exactly one outcome, whatever happens to it or to its neighbours."""

import threading
import time
from contextlib import closing
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vidcomp.api import Gathered
from vidcomp.errors import DecodeError, StoreError
from vidcomp.pipelines.extraction import engine as engine_module
from vidcomp.pipelines.extraction.engine import Done, Engine, Failed
from vidcomp.pipelines.inputs import Item
from vidcomp.types import Frames, Grid, Source, VideoTokens

GOOD, UNREADABLE, CUT, POISON, UNCOMPRESSIBLE, EMPTY = (
    "good",
    "unreadable",
    "cut",
    "poison",
    "uncompressible",
    "empty",
)
STAGE = {UNREADABLE: "decode", CUT: "decode", POISON: "encode", UNCOMPRESSIBLE: "compress"} | {
    EMPTY: "decode"
}


def frames(index, value, count=2):
    times = torch.arange(count, dtype=torch.float64) + index
    return Frames(
        data=torch.full((count, 3, 4, 4), value, dtype=torch.uint8),
        pts_s=times,
        duration_s=torch.ones(count, dtype=torch.float64),
        first_index=index,
        source=Source(path="made up", duration_s=6.0),
    )


def read(request):
    """Three chunks, or what the kind of the item says."""
    kind = request.path.split("-")[0]
    if kind == UNREADABLE:
        raise DecodeError("cannot be opened")
    for index in range(0, 0 if kind == EMPTY else 6, 2):
        if kind == CUT and index == 4:
            raise RuntimeError("cut off")
        yield frames(index, 99 if kind == POISON and index == 2 else 1)


class FakePrepared:
    """Encodes a frame to one token; refuses the pixel value 99."""

    def __init__(self):
        self.batches = []

    def request(self, path, **kwargs):
        return SimpleNamespace(path=path, start_s=None, end_s=None)

    encoder = SimpleNamespace(batch_size=32, frames_multiple=1)

    def selection(self):
        return None

    def gather(self, request):
        return Gathered(self, request)

    def encode(self, batch, keep):
        assert keep == [None] * len(batch)
        self.batches.append(len(batch))
        if any((chunk.data == 99).any() for chunk in batch):
            raise ValueError("poison")
        return [
            VideoTokens.from_grid(
                chunk.data.flatten(1).float(),
                Grid(len(chunk), 1, 1),
                chunk.spans,
                first_t=chunk.first_index,
            )
            for chunk in batch
        ]

    def reduce(self, dense, num_frames, num_seconds):
        if self.refuse and len(dense) == 6:
            raise ValueError("uncompressible")
        return dense

    refuse = False


@pytest.fixture(autouse=True)
def no_real_reading(monkeypatch):
    monkeypatch.setattr(engine_module, "stream_frames", read)


def assert_threads_end(before):
    """Every thread that was started since ``before`` was taken ends within ten seconds."""
    deadline = time.time() + 10
    while set(threading.enumerate()) - before and time.time() < deadline:
        time.sleep(0.01)
    assert not set(threading.enumerate()) - before


def run(kinds, workers=2, write=None, prepared=None):
    items = [Item(key=str(i), path=f"{kind}-{i}") for i, kind in enumerate(kinds)]
    written = []
    with Engine(workers=workers, isolation="thread", batch_frames=6) as engine:
        outcomes = list(engine.run(prepared or FakePrepared(), items, write or written.append))
    return items, outcomes, written


@settings(deadline=None, max_examples=40)
@given(
    kinds=st.lists(st.sampled_from([GOOD, UNREADABLE, CUT, POISON, EMPTY]), max_size=8),
    workers=st.integers(1, 4),
)
def test_every_item_has_exactly_one_outcome(kinds, workers):
    engine_module.stream_frames = read
    items, outcomes, written = run(kinds, workers)
    assert sorted(o.item.key for o in outcomes) == [item.key for item in items]
    for outcome in outcomes:
        kind = outcome.item.path.split("-")[0]
        if kind == GOOD:
            assert isinstance(outcome, Done)
            assert outcome.video.positions[:, 0].tolist() == [0, 1, 2, 3, 4, 5]
            assert (outcome.num_frames, outcome.num_tokens_in) == (6, 6)
            assert outcome.num_seconds == 6.0
        else:
            assert isinstance(outcome, Failed)
            assert outcome.stage == STAGE[kind]
    assert len(written) == kinds.count(GOOD)


def test_a_video_that_cannot_be_compressed_fails_alone():
    prepared = FakePrepared()
    prepared.refuse = True
    _, outcomes, written = run([GOOD, UNREADABLE], prepared=prepared)
    assert {o.stage for o in outcomes} == {"compress", "decode"}
    assert written == []


def test_a_store_that_cannot_be_written_ends_the_run():
    def write(done):
        raise StoreError("the disk is full")

    before = set(threading.enumerate())
    with pytest.raises(StoreError, match="full"):
        run([GOOD] * 20, write=write)
    assert_threads_end(before)


def test_batches_mix_videos():
    prepared = FakePrepared()
    slow_start = threading.Event()
    original = prepared.encode

    def encode(batch, keep):
        slow_start.wait(0.2)  # lets the readers get ahead
        return original(batch, keep)

    prepared.encode = encode
    run([GOOD] * 4, prepared=prepared)
    assert max(prepared.batches) == 3  # 6 frames, 2 a chunk
    assert sum(prepared.batches) == 12


def test_readers_wait_when_the_encoder_is_behind(monkeypatch):
    produced = []

    def endless(request):
        for index in range(100):
            produced.append(index)
            yield frames(2 * index, 1)

    monkeypatch.setattr(engine_module, "stream_frames", endless)
    blocked = threading.Event()
    prepared = FakePrepared()
    original = prepared.encode

    def encode(batch, keep):
        blocked.wait(0.3)
        return original(batch, keep)

    prepared.encode = encode
    items = [Item(key="0", path="good-0")]
    with (
        Engine(
            workers=1,
            isolation="thread",
            batch_frames=2,
            queue_bytes=4 * frames(0, 1).data.nbytes,
        ) as engine,
        closing(engine.run(prepared, items, lambda done: None)) as outcomes,
    ):
        threading.Timer(0.2, blocked.set).start()
        (outcome,) = outcomes
    assert isinstance(outcome, Done)
    assert outcome.num_frames == 200


def test_a_video_that_has_failed_is_not_read_to_its_end(monkeypatch):
    read_on = []

    def long(request):
        yield frames(0, 99)
        for index in range(1, 1000):
            time.sleep(0.002)
            read_on.append(index)
            yield frames(2 * index, 1)

    monkeypatch.setattr(engine_module, "stream_frames", long)
    _, outcomes, _ = run([GOOD], workers=1)
    assert [outcome.stage for outcome in outcomes] == ["encode"]
    assert len(read_on) < 900


def test_closing_a_run_early_stops_its_threads():
    before = set(threading.enumerate())
    items = [Item(key=str(i), path="good") for i in range(500)]
    written = []
    with (
        Engine(workers=2, isolation="thread") as engine,
        closing(engine.run(FakePrepared(), items, written.append)) as outcomes,
    ):
        next(outcomes)
    assert_threads_end(before)
    assert 1 <= len(written) < 500
