"""What is written is read again, bit for bit, with and without vidcomp."""

import json
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from store_builders import FLOATS, any_key, any_video, bits, content, same, tiny, write

from vidcomp.config import StoreSettings
from vidcomp.errors import ShapeError, StoreError, StoreMissError
from vidcomp.store import CacheWriter, SourceId, TokenCache, open_cache, verify
from vidcomp.store.disk.format import escape, unescape
from vidcomp.types import TokenBatch

SALIENCY = {"saliency": torch.zeros(5)}


def settings_for(videos, dtype="bfloat16"):
    """Settings that keep all of the videos' fields."""
    first = next(iter(videos.values()))
    return StoreSettings(
        dtype=dtype, assign=True, extras=tuple(first.extras), frame_extras=tuple(first.frame_extras)
    )


@given(data=st.data())
@settings(deadline=None, max_examples=60)
def test_any_video_under_any_key_comes_back_bit_for_bit(data, tmp_path_factory):
    path = tmp_path_factory.mktemp("store")
    dtype = data.draw(st.sampled_from(sorted(FLOATS)))
    key, video = data.draw(any_key()), data.draw(any_video(FLOATS[dtype]))
    write(path, {key: video}, settings=settings_for({key: video}, dtype))
    cache = open_cache(path)
    assert cache.keys() == [key]
    assert key in cache
    assert content(cache[key]) == content(video)
    assert cache.info(key).source == SourceId(size=0, mtime_ns=10**18)
    assert verify(path).ok


@given(text=st.text(st.characters(codec=None)))
@settings(deadline=None)
def test_escaping_is_reversible_and_leaves_text_that_any_language_can_hold(text):
    escaped = escape(text)
    assert unescape(escaped) == text
    escaped.encode("utf-8")
    assert all(ord(c) >= 32 and c != "\x7f" for c in escaped)


@given(a=st.text(st.characters(codec=None)), b=st.text(st.characters(codec=None)))
@settings(deadline=None)
def test_other_keys_have_other_escapes(a, b):
    assert (a == b) == (escape(a) == escape(b))


@given(data=st.data())
@settings(deadline=None, max_examples=30)
def test_safe_open_reads_every_tensor_without_our_code(data, tmp_path_factory):
    path = tmp_path_factory.mktemp("store")
    key, video = data.draw(any_key()), data.draw(any_video())
    write(path, {key: video}, settings=settings_for({key: video}))
    (shard,) = (path / "shards").glob("*.safetensors")
    with safe_open(shard, "pt") as file:
        found = {}
        for name in file.keys():  # noqa: SIM118  # not a dict
            found_key, field = name.rsplit("/", 1)
            assert found_key == escape(key)
            found[field] = file.get_tensor(name)
    about = json.loads(bytes(found.pop("meta").tolist()))
    assert about["grid"] == list(video.grid)
    assert about["meta"] == {"n": 0}
    assert about["source"] == {"size": 0, "mtime_ns": 10**18, "content": ""}
    for name in ("tokens", "positions", "spans", "mass"):
        assert bits(found.pop(name)) == bits(getattr(video, name))
    if video.assign is not None:
        assert torch.equal(found.pop("assign").long() - 1, video.assign)
    if video.weights is not None:
        assert torch.equal(found.pop("weights.index").long(), video.weights.indices())
        assert bits(found.pop("weights.value")) == bits(video.weights.values())
    for prefix, extras in (("extras", video.extras), ("frame", video.frame_extras)):
        for name, value in extras.items():
            assert bits(found.pop(f"{prefix}.{escape(name).replace('/', '%2F')}")) == bits(value)
    assert len(found.pop("blocks", ())) == (1 + -(-len(video) // 64) if len(video) else 0)
    assert found == {}


def test_extras_are_named_by_patterns_that_may_match_none(tmp_path):
    video = tiny(
        extras={
            "deepstack.0": torch.rand(5, 2),
            "deepstack.1": torch.rand(5, 2),
            "x": torch.rand(5),
        }
    )
    chosen = StoreSettings(extras=("x", "deepstack.*", "none*"), frame_extras=("structural*",))
    write(tmp_path / "a", {"v": video}, settings=chosen)
    found = open_cache(tmp_path / "a")["v"]
    assert set(found.extras) == {"x", "deepstack.0", "deepstack.1"}
    assert torch.equal(found.extras["deepstack.1"], video.extras["deepstack.1"])
    assert found.frame_extras == {}


def test_provenance_and_extras_are_kept_only_when_asked_for(tmp_path):
    video = tiny(extras={"saliency": torch.rand(5), "keys": torch.rand(5, 2)})
    write(tmp_path / "a", {"v": video})
    bare = open_cache(tmp_path / "a")["v"]
    assert bare.assign is None
    assert bare.extras == {}
    write(tmp_path / "b", {"v": video}, settings=StoreSettings(assign=True, extras=("keys",)))
    kept = open_cache(tmp_path / "b")["v"]
    assert torch.equal(kept.assign, video.assign)
    assert list(kept.extras) == ["keys"]


@pytest.mark.parametrize(
    ("n", "dtype"), [(0, "U8"), (255, "U8"), (256, "U16"), (65535, "U16"), (65536, "U32")]
)
def test_assign_takes_the_smallest_type_that_holds_its_rows(tmp_path, n, dtype):
    assign = torch.tensor([-1, max(n - 1, -1)])
    video = tiny(n, 1, grid=(1, 1, 2), assign=assign)
    write(tmp_path, {"v": video}, settings=StoreSettings(assign=True))
    (shard,) = (tmp_path / "shards").glob("*.safetensors")
    with safe_open(shard, "pt") as file:
        assert file.get_slice("v/assign").get_dtype() == dtype
    assert torch.equal(open_cache(tmp_path)["v"].assign, assign)


def test_tokens_take_the_type_of_the_settings_and_ids_keep_theirs(tmp_path):
    video = tiny(dtype=torch.float32)
    ids = tiny()
    ids = type(ids)(
        tokens=torch.arange(5, dtype=torch.int32),
        positions=ids.positions, spans=ids.spans, mass=ids.mass, grid=ids.grid,
    )  # fmt: skip
    write(tmp_path, {"v": video, "ids": ids}, settings=StoreSettings(dtype="float16"))
    cache = open_cache(tmp_path)
    assert bits(cache["v"].tokens) == bits(video.tokens.half())
    assert bits(cache["ids"].tokens) == bits(ids.tokens)
    assert (cache.info("v").dtype, cache.info("v").dim) == ("float16", 7)
    assert (cache.info("ids").dtype, cache.info("ids").dim) == ("int32", 0)


def test_values_that_float16_cannot_hold_are_refused_not_made_infinite(tmp_path):
    video = tiny(dtype=torch.float32)
    video.tokens[2, 3] = 70000.0
    with CacheWriter(tmp_path, identity={}, settings=StoreSettings(dtype="float16")) as writer:
        with pytest.raises(StoreError, match=r"'v'.*70000.*bfloat16"):
            writer.add("v", video)
        video.tokens[2, 3] = torch.inf  # was infinite before: stays so
        writer.add("v", video)
    assert torch.isinf(open_cache(tmp_path)["v"].tokens[2, 3])


@pytest.mark.parametrize(
    ("key", "video", "meta", "message"),
    [
        ("", tiny(), {}, "not empty"),
        (7, tiny(), {}, "a text"),
        ("k" * 70_000, tiny(), {}, "at most 65536 bytes, got 70000"),
        ("v", tiny(extras=SALIENCY), {"x": float("nan")}, "plain JSON"),
        ("v", tiny(extras=SALIENCY), {"x": torch.ones(1)}, "plain JSON"),
        ("v", tiny(extras={"saliency": torch.zeros(5, dtype=torch.complex64)}), {}, "complex64"),
        ("v", tiny(extras={"other": torch.zeros(5)}), {}, r"'saliency'.*only \['other'\]"),
    ],
)
def test_what_cannot_be_stored_is_refused_and_leaves_nothing(tmp_path, key, video, meta, message):
    chosen = StoreSettings(extras=("saliency",))
    with CacheWriter(tmp_path, identity={}, settings=chosen) as writer:
        with pytest.raises(StoreError, match=message):
            writer.add(key, video, meta)
        assert writer.committed() == {}
    assert len(open_cache(tmp_path)) == 0
    assert verify(tmp_path).ok


def test_a_very_long_key_fits_even_into_the_first_header(tmp_path):
    key = "é" * 32_000
    write(tmp_path, {key: tiny(seed=1), "v": tiny(seed=2)})
    cache = open_cache(tmp_path)
    assert same(cache[key], without_assign(tiny(seed=1)))
    assert same(cache["v"], without_assign(tiny(seed=2)))


def test_records_are_aligned_and_lie_end_to_end(tmp_path):
    write(tmp_path, {f"v{i}": tiny(i, 3, i) for i in range(12)})
    entries = sorted(open_cache(tmp_path).entries(), key=lambda e: e.offset)
    assert [e.key for e in entries] == [f"v{i}" for i in range(12)]
    for a, b in pairwise(entries):
        assert a.offset % 64 == 0
        assert a.offset + a.nbytes == b.offset


def test_meta_and_index_tell_what_a_record_is(tmp_path):
    meta = {"path": "/films/ä.mp4", "damage": "", "versions": {"torch": "2"}, "n": [1, None, 2.5]}
    source = SourceId(size=2**40, mtime_ns=1_700_000_000_123_456_789, content="xxh3_128:ab")
    with CacheWriter(tmp_path, identity={}) as writer:
        receipt = writer.add("v", tiny(9, 4), meta, source)
        writer.add("url", tiny(2, 4))
    cache = open_cache(tmp_path)
    assert cache.meta("v") == meta
    assert cache.meta("url") == {}
    info = cache.info("v")
    assert (info.num_tokens, info.dim, info.dtype, info.grid) == (9, 4, "bfloat16", (2, 3, 4))
    assert (info.shard, info.offset, info.nbytes) == (receipt.shard, receipt.offset, receipt.nbytes)
    assert (info.checksum, info.generation, info.source) == (receipt.checksum, 1, source)
    assert info.fields == ("blocks", "spans", "positions", "mass", "tokens", "meta")
    assert cache.info("url").source is None


def test_a_missing_record_names_itself(tmp_path):
    write(tmp_path, {"v": tiny()})
    cache = open_cache(tmp_path)
    assert "w" not in cache
    assert 7 not in cache
    assert "" not in cache
    for call in (cache.__getitem__, cache.meta, cache.info):
        with pytest.raises(StoreMissError, match="no record 'w'"):
            call("w")


def test_get_many_takes_records_that_differ_in_their_meta_only(tmp_path):
    videos = {f"v{i}": tiny(seed=i, assign=None) for i in range(6)}
    with CacheWriter(tmp_path / "c", identity={"sample": 1}) as writer:
        for i, (key, video) in enumerate(videos.items()):
            writer.add(key, video, {"note": "x" * 50 * (i % 3)})
    batch = TokenCache(tmp_path / "c").get_many(list(videos))
    assert all(same(one, video) for one, video in zip(batch, videos.values(), strict=True))


def test_get_many_packs_in_the_order_asked(tmp_path):
    videos = {f"v{i}": tiny(i + 1, 3, i, assign=None) for i in range(5)}
    write(tmp_path, videos)
    batch = open_cache(tmp_path).get_many(["v3", "v0", "v3"])
    assert batch.keys == ("v3", "v0", "v3")
    assert batch.lengths.tolist() == [4, 1, 4]
    assert same(batch[1], videos["v0"])
    assert same(batch[2], videos["v3"])


@given(data=st.data())
@settings(deadline=None, max_examples=40)
def test_a_batch_is_its_videos_packed(data, tmp_path_factory):
    """Read straight into place or joined afterwards, for videos alike or not."""
    path = tmp_path_factory.mktemp("store")
    first = data.draw(any_video())
    shapes = [first, first.select(torch.arange(len(first) // 2)), data.draw(any_video())]
    videos = {f"v{i}": shapes[i] for i in data.draw(st.permutations(range(3)))[:2]}
    names = set.intersection(*(set(video.extras) for video in videos.values()))
    frames = set.intersection(*(set(video.frame_extras) for video in videos.values()))
    chosen = StoreSettings(assign=True, extras=tuple(names), frame_extras=tuple(frames))
    write(path, videos, settings=chosen)
    cache = open_cache(path)
    keys = data.draw(st.lists(st.sampled_from(sorted(videos)), min_size=1, max_size=4))
    try:
        wanted = TokenBatch.pack([cache[key] for key in keys], keys)
    except (ShapeError, RuntimeError) as error:
        with pytest.raises(type(error)):
            cache.get_many(keys)
        return
    found = cache.get_many(keys)
    assert found.keys == tuple(keys)
    assert torch.equal(found.offsets, wanted.offsets)
    assert list(map(content, found)) == list(map(content, wanted))


def test_no_keys_are_no_batch(tmp_path):
    with pytest.raises(ShapeError, match="at least one video"):
        open_cache(write(tmp_path, {})).get_many([])


def test_one_tensor_of_a_record_is_saved_alone(tmp_path):
    write(tmp_path, {"v": tiny(50, 40)})
    video = open_cache(tmp_path)["v"]
    assert video.mass.untyped_storage().nbytes() == 50 * 4


def test_an_empty_store_is_a_store(tmp_path):
    write(tmp_path, {})
    cache = open_cache(tmp_path)
    assert len(cache) == 0
    assert cache.keys() == []
    assert list(cache) == []
    assert isinstance(cache, TokenCache)
    assert verify(tmp_path).ok


def without_assign(video):
    return type(video)(
        tokens=video.tokens, positions=video.positions, spans=video.spans, mass=video.mass,
        grid=video.grid,
    )  # fmt: skip
