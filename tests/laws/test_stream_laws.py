"""What every stage with an online form promises, for every video and however it is cut."""

import contextlib
import copy
import io
import pickle

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from laws.test_stage_laws import assert_same, close, fields, provenance_slowly, tensors
from laws.variants import STAGES
from strategies import CONTENTS, FLOATS, make_video

from vidcomp.compress import _pipeline_stream
from vidcomp.compress.pipeline import Pipeline
from vidcomp.config import Stage
from vidcomp.errors import BudgetError, ConfigError, ShapeError
from vidcomp.functional.geometry import first_t, patch_cells
from vidcomp.registry import COMPRESSORS
from vidcomp.types import Grid, VideoTokens


def has_online_form(stage):
    if not getattr(stage, "streaming", False):
        return False
    try:
        stage.stream(10_000, (4, 5))
    except ConfigError:
        return False
    return True


def pipelines():
    """Stages before the last work on blocks; prunings, merges, and what may miss its share."""
    chains = [
        ("stride", 0.5, "partition"),
        ("tome", 0.6, "simple_cluster"),
        ("norm_topk", 0.7, "uniform", 0.5, "evs"),
        ("avg_pool", 0.5, "dtd"),
    ]
    for *inner, last in chains:
        stages = [
            Stage(COMPRESSORS.make(name), retention=retention)
            for name, retention in zip(inner[::2], inner[1::2], strict=True)
        ]
        label = " > ".join([*inner[::2], last])
        yield f"pipeline({label})", Pipeline([*stages, COMPRESSORS.make(last)])


STREAMING = {label: stage for label, stage in STAGES.items() if has_online_form(stage)}
STREAMING |= dict(pipelines())
every_stage = pytest.mark.parametrize("stage", STREAMING.values(), ids=STREAMING)
lawful = settings(
    deadline=None, max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def cut(video, sizes):
    """The chunks of a video of ``make_video``: whole frames, positions counting on."""
    start, n, first = 0, video.grid.per_frame, first_t(video)
    for size in sizes:
        patches = slice(start * n, (start + size) * n)
        row = video.assign[patches]
        row = row[row >= 0]
        local = torch.full((len(video) + 1,), -1)
        local[row] = torch.arange(len(row))
        yield VideoTokens(
            tokens=video.tokens[row],
            positions=video.positions[row],
            spans=video.spans[row],
            mass=video.mass[row],
            grid=Grid(size, *video.grid[1:]),
            assign=local[video.assign[patches]],
            extras={name: value[row] for name, value in video.extras.items()},
            frame_extras={n: v[start : start + size] for n, v in video.frame_extras.items()},
        )
        start += size
    assert start == video.grid.t, first


def run(stage, budget, chunks, *, provenance=False):
    chunks = list(chunks)
    stream = stage.stream(budget, tuple(chunks[0].grid[1:]), provenance=provenance)
    for chunk in chunks:
        stream.update(chunk)
    return stream.result()


@st.composite
def cut_videos(draw, contents=CONTENTS):
    """A video without mass merged, maybe with holes, and where to cut it."""
    grid = Grid(draw(st.integers(1, 9)), *draw(st.sampled_from([(1, 1), (2, 3), (3, 3), (1, 4)])))
    seed = draw(st.integers(0, 99))
    valid = None
    if draw(st.booleans()):
        valid = torch.rand(grid.num_patches, generator=torch.Generator().manual_seed(seed)) < 0.6
        valid[0] = True
    video = make_video(
        grid,
        dim=draw(st.sampled_from([1, 4])),
        dtype=draw(st.sampled_from(FLOATS)),
        content=draw(st.sampled_from(contents)),
        seed=seed,
        first_t=draw(st.sampled_from([0, 0, 3])),
        valid=valid,
    )
    cuts = sorted(draw(st.sets(st.integers(1, grid.t), max_size=4)) | {grid.t})
    sizes = [b - a for a, b in zip([0, *cuts], cuts, strict=False)]
    return video, sizes


@pytest.fixture(autouse=True)
def short_blocks(monkeypatch):
    """The videos below have a few frames; blocks are shorter still."""
    monkeypatch.setattr(_pipeline_stream, "BLOCK_FRAMES", 2)


budgets = st.sampled_from([1, 2, 3, 5, 8, 13, 30, 100])


def attempt(stage, budget, chunks, **more):
    """The result; ``None`` if settings of a published mode need more than the budget."""
    if stage.exact:
        return run(stage, budget, chunks, **more)
    with contextlib.suppress(BudgetError):
        return run(stage, budget, chunks, **more)
    return None


def test_some_stages_have_online_forms():
    assert {"memory_bank()", "moviechat()"} <= set(STREAMING)


@every_stage
@given(cut_video=cut_videos(), budget=budgets, provenance=st.booleans())
@lawful
def test_where_chunks_end_does_not_matter(stage, cut_video, budget, provenance):
    video, sizes = cut_video
    whole = attempt(stage, budget, cut(video, [video.grid.t]), provenance=provenance)
    parts = attempt(stage, budget, cut(video, sizes), provenance=provenance)
    single = attempt(stage, budget, cut(video, [1] * video.grid.t), provenance=provenance)
    assert (whole is None) == (parts is None) == (single is None)
    if whole is not None:
        assert_same(parts, whole)
        assert_same(single, whole)


@every_stage
@given(cut_video=cut_videos(), budget=budgets)
@lawful
def test_counts_types_and_provenance(stage, cut_video, budget):
    video, sizes = cut_video
    chunks = list(cut(video, sizes))
    before = copy.deepcopy(chunks)
    state = torch.random.get_rng_state()
    out = attempt(stage, budget, chunks)
    for chunk, old in zip(chunks, before, strict=True):
        assert_same(chunk, old)
    assert torch.equal(torch.random.get_rng_state(), state)
    if out is None:
        return
    assert len(out) == min(budget, len(video)) if stage.exact else 1 <= len(out) <= budget
    assert out.grid == video.grid
    assert out.tokens.dtype == video.tokens.dtype
    assert {n: v.dtype for n, v in out.extras.items()} == {
        n: v.dtype for n, v in video.extras.items()
    }
    assert all(torch.isfinite(v.float()).all() for _, v in tensors(out))
    assert out.assign is None
    assert not out.frame_extras
    traced = run(stage, budget, chunks, provenance=True)
    for name in ("tokens", "positions", "spans", "mass"):
        assert close(getattr(traced, name), getattr(out, name), torch.float32), name
    shares = torch.tensor(provenance_slowly(traced))
    cells = patch_cells(video.grid).float() + torch.tensor([float(first_t(video)), 0, 0])
    assert close(shares @ cells, out.positions, torch.float32, 10)
    for name, value in video.frame_extras.items():
        assert torch.equal(traced.frame_extras[name], value)
    if stage.kind == "prune":
        kept = traced.extras["row"].long() if video.tokens.dtype == torch.float32 else None
        if kept is not None:
            source = {int(r): i for i, r in enumerate(video.extras["row"])}
            rows = torch.tensor([source[int(r)] for r in kept])
            assert torch.equal(traced.tokens, video.tokens[rows])


@every_stage
@given(cut_video=cut_videos(), budget=budgets)
@lawful
def test_all_that_fits_stays_as_it_is(stage, cut_video, budget):
    video, sizes = cut_video
    if not stage.exact or len(video) > budget:
        return
    out = run(stage, budget, cut(video, sizes), provenance=True)
    assert_same(out, video)


@every_stage
@given(cut_video=cut_videos(), budget=budgets)
@lawful
def test_looking_changes_nothing(stage, cut_video, budget):
    video, sizes = cut_video
    expected = attempt(stage, budget, cut(video, sizes))
    if expected is None:
        return
    stream = stage.stream(budget, tuple(video.grid[1:]))
    seen = 0
    for chunk in cut(video, sizes):
        stream.update(chunk)
        chunk.tokens.zero_()  # chunks belong to the caller, who may use their memory again
        chunk.positions.zero_()
        seen += len(chunk)
        first, second = stream.result(), stream.result()
        assert_same(first, second)
        if stage.exact:
            assert len(first) == min(budget, seen)
        for _, value in tensors(first):
            value.zero_()
    assert_same(stream.result(), expected)


def sizes_over_time(stage):
    """Bytes of a stream after each chunk of 8 frames."""
    stream, sizes = stage.stream(40, (2, 4)), []
    for t in range(0, 640, 8):
        video = make_video(Grid(8, 2, 4), dim=16, seed=t, first_t=t)
        stream.update(VideoTokens(**{**fields(video), "tokens": video.tokens.requires_grad_()}))
        if t % 64 == 0:  # looking leaves nothing behind
            with contextlib.suppress(BudgetError):  # which an exact stage never raises here
                stream.result()
        file = io.BytesIO()
        pickle.dump(stream, file)
        sizes.append(file.tell())
    return sizes


def peaks_rise(sizes):
    """Whether memory was higher in the second half than it had become in the half before.

    What is held goes up and down, as memories are filled and tidied, so that peaks are compared.
    """
    quarter = len(sizes) // 4
    return max(sizes[2 * quarter :]) > 1.01 * max(sizes[quarter : 2 * quarter]) + 1024


@every_stage
def test_memory_does_not_grow_with_the_video(stage):
    sizes = sizes_over_time(stage)
    assert not peaks_rise(sizes)
    # Two numbers a frame that are never forgotten would be found out.
    hoarding = [size + 8 * 16 * (i + 1) for i, size in enumerate(sizes)]
    assert peaks_rise(hoarding)


SAID_BYTES = {"memory_bank": 50, "moviechat": 50, "partition": 32}
"""Of provenance, a patch, where it is more than the 8 of methods that choose or cluster rows."""


@pytest.mark.parametrize("label", [label for label in STREAMING if label.endswith("()")])
def test_provenance_takes_the_bytes_that_are_said(label):
    stage, sizes = STREAMING[label], []
    for provenance in (False, True):
        stream = stage.stream(130, (8, 8), provenance=provenance)
        for t in range(0, 64, 16):
            video = make_video(Grid(16, 8, 8), dim=1, seed=t, first_t=t)
            stream.update(VideoTokens(**{**fields(video), "frame_extras": {}}))
            sizes.append(len(pickle.dumps(stream)))
    grown = (sizes[7] - sizes[5]) - (sizes[3] - sizes[1])  # by 32 frames
    assert grown / (32 * 64) == pytest.approx(SAID_BYTES.get(stage.name, 8), rel=0.15)


@every_stage
def test_wrong_chunks_are_refused_and_forgotten(stage):
    def chunk(t=0, grid=(2, 3), dim=4, dtype=torch.float32, extras=True):
        return make_video(Grid(2, *grid), dim=dim, dtype=dtype, first_t=t, extras=extras, seed=t)

    stream = stage.stream(9 * 6, (2, 3))
    with pytest.raises(ShapeError, match="at least one chunk"):
        stream.result()
    with pytest.raises(ShapeError, match=r"\(3, 2\)"):
        stream.update(chunk(grid=(3, 2)))
    stream.update(chunk())
    # Two more frames of all but the right kind.
    for wrong in (
        chunk(0),
        chunk(1),
        chunk(3),
        chunk(2, grid=(3, 3)),
        chunk(2, dim=5),
        chunk(2, dtype=torch.bfloat16),
    ):
        with pytest.raises(ShapeError, match=": "):
            stream.update(wrong)
    bare = chunk(2)
    bare = VideoTokens(**{**fields(bare), "extras": {"other": bare.mass, **bare.extras}})
    with pytest.raises(ShapeError, match="extras"):
        stream.update(bare)
    stream.update(chunk(2))
    assert_same(stream.result(), run(stage, 9 * 6, [chunk(), chunk(2)]))
    with pytest.raises(BudgetError, match="at least 1"):
        stage.stream(0, (2, 3))


@every_stage
def test_provenance_that_is_asked_for_has_to_be_there(stage):
    video = make_video(Grid(2, 2, 3))
    bare = VideoTokens(**{**fields(video), "assign": None})
    stream = stage.stream(30, (2, 3), provenance=True)
    with pytest.raises(ShapeError, match="provenance"):
        stream.update(bare)
    assert run(stage, 30, [bare]).assign is None


@every_stage
def test_frames_without_tokens_count_as_frames(stage):
    video = make_video(Grid(6, 2, 3), valid=torch.arange(36) // 6 % 3 != 1)
    out = run(stage, 12 * 6, cut(video, [1] * 6), provenance=True)
    assert out.grid.t == 6
    assert len(out) <= 24
    empty = list(cut(make_video(Grid(1, 2, 3), valid=torch.zeros(6, dtype=torch.bool)), [1]))
    nothing = run(stage, 6 * 6, empty)
    assert len(nothing) == 0
    assert nothing.grid == (1, 2, 3)
