"""Tables agree with a plain dictionary, whatever is merged and however hashes collide."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from store_builders import IDENTITY, tiny, write

from vidcomp.errors import StoreCorruptError, StoreError
from vidcomp.store import open_cache
from vidcomp.store.commit import snapshot
from vidcomp.store.disk.index import Table
from vidcomp.store.disk.layout import Counts, Field, Layout
from vidcomp.store.disk.merge import merge_tables
from vidcomp.store.disk.types import Row, SourceId
from vidcomp.store.local import LocalStorage
from vidcomp.store.view import View, load_view
from vidcomp.store.writer import CacheWriter
from vidcomp.types import Grid

WRITERS = [letter * 32 for letter in "abc"]
LAYOUTS = [
    Layout(
        (
            Field("spans", "F32", ("N", 2)),
            Field("positions", "F32", ("N", 3)),
            Field("mass", "F32", ("N",)),
            Field("tokens", "BF16", ("N", dim)),
        )
    )
    for dim in (4, 8)
]


@st.composite
def rows(draw):
    key = draw(st.sampled_from(["a", "b", "c/ä", "d" * 40, "%25", "é"]))
    rank = draw(st.integers(1, 5)), draw(st.sampled_from(WRITERS))
    if draw(st.booleans()):
        return Row(key, *rank)
    # Two rows of one rank are one record, so what they say follows from key and rank.
    seed = sum(map(ord, key)) + 7 * rank[0] + ord(rank[1][0])
    return Row(
        key,
        *rank,
        shard=f"{rank[1]}-{seed % 3:06d}",
        offset=64 * seed,
        nbytes=64 * (1 + seed % 5),
        checksum=2**64 - seed,
        counts=Counts(seed % 11, Grid(1 + seed % 3, 2, 3), seed % 4),
        layout=LAYOUTS[seed % 2],
        source=None
        if seed % 4 == 0
        else SourceId(size=seed, mtime_ns=seed**5, content="" if seed % 2 else f"h{seed}"),
    )


def distinct(found):
    """Rows without those whose rank another row of the same key has, in another role."""
    out = {}
    for row in found:
        out.setdefault((row.key, row.rank), row)
    return list(out.values())


def model(found):
    """The slow twin: the row of the largest rank of each key."""
    best = {}
    for row in found:
        if row.key not in best or row.rank > best[row.key].rank:
            best[row.key] = row
    return best


@pytest.fixture(params=["plain", "colliding"])
def hashing(request, monkeypatch):
    """The real hash, and one that knows only three values."""
    if request.param == "colliding":
        monkeypatch.setattr("vidcomp.store.disk.index.digest", lambda data: len(data) % 3)


@pytest.mark.usefixtures("hashing")
def test_a_table_is_a_dictionary_and_survives_its_bytes():
    @given(found=st.lists(rows(), max_size=12).map(distinct))
    @settings(deadline=None, max_examples=60)
    def law(found):
        table = Table.of_rows("s", ["a" * 32 + "-000000"], found)
        again = Table.read(table.write(), "x")
        for some in (table, again):
            assert {row.key: row for row in some.rows()} == model(found)
            for key in ("a", "b", "c/ä", "d" * 40, "%25", "é", "missing"):
                place = some.find(key)
                assert (None if place is None else some.row(place)) == model(found).get(key)
        assert again.write() == table.write()

    law()


@pytest.mark.usefixtures("hashing")
def test_merging_tables_is_merging_dictionaries():
    @given(found=st.lists(rows(), max_size=25).map(distinct), cuts=st.lists(st.integers(0, 25)))
    @settings(deadline=None, max_examples=100)
    def law(found, cuts):
        edges = [0, *sorted(min(cut, len(found)) for cut in cuts), len(found)]
        parts = [found[a:b] for a, b in pairwise(edges)]
        tables = [Table.of_rows("s", [], part) for part in parts]
        merged = merge_tables("s", [], tables)
        assert {row.key: row for row in merged.rows()} == model(found)
        whole = Table.of_rows("s", [], found)
        assert list(merged.rows()) == list(whole.rows())
        for key in model(found):
            assert merged.row(merged.find(key)) == model(found)[key]
        sources = {key: row.source for key, row in model(found).items() if not row.removed}
        live = [i for i in range(len(merged)) if not merged.removed(i)]
        assert {merged.key(i): merged.source(i) for i in live} == sources

    law()


@pytest.mark.usefixtures("hashing")
def test_a_view_of_snapshot_and_later_commits_is_a_dictionary():
    @given(found=st.lists(rows(), max_size=20).map(distinct), cut=st.integers(0, 20))
    @settings(deadline=None, max_examples=100)
    def law(found, cut):
        tables = tuple(Table.of_rows("s", [], part) for part in (found[:cut], found[cut:]))
        view = View(tables, "x", frozenset())
        valid = {key: row for key, row in model(found).items() if not row.removed}
        assert len(view) == len(valid)
        assert {t.row(i).key: t.row(i) for t, i in view.places()} == valid
        for key in ("a", "b", "c/ä", "d" * 40, "missing"):
            assert view.row(key) == valid.get(key)
            generations = [row.generation for row in found if row.key == key]
            assert view.generation(key) == max(generations, default=0)

    law()


def test_snapshot_deltas_and_headers_tell_the_same(tmp_path):
    with CacheWriter(tmp_path, identity=IDENTITY, seal_bytes=2_000) as writer:
        for i in range(30):
            writer.add(f"v{i % 20}", tiny(seed=i), {}, SourceId(size=i, mtime_ns=i, content=str(i)))
        writer.remove("v3")
    store = writer.manifest.id

    def told():
        view = load_view(LocalStorage(tmp_path), store)
        return {t.row(i).key: t.row(i) for t, i in view.places()}, bool(view.damaged)

    from_deltas = told()
    name = snapshot(LocalStorage(tmp_path), store)
    assert snapshot(LocalStorage(tmp_path), store) is None  # nothing new
    from_snapshot = told()
    (tmp_path / "index" / f"{name}.safetensors").unlink()
    for delta in (tmp_path / "deltas").iterdir():
        delta.unlink()
    from_headers = told()
    assert from_deltas == from_snapshot
    assert from_headers == (from_deltas[0], True)
    assert len(from_deltas[0]) == 19


def test_opening_with_an_index_reads_no_shard(tmp_path, monkeypatch):
    write(tmp_path, {f"v{i}": tiny(seed=i) for i in range(5)})

    def forbidden(*args):
        raise AssertionError("a shard was opened")

    monkeypatch.setattr("vidcomp.store.view.read_shard_header", forbidden)
    monkeypatch.setattr("vidcomp.store.local.OpenFile.__init__", forbidden)
    cache = open_cache(tmp_path)
    assert len(cache.keys()) == 5
    assert cache.info("v3").num_tokens == 5


def test_the_newest_whole_snapshot_is_taken(tmp_path):
    for i in range(3):
        write(tmp_path, {f"v{i}": tiny(seed=i)})
        snapshot(LocalStorage(tmp_path), open_cache(tmp_path).manifest.id)
    old, _, newest = sorted((tmp_path / "index").iterdir())
    newest.write_bytes(newest.read_bytes()[:-10])
    assert open_cache(tmp_path).keys() == ["v0", "v1", "v2"]
    old.unlink()
    assert open_cache(tmp_path).keys() == ["v0", "v1", "v2"]


def test_files_that_vanish_while_the_index_is_read_are_listed_again(tmp_path, monkeypatch):
    """As when a compaction replaces deltas by a snapshot in that moment."""
    from vidcomp.store import view

    write(tmp_path, {"a": tiny(seed=1)})
    write(tmp_path, {"b": tiny(seed=2)})
    store = open_cache(tmp_path).manifest.id
    real, calls = view.load_commit, []

    def vanishing(root, name, store, damaged):
        if not calls:
            snapshot_later()
        calls.append(name)
        return real(root, name, store, damaged)

    def snapshot_later():
        monkeypatch.setattr(view, "load_commit", real)
        snapshot(LocalStorage(tmp_path), store)
        for folder in ("deltas", "shards"):
            for path in (tmp_path / folder).iterdir():
                path.unlink()
        monkeypatch.setattr(view, "load_commit", vanishing)

    monkeypatch.setattr(view, "load_commit", vanishing)
    loaded = load_view(LocalStorage(tmp_path), store)
    assert len(loaded) == 2
    assert loaded.snapshot is not None
    with pytest.raises(StoreError, match="vanished"):
        load_view(LocalStorage(tmp_path), store, (None, ("a" * 32 + "-000000",)))


def test_a_column_that_is_missing_or_of_another_type_is_refused():
    table = Table.of_rows("s", [], [])
    columns = dict(table.columns)
    del columns["offset"]
    broken = Table("s", (), (), (), (), columns)
    with pytest.raises(KeyError):
        broken.write()
    data = table.write()
    with pytest.raises(StoreCorruptError):
        Table.read(data[: len(data) // 2], "x")


def test_a_thousand_deltas_over_a_snapshot():
    one = Table.of_rows("s", [], [Row(f"{i:06d}", 1, WRITERS[0]) for i in range(1000)])
    many = [
        Table.of_rows("s", [], [Row(f"{i:06d}", 1, WRITERS[1])]) for i in range(0, 100_000, 100)
    ]
    merged = merge_tables("s", [], [one, *many])
    assert len(merged) == 1000 + 1000 - 10
    assert merged.rank(merged.find("000100")) == (1, WRITERS[1])
    assert merged.rank(merged.find("000101")) == (1, WRITERS[0])
    assert np.all(merged.columns["key_hash"][1:] >= merged.columns["key_hash"][:-1])
