"""Questions joined with cached tokens: items, batches, loaders."""

import json
import logging
import pickle

import pytest
import torch
from store_builders import content, same, tiny, write
from torch.utils.data import DataLoader

from vidcomp.data.annotations import QAExample
from vidcomp.data.loader import TokenLoader
from vidcomp.data.qa import QADataset
from vidcomp.data.qa_batch import QABatch, collate_qa, collate_qa_padded
from vidcomp.data.sampler import TokenBatchSampler
from vidcomp.errors import ConfigError, ShapeError, StoreMissError, StoreStaleError
from vidcomp.store import open_cache
from vidcomp.types import PaddedTokens, TokenBatch

VIDEOS = {f"v/clip{i}.mp4": tiny(i + 2, 6, i, assign=None) for i in range(5)}
# Two questions a video, the first ones of all videos first.
EXAMPLES = [
    QAExample(key=f"clip{i}", question=f"what {n}?", answers=(f"a{n}{i}", "b"), id=f"{i}.{n}")
    for n in range(2)
    for i in range(5)
]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return write(tmp_path_factory.mktemp("cache"), VIDEOS)


def key_of(example):
    return f"v/{example.key}.mp4"


def test_an_item_is_an_example_and_its_video(cache):
    dataset = QADataset(cache, EXAMPLES)
    assert len(dataset) == 10
    assert dataset.missing == ()
    for item, example in zip((dataset[i] for i in range(10)), EXAMPLES, strict=True):
        assert item.example == example
        assert item.key == key_of(example)
        assert same(item.video, VIDEOS[item.key])
    assert dataset[-1].example == EXAMPLES[-1]
    with pytest.raises(IndexError):
        dataset[10]
    assert dataset.num_tokens.tolist() == [2, 3, 4, 5, 6] * 2


def test_annotations_may_be_a_file_and_the_cache_an_open_one(cache, tmp_path):
    path = tmp_path / "qa.jsonl"
    path.write_text(json.dumps({"video": "clip3.webm", "question": "q", "answer": "a"}))
    dataset = QADataset(open_cache(cache), path)
    assert dataset[0].key == "v/clip3.mp4"
    assert dataset[0].example.answer == "a"


MORE = [
    QAExample(key="gone1", question="q"),
    QAExample(key="clip1", question="q", id="x"),
    *[QAExample(key=f"gone{i}", question="q") for i in (1, 2, 3, 4)],
]


def test_missing_videos_are_counted_and_named(cache, caplog):
    problem = (
        r"lacks 4 of the 5 videos asked about \('gone1', 'gone2', 'gone3', \.\.\.\), "
        r"and so 5 of 6 examples"
    )
    with pytest.raises(StoreMissError, match=problem + ": extract those"):
        QADataset(cache, MORE)
    with caplog.at_level(logging.WARNING):
        dataset = QADataset(cache, MORE, missing="skip")
    assert caplog.messages[0].endswith("are left out")
    assert [item.id for item in dataset.examples] == ["x"]
    assert dataset.missing == ("gone1", "gone2", "gone3", "gone4")
    assert dataset.num_skipped == 5
    assert same(dataset[0].video, VIDEOS["v/clip1.mp4"])
    with pytest.raises(ConfigError, match="'raise' or 'skip', got 'drop'"):
        QADataset(cache, MORE, missing="drop")


def test_an_unclear_name_is_never_guessed(tmp_path):
    write(tmp_path, {"a/x.mp4": tiny(2), "b/x.mp4": tiny(3)})
    with pytest.raises(StoreMissError, match=r"'x', which may be 'a/x\.mp4' or 'b/x\.mp4'"):
        QADataset(tmp_path, [QAExample(key="x", question="q")])


def test_the_data_set_is_picklable(cache):
    dataset = pickle.loads(pickle.dumps(QADataset(cache, EXAMPLES)))
    assert dataset.examples == EXAMPLES
    assert same(dataset[7].video, VIDEOS["v/clip2.mp4"])


def check(batch, index, padded=False):
    """The batch is the examples ``index``, each with its own video."""
    wanted = [EXAMPLES[i] for i in index]
    assert isinstance(batch, QABatch)
    assert isinstance(batch.tokens, PaddedTokens if padded else TokenBatch)
    assert len(batch) == len(index)
    assert batch.examples == tuple(wanted)
    assert batch.ids == tuple(e.id for e in wanted)
    assert batch.questions == tuple(e.question for e in wanted)
    assert batch.answers == tuple(e.answers[0] for e in wanted)
    assert batch.keys == tuple(map(key_of, wanted))
    for b, key in enumerate(batch.keys):
        video = VIDEOS[key]
        if padded:
            assert batch.tokens.mask[b].sum() == len(video)
            assert torch.equal(batch.tokens.tokens[b, : len(video)], video.tokens)
        else:
            assert content(batch.tokens[b]) == content(video)


SETS = [[0, 1, 2], [0, 5], [3, 8, 3], [9, 4, 2, 7, 1]]


@pytest.mark.parametrize("index", SETS)
@pytest.mark.parametrize("padded", [False, True])
def test_a_batch_has_a_video_for_each_example(cache, index, padded):
    dataset = QADataset(cache, EXAMPLES)
    check(dataset.batch(index, padded=padded), index, padded)
    collate = collate_qa_padded if padded else collate_qa
    check(collate([dataset[i] for i in index]), index, padded)
    at_once = dataset.__getitems__(index)
    check(collate(at_once), index, padded)
    check(collate(list(at_once)), index, padded)
    assert [item.example for item in at_once[1:]] == [EXAMPLES[i] for i in index[1:]]
    with pytest.raises(ShapeError):
        dataset.batch([])


def test_a_video_that_examples_share_is_read_once(cache, monkeypatch):
    dataset = QADataset(cache, EXAMPLES)
    asked = []
    read = type(dataset.selection).batch
    monkeypatch.setattr(
        type(dataset.selection),
        "batch",
        lambda self, index, *rest, **more: (
            asked.append(list(index)) or read(self, index, *rest, **more)
        ),
    )
    check(dataset.batch([3, 8, 3, 1]), [3, 8, 3, 1])
    check(collate_qa(dataset.__getitems__([6, 1, 0])), [6, 1, 0])
    assert asked == [[3, 1], [6, 0]]


def test_videos_of_several_widths_are_items_but_no_batch(tmp_path):
    write(tmp_path, {"a": tiny(2, 6), "b": tiny(2, 8)})
    dataset = QADataset(tmp_path, [QAExample(key=k, question="q") for k in ("a", "b")])
    items = dataset.__getitems__([0, 1])
    assert [item.video.tokens.shape[1] for item in items] == [6, 8]
    with pytest.raises(ShapeError):
        collate_qa(items)


def test_batches_move_and_pad(cache):
    batch = QADataset(cache, EXAMPLES).batch([0, 1])
    moved = batch.to("cpu", torch.float32)
    assert moved.tokens.tokens.dtype == torch.float32
    assert moved.examples == batch.examples
    padded = batch.padded()
    check(padded, [0, 1], padded=True)
    assert padded.padded() is padded
    assert padded.to("cpu", non_blocking=True).keys == batch.keys


@pytest.mark.parametrize("padded", [False, True])
def test_the_loader_gives_batches_of_questions(cache, padded):
    loader = TokenLoader(QADataset(cache, EXAMPLES), 4, shuffle=True, seed=3, padded=padded)
    index = {example.id: i for i, example in enumerate(EXAMPLES)}
    for _ in range(2):
        batches = list(loader)
        assert sorted(i for batch in batches for i in batch.ids) == sorted(index)
        for batch in batches:
            check(batch, [index[i] for i in batch.ids], padded)


def test_the_loader_goes_on_where_it_was_with_other_annotations_refused(cache):
    def loader(examples):
        return TokenLoader(QADataset(cache, examples), 3, shuffle=True)

    first = loader(EXAMPLES)
    batches = iter(first)
    seen = [i for _ in range(2) for i in next(batches).ids]
    state = json.loads(json.dumps(first.state_dict()))
    rest = [i for batch in batches for i in batch.ids]
    again = loader(EXAMPLES)
    again.load_state_dict(state)
    assert [i for batch in again for i in batch.ids] == rest
    assert sorted(seen + rest) == sorted(e.id for e in EXAMPLES)
    with pytest.raises(StoreStaleError):
        loader(EXAMPLES[::-1]).load_state_dict(state)


def test_a_loader_of_a_store_that_grew_goes_back_to_the_records_of_then(tmp_path):
    write(tmp_path, {"a/x.mp4": tiny(2), "y": tiny(3)})
    examples = [QAExample(key=k, question="q", id=k) for k in ("x", "y", "x")]
    first = TokenLoader(QADataset(tmp_path, examples), 1)
    batches = iter(first)
    next(batches)
    state = first.state_dict()
    write(tmp_path, {"y": tiny(9)})  # replaced meanwhile
    again = TokenLoader(QADataset(tmp_path, examples), 1)
    assert again.dataset.num_tokens.tolist() == [2, 9, 2]
    again.load_state_dict(state)
    assert [int(batch.tokens.lengths) for batch in again] == [3, 2]


def test_torch_reads_batches_of_questions(cache):
    dataset = QADataset(cache, EXAMPLES)
    sampler = TokenBatchSampler(dataset, tokens_per_batch=12)
    batches = list(DataLoader(dataset, batch_sampler=sampler, collate_fn=collate_qa))
    start = 0
    for batch in batches:
        check(batch, range(start, start + len(batch)))
        assert len(batch.tokens.tokens) <= 12
        start += len(batch)
    assert start == 10


# --- parts of videos ---


def seconds(n, seed):
    """One token a second."""
    video = tiny(n, 6, seed, assign=None)
    start = torch.arange(n, dtype=torch.float32)
    video.spans.copy_(torch.stack([start, start + 1], dim=1))
    return video


@pytest.fixture(scope="module")
def timed(tmp_path_factory):
    videos = {"a": seconds(10, 0), "b.mp4": seconds(6, 1), "b.mp4@2-4": seconds(3, 2)}
    return write(tmp_path_factory.mktemp("timed"), videos), videos


def part(key, start_s=None, end_s=None):
    return QAExample(key=key, question="q", start_s=start_s, end_s=end_s)


@pytest.mark.parametrize(
    ("start_s", "end_s", "rows"),
    [
        (2.0, 5.0, range(2, 5)),
        (2.5, 4.5, range(2, 5)),
        (None, 3.0, range(3)),
        (7.5, None, range(7, 10)),
    ],
)
def test_a_range_gives_the_tokens_that_meet_it(timed, start_s, end_s, rows):
    path, videos = timed
    dataset = QADataset(path, [part("a", start_s, end_s), part("a")])
    wanted = videos["a"].select(torch.tensor(list(rows)))
    assert same(dataset[0].video, wanted)
    batch = dataset.batch([0, 1, 0])
    assert [
        same(video, other)
        for video, other in zip(batch.tokens, [wanted, videos["a"], wanted], strict=True)
    ] == [True] * 3
    padded = dataset.batch([1, 0], padded=True).tokens
    assert padded.mask.sum(1).tolist() == [10, len(rows)]
    assert (dataset.num_tokens == 10).all()


def test_a_record_of_the_very_range_is_taken_whole(timed):
    path, videos = timed
    dataset = QADataset(path, [part("b", 2.0, 4.0), part("b", 2.0, 5.0), part("b")])
    assert [dataset[i].key for i in range(3)] == ["b.mp4@2-4", "b.mp4", "b.mp4"]
    assert same(dataset[0].video, videos["b.mp4@2-4"])
    assert same(dataset[1].video, videos["b.mp4"].select(torch.tensor([2, 3, 4])))


def test_ranges_are_part_of_what_a_state_is_of(timed):
    digests = {QADataset(timed[0], [part("a", *r)]).digest for r in [(), (1.0,), (1.0, 2.0)]}
    assert len(digests) == 3


# --- page-locked memory ---


@pytest.mark.parametrize("padded", [False, True])
def test_pinning_copies_all_and_a_shared_video_stays_pinned(cache, monkeypatch, padded):
    """Loaders call ``pin_memory``; here a plain copy stands in for torch's, which needs a GPU."""
    pinned = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda x: pinned.append(x.shape) or x.clone())
    dataset = QADataset(cache, EXAMPLES)
    batch = dataset.batch([2, 0], padded=padded)
    check(batch.pin_memory(), [2, 0], padded)
    assert batch.tokens.tokens.shape in pinned
    monkeypatch.setattr(torch.Tensor, "is_pinned", lambda _: True)
    pinned.clear()
    shared = dataset.batch([2, 7, 0], padded=padded)
    check(shared, [2, 7, 0], padded)
    assert shared.tokens.tokens.shape in pinned


@pytest.mark.gpu
@pytest.mark.parametrize("padded", [False, True])
def test_the_loader_pins_shared_videos_and_parts_of_them(timed, padded):
    examples = [part("a"), part("a"), part("a", 2.0, 5.0), part("b")]
    loader = TokenLoader(QADataset(timed[0], examples), 2, pin_memory=True, padded=padded)
    for batch in loader:
        tokens = batch.tokens
        assert all(t.is_pinned() for t in (tokens.tokens, tokens.positions, tokens.spans))
        there = batch.to("cuda", non_blocking=True)
        assert torch.equal(there.tokens.tokens.cpu(), tokens.tokens)
