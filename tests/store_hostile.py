"""What somebody who means harm may put into a store, and what readers and writers make of it."""

import pickle
import shutil
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path

import store_forge as forge
import torch
from store_builders import IDENTITY, content, tiny, write

from vidcomp.config import StoreSettings
from vidcomp.errors import ShapeError, StoreError
from vidcomp.store import (
    CacheWriter,
    compact,
    export,
    merge,
    open_cache,
    recover,
    repair,
    verify,
)

SETTINGS = StoreSettings(assign=True, extras=("s",), frame_extras=("f",))
VIDEOS = {
    f"v{i}": tiny(70 * i + 3, 5, i, extras={"s": torch.rand(70 * i + 3)},
                  frame_extras={"f": torch.rand(2, 3)})
    for i in range(4)
}  # fmt: skip
WANTED = {key: content(video) for key, video in VIDEOS.items()}
STRIDE = 1
"""Only every so many of a family's forgeries are tried, if they are many."""

HUGE = [2**31, 2**53, 2**62, 2**63 - 64, 2**63 - 1]
NUMBERS = [*HUGE, 2**63, 2**64, 2**70, 10**40, -1, -64, -(2**63), -(2**70)]
JUNK = [None, True, 1.5, 1e300, "x", "", "\ud800", [], {}, [[]], [1, 2], "9" * 50]
DEEP = "[" * 100_000
ROW = ["key", "offset", "nbytes", "num_tokens", "grid", "nnz", "layout", "checksum", "generation",
       "writer", "size", "mtime_ns", "content"]  # fmt: skip


def good_store(path):
    """Two commits of two records each."""
    write(path, {k: VIDEOS[k] for k in ("v0", "v1")}, settings=SETTINGS)
    write(path, {k: VIDEOS[k] for k in ("v2", "v3")}, settings=SETTINGS)
    return path


@contextmanager
def fresh():
    """Copies of one good store."""
    with tempfile.TemporaryDirectory() as folder:
        good_store(Path(folder) / "good")
        count = iter(range(10**9))

        def copy():
            path = Path(folder) / f"copy{next(count)}"
            shutil.copytree(Path(folder) / "good", path)
            return path

        yield copy


def refused(call, *args):
    """What ``call`` returns, or its error if it is one of the store's; others pass on."""
    try:
        return call(*args)
    except StoreError as error:
        return one_sentence(error)


def one_sentence(error):
    """The error, if its message is one that can be shown."""
    assert "\n" not in str(error)
    assert len(str(error)) < 5000
    return error


def read_every_way(cache, key):
    """The record of a key by every door that leads to it; a StoreError for those that are shut."""
    sel = refused(cache.select, [key])
    whole = refused(cache.__getitem__, key)
    yield whole
    refused(cache.meta, key)
    for n in {len(whole), 1} if not isinstance(whole, StoreError) else (1,):
        with suppress(ShapeError):  # there may be fewer rows
            part = refused(cache.rows, key, 0, n)
            if not isinstance(whole, StoreError) and n == len(whole):
                yield part
    refused(cache.window, key, 0.2, 0.4)
    yield refused(lambda: cache.get_many([key])[0])
    if isinstance(sel, StoreError):
        return
    yield refused(lambda: sel[0])
    yield refused(lambda: sel.batch([0])[0])
    padded = refused(lambda: sel.batch([0, 0], None, True))
    assert isinstance(padded, StoreError) or len(padded.mask) == 2


def look(path, sound=tuple(WANTED)):
    """Read a store by every door; the records named in ``sound`` must be as they were written."""
    report = refused(verify, path)
    cache = refused(open_cache, path)
    if isinstance(cache, StoreError):
        assert not sound
        return report
    keys = cache.keys()
    assert set(sound) <= set(keys)
    list(cache.entries())
    with suppress(ShapeError):  # records of other widths
        refused(cache.get_many, keys)
    refused(lambda: pickle.loads(pickle.dumps(cache)).keys())
    cache.at(cache.pin)
    for key in keys:
        refused(cache.info, key)
        if key in WANTED and key in sound:
            for video in read_every_way(cache, key):
                assert content(video) == WANTED[key], key
        else:
            with suppress(ShapeError):  # of an odd, but possible, form
                list(read_every_way(cache, key))
    return report


def work(path, sound=tuple(WANTED)):
    """Write to a store and tidy it; the records named in ``sound`` must not be lost by that."""
    refused(recover, path)
    writer = refused(lambda: CacheWriter(path, identity=IDENTITY, settings=SETTINGS))
    if not isinstance(writer, StoreError):
        refused(writer.committed)
        refused(writer.add, forge.KEY, VIDEOS["v1"])
        refused(writer.add, "new", VIDEOS["v2"])
        refused(writer.remove, forge.KEY)
        refused(writer.close)
    refused(lambda: compact(path, grace_s=0, min_live=1.0))
    for tidy in TIDY:
        refused(tidy, path)
    look(path, sound)


def recovered(path, sound=tuple(WANTED)):
    """What ``work`` does, but only its first step."""
    refused(recover, path)
    look(path, sound)


def merged(path):
    """Merge it into a new store."""
    merge([path], Path(tempfile.mkdtemp(dir=path.parent)) / "merged")


def exported(path):
    """Export it as files."""
    export(path, Path(tempfile.mkdtemp(dir=path.parent)) / "out", format="safetensors")


TIDY = (compact, repair, merged, exported)


def probe(forgeries, sound=tuple(WANTED), *, then=work, tells=True):
    """Look at, and work with, a copy of a good store for each forgery.

    Args:
        forgeries: pairs of a label and a function that changes a store.
        sound: records that must stay readable.
        then: what to do with it after that; ``None`` for nothing.
        tells: whether verify must say that something is wrong.

    Returns:
        How many there were.
    """
    count = 0
    with fresh() as copy:
        for label, change in forgeries[:: STRIDE if len(forgeries) > 20 else 1]:
            path = copy()
            try:
                change(path)
                report = look(path, sound)
                assert not tells or isinstance(report, StoreError) or not report.ok
                if then is not None:
                    then(path, sound)
            except Exception as error:
                error.add_note(f"in {label}")
                raise
            shutil.rmtree(path)
            count += 1
    return count


def some(family, stride):
    """A family of forgeries, only some of its many."""
    global STRIDE  # of a process that does nothing else
    STRIDE = stride
    return family()
