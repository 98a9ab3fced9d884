"""Squares of patches side by side: the order of features, the grids, the original's names."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from projector_cases import DIM_IN, dense, make, provenance
from torch import nn

from vidcomp.errors import ShapeError
from vidcomp.projectors.pooling import stacked_windows
from vidcomp.projectors.qwen_merger import TemporalPatchEmbed
from vidcomp.types import Grid, TokenBatch, VideoTokens

few = settings(deadline=None, max_examples=20)
NAMES = ["pixel_shuffle", "internvl", "qwen_merger"]
SIZES = {"pixel_shuffle": "scale_factor", "internvl": "scale_factor", "qwen_merger": "merge_size"}


@few
@given(t=st.integers(1, 3), j=st.integers(1, 3), k=st.integers(1, 3), size=st.integers(1, 4))
def test_features_of_a_square_are_row_by_row(t: int, j: int, k: int, size: int) -> None:
    x = dense(Grid(t, j * size, k * size)).tokens.view(1, t, j * size, k * size, DIM_IN)
    out = stacked_windows(x, size)
    for row in range(j):
        for column in range(k):
            square = [
                x[0, t - 1, row * size + dy, column * size + dx]
                for dy in range(size)
                for dx in range(size)
            ]
            assert torch.equal(out[0, t - 1, row, column], torch.cat(square))


@pytest.mark.parametrize("case", NAMES)
@few
@given(j=st.integers(1, 3), k=st.integers(1, 3), size=st.integers(1, 3))
def test_a_token_stands_for_its_square(case: str, j: int, k: int, size: int) -> None:
    grid = Grid(2, j * size, k * size)
    settings = {SIZES[case]: size, **({"ps_version": "v2"} if case == "internvl" else {})}
    out = make(case, **settings)(dense(grid))
    assert len(out) == 2 * j * k
    share = provenance(out).view(2, j, k, *grid)
    for row in range(j):
        for column in range(k):
            expected = torch.zeros(grid)
            ys, xs = (slice(n * size, (n + 1) * size) for n in (row, column))
            expected[1, ys, xs] = 1 / size**2
            torch.testing.assert_close(share[1, row, column], expected)
    torch.testing.assert_close(out.mass, torch.full((len(out),), float(size**2)))


@pytest.mark.parametrize("case", NAMES)
@pytest.mark.parametrize("grid", [Grid(2, 3, 4), Grid(1, 4, 5), Grid(1, 1, 1)])
def test_sides_that_do_not_divide_are_refused(case: str, grid: Grid) -> None:
    projector = make(case)
    for call in (projector.num_tokens, lambda grid: projector(dense(grid))):
        with pytest.raises(ShapeError, match=f"one token of 2 x 2 .* {grid.h} x {grid.w}"):
            call(grid)


def test_old_internvl_has_frames_column_by_column() -> None:
    video = dense(Grid(2, 4, 6))
    new, old = make("internvl", ps_version="v2"), make("internvl", ps_version="v1")
    rows, columns = new(video), old(video)
    swapped = rows.tokens.view(2, 2, 3, -1).transpose(1, 2).flatten(0, 2)
    torch.testing.assert_close(columns.tokens, swapped)
    torch.testing.assert_close(columns.positions[1], torch.tensor([0.0, 2.5, 0.5]))
    # The original's reshapes of square frames without the last transpose.
    x = dense(Grid(1, 4, 4)).tokens.view(1, 4, 4, DIM_IN)
    v1 = x.reshape(1, 4, 2, 2 * DIM_IN).transpose(1, 2).reshape(1, 2, 2, 4 * DIM_IN)
    torch.testing.assert_close(v1.transpose(1, 2), stacked_windows(x[None], 2)[0])


@pytest.mark.parametrize(
    "names",
    [
        ("mlp1.0.", "mlp1.1.", "mlp1.3."),
        ("0.", "1.", "3."),
        ("layer_norm.", "linear_1.", "linear_2."),
        tuple(f"model.multi_modal_projector.{n}." for n in ("layer_norm", "linear_1", "linear_2")),
    ],
)
def test_internvls_weights_have_several_names(names: tuple[str, str, str]) -> None:
    source, target = make("internvl", seed=1), make("internvl")
    own = dict(zip(("layers.0.", "layers.1.", "layers.3."), names, strict=True))
    state = {own[n[:9]] + n[9:]: t for n, t in source.state_dict().items()}
    target.load_reference(state)
    assert all(torch.equal(t, target.state_dict()[n]) for n, t in source.state_dict().items())


def test_a_normed_mlp_is_internvls_on_single_patches() -> None:
    video = dense(Grid(1, 3, 3))
    whole = make("internvl", scale_factor=1, ps_version="v2")
    rows = make("mlp_norm").load_reference(
        {n.replace("layers.", ""): t for n, t in whole.state_dict().items()}
    )
    assert torch.equal(whole(video).tokens, rows(video).tokens)


def in_windows(video: VideoTokens, rows: torch.Tensor) -> torch.Tensor:
    t, h, w = video.grid
    return rows.view(t, h // 2, 2, w // 2, 2, -1).transpose(2, 3).flatten(0, 4)


def test_qwen2_5_has_rms_norms() -> None:
    modeling = pytest.importorskip("transformers.models.qwen2_5_vl.modeling_qwen2_5_vl")
    torch.manual_seed(0)
    theirs = modeling.Qwen2_5_VLPatchMerger(10, DIM_IN, 2)
    nn.init.normal_(theirs.ln_q.weight)
    video = dense(Grid(2, 4, 6))
    ours = make("qwen_merger", postshuffle_norm=False).load_reference(theirs.state_dict())
    torch.testing.assert_close(ours(video).tokens, theirs(in_windows(video, video.tokens)))


@pytest.mark.parametrize("prefix", ["", "model.visual."])
def test_qwen3_merges_the_states_of_earlier_layers_too(prefix: str) -> None:
    modeling = pytest.importorskip("transformers.models.qwen3_vl.modeling_qwen3_vl")
    config = pytest.importorskip("transformers").Qwen3VLConfig().vision_config
    config.hidden_size, config.out_hidden_size, config.spatial_merge_size = DIM_IN, 10, 2
    torch.manual_seed(0)
    mergers = [modeling.Qwen3VLVisionPatchMerger(config, deep) for deep in (False, True, True)]
    names = ["merger.", "deepstack_merger_list.0.", "deepstack_merger_list.1."]
    state = {
        f"{prefix}{start}{n}": t
        for start, merger in zip(names, mergers, strict=True)
        for n, t in merger.state_dict().items()
    }
    ours = make("qwen_merger", norm="layer", postshuffle_norm=False, deepstack=2)
    ours.load_reference(state)
    videos = [dense(Grid(2, 4, 6), 1), dense(Grid(1, 2, 4), 2)]
    for seed, video in enumerate(videos):
        for i in range(2):
            video.extras[f"deepstack.{i}"] = dense(video.grid, 10 * i + seed).tokens
    for video, out in zip(videos, ours(TokenBatch.pack(videos)), strict=True):
        rows = [video.tokens, *(video.extras[f"deepstack.{i}"] for i in range(2))]
        found = [out.tokens, *(out.extras[f"deepstack.{i}"] for i in range(2))]
        for x, y, merger in zip(rows, found, mergers, strict=True):
            torch.testing.assert_close(y, merger(in_windows(video, x)))
        assert "saliency" in out.extras
    found[1].sum().backward()
    assert all(p.grad is not None for p in ours.deepstack[0].parameters())
    with pytest.raises(ShapeError, match=r"reads extras\['deepstack.0'\]"):
        ours(dense(Grid(2, 4, 6)))


@few
@given(frames=st.integers(1, 5), h=st.integers(1, 3), w=st.integers(1, 3))
def test_patches_of_two_frames_are_a_convolution(frames: int, h: int, w: int) -> None:
    torch.manual_seed(0)
    embed = TemporalPatchEmbed(8, patch_size=4)
    pixels = torch.randn(frames, 3, 4 * h, 4 * w)
    rows, grid = embed(pixels)
    assert grid == Grid((frames + 1) // 2, h, w)
    even = torch.cat([pixels, pixels[-1:]]) if frames % 2 else pixels
    expected = embed.proj(even.transpose(0, 1)[None])[0].permute(1, 2, 3, 0).flatten(0, 2)
    torch.testing.assert_close(rows, expected, atol=1e-5, rtol=1e-5)
    spans = torch.arange(grid.t)[:, None] + torch.tensor([0.0, 1.0])
    assert len(VideoTokens.from_grid(rows, grid, spans)) == grid.num_patches


@pytest.mark.parametrize("shape", [(0, 3, 4, 4), (2, 1, 4, 4), (2, 3, 6, 4), (3, 4, 4)])
def test_other_pixels_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match="multiples of 4"):
        TemporalPatchEmbed(8, patch_size=4)(torch.zeros(shape))
