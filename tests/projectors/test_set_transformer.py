"""Blocks of the Set Transformer: masks, order, and the model put together."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.resamplers import slow_linear, slow_mab
from projector_cases import dense, pruned

from vidcomp.errors import ConfigError
from vidcomp.projectors.set_transformer import ISAB, MAB, PMA, SAB, SetTransformer
from vidcomp.registry import PROJECTORS
from vidcomp.types import Grid

few = settings(deadline=None, max_examples=10)
CLOSE = {"atol": 2e-5, "rtol": 1e-4}


def rows(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@few
@given(norm=st.booleans(), heads=st.sampled_from([1, 2, 4]), seed=st.integers(0, 99))
def test_a_block_equals_its_slow_twin(norm: bool, heads: int, seed: int) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        block = MAB(5, 6, 8, heads=heads, norm=norm)
    query, key = rows(1, 3, 5, seed=seed), rows(1, 7, 6, seed=seed + 1)
    expected = slow_mab(query[0].double(), key[0].double(), block.state_dict(), "", heads, norm)
    torch.testing.assert_close(block(query, key)[0].double(), expected, **CLOSE)


BLOCKS = {
    "sab": lambda norm: SAB(6, 8, heads=2, norm=norm),
    "isab": lambda norm: ISAB(6, 8, heads=2, num_inds=3, norm=norm),
    "pma": lambda norm: PMA(6, heads=2, num_seeds=3, norm=norm),
}


@pytest.mark.parametrize("kind", BLOCKS)
@pytest.mark.parametrize("norm", [False, True])
def test_masked_rows_are_read_by_none(kind: str, norm: bool) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        block = BLOCKS[kind](norm)
    short, long = rows(4, 6, seed=1), rows(7, 6, seed=2)
    padded = torch.stack([torch.cat([short, torch.full((3, 6), 9.0)]), long])
    mask = torch.tensor([[True] * 4 + [False] * 3, [True] * 7])
    together = block(padded, mask)
    count = 3 if kind == "pma" else 4
    torch.testing.assert_close(together[0, :count], block(short[None])[0], **CLOSE)
    torch.testing.assert_close(together[1], block(long[None])[0], **CLOSE)


@pytest.mark.parametrize("kind", ["sab", "isab"])
def test_rows_in_another_order_come_out_in_it(kind: str) -> None:
    block, x, order = BLOCKS[kind](True), rows(1, 5, 6), torch.tensor([3, 0, 4, 2, 1])
    torch.testing.assert_close(block(x[:, order]), block(x)[:, order], **CLOSE)


def model(**own: Any) -> SetTransformer:
    sizes = {"dim_in": 12, "dim_out": 10, "dim_hidden": 8, "num_latents": 3, "num_inds": 4}
    built = PROJECTORS.make("set_transformer", **{**sizes, **own}).build()
    assert isinstance(built, SetTransformer)
    return built


@few
@given(depths=st.tuples(*[st.integers(0, 2)] * 2), kind=st.sampled_from([dense, pruned]))
def test_the_model_equals_its_blocks_one_after_another(depths: tuple[int, int], kind: Any) -> None:
    encoder, decoder = depths
    hidden = 8 if encoder else None
    projector = model(encoder_depth=encoder, decoder_depth=decoder, dim_hidden=hidden)
    video, state = kind(Grid(1, 2, 3)), projector.state_dict()
    x = video.tokens.double()
    for i in range(encoder):
        points = slow_mab(state[f"enc.{i}.I"][0].double(), x, state, f"enc.{i}.mab0.", 4, False)
        x = slow_mab(x, points, state, f"enc.{i}.mab1.", 4, False)
    x = slow_mab(state["dec.0.S"][0].double(), x, state, "dec.0.mab.", 4, False)
    for i in range(decoder):
        x = slow_mab(x, x, state, f"dec.{i + 1}.mab.", 4, False)
    expected = slow_linear(x, state, f"dec.{decoder + 1}")
    torch.testing.assert_close(projector(video).tokens.double(), expected, **CLOSE)


def test_names_are_those_of_the_original_model() -> None:
    names = set(model(norm=True).state_dict())
    layers = {f"fc_{n}.{kind}" for n in "qkvo" for kind in ("weight", "bias")}
    layers |= {f"ln{i}.{kind}" for i in (0, 1) for kind in ("weight", "bias")}
    inside = {f"enc.{i}.mab{j}.{n}" for i in (0, 1) for j in (0, 1) for n in layers}
    inside |= {f"dec.{i}.mab.{n}" for i in (0, 1, 2) for n in layers}
    assert names == inside | {"enc.0.I", "enc.1.I", "dec.0.S", "dec.3.weight", "dec.3.bias"}


@pytest.mark.parametrize("own", [{"heads": 3}, {"encoder_depth": 0}])
def test_settings_that_do_not_fit(own: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"must divide|are as wide"):
        model(**own)
