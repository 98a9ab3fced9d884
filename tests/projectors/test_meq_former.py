"""Several encoders in one Q-Former: streams by name, their common grid, and encoders left out."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from projector_cases import dense, make, provenance, pruned, question
from test_qformers import lively
from torch import Tensor
from torch.nn.functional import linear

from vidcomp.errors import BudgetError, ConfigError, ShapeError
from vidcomp.projectors.meq_former import MeqFormer
from vidcomp.types import Grid, TokenBatch, VideoTokens

CLOSE = {"atol": 1e-5, "rtol": 1e-5}
WIDTHS = (("still", 12), ("moving", 8), ("text", 5))
few = settings(deadline=None, max_examples=12)


def meq(**settings: Any) -> MeqFormer:
    made = lively(make("meq_former", **{"encoders": WIDTHS, "frames_per_clip": None, **settings}))
    assert isinstance(made, MeqFormer)
    return made


def streams(seed: int = 0, *, kind: Any = dense) -> dict[str, VideoTokens]:
    return {
        "still": kind(Grid(4, 3, 2), seed),
        "moving": dense(Grid(2, 2, 2), seed + 1, dim=8),
        "text": dense(Grid(4, 1, 1), seed + 2, dim=5),
    }


def test_all_streams_are_read_side_by_side_in_one_width() -> None:
    projector, some = meq(), streams()
    state = projector.state_dict()
    rows = [
        linear(video.tokens, state[f"projs.{i}.weight"], state[f"projs.{i}.bias"])
        for i, video in enumerate(some.values())
    ]
    twin = make("instruct_qformer", **reading())
    twin.load_reference({n: t for n, t in state.items() if not n.startswith("projs.")})
    together = torch.cat(rows)
    alone = VideoTokens.from_grid(together, Grid(1, 1, len(together)), torch.tensor([[0.0, 1.0]]))
    torch.testing.assert_close(projector(some).tokens, twin(alone).tokens, **CLOSE)


def reading() -> dict[str, Any]:
    """Settings of a Q-Former with the same inside."""
    config = make("meq_former").config.dump()
    kept = ("dim", "depth", "heads", "dim_ff", "num_latents", "num_words", "max_words")
    same = {name: config[name] for name in kept}
    return {
        **same,
        "dim_in": config["dim_key"],
        "cross_attention_frequency": config["cross_attention_frequency"],
        "frames_per_clip": None,
    }


@pytest.mark.parametrize("kind", [dense, pruned])
def test_tokens_out_lie_on_the_grid_of_the_first(kind: Any) -> None:
    some = streams(kind=kind)
    first, out = some["still"], meq()(some)
    assert out.grid == first.grid
    assert set(out.extras) == {"saliency"}
    shares = provenance(out)
    torch.testing.assert_close(shares.sum(dim=1), torch.ones(len(out)), **CLOSE)
    rows = provenance(first)
    covered = rows.sum(dim=0) > 0
    assert not shares[:, ~covered].any()
    torch.testing.assert_close(out.mass.sum(), first.mass.sum(), **CLOSE)
    cells = dense(first.grid).positions
    torch.testing.assert_close(out.positions, shares @ cells, atol=1e-4, rtol=1e-4)
    saliency = first.extras["saliency"]
    expected = shares[:, covered] @ saliency
    torch.testing.assert_close(out.extras["saliency"], expected, **CLOSE)


@few
@given(
    seed=st.integers(0, 99),
    grid=st.builds(Grid, st.integers(1, 4), st.integers(1, 4), st.integers(1, 4)),
    other=st.builds(Grid, st.integers(1, 4), st.integers(1, 4), st.integers(1, 4)),
    kind=st.sampled_from([dense, pruned]),
)
def test_a_row_of_another_encoder_counts_as_the_nearest_of_the_first(
    seed: int, grid: Grid, other: Grid, kind: Any
) -> None:
    first, second = kind(grid, seed), dense(other, seed, dim=8)
    projector = meq(encoders=WIDTHS[:2])
    (joined,) = projector._joined({"still": [first], "moving": [second]})
    scale = torch.tensor(grid) / torch.tensor(other)
    assert len(joined) == len(first) + len(second)
    for row, place in enumerate(second.positions):
        wanted = (place + 0.5) * scale - 0.5
        distances = (first.positions - wanted).norm(dim=1)
        chosen = (joined.positions[len(first) + row] - wanted).norm()
        assert float(chosen) <= float(distances.min()) + 1e-4
    torch.testing.assert_close(joined.mass.sum(), first.mass.sum(), **CLOSE)


def test_a_batch_equals_one_after_another() -> None:
    projector = meq(frames_per_clip=2)
    some = [streams(0), streams(5, kind=pruned), streams(9)]
    asked = [question("meq_former", n, n) for n in (2, 4, 1)]
    batch = {name: TokenBatch.pack([s[name] for s in some], ["a", "b", "c"]) for name in some[0]}
    out = projector(batch, query=asked)
    assert out.keys == ("a", "b", "c")
    for one, video, query in zip(out, some, asked, strict=True):
        alone = projector(video, query=query)
        torch.testing.assert_close(one.tokens, alone.tokens, **CLOSE)
        torch.testing.assert_close(one.positions, alone.positions, **CLOSE)
        assert len(one) == projector.num_tokens(video["still"].grid)
    with pytest.raises(BudgetError, match="gives this video"):
        projector(batch, 1, query=asked)


def test_the_order_of_the_mapping_does_not_matter_and_another_encoder_does() -> None:
    projector, some = meq(), streams()
    backward = dict(reversed(some.items()))
    assert torch.equal(projector(some).tokens, projector(backward).tokens)
    other = {**some, "text": dense(Grid(4, 1, 1), 77, dim=5)}
    assert not torch.allclose(projector(some).tokens, projector(other).tokens, atol=1e-4)


def test_an_encoder_may_be_missing_but_not_the_first() -> None:
    projector, some = meq(), streams()
    del some["text"]
    assert projector(some).tokens.shape == (2, 10)
    del some["still"]
    with pytest.raises(ConfigError, match=r"still, moving, text .* the first, got moving"):
        projector(some)


def test_what_is_no_stream_is_named() -> None:
    projector, some = meq(), streams()
    for wrong, kind in ((some["still"].tokens, "Tensor"), ([some["still"]], "list")):
        with pytest.raises(ConfigError, match=f"got {kind} for 'still': pack several videos"):
            projector({**some, "still": wrong})
    nothing = some["still"].select(torch.zeros(0, dtype=torch.int64))
    with pytest.raises(ShapeError, match="one token of its first encoder, got none"):
        projector({**some, "still": nothing})
    none = {**some, "text": some["text"].select(torch.zeros(0, dtype=torch.int64))}
    without = {name: some[name] for name in ("still", "moving")}
    torch.testing.assert_close(projector(none).tokens, projector(without).tokens, **CLOSE)


def test_batches_of_other_videos_are_refused() -> None:
    projector, one, other = meq(), streams(1), streams(2)
    batches = {n: TokenBatch.pack([one[n], other[n]], ("a", "b")) for n in one}
    assert projector(batches).keys == ("a", "b")
    swapped = TokenBatch.pack([other["text"], one["text"]], ("b", "a"))
    with pytest.raises(ConfigError, match=r"in one order, got batches of \['a', 'b'\] and \['b'"):
        projector({**batches, "text": swapped})
    unnamed = TokenBatch.pack([one["text"], other["text"]])
    torch.testing.assert_close(
        projector({**batches, "text": unnamed}).tokens, projector(batches).tokens, **CLOSE
    )


def test_encoders_are_left_out_while_training_but_never_all() -> None:
    projector, some = meq(encoder_dropout=0.9).train(), streams()
    sizes = {
        len(projector._joined({name: [video] for name, video in some.items()})[0])
        for _ in range(60)
    }
    lengths = [len(v) for v in some.values()]
    assert set(lengths) <= sizes
    assert 0 not in sizes
    projector.eval()
    (joined,) = projector._joined({name: [video] for name, video in some.items()})
    assert len(joined) == sum(lengths)


def test_as_many_tokens_come_out_while_encoders_are_left_out() -> None:
    projector, some = meq(encoder_dropout=0.9, frames_per_clip=1).train(), streams()
    del some["text"]  # the other has rows in every other frame only
    wanted = projector.num_tokens(some["still"].grid)
    assert {len(projector(some)) for _ in range(20)} == {wanted}


def test_gradients_reach_every_encoder() -> None:
    projector, some = meq(), streams()
    tokens: list[Tensor] = [video.tokens.requires_grad_() for video in some.values()]
    projector(some).tokens.square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in projector.parameters())
    assert all(x.grad is not None and x.grad.any(dim=1).all() for x in tokens)


def test_half_precision_is_close() -> None:
    exact = meq()(streams())
    half = meq().to(torch.bfloat16)({n: v.to(dtype=torch.bfloat16) for n, v in streams().items()})
    assert half.tokens.dtype == torch.bfloat16
    scale = float(exact.tokens.detach().abs().max())
    assert float((half.tokens.float() - exact.tokens).detach().abs().max()) < 0.1 * scale


def test_streams_that_do_not_fit_are_named() -> None:
    projector, some = meq(), streams()
    with pytest.raises(ConfigError, match="got tokens of one: pass a mapping"):
        projector(some["still"])
    with pytest.raises(ConfigError, match="got still, sound"):
        projector({"still": some["still"], "sound": some["text"]})
    with pytest.raises(ShapeError, match="encoder 'moving' with 8 features, got 5"):
        projector({"still": some["still"], "moving": some["text"]})
    two = TokenBatch.pack([some["still"]] * 2)
    with pytest.raises(ConfigError, match=r"of the same videos, got \[2, None\]"):
        projector({"still": two, "moving": some["moving"]})


@pytest.mark.parametrize(
    ("encoders", "problem"),
    [
        ((("a", 12), ("a", 3)), "name each once"),
        ((("a", 12), ("b", 0)), "at least one feature"),
        ((("a", 7),), "dim_in=12, but its first encoder 'a' gives 7"),
    ],
)
def test_encoders_that_cannot_be_are_refused(encoders: Any, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        make("meq_former", encoders=encoders)
