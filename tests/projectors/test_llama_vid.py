"""LLaMA-VID against its slow twin, its content cells and its provenance."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.projectors import slow_mlp
from oracles.qformers import slow_llama_vid_cells, slow_llama_vid_context
from projector_cases import dense, make, pruned, question

from vidcomp.errors import ShapeError
from vidcomp.types import Grid, QueryFeatures, TokenBatch

CLOSE = {"atol": 1e-5, "rtol": 1e-5}
few = settings(deadline=None, max_examples=12)


@few
@given(
    seed=st.integers(0, 99),
    h=st.integers(2, 6),
    w=st.integers(2, 6),
    rows=st.integers(1, 4),
    cells=st.sampled_from([None, 1, 2]),
)
def test_tokens_equal_the_slow_twin(
    seed: int, h: int, w: int, rows: int, cells: int | None
) -> None:
    projector, video = make("llama_vid", content_grid=cells, seed=seed), dense(Grid(2, h, w), seed)
    asked = question("llama_vid", rows, seed)
    assert isinstance(asked, QueryFeatures)
    state = projector.state_dict()
    members = slow_llama_vid_cells(h, w, cells) if cells else [list(range(h * w))]
    mlp = {n: t for n, t in state.items() if n.startswith("mm_projector")}
    expected = []
    for frame in video.tokens.view(2, h * w, -1):
        context = slow_llama_vid_context(frame, asked.embedding, state)
        value = state["vlm_att_val_projector.weight"].double() @ context
        expected.append(value + state["vlm_att_val_projector.bias"])
        means = torch.stack([frame[some].double().mean(dim=0) for some in members])
        expected += [*slow_mlp(means, mlp, "mm_projector.")]
    out = projector(video, query=asked)
    assert len(out) == projector.num_tokens(video.grid) == 2 * (1 + len(members))
    torch.testing.assert_close(out.tokens.double(), torch.stack(expected), **CLOSE)


def test_provenance_is_what_the_tokens_are_made_of() -> None:
    projector = make("llama_vid_grid", depth=1, dim_out=12)
    with torch.no_grad():  # tokens are the means themselves
        for layer in (projector.vlm_att_val_projector, projector.mm_projector[0]):
            layer.weight.copy_(torch.eye(12))
            layer.bias.zero_()
    video = dense(Grid(2, 5, 4))
    out = projector(video)
    torch.testing.assert_close(out.weights.to_dense() @ video.tokens, out.tokens, **CLOSE)
    assert out.positions[1].tolist() == [0.0, 0.5, 0.5]
    assert out.positions[4].tolist() == [0.0, 2.5, 2.5]  # the fifth row of patches is left over


@pytest.mark.parametrize(
    ("grid", "cells", "tokens"),
    [((3, 9, 9), 2, 15), ((1, 10, 10), 4, 26), ((2, 4, 6), 2, 10), ((1, 7, 3), 3, 10)],
)
def test_counts(grid: tuple[int, int, int], cells: int, tokens: int) -> None:
    projector = make("llama_vid", content_grid=cells)
    assert projector.num_tokens(Grid(*grid)) == tokens
    assert len(projector(dense(Grid(*grid)))) == tokens


def test_frames_that_are_too_small_are_refused_beforehand_too() -> None:
    projector = make("llama_vid_grid", content_grid=3)
    for run in (projector.num_tokens, lambda grid: projector(dense(grid))):
        with pytest.raises(ShapeError, match="at least 3 x 3 patches, got a grid of"):
            run(Grid(1, 2, 4))


def test_a_cell_without_tokens_is_refused_and_a_mean_is_not() -> None:
    video = dense(Grid(1, 4, 4)).select(torch.arange(8))
    with pytest.raises(ShapeError, match="a token in every cell"):
        make("llama_vid_grid")(video)
    assert len(make("llama_vid")(video)) == 2


def test_frames_of_different_sizes_with_as_many_tokens_go_together() -> None:
    projector = make("llama_vid_grid")
    some: list[Any] = [dense(Grid(1, 4, 6), 1), dense(Grid(2, 2, 2), 2), dense(Grid(1, 5, 4), 3)]
    batch = projector.many(TokenBatch.pack(some))
    for video, out in zip(some, batch, strict=True):
        torch.testing.assert_close(out.tokens, projector(video).tokens, **CLOSE)
        torch.testing.assert_close(out.positions, projector(video).positions, **CLOSE)


def test_what_was_pruned_is_not_read() -> None:
    video = pruned(Grid(1, 3, 3), 5)
    asked = question("llama_vid")
    projector = make("llama_vid")
    assert isinstance(asked, QueryFeatures)
    context = slow_llama_vid_context(video.tokens, asked.embedding, projector.state_dict())
    state = projector.state_dict()
    expected = state["vlm_att_val_projector.weight"].double() @ context
    expected += state["vlm_att_val_projector.bias"]
    torch.testing.assert_close(projector(video).tokens[0].double(), expected, **CLOSE)
