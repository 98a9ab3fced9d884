"""Videos that are compressed as they arrive: exact counts, and memory that does not grow."""

import io
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vidcomp.api import Gathered, Streamed, encode_stream, prepare
from vidcomp.config import Recipe, fingerprint, identity, load_recipe
from vidcomp.errors import ConfigError
from vidcomp.pipelines.recompress import recompress
from vidcomp.sample.decode import DecodeRequest, Live
from vidcomp.sample.fps import Fps
from vidcomp.store import CacheWriter, TokenCache
from vidcomp.types import Frames, Source

STAGES = ["partition", "evs", "dtd", "simple_cluster", "memory_bank", "moviechat"]
CHAINS = [f"[{name}]" for name in STAGES] + [
    "[{name: uniform, retention: 0.5}, partition]",
    "[{name: tome, retention: 0.4}, {name: norm_topk, retention: 0.5}, simple_cluster]",
]
BUDGETS = [
    "{tokens: 1}",
    "{tokens: 37}",
    "{retention: 0.13}",
    "{per_frame: 2}",
    "{per_second: 3.7}",
]


def recipe_of(stages="[partition]", budget="{tokens: 37}", *, stream=True, more=()):
    compress = f"compress={{budget: {budget}, stages: {stages}, stream: {str(stream).lower()}}}"
    base = ["sample={name: fps, fps: 1}", "encode={name: dct, size: 42, coefficients: 4}"]
    return load_recipe("embedded", [*base, compress, *more])


def chunks_of(num_frames, *, planned=None, size=32, content=None, sampled=True):
    """Frames of a made-up video, a new picture every few seconds."""
    draw = torch.Generator().manual_seed(num_frames)
    for start in range(0, num_frames, size):
        num = min(size, num_frames - start)
        scene = torch.randint(0, 200, (1 + num // 5, 3, 42, 42), generator=draw)
        noise = torch.randint(0, 40, (num, 3, 42, 42), generator=draw)
        yield Frames(
            data=(scene[torch.arange(num) // 5] + noise).to(torch.uint8),
            pts_s=torch.arange(start, start + num, dtype=torch.float64),
            duration_s=torch.ones(num, dtype=torch.float64),
            first_index=start,
            content=content,
            source=Source(
                path="made up",
                duration_s=float(planned or num_frames),
                num_sampled=(planned or num_frames) if sampled else 0,
            ),
        )


REQUEST = DecodeRequest(path="made up", sampler=Fps())


def run(recipe, chunks, request=REQUEST, **more):
    return encode_stream(prepare(recipe), chunks, request, **more)


@settings(deadline=None, max_examples=30)
@given(
    stages=st.sampled_from(CHAINS),
    budget=st.sampled_from(BUDGETS),
    num_frames=st.integers(1, 90),
    letterboxed=st.booleans(),
    assign=st.booleans(),
)
def test_a_stream_has_the_count_of_the_whole(stages, budget, num_frames, letterboxed, assign):
    content = (14, 0, 20, 42) if letterboxed else None
    more = ["store.assign=true"] if assign else []
    whole = run(recipe_of(stages, budget, stream=False), chunks_of(num_frames, content=content))
    video = run(recipe_of(stages, budget, more=more), chunks_of(num_frames, content=content))
    assert isinstance(whole, Gathered)
    assert isinstance(video, Streamed)
    expected, found = whole.reduce(), video.reduce()
    assert len(found) == len(expected)
    assert found.grid == expected.grid
    assert (found.assign is not None) == assign
    for name in ("num_frames", "num_tokens", "num_seconds", "source"):
        assert getattr(video, name) == getattr(whole, name)
    again = video.reduce()  # asking twice changes nothing
    assert torch.equal(again.tokens, found.tokens)
    if budget == "{tokens: 1}" and stages == "[partition]":
        torch.testing.assert_close(found.tokens, expected.tokens, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("stages", CHAINS)
@pytest.mark.parametrize("budget", BUDGETS[2:])
def test_less_than_was_planned_leaves_less(stages, budget):
    """Frames that cannot be decoded, a window that ends early: the count is of what came."""
    video = run(recipe_of(stages, budget), chunks_of(40, planned=90))
    prepared, small = video.prepared, video.reduce()
    seconds = video.num_seconds
    assert seconds == 90  # of the range, whatever came of it
    assert len(small) == min(prepared.budget(video.num_tokens, 40, seconds), video.num_tokens)


def test_the_budget_of_a_live_window_is_that_of_its_length():
    live = Live(window_s=60.0)
    request = DecodeRequest(path="x", sampler=Fps(), live=live, start_s=60.0, end_s=120.0)
    chunks = [
        Frames(
            data=torch.zeros((8, 3, 42, 42), dtype=torch.uint8),
            pts_s=torch.arange(8, dtype=torch.float64) + 60 + first,
            duration_s=torch.ones(8, dtype=torch.float64),
            first_index=first,
            source=Source(path="x", duration_s=60.0 + first + 8, num_sampled=61),
        )
        for first in (0, 8)
    ]
    video = run(recipe_of(budget="{per_second: 2}"), chunks[:2], request)
    assert isinstance(video, Streamed)
    assert video.budget == 120
    assert len(video.reduce()) == 32  # 16 seconds have come


def test_how_long_it_is_must_be_known_for_a_share():
    with pytest.raises(ConfigError, match="give the budget in tokens"):
        run(recipe_of(budget="{retention: 0.5}"), chunks_of(8, sampled=False))
    assert len(run(recipe_of(), chunks_of(8, sampled=False)).reduce()) == 37


def test_frame_extras_are_kept_for_the_store_only():
    for more, kept in (([], set()), (["store.frame_extras=[change]"], {"change"})):
        recipe = recipe_of(more=more)
        prepared = prepare(recipe)
        video = prepared.gather(REQUEST)
        for chunk in chunks_of(70):
            (tokens,) = prepared.encode([chunk])
            change = {"change": torch.ones(len(chunk)), "other": torch.zeros(len(chunk))}
            video.add(chunk, type(tokens)(**{**fields(tokens), "frame_extras": change}))
        found = video.reduce().frame_extras
        assert set(found) == kept
        assert all(len(value) == 70 for value in found.values())


def fields(video):
    return {name: getattr(video, name) for name in video.__dataclass_fields__}


@pytest.mark.parametrize("stages", [CHAINS[0], CHAINS[-2], CHAINS[-1]])
@pytest.mark.parametrize("num_frames", [2_400, pytest.param(36_000, marks=pytest.mark.slow)])
def test_ten_hours_take_the_memory_of_one(stages, num_frames):
    """At 1 frame a second; what the first half needed is enough for the second."""
    prepared = prepare(recipe_of(stages, "{tokens: 20}"))
    video, sizes = prepared.gather(REQUEST), []
    source = Source(path="made up", duration_s=36_000.0, num_sampled=36_000)
    (shown,) = chunks_of(120, size=120)
    for first in range(0, num_frames, 120):
        part = Frames(
            data=shown.data.roll(first // 120, 0),
            pts_s=shown.pts_s + first,
            duration_s=shown.duration_s,
            first_index=first,
            source=source,
        )
        (tokens,) = prepared.encode([part], [video.keep(part)])
        video.add(part, tokens)
        file = io.BytesIO()
        pickle.dump(video._stream, file)
        sizes.append(file.tell())
    half = len(sizes) // 2  # memories are filled and tidied: peaks are compared
    assert max(sizes[half:]) <= 1.2 * max(sizes[:half])
    assert video.num_frames == num_frames
    small = video.reduce()
    assert (len(small), small.grid.t) == (20, num_frames)
    if stages == CHAINS[0]:
        assert float(small.mass.sum()) == num_frames * 9


def test_a_recipe_that_does_not_stream_keeps_its_fingerprint():
    plain, stream = recipe_of(stream=False), recipe_of()
    assert "stream" not in plain.dump()["compress"]
    assert plain == Recipe.parse(plain.dump())
    assert stream == Recipe.parse(stream.dump())
    assert stream.dump()["compress"]["stream"] is True
    assert identity(plain) != identity(stream)
    assert fingerprint(plain, {}, 1) != fingerprint(stream, {}, 1)
    compress = identity(load_recipe("embedded"))["compress"]
    assert set(compress) == {"budget", "stages"}


@pytest.mark.parametrize(
    ("stages", "more", "told"),
    [
        ("[tome]", [], "use one of dtd, evs, .*, or leave stream out"),
        ("[partition, tome]", [], "no retention"),
        ("[{name: tome, retention: 0.5}, partition]", [], "stages that prune"),
        ("[{name: partition, cut_below: 0.5}]", [], "no online form with cut_below"),
        (
            "[evs]",
            ["project={name: deco, dim_in: 12, dim_out: 8, tokens_per_frame: 4}"],
            "reads the encoder's dense grid",
        ),
    ],
)
def test_what_cannot_stream_is_said_when_a_recipe_is_loaded(stages, more, told):
    with pytest.raises(ConfigError, match=told):
        prepare(recipe_of(stages, more=more))


def test_projectors_read_what_a_stream_leaves():
    more = ["project={name: linear, dim_in: 12, dim_out: 8}"]
    out = run(recipe_of(more=more), chunks_of(40)).reduce()
    assert out.tokens.shape == (37, 8)


def test_records_of_a_stream_are_recompressed_as_a_whole(tmp_path):
    recipe = recipe_of(more=["store.assign=true"])
    with CacheWriter(tmp_path / "a", identity=identity(recipe), settings=recipe.store) as writer:
        writer.add("x", run(recipe, chunks_of(40)).reduce())
    summary = recompress(tmp_path / "a", tmp_path / "b", overrides=["compress.budget.tokens=5"])
    assert summary.done == 1
    made = TokenCache(tmp_path / "b")
    assert len(made["x"]) == 5
    assert "stream" not in made.manifest.identity["compress"]
    with pytest.raises(ConfigError, match="held whole"):
        recompress(tmp_path / "a", tmp_path / "c", overrides=["compress.stream=true"])
