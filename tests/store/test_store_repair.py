"""A repaired store is whole, and everything that could be read still can."""

import json
import os
import shutil

import pytest
import store_maintain_child as child
from hypothesis import given, settings
from hypothesis import strategies as st
from store_builders import IDENTITY, content, tiny, write

from vidcomp.errors import StoreCorruptError, StoreError, StoreMissError
from vidcomp.store import CacheWriter, open_cache, recover, verify
from vidcomp.store.commit import journal_path, snapshot
from vidcomp.store.journal import line
from vidcomp.store.local import LocalStorage
from vidcomp.store.upkeep.compact import compact
from vidcomp.store.upkeep.repair import repair


def filled(path):
    """Three commits that overlap, one of them with removals; a snapshot of the first two."""
    write(path, {f"v{i}": tiny(seed=i) for i in range(4)})
    write(path, {f"v{i}": tiny(seed=10 + i) for i in range(2, 6)})
    snapshot(LocalStorage(path), open_cache(path).manifest.id)
    with CacheWriter(path, identity=IDENTITY) as writer:
        writer.add("v6", tiny(seed=20))
        writer.remove("v3")
    return path


def files(path):
    """All files with their bytes."""
    return {str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*") if p.is_file()}


def flip(path, place, mask=1):
    data = bytearray(path.read_bytes())
    data[place] ^= mask
    path.write_bytes(data)


def readable(path):
    """Key to content of what can be read; nothing if the store cannot be opened."""
    out = {}
    try:
        cache = open_cache(path)
    except StoreError:
        return out
    for key in cache.keys():  # noqa: SIM118
        try:
            out[key] = content(cache[key])
            cache.meta(key)
        except StoreError:
            out.pop(key, None)
    return out


def assert_whole(path):
    report = verify(path)
    assert (report.problems, report.bad) == ([], {})
    before = files(path)
    again = repair(path)
    assert not again.changed
    assert (again.bad, again.quarantined, again.left) == ({}, [], [])
    assert files(path) == before


def shard_of(path, key):
    return path / "shards" / f"{open_cache(path).info(key).shard}.safetensors"


def delta_of(path, key):
    return path / "deltas" / f"{open_cache(path).info(key).shard}.safetensors"


def test_a_healthy_store_is_left_as_it_is(tmp_path):
    path = filled(tmp_path / "store")
    before = files(path)
    report = repair(path)
    assert not report.changed
    assert report.num_records == len(open_cache(path)) == 6
    assert files(path) == before
    compact(path)  # one with retired commits is healthy, too
    before = files(path)
    assert not repair(path).changed
    assert files(path) == before


@given(data=st.data())
@settings(deadline=None, max_examples=60)
def test_whatever_is_damaged_what_was_readable_stays_so(data, tmp_path_factory):
    path = filled(tmp_path_factory.mktemp("s") / "store")
    if data.draw(st.booleans()):
        compact(path)
    whole = readable(path)
    commits = {file.name for file in (path / "shards").iterdir()}
    for _ in range(data.draw(st.integers(1, 3))):
        found = sorted(p for p in path.rglob("*") if p.is_file())
        # Names are random, so a draw must not depend on what is in the files.
        any_place = st.integers(0, 2**30)
        file = found[data.draw(any_place) % len(found)]
        size = file.stat().st_size
        kind = data.draw(st.sampled_from(["flip", "cut", "empty", "lose"]))
        if kind == "flip":
            for _ in range(data.draw(st.integers(1, 3))):
                place, bit = data.draw(any_place), data.draw(st.integers(0, 7))
                if size:
                    flip(file, place % size, 1 << bit)
        elif kind == "cut":
            os.truncate(file, data.draw(any_place) % (size + 1))
        elif kind == "empty":
            file.write_bytes(b"")
        else:
            file.unlink()
    before, bytes_before = readable(path), files(path)
    left = {file.name for folder in ("shards", "deltas") for file in (path / folder).iterdir()}
    try:
        said = repair(path, dry_run=True)
        assert files(path) == bytes_before
        report = repair(path)
    except (StoreCorruptError, StoreMissError):
        # Without store.json and any whole header of a shard, nobody can know what the store is.
        assert before == {}
        return
    assert said.actions == report.actions
    after = readable(path)
    # If nothing tells any more what a commit held, older records of its keys come up.
    forgotten = commits - left or "gave up the records" in " ".join(report.actions)
    for key, video in before.items():
        if video == whole.get(key):
            assert after.get(key) == video
    if not forgotten:
        assert set(whole) - set(after) == set(report.bad)
        assert all(video == whole[key] for key, video in after.items())
    for name in report.quarantined:
        assert (path / name).exists()
    assert_whole(path)


@pytest.mark.parametrize("damage", [lambda p: p.unlink(), lambda p: flip(p, 300)])
@pytest.mark.parametrize("folder", ["deltas", "index", "."])
def test_every_index_is_written_again(tmp_path, damage, folder):
    path = filled(tmp_path / "store")
    whole = readable(path)
    for file in sorted((path / folder).iterdir()):
        if file.is_file():
            damage(file)
    report = repair(path)
    assert report.bad == {}
    assert readable(path) == whole
    assert_whole(path)


def test_a_damaged_record_becomes_missing_and_can_be_extracted_again(tmp_path):
    path = filled(tmp_path / "store")
    info, whole = open_cache(path).info("v4"), readable(path)
    flip(shard_of(path, "v4"), info.offset + 5)
    report = repair(path)
    assert list(report.bad) == ["v4"]
    assert "bytes are not those" in report.bad["v4"]
    assert "v4" not in open_cache(path)
    assert readable(path) == {k: v for k, v in whole.items() if k != "v4"}
    assert_whole(path)
    with CacheWriter(path, identity=IDENTITY) as writer:
        assert "v4" not in writer.committed()
        assert writer.add("v4", tiny(seed=14)).generation > info.generation
    assert readable(path)["v4"] == whole["v4"]


def test_an_older_record_does_not_come_up_in_the_place_of_a_damaged_one(tmp_path):
    path = filled(tmp_path / "store")
    info = open_cache(path).info("v2")
    assert info.generation == 2
    flip(shard_of(path, "v2"), info.offset + 5)
    repair(path)
    assert "v2" not in open_cache(path)
    assert_whole(path)


def test_a_damaged_header_costs_no_record(tmp_path):
    path = filled(tmp_path / "store")
    whole, old = readable(path), shard_of(path, "v4")
    flip(old, 100)
    bytes_before = old.read_bytes()
    report = repair(path)
    assert (report.bad, report.num_rescued) == ({}, 4 - 1)  # v3 of this shard is removed
    assert readable(path) == whole
    assert not old.exists()
    assert (path / "quarantine" / "shards" / old.name).read_bytes() == bytes_before
    assert_whole(path)


def test_a_cut_shard_keeps_what_is_left(tmp_path):
    path = filled(tmp_path / "store")
    whole, info = readable(path), open_cache(path).info("v5")
    shard = shard_of(path, "v5")
    delta_of(path, "v5").unlink()  # its own header tells what is in it
    os.truncate(shard, info.offset + 64)
    report = repair(path)
    assert list(report.bad) == ["v5"]
    assert readable(path) == {k: v for k, v in whole.items() if k != "v5"}
    assert_whole(path)


def test_a_lost_shard_takes_its_records_along_and_no_removal(tmp_path):
    path = filled(tmp_path / "store")
    whole = readable(path)
    shard_of(path, "v6").unlink()
    report = repair(path)
    assert list(report.bad) == ["v6"]
    assert readable(path) == {k: v for k, v in whole.items() if k != "v6"}  # v3 stays removed
    assert_whole(path)


def test_a_shard_of_another_store_is_set_aside(tmp_path):
    path = filled(tmp_path / "store")
    whole = readable(path)
    other = write(tmp_path / "other", {"foreign": tiny()})
    for folder in ("shards", "deltas"):
        for file in (other / folder).iterdir():
            shutil.copy(file, path / folder)
    report = repair(path)
    assert any("another store" in action for action in report.actions)
    assert readable(path) == whole
    assert_whole(path)


def test_a_copy_that_a_compaction_left_saves_a_damaged_record(tmp_path):
    path = filled(tmp_path / "store")
    old, whole = shard_of(path, "v5"), readable(path)
    compact(path)
    info = open_cache(path).info("v5")
    assert shard_of(path, "v5") != old
    flip(shard_of(path, "v5"), info.offset + 3)
    report = repair(path)
    assert report.bad == {}
    assert any("another copy" in action for action in report.actions)
    assert readable(path) == whole
    assert_whole(path)


def test_a_lost_copy_brings_the_retired_shards_back(tmp_path):
    path = filled(tmp_path / "store")
    whole = readable(path)
    (made,) = compact(path).made
    for folder in ("shards", "deltas"):
        (path / folder / f"{made}.safetensors").unlink()
    report = repair(path)
    assert report.bad == {}
    assert readable(path) == whole
    compact(path, grace_s=0)
    compact(path, grace_s=0)
    assert readable(path) == whole
    assert_whole(path)


def test_a_store_without_any_copy_of_its_manifest_is_not_guessed(tmp_path):
    path = filled(tmp_path / "store")
    (path / "store.json").unlink()
    for file in (path / "shards").iterdir():
        flip(file, 100)
    with pytest.raises(StoreCorruptError, match="restore it from a backup"):
        repair(path)
    with pytest.raises(StoreMissError):
        repair(tmp_path / "nothing")


@pytest.fixture
def abandoned(tmp_path):
    """A store with a part of a writer that was killed; its folder and the journal's path."""
    path = tmp_path / "store"
    write(path, {"w": tiny(seed=99)})
    writer = CacheWriter(path, identity=IDENTITY)
    for i in range(5):
        writer.add(f"v{i}", tiny(seed=i))
    name = writer._part.name
    writer._part.close()
    return path, journal_path(path / "wal", name)


def of_another_machine(journal):
    first, rest = journal.read_bytes().split(b"\n", 1)
    owner = {**json.loads(first.split(b" ", 1)[1]), "host": "elsewhere", "machine": "m"}
    journal.write_bytes(line(owner) + rest)


def test_writers_of_other_machines_are_recovered_only_by_force(abandoned):
    path, journal = abandoned
    of_another_machine(journal)
    before = files(path)
    report = repair(path)
    assert not report.changed
    assert files(path) == before
    (left,) = report.left
    assert "'elsewhere'" in left
    assert "force_recover" in left
    report = repair(path, force_recover=True)
    assert report.recovered == [journal.stem]
    assert sorted(readable(path)) == ["v0", "v1", "v2", "v3", "v4", "w"]
    assert_whole(path)


def test_force_does_not_touch_a_writer_that_is_seen_to_live(tmp_path):
    path = tmp_path / "store"
    with CacheWriter(path, identity=IDENTITY) as writer:
        writer.add("v", tiny())
        (journal,) = (path / "wal").glob("*.journal")
        of_another_machine(journal)
        assert repair(path, force_recover=True).recovered == []
        writer.add("w", tiny())
    assert open_cache(path).keys() == ["v", "w"]


def test_a_journal_without_its_first_line_costs_nothing(abandoned):
    path, journal = abandoned
    flip(journal, 40)
    assert recover(path) == []
    assert not verify(path).ok
    report = repair(path)
    assert report.recovered == [journal.stem]
    assert sorted(readable(path)) == ["v0", "v1", "v2", "v3", "v4", "w"]
    assert_whole(path)


def test_a_journal_that_is_nothing_and_a_part_without_one_are_set_aside(abandoned):
    path, journal = abandoned
    part = journal.with_suffix(".part")
    journal.write_bytes(b"\x00" * 500)
    alone = part.with_name("0" * 32 + "-000000.part")
    shutil.copy(part, alone)
    report = repair(path)
    assert len(report.quarantined) == 3
    assert list((path / "wal").iterdir()) == []
    assert readable(path).keys() == {"w"}
    assert_whole(path)


def damage_all_sorts(path):
    """A damaged header, a damaged record, a lost delta, a damaged snapshot, a lost store.json."""
    info = open_cache(path).info("v6")
    flip(shard_of(path, "v6"), info.offset + 9)
    delta_of(path, "v6").unlink()
    flip(shard_of(path, "v4"), 200)
    for file in (path / "index").iterdir():
        flip(file, 500)
    (path / "store.json").unlink()


def test_killed_before_every_step(tmp_path):
    filled(tmp_path / "template")
    damage_all_sorts(tmp_path / "template")
    shutil.copytree(tmp_path / "template", tmp_path / "done")
    done = repair(tmp_path / "done")
    wanted, deaths = readable(tmp_path / "done"), 0
    assert sorted(wanted) == ["v0", "v1", "v2", "v4", "v5"]
    assert list(done.bad) == ["v6"]
    while True:
        path = tmp_path / str(deaths)
        shutil.copytree(tmp_path / "template", path)
        killed = child.die_in(child.repair_now, deaths, path)
        repair(path)
        assert readable(path) == wanted
        assert verify(path).problems == []
        shutil.rmtree(path)
        if not killed:
            break
        deaths += 1
    assert deaths > 20
