"""Data sets, samplers and loaders in torch's and torchdata's loaders, as people write it."""

import pytest
import torch
from data_cases import STEPS, VIDEOS, keys_of, sampled, saved, token_loader
from store_builders import content
from torch.utils.data import DataLoader

from vidcomp.data import CachedTokenDataset, TokenBatchSampler, collate, collate_padded
from vidcomp.data.annotations import QAExample
from vidcomp.data.qa import QADataset
from vidcomp.data.qa_batch import collate_qa

torchdata_warns = pytest.mark.filterwarnings("ignore:'set_vital' is deprecated:UserWarning")


def test_three_epochs_are_three_orders_of_all_videos(epochs):
    for epoch in epochs:
        assert sorted(key for batch in epoch for key in batch) == sorted(VIDEOS)
        assert len(epoch) == STEPS
    assert epochs[0] != epochs[1] != epochs[2]


# --- torch.utils.data.DataLoader ---


@pytest.mark.parametrize(
    "options",
    [
        {"num_workers": 0},
        {"num_workers": 2, "multiprocessing_context": "fork"},
        {"num_workers": 2, "multiprocessing_context": "fork", "persistent_workers": True},
        pytest.param(
            {"num_workers": 2, "multiprocessing_context": "spawn", "persistent_workers": True},
            marks=pytest.mark.slow,
        ),
    ],
    ids=["here", "fork", "persistent", "spawn"],
)
def test_a_data_loader_gives_epoch_after_epoch(cache, epochs, options):
    loader = sampled(cache, **options, pin_memory=False)
    assert len(loader) == STEPS
    for epoch in epochs:
        batches = list(loader)
        assert keys_of(batches) == epoch
        for batch in batches:
            assert [content(video) for video in batch] == [content(VIDEOS[k]) for k in batch.keys]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_data_loader_pads_and_shuffles_by_itself_too(cache, num_workers):
    dataset = CachedTokenDataset(cache)
    loader = DataLoader(
        dataset, 4, shuffle=True, collate_fn=collate_padded, num_workers=num_workers
    )
    batches = list(loader)
    assert sorted(key for batch in batches for key in batch.keys) == sorted(VIDEOS)
    assert all(batch.tokens.shape[:2] == batch.mask.shape for batch in batches)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_questions_come_through_workers(cache, num_workers):
    examples = [
        QAExample(key=key, question=f"{n}?", answers=("yes",), id=f"{key}-{n}", extra={"n": n})
        for n in range(2)
        for key in VIDEOS
    ]
    dataset = QADataset(cache, examples)
    loader = DataLoader(
        dataset,
        batch_sampler=TokenBatchSampler(dataset, tokens_per_batch=20, shuffle=True),
        collate_fn=collate_qa,
        num_workers=num_workers,
    )
    seen = {}
    for batch in loader:
        assert len(batch.tokens.tokens) <= 20
        for example, key, video in zip(batch.examples, batch.keys, batch.tokens, strict=True):
            seen[example.id] = example
            assert key == example.key
            assert content(video) == content(VIDEOS[key])
    assert list(seen.values()) != examples
    assert sorted(seen.values(), key=examples.index) == examples


# --- torchdata's StatefulDataLoader ---


@torchdata_warns
@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("steps", [0, 1, 3, STEPS])
def test_a_stateful_loader_goes_on_with_what_was_due(cache, epochs, num_workers, steps):
    stateful = pytest.importorskip("torchdata.stateful_dataloader").StatefulDataLoader
    first = sampled(cache, stateful, num_workers=num_workers)
    batches = iter(first)
    assert [next(batches).keys for _ in range(steps)] == epochs[0][:steps]
    again = sampled(cache, stateful, num_workers=num_workers)
    again.load_state_dict(saved(first.state_dict()))
    assert [keys_of(again), keys_of(again)] == [epochs[0][steps:], epochs[1]]


@torchdata_warns
@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_stateful_loader_at_the_end_of_an_epoch_begins_the_next(cache, epochs, num_workers):
    """No empty epoch and none that is left out (pytorch/data#1437)."""
    stateful = pytest.importorskip("torchdata.stateful_dataloader").StatefulDataLoader
    first = sampled(cache, stateful, num_workers=num_workers)
    assert keys_of(first) == epochs[0]
    again = sampled(cache, stateful, num_workers=num_workers)
    again.load_state_dict(saved(first.state_dict()))
    assert [keys_of(again), keys_of(again)] == epochs[1:]


@torchdata_warns
def test_a_stateful_loader_shuffles_a_data_set_by_itself(cache):
    stateful = pytest.importorskip("torchdata.stateful_dataloader").StatefulDataLoader

    def loader():
        dataset = CachedTokenDataset(cache)
        return stateful(dataset, 4, shuffle=True, collate_fn=collate)

    torch.manual_seed(3)
    first = loader()
    batches = iter(first)
    seen = [next(batches).keys, next(batches).keys]
    again = loader()
    again.load_state_dict(first.state_dict())
    rest = keys_of(again)
    assert rest == keys_of(batches)
    assert sorted(key for keys in seen + rest for key in keys) == sorted(VIDEOS)


# --- trainers that count epochs ---


@pytest.mark.parametrize("steps", [2, STEPS, STEPS + 1])
def test_a_trainer_that_counts_epochs_sees_each_once(cache, epochs, steps):
    """``range(epoch, 3)`` with ``set_epoch`` after a state from the middle or the very end."""
    first = token_loader(cache)
    batches = iter(first)
    seen = [next(batches, None) for _ in range(steps)]
    again = token_loader(cache)
    again.load_state_dict(saved(first.state_dict()))
    rest = []
    for epoch in range(3):
        again.set_epoch(epoch)
        rest.append(keys_of(again))
    assert keys_of(filter(None, seen)) + rest[0] == epochs[0]
    assert rest[1:] == epochs[1:]


@pytest.mark.parametrize("steps", [2, STEPS])
def test_a_trainer_that_does_not_count_has_no_empty_epoch(cache, epochs, steps):
    first = token_loader(cache)
    batches = iter(first)
    for _ in range(steps):
        next(batches)
    again = token_loader(cache)
    again.load_state_dict(first.state_dict())
    rest = [epochs[0][steps:], *epochs[1:]]
    assert [keys_of(again), keys_of(again)] == [epoch for epoch in rest if epoch][:2]
