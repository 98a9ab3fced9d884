"""What every parser of the store makes of any bytes, with checks made right so that it sees them.

Each target takes bytes and returns whether they were accepted; only the store's own errors may come
out of a parser, so that anything else is a finding.
"""

import json
import math
import struct
import tempfile
from pathlib import Path

import numpy as np
import store_forge as forge
import torch
from store_builders import IDENTITY, tiny

from vidcomp.config import StoreSettings
from vidcomp.errors import ConfigError, ShapeError, StoreError
from vidcomp.store import CacheWriter, journal, open_cache
from vidcomp.store.commit import snapshot
from vidcomp.store.disk.blocks import check_blocks
from vidcomp.store.disk.format import DTYPES, digest
from vidcomp.store.disk.index import Table
from vidcomp.store.disk.layout import Counts, Layout
from vidcomp.store.disk.merge import merge_tables
from vidcomp.store.disk.planes import decode_planes, encode_planes
from vidcomp.store.disk.record import read_meta, unpack
from vidcomp.store.disk.rows import read_rows, read_window
from vidcomp.store.disk.shard import read_shard_header
from vidcomp.store.disk.types import Location
from vidcomp.store.local import LocalStorage
from vidcomp.store.manifest import read_manifest
from vidcomp.store.reader import _parse_pin
from vidcomp.store.recover import replay
from vidcomp.store.upkeep.examine import tensor_problems
from vidcomp.store.view import View
from vidcomp.types import Grid

NAME = forge.NAME
LARGEST = 1 << 24
"""Elements that a fuzzed record or plane may claim: more is only slow."""

FOLDER = Path(tempfile.mkdtemp(prefix="vidcomp-fuzz-"))


class Bytes:
    """Bytes as the file of a shard."""

    def __init__(self, data):
        self.data, self.size = data, len(data)

    def read(self, offset, nbytes, what):
        if offset + nbytes > self.size:
            raise StoreError(f"{what} is cut")
        return memoryview(self.data)[offset : offset + nbytes]


class Folder:
    """Bytes as the store.json of a store."""

    path = Path("fuzzed")

    def __init__(self, data):
        self.data = data

    def read(self, name):
        assert name == "store.json"
        return bytearray(self.data)

    def names(self, folder, suffix):
        return []


def safetensors(data, whole):
    """Bytes as a safetensors file with our beginning and a right check."""
    data = bytearray(data.ljust(64, b" "))
    (length,) = struct.unpack("<Q", data[:8])
    if not 2 <= length <= len(data) - 8:  # any length is tried elsewhere; most stop right there
        length = len(data) - 8
        data[:8] = struct.pack("<Q", length)
    data[8 : 8 + len(forge.PREFIX)] = forge.PREFIX
    return forge.stamp(data, 8 + len(forge.PREFIX), None if whole else 8 + length)


def index(data):
    """Deltas and snapshots, all that is asked of them, and merging them."""
    table = Table.read(bytearray(safetensors(data, True)), "fuzzed")
    rows = list(table.rows())
    assert len(rows) == len(table)
    table.texts(np.arange(len(table)))
    for row in rows[:50]:
        table.find(row.key)
    merged = merge_tables(table.store, table.covers, [table, table])
    assert len(merged) <= len(table)
    view = View((table, merged), None, frozenset())
    assert len(view.ordered.keys) == len(view)
    if all(table.find(row.key) is not None for row in rows):  # else a hash is not that of its key
        assert len(view) <= len(merged)
    again = Table.read(merged.write(), "written")
    assert len(again) == len(merged)


def shard(data):
    """The header of a shard, and the delta that is made of it."""
    found = read_shard_header(Bytes(safetensors(data, False)), NAME)
    tensor_problems(found.rows, found.header.entries, found.header.data_start)
    table = Table.of_rows("0" * 32, [NAME], found.rows)
    assert len(Table.read(table.write(), "written")) == len(table)


def journals(data):
    """A journal, each line of it with a right check, and the part beside it."""
    text, _, part = data.partition(b"\0\0\0\0")
    lines = b"".join(
        f"{forge.xxh3(line):016x} ".encode() + line + b"\n" for line in text.split(b"\n")
    )
    (FOLDER / f"{NAME}.journal").write_bytes(lines)
    (FOLDER / f"{NAME}.part").write_bytes(part)
    found = journal.read(FOLDER / f"{NAME}.journal")
    rows, (first, last) = replay(FOLDER, NAME)
    assert first <= last
    assert len(rows) <= len(found.rows)
    assert len(Table.of_rows("0" * 32, [NAME], rows)) == len(rows)
    journal.with_new_owner(lines, NAME, "0" * 32)


def manifest(data):
    """store.json."""
    text = b'{"check":"0000000000000000"' + (b"," if data else b"}") + data
    found = read_manifest(Folder(forge.stamp(text, 10)))
    json.dumps(found.to_json())


def record(data):
    """A layout, counts, and the bytes of a record: whole, and rows of it."""
    text, _, rest = data.partition(b"\0")
    try:
        layout, *numbers = json.loads(text)
        n, t, h, w, nnz, packed = numbers
    except (ValueError, TypeError, RecursionError):
        return
    layout = Layout.parse(layout)
    if not all(type(x) is int and 0 <= x < 2**62 for x in numbers) or t * h * w >= 2**62:
        return
    counts = Counts(n, Grid(t, h, w), nnz, packed)
    places = layout.places(counts)
    if places.nbytes >= len(rest) or _elements(layout, counts) > LARGEST:
        return
    whole = memoryview(bytearray(rest))
    place = Location(NAME, 0, len(rest), digest(whole), counts, layout)

    def fetch(ranges):
        return [memoryview(bytearray(whole[a:b])) for a, b in ranges]

    for read in (
        lambda: unpack(whole, layout, counts),
        lambda: check_blocks("key", whole, layout, counts),
        lambda: read_rows("key", place, n // 3, n // 2, fetch, verify=False),
        lambda: read_rows("key", place, n // 3, n // 2, fetch),
        lambda: read_window("key", place, 0.2, 0.7, fetch, verify=False),
        lambda: read_meta(whole[places.nbytes :]),
    ):
        try:
            read()
        except (StoreError, ShapeError):
            continue


def _elements(layout, counts):
    return math.prod(layout.tokens.sizes(counts))


def planes(data):
    """Compressed tokens of any shape and type."""
    dtypes = list(DTYPES.values())
    kind, rows, columns = struct.unpack("<BHH", data[:5].ljust(5, b"\1"))
    decode_planes(memoryview(data[5:]), (rows % 300, columns % 300), dtypes[kind % len(dtypes)])


def pin(data):
    """The text of a pin."""
    _parse_pin(data.decode("utf-8", "surrogateescape"))


def meta(data):
    """The JSON of a record."""
    read_meta(data)


TARGETS = {f.__name__: f for f in (index, shard, journals, manifest, record, planes, pin, meta)}


def accepts(target, data):
    """Whether a target takes the bytes; any error but the store's own passes on."""
    try:
        TARGETS[target](data)
    except (StoreError, ConfigError):
        return False
    return True


def seeds():
    """Bytes that each target takes, to begin with."""
    path = FOLDER / "store"
    videos = {"a": tiny(3, 4, 1), "b/ä%": tiny(70, 4, 2), "c": tiny(0, 4, 3)}
    if not path.exists():
        for kept in (StoreSettings(assign=True),):
            with CacheWriter(path, identity=IDENTITY, settings=kept) as writer:
                for key, video in videos.items():
                    writer.add(key, video, {"n": 1})
            with CacheWriter(path, identity=IDENTITY, settings=kept) as writer:
                writer.remove("c")
        snapshot(LocalStorage(path), open_cache(path).manifest.id)
    files = {f: sorted((path / f).iterdir()) for f in ("shards", "deltas", "index")}
    head = [forge.split(p.read_bytes()) for p in files["shards"]]
    named = [t.replace(p.stem.encode(), NAME.encode()) for (t, _), p in zip(head, files["shards"],
                                                                        strict=True)]  # fmt: skip
    data, row, layout = forge.record(path, "a")
    lone = [{**journal._owner(), "kind": "vidcomp-journal", "format": 1, "name": NAME,
             "store": "0" * 32, "data_start": 64},
            {"row": [row[0], 64, *row[2:6], 0, *row[7:]], "layout": layout},
            {"removed": ["b", 2]}]  # fmt: skip
    counts = [row[3], *row[4], row[5], 0]
    about = json.loads((path / "store.json").read_text())
    del about["check"]
    floats = tiny(50, 20, 5).tokens
    return {
        "index": [p.read_bytes() for f in ("deltas", "index") for p in files[f]],
        "shard": [forge.join(t.rstrip(), d) for t, (_, d) in zip(named, head, strict=True)],
        "journals": [
            b"\n".join(json.dumps(v).encode() for v in lone) + b"\0" * 4 + bytes(64) + data
        ],
        "manifest": [json.dumps(about).encode()[1:]],
        "record": [json.dumps([layout, *counts]).encode() + b"\0" + data],
        "planes": [
            struct.pack("<BHH", list(DTYPES.values()).index(torch.bfloat16), 50, 20)
            + encode_planes(floats),
            struct.pack("<BHH", list(DTYPES.values()).index(torch.float32), 50, 20)
            + encode_planes(torch.zeros(50, 20)),
        ],
        "pin": [open_cache(path).pin.encode(), f'["{"0" * 16}",{{"{"a" * 32}":[0,3]}}]'.encode()],
        "meta": [b'{"key":"a","grid":[1,2,3],"source":null,"meta":{}}'],
    }


def crashers():
    """Bytes that were findings once: pairs of a target and what was found."""
    folder = Path(__file__).parent / "crashers"
    return [(p.name.partition("-")[0], p) for p in sorted(folder.glob("*-*"))]
