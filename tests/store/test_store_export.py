"""Exports are the records, in files that other programs read."""

import json
import os
import shutil
import sys

import numpy as np
import pytest
import store_maintain_child as child
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from store_builders import IDENTITY, any_key, any_video, bits, tiny, write

from vidcomp.config import StoreSettings
from vidcomp.errors import ConfigError, MissingExtraError, StoreError, StoreMissError
from vidcomp.store import CacheWriter, open_cache
from vidcomp.store.disk.format import unescape
from vidcomp.store.exports.export import INDEX, export
from vidcomp.store.exports.names import safe_name

# webdataset leaves the files that it reads to the garbage collector.
pytestmark = pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)

FORMATS = ["safetensors", "npy", "webdataset", "parquet"]
KEYS = ["a", "b/c d.mp4", "../../etc/passwd", "CON", "con", "Ünï/c.MP4", "x" * 300, "a.b.c", "-1"]


@pytest.fixture
def store(tmp_path):
    """Records with keys of all sorts, and all fields."""
    chosen = StoreSettings(assign=True, extras=("sal/ency",), frame_extras=("cls",))
    with CacheWriter(tmp_path / "store", identity=IDENTITY, settings=chosen) as writer:
        for i, key in enumerate(KEYS):
            extras = {"sal/ency": torch.rand(5 + i, 2)}
            frames = {"cls": torch.rand(2, 3).half()}
            video = tiny(5 + i, seed=i, extras=extras, frame_extras=frames)
            writer.add(key, video, {"n": i, "ü": "é"})
    return tmp_path / "store"


def index(out):
    lines = [json.loads(line) for line in (out / INDEX).read_text().splitlines()]
    return {line["key"]: line for line in lines}


def read_safetensors(out):
    """Key to arrays and what is said of them."""
    found = {}
    for path in out.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            about = {k: v if k == "key" else loads(v) for k, v in file.metadata().items()}
        found[about["key"]] = arrays, about
    return found


def loads(text):
    try:
        return json.loads(text)
    except ValueError:
        return text


def read_npy(out):
    found = {}
    for path in out.glob("*.json"):
        about = json.loads(path.read_text())
        arrays = {}
        for name in about["files"]:
            field = name.removeprefix(path.stem).removesuffix(".npy").removeprefix(".")
            arrays[field or "tokens"] = torch.from_numpy(np.load(out / name))
        found[about["key"]] = arrays, about
    return found


def read_webdataset(out):
    wds = pytest.importorskip("webdataset")
    urls = sorted(str(path) for path in out.glob("*.tar"))
    found = {}
    for sample in wds.WebDataset(urls, shardshuffle=False, empty_check=False).decode():
        about = sample["json"]
        arrays = {
            name.removesuffix(".npy"): torch.from_numpy(value)
            for name, value in sample.items()
            if name.endswith(".npy")
        }
        assert sample["__key__"] == safe_name(about["key"])
        found[about["key"]] = arrays, about
    return found


def read_parquet(out):
    parquet = pytest.importorskip("pyarrow.parquet")
    found = {}
    for path in sorted(out.glob("*.parquet")):
        table = parquet.read_table(path)
        for row in table.to_pylist():
            arrays = {}
            for name in table.column_names:
                kind = table.schema.field(name).type
                if str(kind).startswith("large_list"):
                    while hasattr(kind, "value_type"):
                        kind = kind.value_type
                    value = row.pop(name)
                    if value is not None:
                        arrays[name] = torch.from_numpy(np.array(value, kind.to_pandas_dtype()))
            found[row["key"]] = arrays, {**row, "meta": json.loads(row["meta"])}
    return found


READ = {
    "safetensors": read_safetensors,
    "npy": read_npy,
    "webdataset": read_webdataset,
    "parquet": read_parquet,
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_holds_every_field_of_every_record(store, tmp_path, name):
    out = tmp_path / "out"
    report = export(store, out, format=name)
    assert (report.num_records, report.num_written, report.bad) == (len(KEYS), len(KEYS), {})
    found, cache = READ[name](out), open_cache(store)
    assert sorted(found) == sorted(KEYS)
    for key, (arrays, about) in found.items():
        video = cache[key]
        wanted = {
            "tokens": video.tokens if name == "safetensors" else video.tokens.float(),
            "positions": video.positions,
            "spans": video.spans,
            "mass": video.mass,
            "assign": video.assign.to(torch.int32),
            "frame.cls": video.frame_extras["cls"],
        }
        saliency = "extras.sal/ency"
        if name in ("npy", "webdataset"):
            saliency = f"extras.{safe_name('sal/ency')}"
        wanted[saliency] = video.extras["sal/ency"]
        assert sorted(arrays) == sorted(wanted)
        for field, tensor in wanted.items():
            assert bits(arrays[field]) == bits(tensor), (key, field)
        assert about["grid"] == list(video.grid)
        assert about["meta"] == cache.meta(key)
        assert about["num_tokens"] == len(video)
        assert about["checksum"] == cache.info(key).checksum


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "stored"])
def test_the_type_of_the_tokens_can_be_chosen(tmp_path, name, dtype):
    write(tmp_path / "store", {"v": tiny(seed=1)})
    report = export(tmp_path / "store", tmp_path / "out", format=name, dtype=dtype)
    assert report.dtype == dtype
    ((arrays, _),) = READ[name](tmp_path / "out").values()
    tokens = open_cache(tmp_path / "store")["v"].tokens
    wanted = tokens if dtype == "stored" else tokens.to(getattr(torch, dtype))
    if name != "safetensors" and wanted.dtype == torch.bfloat16:
        wanted = wanted.view(torch.uint16)
    assert bits(arrays["tokens"]) == bits(wanted)


@given(key=any_key(), video=any_video())
@settings(deadline=None, max_examples=40)
def test_any_record_can_be_exported(key, video, tmp_path_factory):
    folder = tmp_path_factory.mktemp("s")
    chosen = StoreSettings(
        assign=True, extras=tuple(video.extras), frame_extras=tuple(video.frame_extras)
    )
    with CacheWriter(folder / "store", identity=IDENTITY, settings=chosen) as writer:
        writer.add(key, video)
    stored = open_cache(folder / "store")[key]
    for name in ("safetensors", "npy", "webdataset"):
        out = folder / name
        assert export(folder / "store", out, format=name, dtype="stored").bad == {}
        assert all(path.parent == out for path in out.rglob("*"))
        ((_, line),) = index(out).items()
        assert line["num_tokens"] == len(video)
    empty = [t for t in (*video.extras.values(), *video.frame_extras.values()) if 0 in t.shape[1:]]
    if (video.tokens.dim() == 1 or video.tokens.shape[1]) and not empty:
        assert export(folder / "store", folder / "parquet", format="parquet").bad == {}
        ((_, about),) = read_parquet(folder / "parquet").values()
        assert about["num_tokens"] == len(video)
    ((arrays, about),) = read_safetensors(folder / "safetensors").values()
    assert bits(arrays["tokens"]) == bits(stored.tokens)
    assert unescape(about.get("key_escaped", about["key"].replace("%", "%25"))) == key


@pytest.mark.parametrize("codec", ["int8", "zstd"])
def test_stores_of_other_forms_are_exported_as_they_read(tmp_path, codec):
    if codec == "zstd":
        pytest.importorskip("backports.zstd" if sys.version_info < (3, 14) else "compression.zstd")
    chosen = StoreSettings(dtype="int8") if codec == "int8" else StoreSettings(codec="zstd")
    write(tmp_path / "store", {"v": tiny(seed=1)}, settings=chosen)
    export(tmp_path / "store", tmp_path / "out")
    ((arrays, about),) = read_safetensors(tmp_path / "out").values()
    assert bits(arrays["tokens"]) == bits(open_cache(tmp_path / "store")["v"].tokens)
    assert about["dtype"] == "bfloat16"
    assert export(tmp_path / "store", tmp_path / "out").num_written == 0


@given(keys=st.sets(st.text(st.characters(codec=None), min_size=1, max_size=30), max_size=40))
@settings(deadline=None, max_examples=100)
def test_names_are_safe_and_differ_whatever_the_file_system(keys):
    names = {key: safe_name(key) for key in keys}
    assert len({name.lower() for name in names.values()}) == len(keys)
    for name in names.values():
        assert set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789_-")
        assert 0 < len(name) <= 100
        assert not name.startswith("-")


def test_plain_names_stay_and_names_that_look_made_do_not():
    assert safe_name("clip_01-a") == "clip_01-a"
    made = safe_name("Clip.mp4")
    assert made.startswith("clip_mp4-")
    assert safe_name(made) != made  # or a key could take the file of another
    assert safe_name("nul") != "nul"


@pytest.mark.parametrize("name", FORMATS)
def test_a_second_run_writes_nothing_and_new_records_are_added(store, tmp_path, name):
    out = tmp_path / "out"
    export(store, out, format=name)
    before = {path: path.stat().st_mtime_ns for path in out.iterdir() if path.name != INDEX}
    report = export(store, out, format=name)
    assert report.num_written == 0
    assert {p: p.stat().st_mtime_ns for p in out.iterdir() if p.name != INDEX} == before
    with CacheWriter(store, identity=IDENTITY, settings=open_cache(store).manifest.settings) as w:
        fields = {"extras": {"sal/ency": torch.rand(4, 2)}}
        w.add("new", tiny(4, frame_extras={"cls": torch.rand(2, 3).half()}, **fields))
    if name in ("safetensors", "npy"):
        assert export(store, out, format=name).num_written == 1
    else:
        with pytest.raises(StoreError, match="not of this export"):
            export(store, out, format=name)
        assert export(store, out, format=name, overwrite=True).num_written == len(KEYS) + 1
    assert sorted(READ[name](out)) == sorted([*KEYS, "new"]) == sorted(index(out))


@pytest.mark.parametrize("name", ["safetensors", "npy"])
def test_a_record_that_changed_is_written_again(tmp_path, name):
    write(tmp_path / "store", {"v": tiny(seed=1), "w": tiny(seed=2)})
    export(tmp_path / "store", tmp_path / "out", format=name)
    write(tmp_path / "store", {"v": tiny(seed=3)})
    assert export(tmp_path / "store", tmp_path / "out", format=name).num_written == 1
    tokens = READ[name](tmp_path / "out")["v"][0]["tokens"]
    assert bits(tokens.bfloat16()) == bits(tiny(seed=3).tokens)


@pytest.mark.parametrize("name", FORMATS)
def test_only_chosen_keys(store, tmp_path, name):
    report = export(store, tmp_path / "out", format=name, keys=["a", "CON", "a"])
    assert report.num_records == 2
    assert sorted(READ[name](tmp_path / "out")) == ["CON", "a"] == sorted(index(tmp_path / "out"))
    with pytest.raises(StoreMissError, match="'gone'"):
        export(store, tmp_path / "out", format=name, keys=["gone", "a"])


@pytest.mark.parametrize("name", ["webdataset", "parquet"])
def test_files_have_the_size_that_was_asked_for(store, tmp_path, name):
    nbytes = [open_cache(store).info(key).nbytes for key in KEYS]
    report = export(store, tmp_path / "out", format=name, shard_bytes=2 * max(nbytes))
    assert report.num_files > 3
    assert sorted(READ[name](tmp_path / "out")) == sorted(KEYS)
    files = {line["file"] for line in index(tmp_path / "out").values()}
    assert len(files) == report.num_files
    again = export(
        store, tmp_path / "out", format=name, shard_bytes=2 * max(nbytes), overwrite=False
    )
    assert again.num_written == 0
    export(store, tmp_path / "out", format=name, overwrite=True)
    assert len([p for p in (tmp_path / "out").iterdir() if p.name != INDEX]) == 1


@pytest.mark.parametrize("name", FORMATS)
def test_a_damaged_record_is_named_and_the_rest_is_exported(store, tmp_path, name):
    info = open_cache(store).info("CON")
    shard = store / "shards" / f"{info.shard}.safetensors"
    whole = shard.read_bytes()
    data = bytearray(whole)
    data[info.offset + 1] ^= 1
    shard.write_bytes(data)
    report = export(store, tmp_path / "out", format=name)
    assert list(report.bad) == ["CON"]
    assert sorted(READ[name](tmp_path / "out")) == sorted(set(KEYS) - {"CON"})
    shard.write_bytes(whole)
    assert export(store, tmp_path / "out", format=name).bad == {}
    assert sorted(READ[name](tmp_path / "out")) == sorted(KEYS)


@pytest.mark.parametrize("name", FORMATS)
def test_files_of_others_are_not_replaced(store, tmp_path, name):
    out = tmp_path / "out"
    export(store, out, format=name)
    victim = next(path for path in sorted(out.iterdir()) if path.suffix in (".json", ".tar",
        ".parquet", ".safetensors"))  # fmt: skip
    shutil.rmtree(out)
    out.mkdir()
    victim.write_text("mine")
    with pytest.raises(StoreError, match=r"is there and not of this export"):
        export(store, out, format=name)
    assert victim.read_text() == "mine"
    export(store, out, format=name, overwrite=True)
    assert sorted(READ[name](out)) == sorted(KEYS)


def test_values_that_float16_cannot_hold_are_named(tmp_path):
    video = tiny(seed=1)
    video.tokens[0, 0] = 1e30
    write(tmp_path / "store", {"big": video, "ok": tiny(seed=2)})
    report = export(tmp_path / "store", tmp_path / "out", dtype="float16")
    assert list(report.bad) == ["big"]
    assert "float16" in report.bad["big"]
    assert sorted(read_safetensors(tmp_path / "out")) == ["ok"]


def test_records_of_other_widths_are_no_table(tmp_path):
    pytest.importorskip("pyarrow")
    write(tmp_path / "store", {"a": tiny(dim=7), "b": tiny(dim=8)})
    with pytest.raises(StoreError, match="no table"):
        export(tmp_path / "store", tmp_path / "out", format="parquet")
    assert [path.name for path in (tmp_path / "out").iterdir()] == []


def test_without_pyarrow_it_says_what_to_install(tmp_path, monkeypatch):
    write(tmp_path / "store", {"a": tiny()})
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match=r"vidcomp\[parquet\]"):
        export(tmp_path / "store", tmp_path / "out", format="parquet")


def test_wrong_words_and_places(tmp_path):
    write(tmp_path / "store", {"a": tiny()})
    with pytest.raises(ConfigError, match="safetensors, npy, webdataset or parquet"):
        export(tmp_path / "store", tmp_path / "out", format="hdf5")
    with pytest.raises(ConfigError, match="token cache itself"):
        export(tmp_path / "store", tmp_path / "store")
    with pytest.raises(StoreMissError):
        export(tmp_path / "nothing", tmp_path / "out")
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="a file stands where a folder is needed"):
        export(tmp_path / "store", tmp_path / "file")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", FORMATS)
def test_killed_before_every_step(tmp_path, name):
    write(tmp_path / "store", {f"v{i}": tiny(seed=i) for i in range(3)})
    export(tmp_path / "store", tmp_path / "whole", format=name, shard_bytes=1)
    wanted, deaths = sorted(READ[name](tmp_path / "whole")), 0
    while True:
        out = tmp_path / str(deaths)
        killed = child.die_in(child.export_now, deaths, tmp_path / "store", out, name)
        for path in out.iterdir() if out.exists() else ():
            if not path.name.startswith(".tmp-"):
                assert path.read_bytes() == (tmp_path / "whole" / path.name).read_bytes()
        export(tmp_path / "store", out, format=name, shard_bytes=1)
        assert sorted(READ[name](out)) == wanted == sorted(index(out))
        if not killed:
            break
        deaths += 1
    assert deaths >= 4


def test_progress_ends_with_all_of_it(store, tmp_path):
    for name in FORMATS:
        calls = []
        export(store, tmp_path / name, format=name, progress=lambda *now, c=calls: c.append(now))
        total = sum(entry.nbytes for entry in open_cache(store).entries())
        assert calls[-1] == (total, total)


def test_what_a_power_cut_leaves_is_made_again(store, tmp_path):
    out = tmp_path / "out"
    export(store, out)
    empty = sorted(out.glob("*.safetensors"))[0]
    os.truncate(empty, 0)
    assert export(store, out).num_written == 1
    assert sorted(read_safetensors(out)) == sorted(KEYS)
