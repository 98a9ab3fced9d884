"""Tokens compressed without loss, and streams that nobody wrote."""

import importlib
import struct
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from packing import INT8, ZSTD, features, packed, through, with_tokens
from store_builders import FLOATS, any_video, bits, content, raw, tiny

from vidcomp.config import StoreSettings
from vidcomp.errors import MissingExtraError, StoreCorruptError
from vidcomp.store.disk import planes
from vidcomp.store.disk.planes import decode_planes, encode_planes
from vidcomp.store.disk.precision import encode_int8
from vidcomp.store.disk.record import decode_tokens


@given(data=st.data())
@settings(deadline=None, max_examples=60)
def test_any_video_survives_compression_bit_for_bit(data):
    dtype = data.draw(st.sampled_from(sorted(FLOATS)))
    video = data.draw(any_video(FLOATS[dtype]))
    chosen = StoreSettings(
        dtype=dtype, codec="zstd", assign=True, extras=tuple(video.extras),
        frame_extras=tuple(video.frame_extras),
    )  # fmt: skip
    assert content(through(video, chosen)) == content(video)


@given(data=st.data())
@settings(deadline=None, max_examples=60)
def test_planes_give_back_any_tensor(data):
    dtype = data.draw(st.sampled_from([*FLOATS.values(), torch.int64, torch.uint16, torch.int8]))
    shape = (data.draw(st.sampled_from([1, 2, 100, 33_000])), data.draw(st.integers(1, 3)))
    tensor = raw(data.draw, shape, dtype)
    if data.draw(st.booleans()):
        tensor[1:] = tensor[:1].clone()  # shrinks well
    stream = encode_planes(tensor)
    assert bits(decode_planes(memoryview(stream), shape, dtype)) == bits(tensor)
    out = torch.zeros_like(tensor)
    assert decode_planes(memoryview(stream), shape, dtype, out) is out
    assert bits(out) == bits(tensor)


def test_sizes_are_those_that_were_measured():
    x = features(dim=1152)
    assert len(encode_planes(x)) / (2 * x.numel()) < 0.70
    codes, _ = encode_int8(features(dim=1152, outliers=6), "v")
    assert len(encode_planes(codes)) < codes.numel()
    ids = torch.randint(0, 8192, (20_000,))
    assert len(encode_planes(ids)) < 0.22 * 8 * len(ids)
    noise = torch.randint(0, 256, (20_000,), dtype=torch.uint8)
    assert len(encode_planes(noise)) == 8 + 20_000
    zeros = torch.zeros(100_000, dtype=torch.float32)
    assert len(encode_planes(zeros)) < 200


def test_the_planes_are_as_documented():
    x = torch.tensor([1.0, -2.0, 0.5]).bfloat16()  # too few to shrink
    assert encode_planes(x) == struct.pack("<2Q", 3, 3) + b"\x3f\xc0\x3f" + b"\x80\x00\x00"
    many = torch.ones(1000).bfloat16()
    stream = encode_planes(many)
    high, low = struct.unpack("<2Q", stream[:16])
    assert len(stream) == 16 + high + low
    assert zstd().decompress(stream[16 : 16 + high]) == b"\x3f" * 1000
    assert zstd().decompress(stream[16 + high :]) == b"\x80" * 1000


def test_int8_can_be_compressed_too():
    video = with_tokens(tiny(1568, 192), features(outliers=6))
    both = StoreSettings(dtype="int8", codec="zstd")
    assert content(through(video, both)) == content(through(video, INT8))
    assert packed(video, both).nbytes < packed(video, INT8).nbytes
    out = torch.zeros(1568, 192, dtype=torch.bfloat16)
    found = packed(video, both)
    tensors = found.layout.tensors(memoryview(bytearray(b"".join(found.parts))), found.counts)
    assert decode_tokens(tensors, found.layout, found.counts, out) is out
    assert bits(out) == bits(through(video, INT8).tokens)


def test_the_length_of_compressed_tokens_is_a_count():
    found = packed(tiny(100, 8), ZSTD)
    (place,) = (p for p in found.layout.places(found.counts).tensors if p.name == "tokens.zstd")
    assert (place.dtype, place.sizes) == ("U8", (found.counts.packed,))
    assert found.layout.tokens == ("tokens", "ZBF16", ("N", 8))
    assert found.layout.dtype == "bfloat16"
    assert not found.layout.has_blocks
    assert packed(tiny(0, 8), ZSTD).layout.tokens.dtype == "BF16"
    assert packed(tiny(100, 8), StoreSettings()).counts.packed == 0


# Streams that nobody wrote


COUNT = 1000


def zstd():
    return planes._zstd()


def frame(data, level=1, **options):
    parameter = zstd().CompressionParameter
    chosen = {getattr(parameter, name): value for name, value in options.items()}
    return zstd().compress(data, options={parameter.compression_level: level, **chosen})


def stream(*pieces):
    return struct.pack(f"<{len(pieces)}Q", *map(len, pieces)) + b"".join(pieces)


def streaming(data, window_log):
    """A frame that does not say how long it is, with a window of its own choice."""
    parameter = zstd().CompressionParameter
    packer = zstd().ZstdCompressor(options={parameter.window_log: window_log})
    return packer.compress(data) + packer.flush()


BAD = {
    "empty": lambda: b"",
    "short table": lambda: b"\1\0\0",
    "lengths that are too many": lambda: struct.pack("<Q", 2**63) + b"x",
    "lengths that are too few": lambda: struct.pack("<Q", 5) + frame(bytes(COUNT)),
    "a plane that is too long": lambda: stream(bytes(COUNT + 1)),
    "no plane": lambda: stream(b""),
    "no frame": lambda: stream(b"not zstd"),
    "a cut frame": lambda: stream(frame(bytes(COUNT))[:-1]),
    "one byte too few": lambda: stream(frame(bytes(COUNT - 1))),
    "one byte too many": lambda: stream(frame(bytes(COUNT + 1))),
    "far too many": lambda: stream(frame(bytes(COUNT * 1000))),
    "two frames": lambda: stream(frame(bytes(COUNT // 2)) * 2),
    "bytes after the frame": lambda: stream(frame(bytes(COUNT)) + b"x"),
    "a window of 64 MiB": lambda: stream(streaming(bytes(COUNT), 26)),
    "a broken checksum": lambda: stream(
        frame(np.arange(COUNT, dtype=np.uint8).tobytes(), checksum_flag=1)[:-1] + b"\0"
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_stream_that_nobody_wrote_is_corrupt(kind):
    with pytest.raises(StoreCorruptError, match="run verify"):
        decode_planes(memoryview(BAD[kind]()), (COUNT,), torch.int8)


def test_frames_of_other_writers_are_read_within_the_limit():
    data = np.arange(COUNT, dtype=np.uint8).tobytes()
    for made in (streaming(data, 10), frame(data, level=19), frame(data, checksum_flag=1)):
        assert len(made) < COUNT
        found = decode_planes(memoryview(stream(made)), (COUNT,), torch.uint8)
        assert found.numpy().tobytes() == data


def test_what_a_frame_says_of_its_size_costs_no_memory():
    bomb = stream(frame(bytes(1 << 28), level=19))
    claims = ((COUNT,), (1 << 40,), (1 << 62,))
    tracemalloc.start()
    try:
        for sizes in claims:
            with pytest.raises(StoreCorruptError):
                decode_planes(memoryview(bomb), sizes, torch.int8)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@given(data=st.data())
@settings(deadline=None, max_examples=150)
def test_no_damaged_stream_does_more_than_be_refused(data):
    good = encode_planes(features(40, 25))
    bad = bytearray(good)
    for _ in range(data.draw(st.integers(1, 3))):
        bad[data.draw(st.integers(0, len(bad) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    bad = bad[: data.draw(st.integers(0, len(bad)))] if data.draw(st.booleans()) else bad
    try:
        out = decode_planes(memoryview(bad), (40, 25), torch.bfloat16)
    except StoreCorruptError:
        return
    assert out.shape == (40, 25)  # the record's hash tells that it is another


def test_without_zstd_the_message_says_what_to_install(monkeypatch):
    def missing(name):
        raise ImportError(name)

    planes._zstd.cache_clear()
    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(MissingExtraError, match=r"pip install 'vidcomp\[zstd\]'"):
        packed(tiny(), ZSTD)
    monkeypatch.undo()
    assert packed(tiny(), ZSTD).counts.packed
