"""Tokens as int8 with scales, and what stores of int8 and of compressed tokens say."""

import json
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from packing import INT8, ZSTD, decoded, features, packed, through, with_tokens
from safetensors import safe_open
from store_builders import FLOATS, bits, same, tiny, write

from vidcomp.config import StoreSettings
from vidcomp.errors import StoreCorruptError, StoreError
from vidcomp.store import TokenCache, open_cache, verify
from vidcomp.store.disk.format import FEATURES, features_of
from vidcomp.store.disk.index import Table
from vidcomp.store.disk.layout import Layout
from vidcomp.store.disk.merge import merge_tables
from vidcomp.store.disk.precision import decode_int8, encode_int8
from vidcomp.store.disk.shard import row_from_json, row_text


@given(data=st.data())
@settings(deadline=None, max_examples=100)
def test_int8_is_within_half_a_scale_of_every_value(data):
    n, dim = data.draw(st.integers(0, 9)), data.draw(st.integers(0, 5))
    dtype = data.draw(st.sampled_from([*FLOATS.values(), torch.float64]))
    size = data.draw(st.sampled_from([1e-44, 1e-30, 1.0, 1e4]))
    seed = data.draw(st.integers(0, 2**31))
    x = (torch.randn(n, dim, generator=torch.Generator().manual_seed(seed)) * size).to(dtype)
    if n and dim and data.draw(st.booleans()):
        x[:, data.draw(st.integers(0, dim - 1))] = 0
    codes, scale = encode_int8(x, "v")
    assert (codes.dtype, codes.shape, scale.dtype, scale.shape) == (
        torch.int8, x.shape, torch.float32, (dim,),
    )  # fmt: skip
    peak = x.float().abs().amax(0) if n else torch.zeros(dim)
    assert torch.equal(scale, peak / 127)
    assert codes.abs().max().item() <= 127 if codes.numel() else True
    error = (codes.double() * scale.double() - x.double()).abs()
    # The last term: scales next to the smallest float32 are coarse themselves.
    assert (error <= 0.5 * scale.double() * (1 + 1e-5) + 127 * 2.0**-149).all()
    assert (codes[:, scale == 0] == 0).all()


@pytest.mark.parametrize("outliers", [0, 6])
def test_int8_keeps_features_as_well_as_measured(outliers):
    x = features(dim=1152, outliers=outliers).float()
    y = decoded(x)
    error = y - x
    assert error.pow(2).mean().sqrt() / x.pow(2).mean().sqrt() < 0.009
    assert (error.pow(2).mean(0).sqrt() / x.std(0)).mean() < 0.013
    assert torch.cosine_similarity(x, y).min() > 0.9997


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (1, 70_000), (70, 1000), (400, 400), (129, 256)])
@pytest.mark.parametrize("dtype", FLOATS.values())
def test_decoding_in_parts_is_one_product_in_float32(shape, dtype):
    g = torch.Generator().manual_seed(3)
    codes = torch.randint(-127, 128, shape, generator=g, dtype=torch.int8)
    scale = torch.rand(shape[1], generator=g)
    out = torch.full(shape, torch.nan, dtype=dtype)
    assert decode_int8(codes, scale, out) is out
    assert bits(out) == bits((codes.float() * scale).to(dtype))
    if dtype == torch.bfloat16:
        assert bits(decode_int8(codes, scale)) == bits(out)


def test_codes_round_half_to_even_and_never_reach_minus_128():
    x = torch.tensor([[127.0, -127.0], [0.5, 1.5], [2.5, -0.5]])
    codes, scale = encode_int8(x, "v")
    assert scale.tolist() == [1, 1]
    assert codes.tolist() == [[127, -127], [0, 2], [2, 0]]


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf, 3.4e38])
@pytest.mark.parametrize("row", [0, 499])
def test_values_that_int8_cannot_hold_are_refused_by_key(value, row):
    x = torch.zeros(500, 100)
    x[row, 7] = value
    video = with_tokens(tiny(500, 100), x)
    with pytest.raises(StoreError, match=r"'clips/a' has tokens that int8 cannot.*channel 7 "):
        packed(video, INT8, "clips/a")


def test_a_store_of_int8_reads_bfloat16_and_leaves_ids_alone():
    video = tiny(70, 6, dtype=torch.float32)
    found = packed(video, INT8)
    names = [(f.name, f.dtype, f.shape) for f in found.layout.fields]
    assert ("tokens", "I8", ("N", 6)) in names
    assert ("tokens.scale", "F32", (6,)) in names
    assert (found.layout.dtype, found.layout.dim) == ("bfloat16", 6)
    assert bits(through(video, INT8).tokens) == bits(decoded(video.tokens).bfloat16())
    ids = with_tokens(video, torch.arange(70, dtype=torch.int32))
    assert packed(ids, INT8).layout == packed(ids, StoreSettings()).layout
    assert bits(through(ids, INT8).tokens) == bits(ids.tokens)


# What a store says


def test_features_are_what_the_settings_use():
    assert features_of(StoreSettings()) == ()
    assert features_of(INT8) == ("int8",)
    assert features_of(StoreSettings(dtype="int8", codec="zstd")) == ("int8", "zstd")
    assert set(features_of(StoreSettings(dtype="int8", codec="zstd"))) == FEATURES


@pytest.mark.parametrize(
    "fields",
    [
        [["tokens", "ZZBF16", ["N", 4]]],
        [["tokens", "ZNONE", ["N", 4]]],
        [["tokens", "BF16", ["N", 4]], ["mass", "ZF32", ["N"]]],
        [["tokens", "BF16", ["N", "N"]]],
        [["tokens", "BF16", [4, "N"]]],
        [["tokens", "BF16", ["N", 4]], ["tokens.scale", "F32", [4]]],
        [["tokens", "I8", ["N", 4]], ["tokens.scale", "F32", [5]]],
        [["tokens", "I8", ["N", 4]], ["tokens.scale", "BF16", [4]]],
        [["tokens", "I8", ["N"]], ["tokens.scale", "F32", []]],
        [["tokens", "ZBF16", ["N", 4]], ["tokens.zstd", "U8", [4]]],
        [["tokens", "BF16", ["N", 4]], ["blocks", "U64", ["B"]]],
        [["tokens", "ZBF16", ["N", 4]], ["spans", "F32", ["N", 2]], ["blocks", "U64", ["B"]]],
        [["tokens", "BF16", ["N", 4]], ["spans", "F32", ["N", 2]], ["blocks", "U64", ["N"]]],
        [["tokens", "BF16", ["N", 4]], ["a/b", "U8", ["N"]]],
    ],
)
def test_layouts_of_fields_that_do_not_go_together_are_refused(fields):
    with pytest.raises(StoreCorruptError, match="layout"):
        Layout.parse(fields)


# The count in rows and indexes


def row(key, *, n=100, chosen=ZSTD):
    made = packed(tiny(n, 8), chosen, key).row((1, "a" * 32), None)
    return replace(made, shard=f"{'a' * 32}-000000", offset=64 * n)


def test_an_index_keeps_the_length_of_compressed_tokens_and_is_without_it_otherwise():
    rows = [row("a"), row("b", n=70), row("c", chosen=StoreSettings())]
    table = Table.of_rows("s", [rows[0].shard], rows)
    again = Table.read(table.write(), "delta")
    assert sorted(again.rows(), key=lambda r: r.key) == rows
    plain = Table.of_rows("s", [], rows[2:])
    assert b'"packed"' in table.write()
    assert b'"packed"' not in plain.write()
    assert list(Table.read(plain.write(), "delta").rows()) == rows[2:]
    parts = [Table.read(Table.of_rows("s", [], [r]).write(), "delta") for r in rows]
    merged = merge_tables("s", [], parts)
    assert sorted(merged.rows(), key=lambda r: r.key) == rows


def test_lengths_that_no_record_can_have_are_refused():
    table = Table.of_rows("s", [], [row("a")])
    table.columns["packed"][0] = -1
    with pytest.raises(StoreCorruptError, match="places no record can have"):
        Table.read(table.write(), "delta")


@pytest.mark.parametrize("chosen", [ZSTD, StoreSettings()])
def test_a_row_of_a_shard_has_the_length_only_where_there_is_one(chosen):
    one = row("a", chosen=chosen)
    data = json.loads(row_text(one, 0, 0))
    assert len(data) == 13 + bool(one.counts.packed)
    assert row_from_json(data, one.shard, [one.layout], ["a" * 32]) == one
    later = [*data, *[0] * (14 - len(data)), "an addition"]
    assert row_from_json(later, one.shard, [one.layout], ["a" * 32]) == one
    for wrong in (-1, "5", 2**63):
        with pytest.raises(StoreCorruptError, match="row that cannot be"):
            row_from_json([*data[:13], wrong], one.shard, [one.layout], ["a" * 32])


@pytest.mark.parametrize("chosen", [INT8, ZSTD, StoreSettings(dtype="int8", codec="zstd")])
def test_stores_of_every_form(tmp_path, chosen):
    videos = {f"v{n}": tiny(n, 9, n, assign=None) for n in (0, 1, 70, 300)}
    videos["ids"] = with_tokens(tiny(), torch.arange(5))
    write(tmp_path, videos, settings=chosen)
    cache = open_cache(tmp_path)
    assert cache.manifest.features == features_of(chosen)
    assert verify(tmp_path).ok
    for key, video in videos.items():
        assert same(cache[key], through(video, chosen))
    keys = ["v70", "v0", "v300"]
    for found, key in zip(cache.get_many(keys), keys, strict=True):
        assert same(found, cache[key])
    assert cache.info("v70").dtype == "bfloat16"


def test_damaged_lengths_of_planes_are_refused_even_without_the_hash(tmp_path):
    write(tmp_path, {"v": tiny(300, 9)}, settings=ZSTD)
    info = open_cache(tmp_path).info("v")
    (shard,) = (tmp_path / "shards").glob("*.safetensors")
    data = bytearray(shard.read_bytes())
    with safe_open(shard, "np") as file:
        stream = file.get_tensor("v/tokens.zstd").tobytes()
    at = data.index(stream, info.offset)
    data[at + 3] ^= 1
    shard.write_bytes(data)
    for options in ({}, {"verify": False}):
        with pytest.raises(StoreCorruptError):
            TokenCache(tmp_path, **options)["v"]
