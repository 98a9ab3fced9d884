"""A device that lacks memory is asked for less; what fails is blamed alone, and found quickly."""

import math
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vidcomp.errors import VidcompError
from vidcomp.pipelines.extraction.batches import Batches, Chunk, is_out_of_memory
from vidcomp.types import Frames, Grid, VideoTokens

POISON, GLUTTON = 99, 100
"""Pixel values of what cannot be encoded, and of what no memory is enough for."""


def chunk(count, value=1):
    times = torch.arange(count, dtype=torch.float64)
    frames = Frames(
        data=torch.full((count, 3, 2, 2), value, dtype=torch.uint8),
        pts_s=times,
        duration_s=torch.ones(count, dtype=torch.float64),
    )
    return Chunk(frames, None)


class Device:
    """Encodes a frame to one token, in passes of ``encoder.batch_size`` frames."""

    def __init__(self, room=10**6, batch_size=64, multiple=1):
        self.encoder = SimpleNamespace(batch_size=batch_size, frames_multiple=multiple)
        self.room, self.passes, self.num_full = room, [], 0

    def encode(self, batch, keep):
        total = sum(map(len, batch))
        self.passes.append(total)
        values = {int(frames.data[0, 0, 0, 0]) for frames in batch}
        if min(total, self.encoder.batch_size) > self.room or GLUTTON in values:
            self.num_full += 1
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        if POISON in values:
            raise ValueError("poison")
        return [
            VideoTokens.from_grid(
                frames.data.flatten(1).float(), Grid(len(frames), 1, 1), frames.spans
            )
            for frames in batch
        ]


sizes = st.lists(st.integers(1, 9), min_size=1, max_size=16)


def assert_encoded(results, chunks):
    for result, one in zip(results, chunks, strict=True):
        assert torch.equal(result.tokens, one.frames.data.flatten(1).float())


@settings(deadline=None, max_examples=60)
@given(counts=sizes, room=st.integers(1, 200), batch_size=st.sampled_from([1, 4, 64]))
def test_memory_that_runs_out_costs_no_video(counts, room, batch_size):
    device, batches = Device(room, batch_size), Batches(64)
    chunks = [chunk(n, value=i) for i, n in enumerate(counts)]
    assert_encoded(batches.encode(device, chunks), chunks)
    had_room = min(sum(counts), batch_size) <= room
    assert had_room == (device.num_full == 0)
    assert batches.max_frames == 64 if had_room else batches.max_frames < max(2, sum(counts))
    # What was learnt is kept: no batch of that size fails again.
    device.num_full = 0
    for one in chunks:
        if len(one.frames) <= batches.max_frames:
            batches.encode(device, [one])
    assert device.num_full == 0


@settings(deadline=None, max_examples=60)
@given(counts=sizes, bad=st.sets(st.integers(0, 15)), kind=st.sampled_from([POISON, GLUTTON]))
def test_only_what_fails_by_itself_is_blamed(counts, bad, kind):
    bad = {i for i in bad if i < len(counts)}
    device, batches = Device(), Batches(64)
    chunks = [chunk(n, value=kind if i in bad else i) for i, n in enumerate(counts)]
    results = batches.encode(device, chunks)
    assert {i for i, result in enumerate(results) if isinstance(result, Exception)} == bad
    good = [i for i in range(len(counts)) if i not in bad]
    assert_encoded([results[i] for i in good], [chunks[i] for i in good])
    for i in bad:
        assert is_out_of_memory(results[i]) == (kind == GLUTTON)


@pytest.mark.parametrize("count", [1, 2, 3, 8, 64, 100])
@pytest.mark.parametrize("place", [0, -1])
@pytest.mark.parametrize("kind", [POISON, GLUTTON])
def test_the_culprit_is_found_in_few_passes(count, place, kind):
    device = Device(batch_size=64)
    chunks = [chunk(1) for _ in range(count)]
    chunks[place] = chunk(1, kind)
    Batches(count).encode(device, chunks)
    assert len(device.passes) <= 2 * math.ceil(math.log2(count)) + 1


def test_one_video_that_is_too_large_does_not_slow_the_others_down():
    device, batches = Device(batch_size=32), Batches(64)
    results = batches.encode(device, [chunk(8), chunk(8, GLUTTON), chunk(8)])
    assert [isinstance(r, Exception) for r in results] == [False, True, False]
    assert (batches.max_frames, device.encoder.batch_size) == (64, 32)


def test_passes_keep_whole_clips():
    device = Device(room=7, batch_size=32, multiple=4)
    assert_encoded(Batches(64).encode(device, [chunk(32)]), [chunk(32)])
    assert device.encoder.batch_size == 4


@pytest.mark.parametrize(
    ("error", "is_full"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (MemoryError(), True),
        (RuntimeError("[enforce fail] . DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate"), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
        (ValueError("the book says: out of memory"), False),
    ],
)
def test_what_counts_as_memory(error, is_full):
    assert is_out_of_memory(error) == is_full


def test_a_device_that_fails_is_no_fault_of_a_video():
    device = Device()

    def fail(batch, keep):
        raise RuntimeError("CUDA error: an illegal memory access was encountered\nCompile with")

    device.encode = fail
    with pytest.raises(VidcompError, match=r"device has failed \(CUDA error: an illegal memory"):
        Batches(64).encode(device, [chunk(1), chunk(2)])


def test_nothing_is_encoded_of_nothing():
    device = Device()
    assert Batches(64).encode(device, []) == []
    assert device.passes == []
