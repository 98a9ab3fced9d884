"""Gated cross-attention against its slow twin: both modes, ragged media, the original's mistake."""

from typing import Any

import pytest
import torch
from oracles.qformers import slow_gated_cross_attention
from torch import Tensor

from vidcomp.errors import ConfigError, ShapeError
from vidcomp.projectors.flamingo_gated import GatedCrossAttention, media_seen

CLOSE = {"atol": 1e-5, "rtol": 1e-5}


def block(*, gates: float = 0.7, **settings: Any) -> GatedCrossAttention:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        made = GatedCrossAttention(8, 6, dim_head=4, heads=2, ff_mult=2, **settings).eval()
    with torch.no_grad():
        made.attn_gate.fill_(gates)
        made.ff_gate.fill_(-gates)
    return made


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    text = torch.randn(2, 6, 8, generator=generator)
    media = torch.randn(2, 3, 4, 6, generator=generator)
    starts = torch.zeros(2, 6, dtype=torch.bool)
    starts[0, [1, 3, 4]] = True
    starts[1, [0, 5]] = True
    return text, media, media_seen(starts)


def test_media_are_counted_from_where_they_start() -> None:
    assert inputs()[2].tolist() == [[0, 1, 1, 2, 3, 3], [1, 1, 1, 1, 1, 2]]


@pytest.mark.parametrize(
    "mode",
    [
        {"only_immediate": True},
        {"only_immediate": False},
        {"only_immediate": False, "mean_before_media": True},
    ],
)
@pytest.mark.parametrize("lengths", [[[4, 4, 4]] * 2, [[2, 4, 1], [3, 1, 0]]])
def test_rows_equal_the_slow_twin(mode: dict[str, bool], lengths: list[list[int]]) -> None:
    made, (text, media, seen) = block(**mode), inputs()
    length_BM = torch.tensor(lengths)
    mask = torch.arange(4) < length_BM[..., None]
    out = made(text, media.masked_fill(~mask[..., None], 99.0), seen, mask)
    for i in range(2):
        expected = slow_gated_cross_attention(
            text[i],
            [media[i, m, : lengths[i][m]] for m in range(3)],
            seen[i].tolist(),
            made.state_dict(),
            heads=2,
            immediate=mode["only_immediate"],
            mean_before=mode.get("mean_before_media", False),
        )
        torch.testing.assert_close(out[i].double(), expected, **CLOSE)


def test_rows_before_any_medium_read_nothing_unless_told_otherwise() -> None:
    text, media, seen = inputs()
    right = block(only_immediate=False)
    other = media + 5
    assert torch.equal(right(text, media, seen)[0, 0], right(text, other, seen)[0, 0])
    wrong = block(only_immediate=False, mean_before_media=True)
    assert not torch.allclose(wrong(text, media, seen)[0, 0], wrong(text, other, seen)[0, 0])
    with pytest.raises(ConfigError, match="set only_immediate=False"):
        block(mean_before_media=True)


def test_a_fresh_block_changes_nothing_and_learns() -> None:
    made, (text, media, seen) = GatedCrossAttention(8, 6, dim_head=4, heads=2), inputs()
    assert torch.equal(made(text, media, seen), text)
    made = block()
    made(text, media, seen).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in made.parameters())


@pytest.mark.parametrize("immediate", [True, False])
def test_text_may_be_continued_row_by_row(immediate: bool) -> None:
    made, (text, media, seen) = block(only_immediate=immediate), inputs()
    steps = [made(text[:, i : i + 1], media, seen[:, i : i + 1]) for i in range(6)]
    torch.testing.assert_close(torch.cat(steps, dim=1), made(text, media, seen), **CLOSE)


def test_gradients_stay_finite_where_nothing_is_read() -> None:
    made, (text, media, _) = block(), inputs()
    media.requires_grad_()
    nothing = torch.zeros(2, 6, dtype=torch.int64)
    made(text, media, nothing).sum().backward()
    assert media.grad is not None
    assert not media.grad.any()
    assert all(p.grad is None or p.grad.isfinite().all() for p in made.parameters())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_close(dtype: torch.dtype) -> None:
    made, (text, media, seen) = block(), inputs()
    exact = made(text, media, seen)
    half = made.to(dtype)(text.to(dtype), media.to(dtype), seen)
    assert half.dtype == dtype
    torch.testing.assert_close(half.float(), exact, atol=0.05, rtol=0.05)


def test_shapes_that_do_not_fit_are_named() -> None:
    made, (text, media, seen) = block(), inputs()
    with pytest.raises(ShapeError, match=r"got \[\[2, 6, 8\], \[2, 3, 4, 6\], \[2, 5\]\]"):
        made(text, media, seen[:, 1:])
    with pytest.raises(ShapeError, match=r"a bool mask \[B, M, N\], got .* and \(\[2, 3\]"):
        made(text, media, seen, torch.ones(2, 3, dtype=torch.bool))
    with pytest.raises(ShapeError, match=r"and \(\[2, 3, 4\], torch.float32\)"):
        made(text, media, seen, torch.ones(2, 3, 4))
    with pytest.raises(ShapeError, match=r"media \[B, M, N, 6\].* \[2, 3, 4, 5\]"):
        made(text, media[..., 1:], seen)
    with pytest.raises(ShapeError, match=r"text \[B, T, 8\].* \[\[2, 6, 7\]"):
        made(text[..., 1:], media, seen)
    with pytest.raises(ShapeError, match=r"media_seen.* with torch.bool"):
        made(text, media, seen > 0)


@pytest.mark.parametrize("mode", [{}, {"only_immediate": False, "mean_before_media": True}])
def test_texts_without_media_pass_the_feed_forward_only(mode: dict[str, bool]) -> None:
    made, (text, media, seen) = block(**mode), inputs()
    text = text.clone().requires_grad_()
    out = made(text, media[:, :0], seen * 0)
    torch.testing.assert_close(out, text + made.ff_gate.tanh() * made.ff(text))
    out.sum().backward()
    assert torch.isfinite(text.grad).all()


def test_sizes_that_cannot_be_are_refused() -> None:
    with pytest.raises(ConfigError, match="heads=0"):
        GatedCrossAttention(8, 6, heads=0)
