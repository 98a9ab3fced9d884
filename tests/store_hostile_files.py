"""Hostile files, journals, snapshots and store.json: each function tries a family of forgeries."""

import json
import os
import shutil
import struct
from itertools import product
from pathlib import Path

import numpy as np
import store_forge as forge
import store_hostile
from store_builders import IDENTITY
from store_hostile import (
    DEEP,
    HUGE,
    JUNK,
    NUMBERS,
    ROW,
    SETTINGS,
    TIDY,
    fresh,
    probe,
    recovered,
    refused,
)  # fmt: skip
from store_hostile_index import FIELDS, ZERO, with_field

from vidcomp.errors import StoreError
from vidcomp.store import CacheWriter, open_cache, recover, verify


def bombs():
    """Little on the disk that would be much in memory."""
    from backports import zstd

    def planes(count, size, *lengths):
        plane = zstd.compress(bytes(1 << 24), 1) * (count >> 24)
        table = lengths or [len(plane)] * size
        return struct.pack(f"<{size}Q", *table) + plane * size

    def packed(count, dim, data, n=1):
        layout = [*FIELDS[:3], ["tokens", "ZBF16", ["N", dim]]]
        head = bytes(24 * n)
        whole = head + data
        whole += bytes(64 + -len(whole) % 64)
        return {"data": whole, "layout": layout,
                "row": [(3, n), (12, ""), (13, len(data))]}  # fmt: skip

    def one_frame(count):
        """A frame that really gives so many zeros."""
        press = zstd.ZstdCompressor(1)
        chunk, out = bytes(1 << 24), []
        for _ in range(count >> 24):
            out.append(press.compress(chunk))
        out.append(press.flush())
        return b"".join(out)

    def with_row(s, **options):
        row = dict(options.pop("row"))
        c = row.pop(13)
        # The number of compressed bytes is the last of a row.
        forge.plant(s, row=list(row.items()), columns=[("packed", np.array([c]))],
                    shard=True, **options)  # fmt: skip

    giant = one_frame(1 << 33)
    two = struct.pack("<2Q", len(giant), len(giant)) + giant * 2
    cases = [
        ("8 GiB of zeros in a frame each", packed(0, 1 << 33, two)),
        ("frames end to end", packed(0, 1 << 26, planes(1 << 26, 2))),
        ("2^47 elements", packed(0, 1 << 47, struct.pack("<2Q", 1 << 31, 1 << 31))),
        ("planes that overlap", packed(0, 64, struct.pack("<2Q", 2**64 - 8, 24) + bytes(16))),
        ("planes of 2^63", packed(0, 64, struct.pack("<2Q", 2**63, 2**63) + bytes(16))),
        ("no planes", packed(0, 64, b"")),
    ]
    return probe([(k, lambda s, o=o: with_row(s, **o)) for k, o in cases], tells=False)


def json_bombs():
    """JSON that is deep, long, of many small values, or says a name twice."""
    many = {"lists": b"[]," * 5_000_000, "dicts": b"{}," * 5_000_000, "ones": b"1," * 9_000_000,
            "deep": b"[" * 20_000_000, "digits": b"9" * 20_000_000,
            "names": b",".join(b'"%x":1' % i for i in range(500_000))}  # fmt: skip

    def header(s, text, folder="shards", name=f"{forge.NAME}"):
        data = forge.join(forge.PREFIX + b'0000000000000000"},"x":' + text + b"}", b"")
        forge.restamp(s / folder / f"{name}.safetensors", data)

    def bomb(kind):
        text = many[kind].rstrip(b",")
        left, right = (b"{", b"}") if kind == "names" else (b"[", b"]")
        return left + text + right

    cases = [
        (f"{kind} in {folder}", lambda s, k=kind, f=folder, n=name: header(s, bomb(k), f, n))
        for kind in many
        for folder, name in (("shards", forge.NAME), ("deltas", forge.NAME), ("index", "9" * 16))
    ]
    cases += [
        ("a long name", lambda s: header(s, b'1,"' + b"x" * 20_000_000 + b'":2')),
        ("a name twice", lambda s: header(s, b'1,"x":2,"x":{},"__metadata__":{}')),
    ]
    for key in ("layouts", "records", "covers", "retired"):
        cases += [
            (
                f"{kind} in {key}",
                lambda s, k=key, t=text: forge.plant(s, meta=[(k, t)], delta=k == "covers"),
            )
            for kind, text in (("lists", "[" + "[]," * 2_000_000 + "[]]"), ("deep", DEEP))
        ]
    cases.append(("as much as may be", lambda s: header(s, b"[" + b"[]," * 33_000_000 + b"[]]")))
    return probe(cases, then=None, tells=False)


def manifests():
    """A store.json that is not what it should be."""
    about = {"kind": "vidcomp-store", "format": 1, "features": [], "id": "0" * 32,
             "created_by": "x", "fingerprint": "0" * 16, "identity": {}, "weights": {},
             "settings": {"dtype": "bfloat16", "codec": "none", "assign": False, "extras": [],
                          "frame_extras": []}}  # fmt: skip
    deep = json.loads("[" * 900 + "]" * 900)
    cases = [
        ({**about, key: value})
        for key in about
        for value in (*JUNK, *NUMBERS[:9], deep, ["int8", 1], {"extras": [[]]}, "x" * 10**6)
    ]
    cases += [{k: v for k, v in about.items() if k != key} for key in about]
    texts = [json.dumps(case) for case in cases[:: 3 * store_hostile.STRIDE]]
    texts += ["[]", "1", "", '{"a":' + DEEP, '{"format": Infinity}', '{"kind":"x"}' * 2,
              '{"kind":"vidcomp-store","format":1e999}', '{"a":"' + "x" * 2_000_000 + '"}',
              '{"a":[' + "[]," * 200_000 + "1]}"]  # fmt: skip

    def change(store, text):
        data = b'{"check":"0000000000000000",' + text.lstrip("{").encode()
        forge.restamp(store / "store.json", data)

    count = 0
    with fresh() as copy:
        path = copy()
        for text in texts:
            change(path, text)
            for call in (open_cache, verify, recover, *TIDY,
                         lambda p: CacheWriter(p, identity=IDENTITY).close()):  # fmt: skip
                try:
                    refused(call, path)
                except Exception as error:
                    error.add_note(f"in {text[:300]}")
                    raise
            count += 1
    return count


def journals():
    """What a writer that died may seem to have left."""
    owners = [{key: value} for key in ("data_start", "pid", "format", "pids", "boot", "store")
              for value in (*NUMBERS, *JUNK)]  # fmt: skip
    owners += [{"data_start": n} for n in (64, 128, 2**20, 2**26, 2**32, 2**40)]
    removal = {"removed": ["gone", 1]}
    cases = [(str(o), lambda s, o=o: forge.dead_journal(s, removal, owner=o)) for o in owners]
    lines = [{"removed": [key, generation]} for key, generation in
             [*product(["a"], [*NUMBERS, *JUNK]), *product(JUNK, [1])]]  # fmt: skip
    lines += [b"[" * 10_000, b"", b"1", b'{"row":1}', b'{"removed":null}', b"\xff"]

    def rows(s, place, value):
        data, row, layout = forge.record(s)
        row = [forge.KEY, 16384, *row[2:6], 0, *row[7:]]
        row[place : place + 1] = [value]
        forge.dead_journal(s, {"row": row, "layout": layout}, part=bytes(16384) + data)

    cases += [(f"{line!r:.80}", lambda s, v=line: forge.dead_journal(s, v)) for line in lines]
    cases += [(f"{ROW[place]}={value!r:.80}", lambda s, p=place, v=value: rows(s, p, v))
              for place, value in product(range(len(ROW)), (*HUGE, 2**70, -1, *JUNK))]  # fmt: skip
    lone = [
        ("a sparse part", lambda s: forge.sparse(
            forge.dead_journal(s, {"row": [forge.KEY, 16384, 2**42, 1, [1, 1, 1], 0, 0, "0" * 16, 1,
                                           0, -1, 0, ""], "layout": FIELDS}), 2**43)),
        ("lines without end", lambda s: (s / "wal" / f"{forge.NAME}.journal").write_bytes(
            b"\n" * 90_000_000)),
        ("a sparse journal", lambda s: forge.sparse(s / "wal" / f"{forge.NAME}.journal", 2**42)),
        ("a removal", lambda s: forge.dead_journal(s, removal)),
    ]  # fmt: skip
    return probe(lone, tells=False) + probe(cases, then=recovered, tells=False)


def sizes():
    """Files far larger than memory, that take no room on the disk."""
    text = forge.PREFIX + b'0000000000000000"}}'

    def grown(s, name, first=b""):
        forge.sparse(s / name, 2**42, first)

    names = [f"{folder}/{forge.NAME}.safetensors" for folder in ("shards", "deltas")]
    names += ["index/0000000000000007.safetensors"]
    heads = [b"", struct.pack("<Q", 2**40), struct.pack("<Q", 2**63), struct.pack("<Q", 10**8),
             forge.join(text, b"")]  # fmt: skip
    cases = [(f"{name} {head[:20]}", lambda s, n=name, h=head: grown(s, n, h))
             for name, head in product(names, heads)]  # fmt: skip

    def record(s):
        """A record of 4 TiB in a sparse shard, which its header and delta speak of."""
        size = 2**42
        forge.plant(s, row=[(2, size), (3, 1)], layout=with_field(
            ["tokens", "BF16", ["N", 2**40]], instead=["tokens"]))  # fmt: skip
        path = s / "shards" / f"{forge.NAME}.safetensors"
        with path.open("r+b") as file:
            file.truncate(4096 + size)

    return probe([*cases, ("a record", record)], tells=False)


def kinds_of_files():
    """Folders, pipes, sockets, devices and links where files belong."""
    import socket

    def bind(path):
        with socket.socket(socket.AF_UNIX) as sock:
            here = Path.cwd()
            os.chdir(path.parent)
            sock.bind(path.name)
            os.chdir(here)

    makers = {"folder": Path.mkdir, "pipe": os.mkfifo, "socket": bind,
              "nowhere": lambda p: p.symlink_to("/nowhere/at/all"),
              "itself": lambda p: p.symlink_to(p), "zeros": lambda p: p.symlink_to("/dev/zero"),
              "tty": lambda p: p.symlink_to("/dev/tty"),
              "text": lambda p: p.symlink_to(__file__),
              "root": lambda p: p.symlink_to("/")}  # fmt: skip

    def extra(s, name, make):
        path = s / name
        path.unlink(missing_ok=True)
        make(path)

    names = [f"shards/{forge.NAME}.safetensors", f"deltas/{forge.NAME}.safetensors",
             "index/0000000000000003.safetensors", f"wal/{forge.NAME}.journal",
             f"wal/{forge.NAME}.part", "wal/.tmp-x", "deltas/.tmp-x"]  # fmt: skip
    return probe(
        [(f"{name} {kind}", lambda s, n=name, m=make: extra(s, n, m))
         for name, (kind, make) in product(names, makers.items())], tells=False,
    )  # fmt: skip


def files_that_are_replaced():
    """The same, in the place of files that were there."""
    makers = {"folder": Path.mkdir, "pipe": os.mkfifo, "zeros": lambda p: p.symlink_to("/dev/zero"),
              "empty": Path.touch, "nowhere": lambda p: p.symlink_to("/nowhere"),
              "itself": lambda p: p.symlink_to(p)}  # fmt: skip

    def put(s, folder, make):
        path = min((s / folder).iterdir())
        path.unlink()
        make(path)

    def of(folder):
        return [(f"{folder} {kind}", lambda s, f=folder, m=make: put(s, f, m))
                for kind, make in makers.items()]  # fmt: skip

    count = probe(of("deltas"))
    return count + probe(of("shards"), sound=[], tells=True)


def folders():
    """Other things in the place of the folders and of store.json."""
    count = 0
    for name, make in product(
        ("shards", "deltas", "index", "wal", "store.json"),
        (Path.touch, os.mkfifo, lambda p: p.symlink_to("/nowhere"), lambda p: p.symlink_to(p), None,
         Path.mkdir)):  # fmt: skip
        with fresh() as copy:
            path = copy()
            if (path / name).is_dir():
                shutil.rmtree(path / name)
            else:
                (path / name).unlink()
            if make is not None:
                make(path / name)
            for call in (
                open_cache,
                verify,
                recover,
                *TIDY,
                lambda p: CacheWriter(p, identity=IDENTITY, settings=SETTINGS).close(),
            ):
                found = refused(call, path)
                if call is open_cache and not isinstance(found, StoreError):
                    refused(lambda c=found: [c[key] for key in c.keys()])  # noqa: SIM118
            count += 1
    return count


def snapshots():
    """Snapshots of absurd numbers, and such as retire what is valid."""

    def publish(s, name, meta=(), rows=True):
        about = json.loads((s / "store.json").read_text())
        cache = open_cache(s)
        lists = {"covers": [], "shards": [], "writers": [], "layouts": []}
        if rows:
            lists["covers"] = sorted({e.shard for e in cache.entries()})
        empty = {k: v[:0] for k, v in forge.default_columns(
            ["x", 0, 64, 0, [0, 0, 0], 0, 0, "0" * 16, 1, 0, -1, 0, ""]).items()}  # fmt: skip
        path = s / "index" / f"{name}.safetensors"
        forge.write_index(path, about["id"], lists | dict(meta), empty)

    commits = {"retired": {"a" * 32 + "-000000": 0, "../../x": 0, "9" * 16: 2**70, "x": []}}
    return probe(
        [("highest", lambda s: publish(s, "9" * 16, rows=False)),
         ("retired", lambda s: publish(s, "0" * 16, commits.items(), rows=False)),
         ("other digits", lambda s: publish(s, ZERO * 16)),
         ("a path", lambda s: publish(s, ".."))],
        tells=False,
    )  # fmt: skip
