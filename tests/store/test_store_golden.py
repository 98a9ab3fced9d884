"""The bytes of a small store, pinned: a change here is a change of the format."""

import hashlib
import json
import struct
import uuid

import pytest
import torch
import xxhash
from store_builders import tiny

from vidcomp.config import StoreSettings
from vidcomp.store import CacheWriter, SourceId, open_cache
from vidcomp.types import Grid, VideoTokens

IDS = [f"{digit}" * 32 for digit in "abcdef0123456789"]
COMMIT = f"{'b' * 32}-000000"
FIELDS = (
    ("blocks", "U64", ["B"]),
    ("spans", "F32", ["N", 2]),
    ("positions", "F32", ["N", 3]),
    ("mass", "F32", ["N"]),
    ("tokens", "BF16", ["N", 2]),
    ("assign", "U8", ["P"]),
)
LAYOUT = json.dumps([[list(field) for field in FIELDS]], separators=(",", ":"))


def write_golden(path, monkeypatch, chosen):
    ids = iter(IDS)
    monkeypatch.setattr("uuid.uuid4", lambda: uuid.UUID(hex=next(ids)))
    video = VideoTokens(
        tokens=torch.tensor([[1.0, -2.0], [0.5, 3.0]]).bfloat16(),
        positions=torch.tensor([[0.0, 0.0, 0.5], [0.0, 1.0, 0.5]]),
        spans=torch.tensor([[0.0, 0.5], [0.0, 0.5]]),
        mass=torch.tensor([2.0, 1.0]),
        grid=Grid(1, 2, 2),
        assign=torch.tensor([0, 0, 1, -1]),
    )
    with CacheWriter(
        path,
        identity={"sample": {"name": "uniform"}},
        weights={"encode": "sha256:00"},
        settings=chosen,
    ) as writer:
        writer._id = "b" * 32
        writer._store["created_by"] = "vidcomp 0.1.0"
        source = SourceId(size=7, mtime_ns=8, content="xxh3_128:00")
        writer.add("clips/ä%.mp4", video, {"path": "x"}, source)
    return path


@pytest.fixture
def golden_store(tmp_path, monkeypatch):
    return write_golden(tmp_path, monkeypatch, StoreSettings(assign=True))


def parts_of(store):
    """Header and data of the store's shard."""
    data = (store / "shards" / f"{COMMIT}.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def test_the_header_of_a_shard(golden_store):
    data = (golden_store / "shards" / f"{COMMIT}.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    assert length == 16384 - 8
    header = json.loads(data[8 : 8 + length])
    metadata = header.pop("__metadata__")
    name = "clips/ä%25.mp4"
    assert header == {
        f"{name}/blocks": {"dtype": "U64", "shape": [2], "data_offsets": [0, 16]},
        f"{name}/spans": {"dtype": "F32", "shape": [2, 2], "data_offsets": [16, 32]},
        f"{name}/positions": {"dtype": "F32", "shape": [2, 3], "data_offsets": [32, 56]},
        f"{name}/mass": {"dtype": "F32", "shape": [2], "data_offsets": [56, 64]},
        f"{name}/tokens": {"dtype": "BF16", "shape": [2, 2], "data_offsets": [64, 72]},
        f"{name}/assign": {"dtype": "U8", "shape": [4], "data_offsets": [72, 76]},
        f"{name}/meta": {"dtype": "U8", "shape": [180], "data_offsets": [76, 256]},
    }
    check = metadata.pop("check")
    assert data[8:].startswith(b'{"__metadata__":{"check":"' + check.encode())
    zeroed = data[: 8 + length].replace(check.encode(), b"0" * 16, 1)
    assert check == f"{xxhash.xxh3_64_intdigest(zeroed):016x}"
    record = data[16384:]
    row = [name, 16384, 256, 2, [1, 2, 2], 0, 0, xxhash.xxh3_64_hexdigest(record), 1, 0]
    assert json.loads(metadata.pop("records")) == [[*row, 7, 8, "xxh3_128:00"]]
    store = json.loads((golden_store / "store.json").read_bytes())
    store = {**store, "id": "a" * 32, "created_by": "vidcomp 0.1.0"}
    del store["check"]
    assert json.loads(metadata.pop("store")) == store
    assert metadata == {
        "kind": "vidcomp-shard",
        "format": "1",
        "name": COMMIT,
        "layouts": LAYOUT,
        "writers": json.dumps(["b" * 32]),
        "removed": "[]",
    }


SPANS = "00000000 0000003f 00000000 0000003f "
POSITIONS = "00000000 00000000 0000003f 00000000 0000803f 0000003f "
MASS = "00000040 0000803f "
ASSIGN = "01010200 "  # row + 1, 0 for a dropped patch


def blocks(rows, head):
    """The field of a record of one block."""
    block = struct.pack("<Q", xxhash.xxh3_64_intdigest(bytes.fromhex(rows)))
    key = "clips/ä%25.mp4".encode()
    first = xxhash.xxh3_64_intdigest(key + block + bytes.fromhex(head))
    return struct.pack("<Q", first) + block


def test_the_bytes_of_a_record(golden_store):
    _, data = parts_of(golden_store)
    tokens = "803f00c0 003f4040 "
    checks = blocks(POSITIONS + MASS + tokens, SPANS + ASSIGN)
    assert checks.hex() == "04801a43daf98d8e0813d47ce56df5f4"
    wanted = checks + bytes.fromhex(SPANS + POSITIONS + MASS + tokens + ASSIGN)
    assert data[:76] == wanted
    assert data[76:].rstrip(b" ") == (
        b'{"key":"clips/\\u00e4%25.mp4","grid":[1,2,2],"source":{"size":7,"mtime_ns":8,'
        b'"content":"xxh3_128:00"},"meta":{"path":"x"}}'
    )
    assert len(data) == 256


def test_the_bytes_of_an_int8_record(tmp_path, monkeypatch):
    chosen = StoreSettings(assign=True, dtype="int8")
    header, data = parts_of(write_golden(tmp_path, monkeypatch, chosen))
    metadata = header.pop("__metadata__")
    assert json.loads(metadata["layouts"]) == [
        [
            ["blocks", "U64", ["B"]], ["spans", "F32", ["N", 2]], ["tokens.scale", "F32", [2]],
            ["positions", "F32", ["N", 3]], ["mass", "F32", ["N"]], ["assign", "U8", ["P"]],
            ["tokens", "I8", ["N", 2]],
        ]
    ]  # fmt: skip
    scale = struct.pack("<2f", *(torch.tensor([1.0, 3.0]) / 127).tolist()).hex()
    codes = struct.pack("<4b", 127, -85, 64, 127).hex()  # 0.5 / scale is 63.5, to even
    checks = blocks(POSITIONS + MASS + codes, SPANS + scale + ASSIGN)
    wanted = checks + bytes.fromhex(SPANS + scale + POSITIONS + MASS + ASSIGN + codes)
    assert data[: len(wanted)] == wanted
    assert header["clips/ä%25.mp4/tokens.scale"] == {
        "dtype": "F32", "shape": [2], "data_offsets": [32, 40],
    }  # fmt: skip
    store = json.loads((tmp_path / "store.json").read_bytes())
    assert (store["features"], store["settings"]["dtype"]) == (["int8"], "int8")


def test_the_bytes_of_a_compressed_record(tmp_path, monkeypatch):
    chosen = StoreSettings(assign=True, codec="zstd")
    header, data = parts_of(write_golden(tmp_path, monkeypatch, chosen))
    metadata = header.pop("__metadata__")
    assert json.loads(metadata["layouts"]) == [
        [
            ["spans", "F32", ["N", 2]], ["positions", "F32", ["N", 3]], ["mass", "F32", ["N"]],
            ["assign", "U8", ["P"]], ["tokens", "ZBF16", ["N", 2]],
        ]
    ]  # fmt: skip
    planes = struct.pack("<2Q", 4, 4).hex() + "3fc03f40" + "80000040"  # too short to shrink
    wanted = bytes.fromhex(SPANS + POSITIONS + MASS + ASSIGN + planes)
    assert data[: len(wanted)] == wanted
    assert header["clips/ä%25.mp4/tokens.zstd"] == {
        "dtype": "U8", "shape": [24], "data_offsets": [52, 76],
    }  # fmt: skip
    (row,) = json.loads(metadata["records"])
    assert row[3:7] + row[10:] == [2, [1, 2, 2], 0, 0, 7, 8, "xxh3_128:00", 24]
    store = json.loads((tmp_path / "store.json").read_bytes())
    assert (store["features"], store["settings"]["codec"]) == (["zstd"], "zstd")
    from safetensors import safe_open

    with safe_open(tmp_path / "deltas" / f"{COMMIT}.safetensors", "np") as file:
        assert file.get_tensor("packed").tolist() == [24]


def test_the_whole_shard_and_its_delta(golden_store):
    shard = (golden_store / "shards" / f"{COMMIT}.safetensors").read_bytes()
    delta = (golden_store / "deltas" / f"{COMMIT}.safetensors").read_bytes()
    assert (
        hashlib.sha256(shard).hexdigest()
        == "9fcf17da1ed2bf2a992d07e1b068ca5b8f5f6f9e46b6d386fcc30ec17e427f2a"
    )
    assert (
        hashlib.sha256(delta).hexdigest()
        == "b19dd85166e9a990cf5b9cb44d31c29b751ca59fd8ae6e85bd477b39d8c13c9f"
    )


def test_the_columns_of_a_delta(golden_store):
    from safetensors import safe_open

    with safe_open(golden_store / "deltas" / f"{COMMIT}.safetensors", "np") as file:
        metadata = file.metadata()
        columns = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    key = "clips/ä%25.mp4".encode()
    info = open_cache(golden_store).info("clips/ä%.mp4")
    del metadata["check"]
    assert metadata == {
        "kind": "vidcomp-index",
        "format": "1",
        "store": "a" * 32,
        "covers": json.dumps([COMMIT]),
        "shards": json.dumps([COMMIT]),
        "writers": json.dumps(["b" * 32]),
        "layouts": LAYOUT,
    }
    assert bytes(columns.pop("keys")) == key
    assert bytes(columns.pop("contents")) == b"xxh3_128:00"
    assert columns.pop("grid").tolist() == [[1, 2, 2]]
    assert {name: column.tolist() for name, column in columns.items()} == {
        "key_hash": [xxhash.xxh3_64_intdigest(key)],
        "key_end": [len(key)],
        "content_end": [11],
        "flags": [0],
        "generation": [1],
        "writer": [0],
        "shard": [0],
        "offset": [16384],
        "nbytes": [256],
        "checksum": [int(info.checksum, 16)],
        "num_tokens": [2],
        "nnz": [0],
        "layout": [0],
        "size": [7],
        "mtime_ns": [8],
    }


def test_store_json(golden_store):
    data = (golden_store / "store.json").read_bytes()
    content = json.loads(data)
    check = content.pop("check")
    assert data.startswith(b'{"check":"' + check.encode())
    assert check == f"{xxhash.xxh3_64_intdigest(data.replace(check.encode(), b'0' * 16, 1)):016x}"
    text = '{"format":1,"recipe":{"sample":{"name":"uniform"}},"weights":{"encode":"sha256:00"}}'
    assert content == {
        "kind": "vidcomp-store",
        "format": 1,
        "features": [],
        "id": IDS[0],
        "created_by": content["created_by"],
        "fingerprint": hashlib.sha256(text.encode()).hexdigest()[:16],
        "identity": {"sample": {"name": "uniform"}},
        "weights": {"encode": "sha256:00"},
        "settings": {
            "dtype": "bfloat16",
            "codec": "none",
            "assign": True,
            "extras": [],
            "frame_extras": [],
        },
    }


def test_a_journal_line(tmp_path):
    with CacheWriter(tmp_path, identity={}) as writer:
        writer.add("v", tiny(2, 2), {}, SourceId(size=1, mtime_ns=2))
        writer.remove("v")
        (journal,) = (tmp_path / "wal").glob("*.journal")
        lines = journal.read_bytes().splitlines()
    checks, values = zip(*(line.split(b" ", 1) for line in lines), strict=True)
    assert [xxhash.xxh3_64_hexdigest(value).encode() for value in values] == list(checks)
    first, record, removed = map(json.loads, values)
    assert first["kind"] == "vidcomp-journal"
    assert first["name"] == journal.stem
    assert first["data_start"] == 16384
    assert record["layout"] == [list(field) for field in FIELDS[:5]]
    assert record["row"][:7] == ["v", 16384, record["row"][2], 2, [2, 3, 4], 0, 0]
    assert removed == {"removed": ["v", 2]}
