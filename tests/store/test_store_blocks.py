"""Rows of a record read and checked without the rest of it."""

import struct
from itertools import pairwise

import pytest
import torch
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st
from store_builders import FLOATS, bits, content, raw, tiny

from vidcomp.config import StoreSettings
from vidcomp.errors import ShapeError, StoreCorruptError
from vidcomp.store.disk.blocks import check_blocks
from vidcomp.store.disk.format import escape_key
from vidcomp.store.disk.layout import BLOCK_ROWS, Layout
from vidcomp.store.disk.record import pack, unpack
from vidcomp.store.disk.rows import RangePlan, in_window, joined, read_rows, read_window
from vidcomp.store.disk.types import Location

COUNTS = [1, 5, 63, 64, 65, 128, 200, 331]


def record(video, chosen=None, key="v"):
    """A record's bytes and place."""
    made = pack(escape_key(key), video, {"path": "x"}, None, chosen or StoreSettings())
    data = bytearray(b"".join(made.parts))
    row = made.row((1, "a" * 32), None)
    return data, Location("s", 64, row.nbytes, row.checksum, made.counts, made.layout)


class Reader:
    """Serves ranges of a record and notes them."""

    def __init__(self, data):
        self.data, self.calls = data, []

    def __call__(self, ranges):
        self.calls.append(list(ranges))
        return [memoryview(bytearray(self.data[a:b])) for a, b in ranges]

    @property
    def num_bytes(self):
        return sum(b - a for call in self.calls for a, b in call)


def all_of(data, place):
    return unpack(memoryview(bytearray(data)), place.layout, place.counts)


@st.composite
def records(draw, *, dim=None):
    """Videos of several blocks, in every form that has rows, and spans that rise or do not."""
    n, seed = draw(st.sampled_from(COUNTS)), draw(st.integers(0, 2**31))
    form = draw(st.sampled_from([*FLOATS, "int8", "ids"]))
    dtype = FLOATS.get(form, torch.float32)
    provenance = draw(st.sampled_from(["none", "hard", "soft"]))
    video = tiny(n, dim or draw(st.integers(0, 9)), seed, dtype=dtype, grid=(4, 3, 2))
    rows = {"spans": video.spans}
    if draw(st.booleans()):
        start = torch.arange(n).float() / 8
        rows["spans"] = torch.stack([start, start + draw(st.sampled_from([0.0, 0.125, 1.0]))], 1)
    if form == "ids":
        rows["tokens"] = raw(draw, (n,), draw(st.sampled_from([torch.int64, torch.uint16])))
    if provenance != "hard":
        rows["assign"] = None
    if provenance == "soft":
        g = torch.Generator().manual_seed(seed)
        matrix = torch.rand(n, 24, generator=g) * (torch.rand(n, 24, generator=g) < 0.2)
        rows["weights"] = matrix.to_sparse().coalesce()
    extras = {}
    for name in draw(st.lists(st.sampled_from(["saliency", "a/b", "%"]), unique=True)):
        extra = draw(st.sampled_from([torch.float64, torch.bfloat16, torch.uint8, torch.bool]))
        extras[name] = raw(draw, (n, *draw(st.lists(st.integers(0, 3), max_size=2))), extra)
    frames = {"score": torch.rand(4)} if draw(st.booleans()) else {}
    fields = {name: getattr(video, name) for name in ("tokens", "positions", "mass", "assign")}
    video = type(video)(**{**fields, "grid": video.grid, **rows}, extras=extras,
                        frame_extras=frames)  # fmt: skip
    chosen = StoreSettings(
        dtype=form if form != "ids" else "bfloat16",
        codec=draw(st.sampled_from(["none", "none", "none", "zstd"])),
        assign=True, extras=tuple(extras), frame_extras=tuple(frames),
    )  # fmt: skip
    return video, chosen


@given(made=records(), data=st.data())
@settings(deadline=None, max_examples=150)
def test_any_rows_are_those_that_select_gives(made, data):
    video, chosen = made
    raw_bytes, place = record(video, chosen, "a%/b\x01")
    n = len(video)
    start, stop = sorted(data.draw(st.tuples(st.integers(0, n), st.integers(0, n))))
    gap = data.draw(st.sampled_from([0, 100, 1 << 20]))
    reader = Reader(raw_bytes)
    found = read_rows("a%/b\x01", place, start, stop, reader, gap=gap)
    assert content(found) == content(all_of(raw_bytes, place).select(torch.arange(start, stop)))
    assert len(reader.calls) == 1


@given(made=records(), data=st.data())
@settings(deadline=None, max_examples=150)
def test_any_window_is_what_select_gives_of_the_rows_in_it(made, data):
    video, chosen = made
    raw_bytes, place = record(video, chosen)
    times = st.floats(-1, 45, width=32)
    start_s, end_s = sorted(data.draw(st.lists(times, min_size=2, max_size=2, unique=True)))
    gap = data.draw(st.sampled_from([0, 100, 1 << 20]))
    reader = Reader(raw_bytes)
    found = read_window("v", place, start_s, end_s, reader, gap=gap)
    index = [
        i for i, (a, b) in enumerate(video.spans.tolist())
        if (a < end_s and b > start_s) or (a == b and start_s <= a < end_s)
    ]  # fmt: skip
    chosen_rows = torch.tensor(index, dtype=torch.int64)
    assert content(found) == content(all_of(raw_bytes, place).select(chosen_rows))
    assert len(reader.calls) <= 2


def test_only_the_blocks_of_the_rows_are_read():
    raw_bytes, place = record(tiny(64 * 50, 256))
    reader = Reader(raw_bytes)
    read_rows("v", place, 64 * 7, 64 * 8, reader, gap=0)
    head = 8 * (1 + 50) + 8 * 64 * 50
    assert reader.num_bytes == head + 64 * (12 + 4 + 512)
    assert len(reader.calls[0]) == 4  # the head, then positions, mass and tokens
    reader = Reader(raw_bytes)
    read_rows("v", place, 64 * 7 - 1, 64 * 8 + 1, reader, gap=0)
    assert reader.num_bytes == head + 3 * 64 * (12 + 4 + 512)
    reader = Reader(raw_bytes)
    read_rows("v", place, 9, 9, reader, gap=0)
    assert reader.num_bytes == head


def test_a_window_whose_rows_lie_apart_reads_their_blocks_only():
    video = tiny(64 * 40, 32)
    seconds = torch.arange(64 * 40) % (64 * 20)  # the same times twice
    spans = torch.stack([seconds, seconds + 1], 1).float()
    video = type(video)(tokens=video.tokens, positions=video.positions, spans=spans,
                        mass=video.mass, grid=video.grid)  # fmt: skip
    raw_bytes, place = record(video)
    reader = Reader(raw_bytes)
    found = read_window("v", place, 64 * 3 + 10, 64 * 3 + 20, reader, gap=0)
    assert len(found) == 20
    assert found.spans[[0, 10], 0].tolist() == [64 * 3 + 10] * 2
    head, rows = reader.calls
    assert sum(b - a for a, b in rows) == 2 * 64 * (12 + 4 + 64)
    assert sum(b - a for a, b in head) == 8 * 41 + 8 * 64 * 40


@pytest.mark.parametrize("gap", [0, 50, 100, 500, 2000])
def test_ranges_of_the_second_read_may_reach_into_the_first(gap):
    extras = {"a": torch.rand(331), "b": torch.rand(331, 3).bfloat16()}
    frames = {"f": torch.rand(2, 5).bfloat16(), "g": torch.rand(2, 7)}
    video = tiny(331, 3, extras=extras, frame_extras=frames)
    chosen = StoreSettings(assign=True, extras=("a", "b"), frame_extras=("f", "g"))
    raw_bytes, place = record(video, chosen)
    whole = all_of(raw_bytes, place)
    for start_s, end_s in ((0.0, 0.001), (1.98, 1.99), (0.4, 0.5)):
        found = read_window("v", place, start_s, end_s, Reader(raw_bytes), gap=gap)
        index = in_window(whole.spans, start_s, end_s)
        assert content(found) == content(whole.select(index))


def test_short_records_and_close_ranges_are_one_read():
    raw_bytes, place = record(tiny(64, 100))
    reader = Reader(raw_bytes)
    read_window("v", place, 0, 2, reader)
    assert reader.calls == [[(0, place.layout.places(place.counts).nbytes)]]


@given(
    ranges=st.lists(st.tuples(st.integers(0, 99), st.integers(0, 9)).map(lambda r: (r[0], sum(r)))),
    gap=st.integers(0, 9),
)
@settings(deadline=None)
def test_joined_ranges_hold_the_same_bytes_and_lie_apart(ranges, gap):
    out = joined(ranges, gap)
    wanted = {i for a, b in ranges for i in range(a, b)}
    found = [i for a, b in out for i in range(a, b)]
    assert len(set(found)) == len(found)
    assert wanted <= set(found)
    assert all(b[0] - a[1] > gap for a, b in pairwise(out))
    assert all(a in wanted and b - 1 in wanted for a, b in out)
    needed = sorted(wanted)
    assert all((b - a - 1 <= gap) == (b - 1 in found or b == a + 1) for a, b in pairwise(needed))


@given(made=records(dim=5), data=st.data())
@settings(deadline=None, max_examples=150)
def test_a_flipped_bit_is_found_where_it_matters(made, data):
    video, chosen = made
    raw_bytes, place = record(video, chosen)
    start, stop = sorted(data.draw(st.tuples(*[st.integers(0, len(video))] * 2)))
    wanted = content(read_rows("v", place, start, stop, Reader(raw_bytes)))
    at = data.draw(st.integers(0, len(raw_bytes) - 1))
    raw_bytes[at] ^= 1 << data.draw(st.integers(0, 7))
    index = torch.arange(start, stop)
    if place.layout.has_blocks:
        plan = RangePlan(place.layout, place.counts, index)
        matters = any(a <= at < b for a, b in [*plan.head, *plan.rows])
    else:
        matters = True
    if matters:
        with pytest.raises(StoreCorruptError):
            read_rows("v", place, start, stop, Reader(raw_bytes))
    else:
        assert content(read_rows("v", place, start, stop, Reader(raw_bytes))) == wanted


def test_a_record_of_another_key_is_refused():
    raw_bytes, place = record(tiny(100, 4), key="v")
    with pytest.raises(StoreCorruptError, match="'w' are not those"):
        read_rows("w", place, 0, 10, Reader(raw_bytes))
    with pytest.raises(StoreCorruptError, match="'w' are not those"):
        read_window("w", place, 0, 1, Reader(raw_bytes))


def test_bytes_are_not_checked_when_they_need_not_be():
    raw_bytes, place = record(tiny(100, 4))
    raw_bytes[place.layout.places(place.counts).nbytes - 1] ^= 1  # in the last token
    with pytest.raises(StoreCorruptError, match="rows 64 to 128"):
        read_rows("v", place, 90, 100, Reader(raw_bytes))
    assert len(read_rows("v", place, 90, 100, Reader(raw_bytes), verify=False)) == 10
    assert len(read_window("v", place, 0, 9, Reader(raw_bytes), verify=False)) == 100


@pytest.mark.parametrize(("start", "stop"), [(-1, 3), (3, 2), (0, 101), (101, 101)])
def test_rows_that_are_not_there_are_refused(start, stop):
    raw_bytes, place = record(tiny(100, 4))
    with pytest.raises(ShapeError, match="'v' has rows 0 to 100"):
        read_rows("v", place, start, stop, Reader(raw_bytes))


@pytest.mark.parametrize(("start_s", "end_s"), [(1, 1), (2, 1), (float("nan"), 1)])
@pytest.mark.parametrize("codec", ["none", "zstd"])
def test_windows_without_length_are_refused(start_s, end_s, codec):
    raw_bytes, place = record(tiny(100, 4), StoreSettings(codec=codec))
    with pytest.raises(ShapeError, match="ends after it starts"):
        read_window("v", place, start_s, end_s, Reader(raw_bytes))


def test_a_window_holds_spans_that_overlap_it_and_moments_in_it():
    spans = torch.tensor([[0, 1], [1, 2], [2, 3], [0, 9], [1, 1], [2, 2], [torch.nan, 1]])
    assert in_window(spans, 1, 2).tolist() == [1, 3, 4]
    assert in_window(spans, 0.5, 1).tolist() == [0, 3]
    assert in_window(spans, float("-inf"), float("inf")).tolist() == [0, 1, 2, 3, 4, 5]
    tenths = torch.tensor([[0.6, 0.7], [0.7, 0.8]])  # 0.7 in float32 is less than 0.7 in float64
    assert in_window(tenths, 0.7, 0.8).tolist() == [1]


def test_records_without_block_checks_are_read_whole():
    video = tiny(100, 4)
    raw_bytes, place = record(video)
    size = 8 * (1 + 2)
    assert place.layout.fields[0] == ("blocks", "U64", ("B",))
    old = Layout(place.layout.fields[1:])
    data = raw_bytes[size:]
    where = Location("s", 64, len(data), xxhash.xxh3_64_intdigest(data), place.counts, old)
    reader = Reader(data)
    found = read_rows("v", where, 10, 20, reader)
    assert reader.calls == [[(0, len(data))]]
    assert content(found) == content(all_of(raw_bytes, place).select(torch.arange(10, 20)))
    data[-1] ^= 1
    with pytest.raises(StoreCorruptError, match="'v' has other bytes"):
        read_rows("v", where, 10, 20, Reader(data))


def test_videos_without_tokens_have_no_block_checks():
    raw_bytes, place = record(tiny(0, 4))
    assert not place.layout.has_blocks
    assert len(read_rows("v", place, 0, 0, Reader(raw_bytes))) == 0
    assert len(read_window("v", place, 0, 1, Reader(raw_bytes))) == 0


def test_the_checks_are_as_documented():
    video = tiny(70, 3, grid=(2, 3, 4))
    raw_bytes, place = record(video, StoreSettings(assign=True, dtype="int8"), "ä")
    parts = {p.name: bytes(raw_bytes[p.start : p.stop]) for p in
             place.layout.places(place.counts).tensors}  # fmt: skip
    assert list(parts) == ["blocks", "spans", "tokens.scale", "positions", "mass", "assign",
                           "tokens"]  # fmt: skip
    rows = [
        xxhash.xxh3_64_intdigest(
            parts["positions"][12 * a : 12 * b] + parts["mass"][4 * a : 4 * b]
            + parts["tokens"][3 * a : 3 * b]
        )
        for a, b in ((0, 64), (64, 70))
    ]  # fmt: skip
    tail = struct.pack("<2Q", *rows)
    fixed = parts["spans"] + parts["tokens.scale"] + parts["assign"]
    head = xxhash.xxh3_64_intdigest("ä".encode() + tail + fixed)
    assert parts["blocks"] == struct.pack("<Q", head) + tail
    assert BLOCK_ROWS == 64


@given(made=records(dim=3), data=st.data())
@settings(deadline=None, max_examples=60)
def test_the_checks_of_a_whole_record_are_checked(made, data):
    video, chosen = made
    raw_bytes, place = record(video, chosen)
    check_blocks("v", memoryview(raw_bytes), place.layout, place.counts)
    at = data.draw(st.integers(0, place.layout.places(place.counts).nbytes - 1))
    raw_bytes[at] ^= 1
    if place.layout.has_blocks:
        with pytest.raises(StoreCorruptError, match="block checks"):
            check_blocks("v", memoryview(raw_bytes), place.layout, place.counts)


def test_what_is_read_owns_no_more_than_its_rows():
    raw_bytes, place = record(tiny(1000, 40))
    video = read_rows("v", place, 100, 110, Reader(raw_bytes))
    assert video.tokens.untyped_storage().nbytes() == 10 * 40 * 2
    assert bits(video.mass) == bits(all_of(raw_bytes, place).mass[100:110])
