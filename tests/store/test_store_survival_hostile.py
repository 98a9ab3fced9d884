"""A store that somebody made to do harm is refused: no crash, no hang, no memory, no other file."""

from pathlib import Path

import pytest
import store_forge as forge
import store_hostile
import store_hostile_files as files
import store_hostile_index as index
import torch
from store_builders import IDENTITY, bits, content, tiny, write
from store_limited import limited

from vidcomp.config import StoreSettings
from vidcomp.errors import ConfigError, StoreError
from vidcomp.store import (
    CacheWriter,
    TokenCache,
    compact,
    export,
    open_cache,
    recover,
    remove,
    repair,
    verify,
)
from vidcomp.types import Grid

FAMILIES = [
    index.numbers_in_headers,
    index.numbers_in_grids,
    index.columns_of_deltas,
    index.lists_in_metadata,
    index.removals,
    index.layouts,
    index.provenance,
    index.hashes_alike,
    index.overlaps,
    files.bombs,
    files.json_bombs,
    files.manifests,
    files.journals,
    files.sizes,
    files.kinds_of_files,
    files.files_that_are_replaced,
    files.folders,
    files.snapshots,
]


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.__name__)
def test_hostile_stores_are_refused(family):
    assert limited(store_hostile.some, family, 29) > 0


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.__name__)
def test_all_hostile_stores_are_refused(family):
    assert limited(family, seconds=600) > 1


def test_the_forged_commit_is_read_where_nothing_is_wrong_with_it(tmp_path):
    """The control: what the families change is what is refused."""
    store_hostile.good_store(tmp_path)
    forge.plant(tmp_path)
    cache = open_cache(tmp_path)
    assert content(cache["evil"]) == store_hostile.WANTED["v0"]
    assert verify(tmp_path).num_records == 5


def test_the_forged_journal_is_recovered_where_nothing_is_wrong_with_it(tmp_path):
    store_hostile.good_store(tmp_path)
    data, row, layout = forge.record(tmp_path)
    row = ["again", 16384, *row[2:6], 0, *row[7:]]
    forge.dead_journal(tmp_path, {"row": row, "layout": layout}, part=bytes(16384) + data)
    assert recover(tmp_path) == [forge.NAME]
    assert content(open_cache(tmp_path)["again"]) == store_hostile.WANTED["v0"]


@pytest.mark.parametrize("act", [recover, repair, lambda p: repair(p, force_recover=True)])
def test_a_part_that_is_a_link_does_not_write_to_where_it_leads(tmp_path, act):
    store = store_hostile.good_store(tmp_path / "store")
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious" * 10_000)
    part = forge.dead_journal(store, {"removed": ["v0", 1]}, part=None)
    part.symlink_to(victim)
    store_hostile.refused(act, store)
    assert victim.read_bytes() == b"precious" * 10_000
    part.unlink(missing_ok=True)
    (store / "wal" / f"{forge.NAME}.journal").unlink(missing_ok=True)
    journal = tmp_path / "journal"
    journal.write_bytes(b"also precious")
    (store / "wal" / f"{forge.NAME}.journal").symlink_to(journal)
    store_hostile.refused(act, store)
    assert journal.read_bytes() == b"also precious"
    assert set(open_cache(store).keys()) >= {"v1", "v2", "v3"}


def test_a_link_to_a_whole_shard_is_as_good_as_the_shard(tmp_path):
    """Shards may lie on another disk; nothing is written through the link."""
    store = write(tmp_path / "store", {f"v{i}": tiny(seed=i) for i in range(3)})
    (shard,) = (store / "shards").iterdir()
    moved = shard.rename(tmp_path / shard.name)
    shard.symlink_to(moved)
    before = moved.read_bytes()
    assert verify(store).ok
    assert bits(open_cache(store)["v1"].tokens) == bits(tiny(seed=1).tokens)
    with CacheWriter(store, identity=IDENTITY) as writer:
        writer.remove("v0")
    compact(store, grace_s=0, min_live=1.0)
    compact(store, grace_s=0, min_live=1.0)
    assert open_cache(store).keys() == ["v1", "v2"]
    assert moved.read_bytes() == before


PATHS = ["../out", "../../out", "/tmp/vidcomp-out", "a/../../../out", "..", ".", "a/..", "~/out",
         "..\\out", "C:\\out", "a\x00b", "con", "nul.mp4", "x" * 5000, "a//b", "a/./b", "-rf",
         "\udc80", "%2e%2e/out", "a\nb"]  # fmt: skip


@pytest.mark.parametrize("form", ["safetensors", "npy", "webdataset"])
def test_keys_lead_nowhere(tmp_path, form):
    store = write(tmp_path / "inner" / "store", {key: tiny(seed=1) for key in PATHS})
    out = tmp_path / "inner" / "deep" / "out"
    before = set(tmp_path.rglob("*"))
    assert set(open_cache(store).keys()) == set(PATHS)
    export(store, out, format=form)
    made = set(tmp_path.rglob("*")) - before
    assert len(made) > 2
    assert all(out in {path, *path.parents} or path in out.parents for path in made)
    assert not Path("/tmp/vidcomp-out").exists()
    assert not any(path.is_symlink() for path in made)
    remove(store, PATHS)
    assert len(open_cache(store)) == 0
    assert (tmp_path / "inner" / "deep" / "out").exists()


W = "a" * 32
PINS = [
    "",
    "[]",
    "null",
    "[5,{}]",
    "[null,[[1,2]]]",
    '{"a":1,"b":2}',
    "[" * 10**5,
    '["../x",{}]',
    '["/etc/passwd",{}]',
    '[null,{"a":[0,0]}]',
    '[null,{"../../x":[0,0]}]',
    f'[null,{{"{W}":[0,4611686018427387904]}}]',
    f'[null,{{"{W}":[-5,0]}}]',
    f'[null,{{"{W}":[0,1e9]}}]',
    f'[null,{{"{W}":[0]}}]',
    f'[null,{{"{W}":{{"a":1}}}}]',
]


@pytest.mark.parametrize("pin", PINS, ids=lambda pin: pin[:30])
def test_a_pin_is_held_to_what_it_can_be(tmp_path, pin):
    write(tmp_path, {"v": tiny()})
    with pytest.raises(ConfigError, match=r"a pin is the text that TokenCache.pin gave"):
        TokenCache(tmp_path).at(pin)


def test_a_pin_of_commits_that_are_gone_is_one_sentence(tmp_path):
    write(tmp_path, {"v": tiny()})
    with pytest.raises(StoreError, match="pinned state is gone"):
        TokenCache(tmp_path).at('[null,{"%s":[0,3]}]' % ("a" * 32))


def test_a_shard_of_another_store_is_not_taken_for_one_of_this(tmp_path):
    """Copied in without its delta, it looks like one that lost it."""
    here = write(tmp_path / "here", {"v": tiny(seed=1)})
    other = write(tmp_path / "other", {"v": tiny(seed=2), "w": tiny(seed=3)})
    (shard,) = (other / "shards").iterdir()
    (here / "shards" / shard.name).write_bytes(shard.read_bytes())
    for _ in range(2):
        cache = open_cache(here)
        assert cache.keys() == ["v"]
        assert bits(cache["v"].tokens) == bits(tiny(seed=1).tokens)
        assert any("another store" in problem for problem in verify(here).problems)
        delta = other / "deltas" / shard.name
        (here / "deltas" / shard.name).write_bytes(delta.read_bytes())
    with CacheWriter(here, identity=IDENTITY) as writer:
        assert set(writer.committed()) == {"v"}


def test_what_no_reader_would_take_is_not_written(tmp_path):
    many = tiny(3, extras={"deep": torch.zeros(3, *[1] * 40)})
    kept = StoreSettings(extras=("deep",))
    writer = CacheWriter(tmp_path, identity={}, settings=kept)
    with writer, pytest.raises(StoreError, match="no record can hold"):
        writer.add("v", many)
    video = tiny(3, assign=None)
    for grid in (Grid(2**31, 2**31, 1), Grid(-1, 1, 1)):
        wrong = type(video)(tokens=video.tokens, positions=video.positions, spans=video.spans,
                            mass=video.mass, grid=grid)  # fmt: skip
        writer = CacheWriter(tmp_path / "b", identity={})
        with writer, pytest.raises(StoreError, match="which cannot be stored"):
            writer.add("v", wrong)
    assert len(open_cache(tmp_path)) == 0
