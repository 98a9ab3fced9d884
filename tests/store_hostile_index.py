"""Hostile deltas, headers of shards and records: each function tries a family of forgeries."""

import json
import struct
from itertools import product

import numpy as np
import store_forge as forge
from store_hostile import DEEP, JUNK, NUMBERS, ROW, probe

ZERO = "\N{ARABIC-INDIC DIGIT ZERO}"
"""A digit that is not one of the ten that names are made of."""


def numbers_in_headers():
    """Numbers of a row of a shard's header, in a shard that has no delta."""
    values = [*NUMBERS, *JUNK]
    return probe(
        [
            (f"{ROW[place]}={value!r:.50}",
             lambda s, p=place, v=value: forge.plant(s, row=[(p, v)], delta=False))
            for place, value in product(range(len(ROW)), values)
        ],
        then=None, tells=False,
    )  # fmt: skip


def numbers_in_grids():
    """Three numbers, and what is not three numbers."""
    grids = [[a, b, c] for a, b, c in product([0, 1, 2**21, 2**31, 2**62, -1], repeat=3)]
    return probe(
        [
            (f"{grid} {delta}", lambda s, g=grid, d=delta: forge.plant(s, row=[(4, g)], delta=d))
            for grid in [*grids, [1], [1, 2, 3, 4], [None] * 3, ["1", "1", "1"]]
            for delta in (False, True)
            if not (delta and len(grid) != 3)
        ],
        then=None, tells=False,
    )  # fmt: skip


def columns_of_deltas():
    """Columns of a delta that agree with nothing, or are no columns of one row."""
    names = [
        "generation",
        "offset",
        "nbytes",
        "num_tokens",
        "nnz",
        "packed",
        "size",
        "mtime_ns",
        "key_end",
        "content_end",
        "writer",
        "shard",
        "layout",
        "flags",
        "key_hash",
    ]
    kinds = {"writer": "<u4", "shard": "<u4", "layout": "<u4", "flags": "u1", "key_hash": "<u8"}
    cases = []
    for name in names:
        kind = np.dtype(kinds.get(name, "<i8"))
        info = np.iinfo(kind)
        for value in (info.min, info.max, info.max - 63, info.max // 2, 1, 2, 3, 64, 128):
            cases.append((name, np.array([value], kind)))
        cases += [
            (name, np.zeros(0, kind)),
            (name, np.zeros(2, kind)),
            (name, np.zeros((1, 2), kind)),
            (name, np.zeros(1, "u1" if kind.itemsize > 1 else "<i8")),
        ]
    cases += [("grid", np.zeros((1, 2), "<i8")), ("grid", np.full((1, 3), 2**62)),
              ("keys", np.frombuffer(b"\xff\xfe\xfd\xfc", np.uint8)),
              ("keys", np.frombuffer(b"%FF%", np.uint8)), ("keys", np.zeros(0, np.uint8)),
              ("keys", np.frombuffer(b"../x", np.uint8)),
              ("contents", np.frombuffer(b"\xff", np.uint8))]  # fmt: skip
    return probe(
        [
            (f"{name}={value!r}",
             lambda s, n=name, v=value, h=shard: forge.plant(s, columns=[(n, v)], shard=h))
            for (name, value), shard in product(cases, (True, False))
        ],
        then=None, tells=False,
    )  # fmt: skip


def lists_in_metadata():
    """What stands where lists of names belong, in headers and deltas."""
    names = ["../../evil", "/etc/passwd", "", "a" * 40, forge.NAME + "\n", forge.NAME.upper(),
             ZERO * 32 + "-000000", "e" * 32 + "-" + ZERO * 6, 7, None, ["x"], {}]  # fmt: skip
    values = [[n] for n in names] + [
        "x",
        5,
        None,
        {},
        "[]",
        "[",
        "{",
        DEEP,
        '"' + "x" * 10**6,
        "NaN",
    ]
    keys = ["covers", "shards", "writers", "layouts", "records", "removed", "store", "name", "kind",
            "format", "retired"]  # fmt: skip
    return probe(
        [
            (f"{key}={value!r:.60} {delta}",
             lambda s, k=key, v=value, d=delta: forge.plant(s, meta=[(k, v)], delta=d))
            for key, value, delta in product(keys, values, (False, True))
        ],
        then=None, tells=False,
    )  # fmt: skip


def removals():
    """Removals of a header that cannot be."""
    cases = [[["v0", n, 0]] for n in (*NUMBERS, *JUNK)]
    cases += [[[k, 1, 0]] for k in ("\ud800", "%FF", "", 5, None, "x" * 10**6)]
    cases += [[["v0", 1, w]] for w in (-1, 1, 2**70, "0", None, True, 0.5)]
    cases += [[[]], [5], [["v0"]], [{"a": 1, "b": 2, "c": 3}]]
    return probe(
        [
            (f"{value!r:.60}",
             lambda s, v=value: forge.plant(s, meta=[("removed", v)], delta=False))
            for value in cases
        ],
        sound=["v1", "v2", "v3"], then=None, tells=False,
    )  # fmt: skip


FIELDS = [["spans", "F32", ["N", 2]], ["positions", "F32", ["N", 3]], ["mass", "F32", ["N"]],
          ["tokens", "BF16", ["N", 4]]]  # fmt: skip


def with_field(*fields, instead=()):
    return [f for f in FIELDS if f[0] not in instead] + list(fields)


def layouts():
    """Layouts that lie about names, types and shapes; the record's bytes are zeros."""
    big = [[2**62], [2**62, 0], [0, 2**62], [2**40, 2**40, 0], [10**30], [1] * 1000, [1] * 33]
    cases = [with_field([f"extras.{i}", "F32", ["N", *shape]]) for i, shape in enumerate(big)]
    cases += [with_field([f"frame.{i}", "F32", ["T", *shape]]) for i, shape in enumerate(big)]
    cases += [with_field(["odd", "F32", shape]) for shape in big]
    cases += [with_field(["tokens", "BF16", ["N", *shape]], instead=["tokens"]) for shape in big]
    cases += [
        with_field(["extras.a", "F32", shape]) for shape in ([], [3], ["T"], ["P"], ["N", "N"])
    ]
    cases += [with_field(["frame.a", "F32", shape]) for shape in ([], [3], ["N"], ["P", 2])]
    cases += [with_field([name, "F32", ["N"]]) for name in
              ("extras.%FF", "extras.\ud800", "a/b", "", "tokens", "meta", "blocks", "tokens.scale",
               "assign", "weights.index", "weights.value", "tokens.zstd", 5, None)]  # fmt: skip
    cases += [
        with_field(["tokens", kind, ["N", 4]], instead=["tokens"])
        for kind in ("BOOL", "I64", "F8_E4M3", "ZBF16", "ZI8", "I8", "Q", "", None, [], "Z")
    ]
    cases += [with_field(["tokens", kind, ["N"]], instead=["tokens"]) for kind in ("BF16", "ZU16")]
    cases += [with_field(instead=[name]) for name in ("spans", "positions", "mass", "tokens")]
    cases += [with_field(["positions", "F32", ["N", 0]], instead=["positions"]),
              with_field(["mass", "F64", ["N"]], instead=["mass"]),
              with_field(["weights.index", "I64", [2, "Z"]], ["weights.value", "F32", ["Z"]]),
              with_field(["weights.index", "U64", [2, "Z"]]),
              with_field(["assign", "U8", ["P"]], ["weights.index", "U8", [2, "Z"]],
                         ["weights.value", "F32", ["Z"]])]  # fmt: skip
    cases += [[], None, 5, "x", [[]], [["tokens"]], {"a": 1}, [["a", "b", "c", "d"]],
              json.loads("[" * 900 + "]" * 900), [*FIELDS] * 1000]  # fmt: skip
    counts = [(3, 2, 3, 4, 0), (0, 0, 0, 0, 0), (0, 2**61, 0, 0, 2**62), (3, 2**40, 2**20, 1, 1)]
    return probe(
        [
            (f"{layout!r:.200} {count} {delta}",
             lambda s, la=layout, c=count, d=delta: forge.plant(
                 s, data=bytes(4096), layout=la, delta=d,
                 row=[(3, c[0]), (4, list(c[1:4])), (5, c[4])]))
            for layout, count, delta in product(cases, counts, (True, False))
        ],
        then=None, tells=False,
    )  # fmt: skip


def provenance():
    """Hard and soft provenance that points outside of tokens and grid."""
    base = struct.pack("<24f", *[0.0] * 24)  # spans, positions and mass of 4 tokens: 6 floats each
    cases = []
    for value in (5, 200, 255):
        data = base + bytes([value] * 24) + bytes(32)
        layout = [*FIELDS[:3], ["assign", "U8", ["P"]], ["tokens", "BF16", ["N", 4]]]
        cases.append((data, layout, (2, 3, 4), 0))
    for index in ([[9, 0], [0, 1]], [[0, 0], [99, 1]], [[2**63, 0], [0, 1]], [[0, 0], [1, 1]]):
        data = base + np.array(index, "<u8").tobytes() + bytes(8) + bytes(32)
        layout = [*FIELDS[:3], ["weights.index", "U64", [2, "Z"]], ["weights.value", "F32", ["Z"]],
                  ["tokens", "BF16", ["N", 4]]]  # fmt: skip
        for grid in ((2, 3, 4), (2**30, 2**30, 1), (2**20, 2**20, 2**21), (0, 0, 0)):
            cases.append((data, layout, grid, 2))
    return probe(
        [
            (f"{layout} {grid}",
             lambda s, d=data, la=layout, g=grid, z=nnz: forge.plant(
                 s, data=d + bytes(64 + -len(d) % 64), layout=la,
                 row=[(3, 4), (4, list(g)), (5, z)]))
            for data, layout, grid, nnz in cases
        ],
        then=None, tells=False,
    )  # fmt: skip


def hashes_alike():
    """Keys that all have one hash in the index, of which a few or very many."""

    def many(s, n, true=True):
        keys = sorted(f"{i:08d}".encode() for i in range(n))
        column = forge.default_columns([forge.KEY, 4096, 64, 0, [0, 0, 0], 0, 0, "0" * 16, 1, 0, -1,
                                        0, ""])  # fmt: skip
        out = {
            k: np.repeat(v, n, axis=0) for k, v in column.items() if k not in ("keys", "contents")
        }
        ends = np.arange(1, n + 1, dtype="<i8") * 8
        out |= {"keys": np.frombuffer(b"".join(keys), np.uint8), "key_end": ends,
                "contents": np.zeros(0, np.uint8)}  # fmt: skip
        if not true:
            out["keys"] = np.frombuffer(keys[0] * n, np.uint8)
        forge.plant(s, columns=list(out.items()), shard=False)

    return probe(
        [("few", lambda s: many(s, 20)), ("many", lambda s: many(s, 300_000)),
         ("twice", lambda s: many(s, 2, true=False))],
        then=None, tells=False,
    )  # fmt: skip


def overlaps():
    """Records, tensors and planes that share bytes."""

    def share(s, shift):
        """A second record in the bytes of the first, both with right hashes."""
        _, row, _ = forge.record(s)
        forge.plant(s, row=[(1, 4096 + shift), (2, row[2] - shift)],
                    columns=[("key_hash", np.array([forge.xxh3(b"evil")], "<u8"))])  # fmt: skip

    def tensors(s, entries):
        path = s / "shards" / f"{forge.NAME}.safetensors"
        forge.plant(s, delta=False)
        text, data = forge.split(path.read_bytes())
        header = json.loads(text)
        header.update(entries)
        head = json.dumps(header).replace('{"__metadata__": {"check": "', forge.PREFIX.decode(), 1)
        forge.restamp(path, forge.join(head.encode(), data))

    def entry(start, stop, shape=None, dtype="U8"):
        shape = [stop - start] if shape is None else shape
        return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}

    shapes = [
        {"a": entry(0, 64)},
        {"a": entry(0, 2**62)},
        {"a": entry(2**62, 2**62 + 1)},
        {"a": entry(64, 0)},
        {"a": entry(-64, 0)},
        {"evil/meta": entry(0, 10)},
        {"a": entry(0, 0, [2**62, 2**62, 0])},
        {"a": entry(0, 0, [2**62] * 10**5)},
        {"a": entry(0, 0, [0], ["U8"])},
        {"a": entry(0, 0, "00")},
        {"a": 5},
        {"a": None},
        {"a": {"dtype": "U8"}},
        {"a": entry(0, 0, [0.0])},
        {"a": entry(0, 0, [True])},
        {"a": entry(0, 1, [1], "F64")},
        {"a": {**entry(0, 0), "data_offsets": [0]}},
    ]
    return probe(
        [*((f"shift {n}", lambda s, n=n: share(s, n)) for n in (64, -4096, -64)),
         *((f"{e!r:.80}", lambda s, e=e: tensors(s, e)) for e in shapes)],
        then=None, tells=False,
    )  # fmt: skip
