"""Any damage to any files: what is read is what was written, or it is refused; the rest stays."""

import random
import shutil
import struct
from functools import cache as once

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from store_builders import IDENTITY, bits, content, tiny, write

from vidcomp.config import StoreSettings
from vidcomp.errors import StoreCorruptError, StoreError, StoreMissError
from vidcomp.store import CacheWriter, compact, merge, open_cache, recover, repair, verify
from vidcomp.store.commit import snapshot
from vidcomp.store.disk.rows import in_window
from vidcomp.store.local import LocalStorage

FORMS = [
    {"assign": True, "extras": ("s",)},
    {"dtype": "int8", "frame_extras": ("f",)},
    {"codec": "zstd", "assign": True},
    {"dtype": "int8", "codec": "zstd"},
    {"dtype": "float32"},
]
REFUSED = (StoreCorruptError, StoreMissError)


def video(seed):
    n = (0, 1, 7, 64, 65, 200)[seed % 6]
    return tiny(n, 9, seed, extras={"s": torch.full((n, 2), seed)},
                frame_extras={"f": torch.full((2,), seed)})  # fmt: skip


class Base:
    """A good store, another one, and the contents that each key ever had."""

    def __init__(self, path, other, ever):
        self.path, self.other, self.ever = path, other, ever

    def __repr__(self):
        return "Base()"


def forms():
    """The last ones are what the others have, put together otherwise."""
    for i, form in enumerate(FORMS):
        yield pytest.param(i, id=str(form), marks=[pytest.mark.slow] if i > 2 else [])


@pytest.fixture(scope="module", params=forms())
def base(request, tmp_path_factory):
    """A store with all there can be in one, another one, and what each key ever was."""
    kept = StoreSettings(**FORMS[request.param])
    folder = tmp_path_factory.mktemp("base")
    path, ever = folder / "store", {}

    def put(pairs, *, remove=()):
        with CacheWriter(path, identity=IDENTITY, settings=kept) as writer:
            for key, seed in pairs:
                writer.add(key, video(seed), {"seed": seed})
            for key in remove:
                writer.remove(key)
        shown = open_cache(path)
        for key in shown.keys():  # noqa: SIM118
            ever.setdefault(key, []).append(content(shown[key]))

    put([("a", 1), ("b", 2), ("c", 3)])
    put([("b", 4), ("d", 5), ("e/ä", 6)])
    snapshot(LocalStorage(path), open_cache(path).manifest.id)
    put([("f", 7), ("a", 8)], remove=["c"])
    put([("g", 9), ("h", 10)])
    left = CacheWriter(path, identity=IDENTITY, settings=kept)
    left.add("open", video(11), {"seed": 11})
    left._part.close()  # as if its process had died
    left._closed = True
    shutil.copytree(path, folder / "later")
    recover(folder / "later")
    shown = open_cache(folder / "later")
    ever["open"] = [content(shown["open"])]
    other = write(folder / "other", {"a": video(12), "x": video(13)}, settings=kept)
    return Base(path, other, ever)


@once
def infos(path):
    return {info.key: info for info in open_cache(path).entries()}


KINDS = ["flip", "flips", "cut", "empty", "zeros", "hole", "noise", "longer", "gone", "swap",
         "foreign", "stranger"]  # fmt: skip
ACTS = st.tuples(st.sampled_from(KINDS), st.integers(0, 99), st.integers(0, 2**32))
"""What is done, to which file, and how."""


def damage(act, path, other):
    """Do something to one file; its name, or two that were swapped."""
    kind, number, seed = act
    files = sorted(p for p in path.rglob("*") if p.is_file())
    target = files[number % len(files)]
    return do_damage(kind, target, random.Random(seed), files, other)


def do_damage(kind, target, rng, files, other):
    raw = bytearray(target.read_bytes())
    size = max(len(raw), 1)
    first = rng.randrange(size)
    last = min(len(raw), first + rng.choice([1, 8, 64, 700, 10**6]))
    if kind in ("flip", "flips"):
        for _ in range(1 if kind == "flip" else 20):
            if raw:
                raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
    elif kind == "cut":
        raw = raw[:first]
    elif kind == "empty":
        raw = bytearray()
    elif kind == "zeros":
        raw = bytearray(len(raw))
    elif kind == "hole":
        raw[first:last] = bytes(last - first)
    elif kind == "noise":
        raw[first:last] = rng.randbytes(last - first)
    elif kind == "longer":
        raw += rng.choice([b"\0", rng.randbytes(64), bytes(5000), bytes(raw)])
    elif kind == "gone":
        target.unlink()
        return [target]
    elif kind == "swap":
        second = rng.choice(files)
        raw, theirs = second.read_bytes(), bytes(raw)
        second.write_bytes(theirs)
        target.write_bytes(raw)
        return [target, second]
    elif kind == "foreign":  # the same kind of file, from another store
        (raw,) = [p.read_bytes() for p in (other / target.parent.name).glob("*")][:1] or [b"x"]
    else:  # a shard of another store is copied in
        for folder in rng.choice([("shards",), ("shards", "deltas")]):
            for file in (other / folder).iterdir():
                shutil.copy(file, root_of(target) / folder / file.name)
        return []
    target.write_bytes(raw)
    return [target]


def root_of(file):
    return file.parent if file.name == "store.json" else file.parent.parent


def reads(cache, key):
    """What each door gives: a video, or None if it refuses; and the rows that it should be of."""
    sel = cache.select([key])
    whole = tried(lambda: cache[key])
    n = int(sel.num_tokens[0])
    yield "[]", whole, None
    yield "get_many", tried(lambda: cache.get_many([key])[0]), None
    yield "select[]", tried(lambda: sel[0]), None
    yield "batch", tried(lambda: sel.batch([0, 0])[1]), None
    yield (
        "rows",
        tried(lambda: cache.rows(key, n // 3, n // 2 + 1 if n else 0)),
        (torch.arange(n // 3, n // 2 + 1 if n else 0)),
    )
    yield "window", tried(lambda: cache.window(key, 0.3, 0.5)), "window"
    if whole is not None and n and cache.info(key).dim:
        out = torch.empty(n + 3, *whole.tokens.shape[1:], dtype=whole.tokens.dtype)
        yield "read_into", tried(lambda: cache.read_into(key, out)), None
    tried(lambda: cache.meta(key))


def tried(read):
    try:
        return read()
    except REFUSED:
        return None


def check(path, ever, spoiled):
    """All doors give one of the values a key ever had, or refuse; whole shards give the latest."""
    try:
        cache = open_cache(path)
    except StoreError:
        assert any(p.name == "store.json" for p in spoiled)
        return
    wholes = {e.key for e in cache.entries()}
    assert wholes <= ever.keys()
    bad_shards = {p.stem for p in spoiled if p.parent.name == "shards"}
    single = len(spoiled) <= 1
    for key in cache.keys():  # noqa: SIM118
        wanted = ever[key][-1:] if single else ever[key]
        for door, found, part in reads(cache, key):
            if found is None:
                assert cache.info(key).shard in bad_shards, (door, key)
                continue
            assert any(is_same(found, value, part) for value in wanted), (door, key)
    if single:
        latest = {key for key in ever if key not in ("c", "open")}
        assert latest - wholes <= set() or bad_shards


def is_same(found, value, part):
    """Whether a video is, or is those rows of, one that was written."""
    if part is None:
        return content(found) == value
    whole = {name: rebuilt(value[name]) for name in ("spans", "tokens", "positions", "mass")}
    spans = whole["spans"]
    index = in_window(spans, 0.3, 0.5) if isinstance(part, str) else part
    if len(index) and int(index[-1]) >= len(spans):
        return False
    return all(bits(getattr(found, name)) == bits(rows[index]) for name, rows in whole.items())


def rebuilt(field):
    """The tensor of a field of a content."""
    dtype, shape, raw = field
    return (
        torch.frombuffer(bytearray(raw), dtype=dtype).view(shape)
        if raw
        else torch.empty(shape, dtype=dtype)
    )


@given(act=ACTS)
@settings(deadline=None, max_examples=25)
def test_one_damaged_file_is_found_and_nothing_wrong_is_read(base, act, tmp_path_factory):
    good, other, ever = base.path, base.other, base.ever
    path = tmp_path_factory.mktemp("s") / "store"
    shutil.copytree(good, path)
    before = {p: p.read_bytes() for p in path.rglob("*") if p.is_file()}
    spoiled = damage(act, path, other)
    after = {p: p.read_bytes() for p in path.rglob("*") if p.is_file()}
    check(path, ever, spoiled)
    report = verify_or_none(path)
    if report is not None and report.ok:
        assert is_harmless(path, before, after)
    repair_or_refuse(path)
    check(path, ever, spoiled)
    shutil.rmtree(path)


def verify_or_none(path):
    try:
        return verify(path)
    except StoreError:
        return None


def is_harmless(path, before, after):
    """Whether what changed are journals, which crashes cut as well, an index that another one
    stands for, or bytes of records that were replaced or removed.
    """
    changed = {p for p in before.keys() | after.keys() if before.get(p) != after.get(p)}
    gone = {p for p in changed - after.keys() if p.parent.name in ("deltas", "index")}
    dead = {p for p in changed & before.keys() & after.keys() if p.parent.name == "shards"}
    for p in dead:
        (length,) = struct.unpack("<Q", before[p][:8])
        live = [(0, 8 + length)]
        live += [(e.offset, e.offset + e.nbytes) for e in open_cache(path).entries()
                 if e.shard == p.stem]  # fmt: skip
        assert len(before[p]) == len(after[p])
        assert all(before[p][a:b] == after[p][a:b] for a, b in live)
    return all(p.parent.name == "wal" for p in changed - gone - dead)


def repair_or_refuse(path):
    try:
        repair(path)
    except StoreError:
        return
    assert verify(path).ok


@given(acts=st.lists(ACTS, min_size=2, max_size=6))
@settings(deadline=None, max_examples=12)
def test_many_damaged_files_give_old_values_at_worst(base, acts, tmp_path_factory):
    good, other, ever = base.path, base.other, base.ever
    path = tmp_path_factory.mktemp("s") / "store"
    shutil.copytree(good, path)
    spoiled = []
    for act in acts:
        spoiled += damage(act, path, other)
    spoiled = [*spoiled, path / "several"]
    check(path, ever, spoiled)
    for act in (verify, recover, compact, repair, lambda p: merge([p], p.parent / "merged")):
        try:
            act(path)
        except StoreError:
            continue
        check(path, ever, [*spoiled, *(path / "shards").iterdir()])
    shutil.rmtree(path.parent)
