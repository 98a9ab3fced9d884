"""A reader made from docs/cache-format.md alone reads what vidcomp writes.

Up to the line that says so, nothing of vidcomp or torch is used: what this reader needs to know,
the document must tell.
"""

import json
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import xxhash

SIZES = {"BOOL": 1, "U8": 1, "I8": 1, "U16": 2, "I16": 2, "F16": 2, "BF16": 2, "U32": 4, "I32": 4,
         "F32": 4, "U64": 8, "I64": 8, "F64": 8, "F8_E4M3": 1, "F8_E5M2": 1}  # fmt: skip
PREFIX = b'{"__metadata__":{"check":"'


def xxh3(*parts):
    return xxhash.xxh3_64_intdigest(b"".join(bytes(part) for part in parts))


def check(data, at):
    """Section 3."""
    found = data[at : at + 16]
    assert found == f"{xxh3(data[:at], b'0' * 16, data[at + 16 :]):016x}".encode()


def read_tensors(path):
    """Header metadata and columns of an index file (sections 3 and 7)."""
    data = path.read_bytes()
    assert data[8:].startswith(PREFIX)
    check(data, 8 + len(PREFIX))
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    types = {"U8": "u1", "U32": "<u4", "I64": "<i8", "U64": "<u8"}
    columns = {}
    for name, about in header.items():
        if name != "__metadata__":
            a, b = about["data_offsets"]
            flat = np.frombuffer(data[8 + length + a : 8 + length + b], types[about["dtype"]])
            columns[name] = flat.reshape(about["shape"])
    return header["__metadata__"], columns


@dataclass
class Record:
    path: Path
    offset: int
    nbytes: int
    checksum: int
    layout: list
    counts: dict

    def places(self):
        """First and last byte, type and shape of each field (section 6)."""
        out, start = {}, 0
        for name, kind, shape in self.layout:
            sizes = [self.counts[n] if isinstance(n, str) else n for n in shape]
            nbytes = self.counts["C"] if kind[0] == "Z" else int(np.prod(sizes)) * SIZES[kind]
            out[name] = (start, start + nbytes, kind, sizes)
            start += nbytes
        assert start < self.nbytes
        return out

    def read(self, start, stop):
        with self.path.open("rb") as file:
            file.seek(self.offset + start)
            return file.read(stop - start)


class ForeignStore:
    """Section 8, of a store that nobody is writing to."""

    def __init__(self, root):
        data = (root / "store.json").read_bytes()
        check(data, data.index(b'"check":"') + 9)
        about = json.loads(data)
        assert about["format"] == 1
        assert set(about["features"]) <= {"int8", "zstd"}
        best = {}
        for path in sorted((root / "deltas").glob("*.safetensors")):
            for key, rank, record in self._rows(root, *read_tensors(path)):
                if key not in best or rank > best[key][0]:
                    best[key] = rank, record
        self.records = {key: record for key, (_, record) in best.items() if record}

    def _rows(self, root, metadata, columns):
        lists = {name: json.loads(metadata[name]) for name in ("shards", "writers", "layouts")}
        text, n = columns["keys"].tobytes(), len(columns["key_hash"])
        packed = columns.get("packed", np.zeros(n, np.int64))
        for i in range(n):
            key = text[columns["key_end"][i - 1] if i else 0 : columns["key_end"][i]].decode()
            assert xxh3(key.encode()) == columns["key_hash"][i]
            rank = int(columns["generation"][i]), lists["writers"][columns["writer"][i]]
            if columns["flags"][i] & 1:
                yield key, rank, None
                continue
            t, h, w = columns["grid"][i].tolist()
            num = int(columns["num_tokens"][i])
            counts = {"N": num, "T": t, "P": t * h * w, "Z": int(columns["nnz"][i]),
                      "B": 1 + -(-num // 64), "C": int(packed[i])}  # fmt: skip
            shard = lists["shards"][columns["shard"][i]]
            yield key, rank, Record(
                root / "shards" / f"{shard}.safetensors", int(columns["offset"][i]),
                int(columns["nbytes"][i]), int(columns["checksum"][i]),
                lists["layouts"][columns["layout"][i]], counts,
            )  # fmt: skip

    def whole(self, key):
        """All fields of a record as arrays, and its meta (section 5)."""
        record = self.records[key]
        data = record.read(0, record.nbytes)
        assert xxh3(data) == record.checksum
        places = record.places()
        fields = {
            name: array(data[a:b], kind, sizes) for name, (a, b, kind, sizes) in places.items()
        }
        meta = json.loads(data[max(b for _, b, _, _ in places.values()) :])
        assert meta["key"] == key
        return decoded(fields), meta

    def rows(self, key, first, last):
        """Rows of a record, from checked blocks (section 6)."""
        record = self.records[key]
        places = record.places()
        blocks = record.read(*places["blocks"][:2])
        spans = record.read(*places["spans"][:2])
        with_rows = [name for name, _, shape in record.layout if shape[:1] == ["N"]]
        rest = [record.read(*places[name][:2]) for name, _, shape in record.layout
                if shape[:1] != ["N"] and name != "blocks"]  # fmt: skip
        assert xxh3(key.encode(), blocks[8:], spans, *rest) == struct.unpack("<Q", blocks[:8])[0]
        begin, end = first // 64 * 64, min(-(-last // 64) * 64, record.counts["N"])
        found = {}
        for name in with_rows:
            a, b, kind, sizes = places[name]
            size = (b - a) // record.counts["N"]
            data = record.read(a + begin * size, a + end * size)
            found[name] = data, size, kind, sizes[1:]
        for start in range(begin, end, 64):
            parts = [data[(start - begin) * size : (start - begin + 64) * size]
                     for name, (data, size, _, _) in found.items() if name != "spans"]  # fmt: skip
            at = 8 + start // 64 * 8
            assert xxh3(*parts) == struct.unpack("<Q", blocks[at : at + 8])[0]
        fields = {
            name: array(data, kind, [end - begin, *inner])[first - begin : last - begin]
            for name, (data, _, kind, inner) in found.items()
        }
        if "tokens.scale" in places:
            a, b, kind, sizes = places["tokens.scale"]
            fields["tokens.scale"] = array(record.read(a, b), kind, sizes)
        return decoded(fields)


def array(data, kind, sizes):
    """Bytes as numbers; bfloat16 as its 16 bits."""
    if kind[0] == "Z":
        kind, data = kind[1:], unplaned(data, int(np.prod(sizes)), SIZES[kind[1:]])
    types = {"F16": "<f2", "F32": "<f4", "F64": "<f8", "BF16": "<u2", "BOOL": "?", "I8": "i1",
             "I16": "<i2", "I32": "<i4", "I64": "<i8"}  # fmt: skip
    return np.frombuffer(data, types.get(kind, f"<u{SIZES[kind]}")).reshape(sizes)


def unplaned(data, count, size):
    try:
        from compression import zstd
    except ImportError:
        zstd = pytest.importorskip("backports.zstd")
    lengths = struct.unpack(f"<{size}Q", data[: 8 * size])
    assert 8 * size + sum(lengths) == len(data)
    out, start = np.zeros((count, size), np.uint8), 8 * size
    for place, length in enumerate(lengths):
        plane = data[start : start + length]
        plane = plane if length == count else zstd.ZstdDecompressor().decompress(plane, count)
        out[:, size - 1 - place] = np.frombuffer(plane, np.uint8)
        start += length
    return out.tobytes()


def decoded(fields):
    """Codes times scales, in bfloat16 (its 16 bits)."""
    if "tokens.scale" in fields:
        values = fields["tokens"].astype(np.float32) * fields.pop("tokens.scale")
        word = values.view(np.uint32)
        fields["tokens"] = ((word + 0x7FFF + ((word >> 16) & 1)) >> 16).astype(np.uint16)
    return fields


# From here on vidcomp is used.

import torch  # noqa: E402
from store_builders import tiny, write  # noqa: E402

from vidcomp.config import StoreSettings  # noqa: E402
from vidcomp.store import CacheWriter, open_cache  # noqa: E402

FORMS = [
    {"dtype": "bfloat16"}, {"dtype": "float16"}, {"dtype": "float32"}, {"dtype": "int8"},
    {"codec": "zstd"}, {"dtype": "float32", "codec": "zstd"}, {"dtype": "int8", "codec": "zstd"},
]  # fmt: skip


def as_array(tensor):
    """A tensor as this reader has it."""
    view = torch.int16 if tensor.dtype == torch.bfloat16 else None
    out = (tensor if view is None else tensor.view(view)).numpy()
    return out if view is None else out.view(np.uint16)


def equal(found, video):
    for name in ("tokens", "positions", "spans", "mass"):
        np.testing.assert_array_equal(found[name], as_array(getattr(video, name)))
    np.testing.assert_array_equal(found["extras.saliency"], video.extras["saliency"].numpy())


def store(path, form):
    videos = {
        f"clips/{n}%ä.mp4": tiny(n, 9, n, extras={"saliency": torch.rand(n)},
                                 frame_extras={"score": torch.rand(2, 3)})
        for n in (1, 64, 65, 300)
    }  # fmt: skip
    chosen = StoreSettings(**form, assign=True, extras=("saliency",), frame_extras=("score",))
    write(path, videos, settings=chosen)
    with CacheWriter(path, identity=open_cache(path).manifest.identity, settings=chosen) as writer:
        writer.add("clips/1%ä.mp4", videos["clips/64%ä.mp4"])  # replaced
        writer.remove("clips/64%ä.mp4")
    return open_cache(path)


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_whole_records(tmp_path, form):
    cache = store(tmp_path, form)
    foreign = ForeignStore(tmp_path)
    assert sorted(foreign.records) == sorted(k.replace("%", "%25") for k in cache.keys())  # noqa: SIM118
    for key in cache:
        fields, meta = foreign.whole(key.replace("%", "%25"))
        video = cache[key]
        equal(fields, video)
        assert meta["grid"] == list(video.grid)
        assert meta["meta"] == cache.meta(key)
        np.testing.assert_array_equal(fields["assign"].astype(np.int64) - 1, video.assign.numpy())
        np.testing.assert_array_equal(fields["frame.score"], video.frame_extras["score"].numpy())


@pytest.mark.parametrize("form", FORMS[:4], ids=str)
def test_some_rows(tmp_path, form):
    cache = store(tmp_path, form)
    foreign = ForeignStore(tmp_path)
    for first, last in ((0, 1), (63, 64), (63, 65), (70, 200), (299, 300), (0, 300)):
        found = foreign.rows("clips/300%25ä.mp4", first, last)
        equal(found, cache["clips/300%ä.mp4"].select(torch.arange(first, last)))


def test_ids(tmp_path):
    ids = tiny(200)
    ids = type(ids)(tokens=torch.arange(200) * 7, positions=ids.positions, spans=ids.spans,
                    mass=ids.mass, grid=ids.grid)  # fmt: skip
    for codec in ("none", "zstd"):
        write(tmp_path / codec, {"v": ids}, settings=StoreSettings(codec=codec))
        fields, _ = ForeignStore(tmp_path / codec).whole("v")
        assert fields["tokens"].tolist() == list(range(0, 1400, 7))
