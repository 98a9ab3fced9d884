"""The records of a cache as a data set, and items made into batches."""

import pickle

import pytest
import torch
from data_cases import KEYS, VIDEOS
from store_builders import same, tiny, write

from vidcomp.data import (
    CachedTokenDataset,
    Sample,
    collate,
    collate_padded,
)
from vidcomp.errors import ShapeError, StoreMissError
from vidcomp.store import open_cache
from vidcomp.types import PaddedTokens


def test_the_data_set_is_the_records_in_the_order_of_their_keys(cache):
    dataset = CachedTokenDataset(cache)
    assert len(dataset) == 13
    assert list(dataset.keys) == KEYS
    assert dataset.num_tokens.tolist() == [len(VIDEOS[key]) for key in KEYS]
    for i, key in enumerate(KEYS):
        assert dataset[i].key == key
        assert same(dataset[i].video, VIDEOS[key])
    assert dataset[-1].key == "clip12"
    for index in (13, -14):
        with pytest.raises(IndexError):
            dataset[index]


def test_the_data_set_takes_keys_in_the_order_given(cache):
    dataset = CachedTokenDataset(open_cache(cache), ["clip05", "clip01", "clip05"])
    assert [dataset[i].key for i in range(3)] == ["clip05", "clip01", "clip05"]
    assert dataset.num_tokens.tolist() == [2, 2, 2]
    assert dataset.digest != CachedTokenDataset(cache, ["clip05", "clip01"]).digest
    with pytest.raises(StoreMissError, match=r"lacks 2 of the 3 records asked for \('x', 'y'\)"):
        CachedTokenDataset(cache, ["clip01", "x", "y"])
    with pytest.raises(StoreMissError, match="no token cache"):
        CachedTokenDataset(cache / "gone")


def test_the_data_set_is_picklable_and_small(cache):
    dataset = CachedTokenDataset(cache, ["clip03"])
    assert dataset.shard_digest
    sent = pickle.dumps(dataset)
    assert len(sent) < 1500
    back = pickle.loads(sent)
    assert same(back[0].video, VIDEOS["clip03"])
    assert (back.digest, back.shard_digest) == (dataset.digest, dataset.shard_digest)


def test_items_are_read_at_once_for_torchs_loader(cache):
    dataset = CachedTokenDataset(cache)
    items = dataset.__getitems__([3, -1, 3])
    assert [item.key for item in items] == ["clip03", "clip12", "clip03"]
    assert [len(item.video) for item in items[1:]] == [1, 4]
    assert all(same(item.video, VIDEOS[item.key]) for item in items)
    assert collate(items) is items.batch
    assert collate_padded(items).keys == ("clip03", "clip12", "clip03")
    with pytest.raises(IndexError):
        dataset.__getitems__([13])


def test_items_of_several_widths_are_still_items(tmp_path):
    dataset = CachedTokenDataset(write(tmp_path, {"a": tiny(2, 6), "b": tiny(2, 7)}))
    items = dataset.__getitems__([0, 1])
    assert [item.video.tokens.shape[1] for item in items] == [6, 7]
    with pytest.raises(ShapeError):
        collate(items)


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
