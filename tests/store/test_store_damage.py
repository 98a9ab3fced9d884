"""Damaged bytes are noticed wherever they are, and cost no more than they must."""

import json
import os
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from store_builders import IDENTITY, content, tiny, write

from vidcomp.errors import StoreCorruptError, StoreError
from vidcomp.store import CacheWriter, open_cache, verify
from vidcomp.store.commit import snapshot
from vidcomp.store.disk.header import stamp_header
from vidcomp.store.local import LocalStorage

VIDEOS = {f"v{i}": tiny(6, 5, i, assign=None) for i in range(6)}


@pytest.fixture
def store(tmp_path):
    """Two commits of three records each."""
    path = tmp_path / "store"
    write(path, dict(list(VIDEOS.items())[:3]))
    write(path, dict(list(VIDEOS.items())[3:]))
    return path


def flip(path, place, mask=1):
    data = bytearray(path.read_bytes())
    data[place] ^= mask
    path.write_bytes(data)


def readable(path):
    """Keys that the cache lists and that read as they were written; others must be refused."""
    cache, good = open_cache(path), set()
    for key in cache.keys():  # noqa: SIM118
        try:
            video = cache[key]
            cache.meta(key)
        except StoreCorruptError:
            continue
        assert content(video) == content(VIDEOS[key])
        good.add(key)
    return good


def test_every_byte_of_a_small_shard_is_under_a_check(store):
    """Flip each byte of a record in turn, and each of the used header."""
    info = open_cache(store).info("v4")
    shard = store / "shards" / f"{info.shard}.safetensors"
    whole = shard.read_bytes()
    used = len(whole[: info.offset - info.offset % 16384].rstrip(b" "))
    for place in [*range(info.offset, info.offset + info.nbytes), *range(0, used, 7), used + 99]:
        flip(shard, place)
        report = verify(store)
        if info.offset <= place < info.offset + info.nbytes:
            assert list(report.bad) == ["v4"]
            assert report.num_ok == 5
            with pytest.raises(StoreCorruptError, match=r"'v4', has other bytes.*run verify"):
                open_cache(store)["v4"]
        else:
            assert report.problems
            assert report.bad == {}
        shard.write_bytes(whole)
    assert verify(store).ok


@given(data=st.data())
@settings(deadline=None, max_examples=60)
def test_a_flipped_bit_anywhere_is_found_and_the_rest_stays_readable(data, tmp_path_factory):
    store = tmp_path_factory.mktemp("s")
    write(store, dict(list(VIDEOS.items())[:3]))
    write(store, dict(list(VIDEOS.items())[3:]))
    if data.draw(st.booleans()):
        snapshot(LocalStorage(store), open_cache(store).manifest.id)
    files = sorted(p for p in store.rglob("*") if p.is_file())
    path = data.draw(st.sampled_from(files))
    place = data.draw(st.integers(0, path.stat().st_size - 1))
    flip(path, place, 1 << data.draw(st.integers(0, 7)))
    report = verify(store)
    assert not report.ok
    if path.name == "store.json":
        with pytest.raises(StoreError):
            open_cache(store)
    else:
        good = readable(store)
        assert set(VIDEOS) - good == set(report.bad)
        assert len(good) >= 5


@given(data=st.data())
@settings(deadline=None, max_examples=40)
def test_a_cut_file_is_found_and_the_rest_stays_readable(data, tmp_path_factory):
    store = tmp_path_factory.mktemp("s")
    write(store, dict(list(VIDEOS.items())[:3]))
    write(store, dict(list(VIDEOS.items())[3:]))
    path = data.draw(st.sampled_from(sorted(p for p in store.rglob("*") if p.is_file())))
    size = data.draw(st.one_of(st.just(0), st.integers(0, path.stat().st_size - 1)))
    os.truncate(path, size)
    report = verify(store)
    assert not report.ok
    if path.name == "store.json":
        with pytest.raises(StoreError):
            open_cache(store)
    else:
        good = readable(store)
        assert set(VIDEOS) - good == set(report.bad)
        assert len(good) >= (3 if path.parent.name == "shards" else 6)


@pytest.mark.parametrize("damage", [lambda p: p.unlink(), lambda p: flip(p, 700)])
@pytest.mark.parametrize("with_snapshot", [False, True])
def test_an_index_that_is_lost_or_damaged_is_read_from_the_shards(store, damage, with_snapshot):
    with CacheWriter(store, identity=IDENTITY) as writer:
        writer.remove("v1")
        writer.add("v2", VIDEOS["v2"])
    before = {e.key: e for e in open_cache(store).entries()}
    if with_snapshot:
        snapshot(LocalStorage(store), open_cache(store).manifest.id)
    for path in [*(store / "deltas").iterdir(), *(store / "index").iterdir()]:
        damage(path)
    assert {e.key: e for e in open_cache(store).entries()} == before
    assert readable(store) == set(VIDEOS) - {"v1"}
    assert not verify(store).ok
    assert verify(store).bad == {}


def test_delta_and_header_both_damaged_cost_that_shard_only(store):
    shard = open_cache(store).info("v0").shard
    flip(store / "deltas" / f"{shard}.safetensors", 700)
    flip(store / "shards" / f"{shard}.safetensors", 100)
    assert readable(store) == {"v3", "v4", "v5"}
    assert len(verify(store).problems) == 2


def test_a_lost_shard_names_its_records(store):
    shard = open_cache(store).info("v0").shard
    cache = open_cache(store)
    (store / "shards" / f"{shard}.safetensors").unlink()
    with pytest.raises(StoreCorruptError, match="'v0', is gone"):
        cache["v0"]
    report = verify(store)
    assert sorted(report.bad) == ["v0", "v1", "v2"]
    assert report.num_ok == 3


def test_a_damaged_store_json_is_told_and_the_records_are_checked_all_the_same(store):
    flip(store / "store.json", 40)
    with pytest.raises(StoreCorruptError, match=r"store\.json was changed"):
        open_cache(store)
    report = verify(store)
    assert len(report.problems) == 1
    assert report.num_ok == 6
    (store / "store.json").unlink()
    with pytest.raises(StoreCorruptError, match=r"has shards but no store\.json"):
        open_cache(store)
    with pytest.raises(StoreCorruptError, match=r"has shards but no store\.json"):
        CacheWriter(store, identity=IDENTITY)
    assert verify(store).num_ok == 6


def test_a_renamed_or_foreign_commit_is_found(store, tmp_path):
    a, b = sorted((store / "deltas").iterdir())
    data = a.read_bytes()
    a.write_bytes(b.read_bytes())
    assert not verify(store).ok
    assert readable(store) == set(VIDEOS)
    a.write_bytes(data)
    write(tmp_path / "other", {"x": tiny()})
    for folder in ("shards", "deltas"):
        (file,) = (tmp_path / "other" / folder).iterdir()
        (store / folder / file.name).write_bytes(file.read_bytes())
    assert any("another store" in problem for problem in verify(store).problems)


def test_without_verification_a_flipped_bit_goes_unseen(store):
    """The control: it is the hash that finds it, nothing else would."""
    from vidcomp.store import TokenCache

    info = open_cache(store).info("v4")
    flip(store / "shards" / f"{info.shard}.safetensors", info.offset + info.nbytes // 2)
    trusting = TokenCache(store, verify=False)
    assert content(trusting["v4"]) != content(VIDEOS["v4"])


def restamped_delta(store, **columns):
    """The delta of v0 with other columns, its check made right again."""
    import numpy as np

    shard = open_cache(store).info("v0").shard
    path = store / "deltas" / f"{shard}.safetensors"
    data = bytearray(path.read_bytes())
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    for name, value in columns.items():
        start, stop = header[name]["data_offsets"]
        kind = {"I64": "<i8", "U32": "<u4", "U64": "<u8"}[header[name]["dtype"]]
        array = np.frombuffer(bytes(data[8 + length + start : 8 + length + stop]), kind).copy()
        array.reshape(-1)[:] = value
        data[8 + length + start : 8 + length + stop] = array.tobytes()
    stamp_header(data)
    path.write_bytes(data)


@pytest.mark.parametrize(
    "columns",
    [
        {"offset": 2**62},
        {"offset": -64},
        {"offset": 2**63 - 64, "nbytes": 2**63 - 64},
        {"nbytes": 2**62},
        {"nbytes": 0},
        {"num_tokens": 2**60},
        {"num_tokens": -1},
        {"shard": 7},
        {"layout": 7},
        {"writer": 7},
        {"key_end": 2**60},
        {"key_end": -5},
        {"content_end": 99},
        {"nnz": -3},
    ],
    ids=str,
)
def test_a_malicious_index_is_refused_without_harm(store, columns):
    restamped_delta(store, **columns)
    assert readable(store) >= {"v3", "v4", "v5"}
    assert not verify(store).ok


def test_an_index_that_lies_about_the_grid_is_found_by_verify(store):
    restamped_delta(store, grid=2**20)
    assert open_cache(store)["v0"].grid == (2**20,) * 3
    assert {"v0", "v1", "v2"} == set(verify(store).bad)


@pytest.mark.parametrize("name", ["../../evil", "/etc/passwd", "a", ""])
def test_names_in_an_index_cannot_leave_the_folder(store, name):
    shard = open_cache(store).info("v0").shard
    path = store / "deltas" / f"{shard}.safetensors"
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    text = data[8 : 8 + length].replace(
        b'"shards":"[\\"' + shard.encode(), b'"shards":"[\\"' + name.encode()
    )
    text += b" " * (-len(text) % 64 - 8)
    out = bytearray(struct.pack("<Q", len(text)) + text + data[8 + length :])
    stamp_header(out)
    path.write_bytes(out)
    assert any("names that are no commits" in problem for problem in verify(store).problems)
    assert readable(store) == set(VIDEOS)


@given(junk=st.binary(max_size=200), length=st.integers(0, 2**64 - 1))
@settings(deadline=None, max_examples=100)
def test_any_bytes_as_a_header_are_refused(junk, length):
    from vidcomp.store.disk.header import parse_header

    data = struct.pack("<Q", length) + junk
    with pytest.raises(StoreCorruptError):
        parse_header(data, "vidcomp-shard", len(data), "x")
