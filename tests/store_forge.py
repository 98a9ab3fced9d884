"""Files of a store with any content and right checks, as somebody who means harm makes them."""

import json
import struct
from pathlib import Path

import numpy as np
import xxhash

from vidcomp.store import open_cache

NAME = "e" * 32 + "-000000"
"""The commit that ``plant`` makes."""

KEY = "evil"
PREFIX = b'{"__metadata__":{"check":"'
CODES = {"I64": "<i8", "U32": "<u4", "U64": "<u8", "U8": "u1"}


def xxh3(*parts):
    return xxhash.xxh3_64_intdigest(b"".join(bytes(part) for part in parts))


def stamp(data, at, stop=None):
    """``data`` with the right check in its 16 digits at ``at``, over the bytes before ``stop``."""
    data = bytearray(data)
    data[at : at + 16] = b"0" * 16
    data[at : at + 16] = f"{xxh3(data[:stop]):016x}".encode()
    return bytes(data)


def restamp(path, data):
    """Write ``data`` as the file ``path`` of a store, its check made right."""
    at, stop = 8 + len(PREFIX), None
    if path.parent.name == "shards":
        stop = 8 + struct.unpack("<Q", data[:8])[0]
    if path.name == "store.json":
        at = data.find(b'"check":"') + 9
    path.write_bytes(stamp(data, at, stop))


def split(data):
    """Header text and data of a safetensors file."""
    (length,) = struct.unpack("<Q", data[:8])
    return bytes(data[8 : 8 + length]), bytes(data[8 + length :])


def join(text, data):
    """The file of a header text and data."""
    text += b" " * (-(8 + len(text)) % 64)
    return struct.pack("<Q", len(text)) + text + data


def header_text(metadata, entries):
    """JSON of a header; values of ``metadata`` that are no texts are put in as JSON texts."""
    meta = {k: v if isinstance(v, str) else json.dumps(v) for k, v in metadata.items()}
    return json.dumps({"__metadata__": {"check": "0" * 16, **meta}, **entries}).replace(
        '{"__metadata__": {"check": "', PREFIX.decode(), 1
    )


def record(store, key="v0"):
    """The bytes of a record, its row and its layout as they lie in the header of its shard."""
    info = open_cache(store).info(key)
    data = (store / "shards" / f"{info.shard}.safetensors").read_bytes()
    meta = json.loads(split(data)[0])["__metadata__"]
    row = next(r for r in json.loads(meta["records"]) if r[0] == key)
    return data[row[1] : row[1] + row[2]], row, json.loads(meta["layouts"])[row[6]]


def plant(store, *, data=None, layout=None, delta=True, shard=True, row=(), meta=(), columns=()):
    """Add a commit of one record whose delta, header and bytes agree and say what they are told.

    Args:
        store: its folder, with a record ``v0`` that is what ``plant`` makes by default.
        data: bytes of the record.
        layout: as JSON values.
        delta: whether the commit has one.
        shard: whether the commit has one.
        row: pairs of place in the header's row, and value.
        meta: pairs of name in the metadata of header or delta, and value.
        columns: pairs of column of the delta, and its values.
    """
    old, base, fields = record(store)
    data = old if data is None else data
    layout = fields if layout is None else layout
    about = json.loads((store / "store.json").read_text())
    del about["check"]
    base = [KEY, 0, len(data), *base[3:6], 0, f"{xxh3(data):016x}", 1, 0, *base[10:]]
    for place, value in dict(row).items():
        base[place : place + 1] = [value]
    for room in (4096, 1 << 20, 1 << 24, 1 << 27):
        head = {"kind": "vidcomp-shard", "format": "1", "name": NAME, "store": about}
        head |= {"layouts": [layout], "writers": [NAME[:32]]}
        place = base[1] or room
        head |= {"records": [[base[0], place, *base[2:]]], "removed": []} | dict(meta)
        entries = {f"{KEY}/meta": {"dtype": "U8", "shape": [len(data)],
                                   "data_offsets": [0, len(data)]}}  # fmt: skip
        text = header_text(head, entries).encode()
        if len(text) <= room - 8:
            break
    if shard:
        whole = struct.pack("<Q", room - 8) + text.ljust(room - 8) + data
        restamp(store / "shards" / f"{NAME}.safetensors", whole)
    if delta:
        values = default_columns([base[0], place, *base[2:]])
        values |= {name: np.atleast_1d(value) for name, value in dict(columns).items()}
        lists = {"covers": [NAME], "shards": [NAME], "writers": [NAME[:32]], "layouts": [layout]}
        write_index(
            store / "deltas" / f"{NAME}.safetensors", about["id"], lists | dict(meta), values
        )


def default_columns(row):
    """The columns of an index of one row; numbers that do not fit wrap around."""
    key = str(row[0]).encode("utf-8", "surrogatepass")
    content = str(row[12]).encode("utf-8", "surrogatepass")
    packed = row[13] if len(row) > 13 else 0

    def number(value, kind="<i8"):
        value = value if type(value) is int else 0
        return np.array([value & 2**64 - 1], np.uint64).view("<i8").astype(kind)

    return {
        "key_hash": np.array([xxh3(key)], "<u8"),
        "key_end": number(len(key)),
        "generation": number(row[8]),
        "offset": number(row[1]),
        "nbytes": number(row[2]),
        "checksum": np.array([int(str(row[7])[-16:], 16) if str(row[7]).isalnum() else 0], "<u8"),
        "num_tokens": number(row[3]),
        "grid": np.concatenate([number(n) for n in row[4]])[None]
        if len(row[4]) == 3
        else number(0),
        "nnz": number(row[5]),
        "packed": number(packed),
        "size": number(row[10]),
        "mtime_ns": number(row[11]),
        "content_end": number(len(content)),
        "writer": number(0, "<u4"),
        "shard": number(0, "<u4"),
        "layout": number(0, "<u4"),
        "flags": number(0, "u1"),
        "keys": np.frombuffer(key, np.uint8),
        "contents": np.frombuffer(content, np.uint8),
    }


def write_index(path, store_id, lists, columns):
    """An index file of any columns."""
    names = {np.dtype(code): name for name, code in CODES.items()}
    entries, parts, start = {}, [], 0
    for name, column in columns.items():
        column = np.ascontiguousarray(column)
        stop = start + column.nbytes
        entries[name] = {"dtype": names.get(column.dtype, "U8"), "shape": list(column.shape),
                         "data_offsets": [start, stop]}  # fmt: skip
        parts.append(column.tobytes())
        start = stop
    meta = {"kind": "vidcomp-index", "format": "1", "store": store_id, **lists}
    restamp(path, join(header_text(meta, entries).encode(), b"".join(parts)))


def journal_line(value):
    """A line of a journal with a right check, of JSON values or of text."""
    text = value if isinstance(value, bytes) else json.dumps(value).encode()
    return f"{xxh3(text):016x} ".encode() + text + b"\n"


def dead_journal(store, *lines, part=b"", owner=()):
    """A journal and part that a writer of this machine seems to have left."""
    from vidcomp.store.journal import _owner

    store_id = json.loads((store / "store.json").read_text())["id"]
    first = {**_owner(), "boot": "an earlier one", "kind": "vidcomp-journal", "format": 1,
             "name": NAME, "store": store_id, "data_start": 16384, **dict(owner)}  # fmt: skip
    wal = store / "wal"
    (wal / f"{NAME}.journal").write_bytes(b"".join(map(journal_line, (first, *lines))))
    if part is not None:
        (wal / f"{NAME}.part").write_bytes(part)
    return wal / f"{NAME}.part"


def sparse(path, size, first=b""):
    """A file of ``size`` bytes that takes no room."""
    with Path(path).open("wb") as file:
        file.write(first)
        file.truncate(size)
