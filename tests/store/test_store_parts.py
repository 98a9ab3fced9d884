"""Parts of records through a cache: what all of it gives, cut, and never unchecked."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from store_builders import any_video, content, tiny, write

from vidcomp.config import StoreSettings
from vidcomp.errors import ShapeError, StoreCorruptError, StoreMissError
from vidcomp.store import TokenCache, open_cache
from vidcomp.types import TokenBatch

KEPT = StoreSettings(assign=True)


@given(data=st.data())
@settings(deadline=None, max_examples=25)
def test_parts_are_cuts_of_the_whole(data, tmp_path_factory):
    video = data.draw(any_video())
    path = write(tmp_path_factory.mktemp("store"), {"v": video}, settings=KEPT)
    cache = open_cache(path)
    whole = cache["v"]
    start = data.draw(st.integers(0, len(video)))
    stop = data.draw(st.integers(start, len(video)))
    wanted = whole.select(torch.arange(start, stop))
    assert content(cache.rows("v", start, stop)) == content(wanted)
    assert content(cache.select().rows(0, start, stop)) == content(wanted)


@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_a_window_reads_the_tokens_seen_in_it_and_little_else(tmp_path, dtype, monkeypatch):
    video = tiny(4000, 200)
    spans = torch.arange(4000.0)[:, None] / 100 + torch.tensor([[0.0, 0.01]])
    video = type(video)(**{n: getattr(video, n) for n in ("tokens", "positions", "mass", "grid")},
                        spans=spans)  # fmt: skip
    path = write(tmp_path, {"v": video}, settings=StoreSettings(dtype=dtype))
    cache, read = open_cache(path), []
    from vidcomp.store.local import OpenFile

    true_read = OpenFile.read
    monkeypatch.setattr(
        OpenFile, "read", lambda self, a, n, what: read.append(n) or true_read(self, a, n, what)
    )
    part = cache.window("v", 10.0, 12.0)
    seen = (spans[:, 0] < 12.0) & (spans[:, 1] > 10.0)
    assert len(part) == int(seen.sum()) > 0
    assert content(part) == content(cache["v"].select(seen.nonzero()[:, 0]))
    assert sum(read) < cache.info("v").nbytes / 2


def test_a_flipped_bit_is_found_where_it_is_read_and_only_there(tmp_path):
    path = write(tmp_path, {"v": tiny(1000, 64)})
    info = open_cache(path).info("v")
    shard = path / "shards" / f"{info.shard}.safetensors"
    data = bytearray(shard.read_bytes())
    data[info.offset + info.nbytes - 500 * 128] ^= 1  # a token near the middle
    shard.write_bytes(data)
    cache = open_cache(path)
    with pytest.raises(StoreCorruptError):
        cache["v"]
    with pytest.raises(StoreCorruptError, match="rows"):
        cache.rows("v", 400, 600)
    assert len(cache.rows("v", 0, 64)) == 64  # not a byte of the damage was needed


@pytest.mark.parametrize(("start", "stop"), [(-1, 2), (2, 1), (0, 6)])
def test_rows_that_are_not_there(tmp_path, start, stop):
    cache = open_cache(write(tmp_path, {"v": tiny(5)}))
    with pytest.raises(ShapeError, match="rows 0 to 5"):
        cache.rows("v", start, stop)
    with pytest.raises(StoreMissError):
        cache.rows("w", 0, 1)


def test_tokens_go_into_the_callers_tensor(tmp_path):
    videos = {f"v{i}": tiny(3 + i, 8, seed=i) for i in range(4)}
    cache = TokenCache(write(tmp_path, videos))
    out = torch.zeros(40, 8, dtype=torch.bfloat16)
    batch = cache.get_many(["v2", "v0"], out=out)
    assert batch.tokens.data_ptr() == out.data_ptr()
    assert [content(v) for v in batch] == [content(cache[k]) for k in ("v2", "v0")]
    one = cache.read_into("v3", out)
    assert one.tokens.data_ptr() == out.data_ptr()
    assert content(one) == content(cache["v3"])


@pytest.mark.parametrize(
    "out",
    [
        torch.zeros(2, 8, dtype=torch.bfloat16),
        torch.zeros(9, 7, dtype=torch.bfloat16),
        torch.zeros(9, 8),
        torch.zeros(8, 9, dtype=torch.bfloat16).T,
    ],
)
def test_a_tensor_that_cannot_take_them_is_refused(tmp_path, out):
    cache = TokenCache(write(tmp_path, {"v": tiny(5, 8)}))
    for read in (cache.read_into, lambda key, out: cache.get_many([key], out=out)):
        with pytest.raises(ShapeError):
            read("v", out)


def test_a_batch_that_is_kept_is_never_written_to(tmp_path):
    videos = {f"v{i}": tiny(600, 300, seed=i) for i in range(6)}
    selection = open_cache(write(tmp_path, videos)).select()
    from vidcomp.store import Memory

    memory = Memory()
    kept = [selection.batch([i], memory) for i in range(6)]
    views = [batch.tokens[5:9] for batch in kept]
    del kept
    for i in range(6):
        selection.batch([i], memory)
    assert all(torch.equal(view, videos[f"v{i}"].tokens[5:9]) for i, view in enumerate(views))


def test_memory_is_used_again_once_nobody_looks(tmp_path):
    selection = open_cache(write(tmp_path, {"v": tiny(600, 300)})).select()
    from vidcomp.store import Memory

    memory, places = Memory(), set()
    for _ in range(5):
        places.add(selection.batch([0], memory).tokens.data_ptr())
    assert len(places) == 1


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("codec", ["none", "zstd"])
@pytest.mark.parametrize("dtype", ["bfloat16", "int8", "float32"])
def test_batches_of_any_form_are_the_videos(tmp_path, dtype, codec, padded):
    if codec == "zstd":
        pytest.importorskip("backports.zstd")
    videos = {f"v{i}": tiny(3 + 5 * i, 8, seed=i) for i in range(4)}
    settings = StoreSettings(dtype=dtype, codec=codec, assign=True)
    cache = open_cache(write(tmp_path, videos, settings=settings))
    selection = cache.select()
    batch = selection.batch([2, 0, 2], padded=padded)
    wanted = TokenBatch.pack([cache[f"v{i}"] for i in (2, 0, 2)], ["v2", "v0", "v2"])
    if padded:
        for found, value in zip(batch, wanted.padded(), strict=True):
            assert found == value if isinstance(found, tuple) else torch.equal(found, value)
    else:
        assert [content(v) for v in batch] == [content(v) for v in wanted]


@pytest.mark.parametrize("damaged", ["v0", "v1", "v2", "v3"])
def test_a_damaged_record_is_found_whichever_thread_reads_it(tmp_path, damaged, monkeypatch):
    monkeypatch.setattr("vidcomp.store.reader._THREADS", 2)
    videos = {f"v{i}": tiny(1000, 300, seed=i) for i in range(4)}
    cache = open_cache(write(tmp_path, videos))
    info = cache.info(damaged)
    shard = tmp_path / "shards" / f"{info.shard}.safetensors"
    data = bytearray(shard.read_bytes())
    data[info.offset + info.nbytes // 2] ^= 1
    shard.write_bytes(data)
    with pytest.raises(StoreCorruptError, match=damaged):
        cache.get_many(list(videos))
