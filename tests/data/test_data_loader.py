"""Batches from a cache, in this process and in workers."""

import pickle

import pytest
import torch
from store_builders import content, same, tiny, write

from vidcomp.data import CachedTokenDataset, Sample, collate, collate_padded, token_loader
from vidcomp.errors import ConfigError, ShapeError, StoreCorruptError, StoreMissError
from vidcomp.store import open_cache
from vidcomp.types import PaddedTokens, TokenBatch

VIDEOS = {f"clip{i:02d}": tiny(i % 4 + 1, 6, i, assign=None) for i in range(13)}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return write(tmp_path_factory.mktemp("cache"), VIDEOS)


def test_the_data_set_is_the_records_in_the_order_of_their_keys(cache):
    dataset = CachedTokenDataset(cache)
    assert len(dataset) == 13
    assert dataset.keys == sorted(VIDEOS)
    for i, key in enumerate(sorted(VIDEOS)):
        assert dataset[i].key == key
        assert same(dataset[i].video, VIDEOS[key])
    assert dataset[-1].key == "clip12"
    with pytest.raises(IndexError):
        dataset[13]


def test_the_data_set_takes_keys_in_the_order_given(cache):
    dataset = CachedTokenDataset(open_cache(cache), ["clip05", "clip01", "clip05"])
    assert [dataset[i].key for i in range(3)] == ["clip05", "clip01", "clip05"]
    with pytest.raises(StoreMissError, match=r"lacks 2 of the 3 records asked for \('x', 'y'\)"):
        CachedTokenDataset(cache, ["clip01", "x", "y"])
    with pytest.raises(StoreMissError, match="no token cache"):
        CachedTokenDataset(cache / "gone")


def test_the_data_set_is_picklable_and_small(cache):
    sent = pickle.dumps(CachedTokenDataset(cache, ["clip03"]))
    assert len(sent) < 1500
    assert same(pickle.loads(sent)[0].video, VIDEOS["clip03"])


def test_collating_packs_and_pads():
    items = [Sample(key, VIDEOS[key]) for key in ("clip02", "clip00")]
    batch = collate(items)
    assert batch.keys == ("clip02", "clip00")
    assert batch.lengths.tolist() == [3, 1]
    assert same(batch[0], VIDEOS["clip02"])
    assert collate([VIDEOS["clip02"]]).keys == ()
    padded = collate_padded(items)
    assert isinstance(padded, PaddedTokens)
    assert padded.mask.tolist() == [[True] * 3, [True, False, False]]
    assert torch.equal(padded.tokens[1, 0], VIDEOS["clip00"].tokens[0])
    assert not padded.tokens[1, 1:].any()
    with pytest.raises(ShapeError):
        collate([])


def seen(batches):
    """Content of each record by key, over all batches; no key may come twice."""
    out = {}
    for batch in batches:
        for key, video in zip(batch.keys, batch, strict=True):
            assert key not in out
            out[key] = content(video)
    return out


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("shuffle", [False, True])
def test_an_epoch_is_every_record_once(cache, num_workers, shuffle):
    loader = token_loader(cache, 4, shuffle=shuffle, num_workers=num_workers)
    batches = list(loader)
    assert [len(batch) for batch in batches] == [4, 4, 4, 1]
    assert all(isinstance(batch, TokenBatch) for batch in batches)
    assert seen(batches) == {key: content(video) for key, video in VIDEOS.items()}
    in_order = [key for batch in batches for key in batch.keys] == sorted(VIDEOS)
    assert in_order is not shuffle


def orders(loader, epochs):
    return [[key for batch in loader for key in batch.keys] for _ in range(epochs)]


def test_a_seed_is_a_sequence_of_epochs(cache):
    first = orders(token_loader(cache, 4, shuffle=True, seed=5), 3)
    assert orders(token_loader(cache, 3, shuffle=True, seed=5), 3) == first
    assert orders(token_loader(cache, 4, shuffle=True, seed=6), 3) != first
    assert first[0] != first[1]
    torch.manual_seed(0)  # the global state plays no part, and is left alone
    before = torch.get_rng_state()
    assert orders(token_loader(cache, 4, shuffle=True, seed=5), 3) == first
    assert torch.equal(torch.get_rng_state(), before)


def test_spawned_workers_read_too(cache):
    loader = token_loader(cache, 5, num_workers=2)
    loader.multiprocessing_context = "spawn"
    assert seen(loader) == {key: content(video) for key, video in VIDEOS.items()}


def test_padded_and_cut_batches(cache):
    batches = list(token_loader(cache, 4, padded=True, drop_last=True))
    assert len(batches) == 3
    assert all(isinstance(batch, PaddedTokens) for batch in batches)
    assert batches[0].tokens.shape == (4, 4, 6)


def test_no_records_are_no_batches(tmp_path):
    assert list(token_loader(write(tmp_path, {}), 4, shuffle=True)) == []


def test_impossible_batches_and_damaged_records_say_so(cache, tmp_path):
    with pytest.raises(ConfigError, match="batch_size=0"):
        token_loader(cache, 0)
    write(tmp_path, VIDEOS)
    info = open_cache(tmp_path).info("clip07")
    shard = tmp_path / "shards" / f"{info.shard}.safetensors"
    data = bytearray(shard.read_bytes())
    data[info.offset] ^= 1
    shard.write_bytes(data)
    with pytest.raises(StoreCorruptError, match="clip07"):
        list(token_loader(tmp_path, 4))
