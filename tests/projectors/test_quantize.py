"""Quantisers: nearest codes, ids there and back, codebooks that follow, losses."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from projector_cases import DIM_IN, DISCRETE, dense, make
from torch import Tensor

from vidcomp.errors import ConfigError, ShapeError
from vidcomp.projectors.lookup_free import Lfq
from vidcomp.projectors.quantize import Quantizer
from vidcomp.projectors.vq import Vq
from vidcomp.registry import PROJECTORS
from vidcomp.types import Grid, TokenBatch

every_quantizer = pytest.mark.parametrize("case", sorted(DISCRETE))
few = settings(deadline=None, max_examples=20)


def quantizer(case: str, **wanted: object) -> Quantizer:
    made = make(case, **wanted)
    assert isinstance(made, Quantizer)
    return made


@every_quantizer
def test_ids_decode_to_the_vectors_of_their_codes(case: str) -> None:
    video = dense(Grid(2, 4, 4))
    vectors = quantizer(case)(video)
    ids = quantizer(case, output="ids")(video)
    assert ids.tokens.dtype == torch.int64
    assert torch.equal(ids.assign, video.assign)
    assert torch.equal(quantizer(case).decode(ids).tokens, vectors.tokens)
    batch = quantizer(case, output="ids")(TokenBatch.pack([video, video]))
    assert torch.equal(batch[1].tokens, ids.tokens)


@every_quantizer
def test_every_code_is_its_own_id(case: str) -> None:
    made = quantizer(case)
    ids = torch.arange(made.config.num_codes)
    found = made.snap(made.codes(ids) * (1 + 1e-4))
    if case == "fsq":  # its codes are levels over their number, and what is rounded comes before
        return
    assert torch.equal(found.ids, ids)


@every_quantizer
def test_what_is_no_id_of_the_codebook_is_refused(case: str) -> None:
    made, video = quantizer(case), dense(Grid(1, 2, 2))
    with pytest.raises(ShapeError, match="they are vectors already"):
        made.decode(video)
    ids = quantizer(case, output="ids")(video)
    ids.tokens[0] = made.config.num_codes
    with pytest.raises(ShapeError, match=f"has ids 0..{made.config.num_codes - 1}, got"):
        made.decode(ids)


@few
@given(seed=st.integers(0, 999), size=st.integers(1, 40), cosine=st.booleans())
def test_vq_takes_the_nearest_code(seed: int, size: int, cosine: bool) -> None:
    vq = quantizer("vq_cosine" if cosine else "vq", codebook_size=size, codebook_dim=DIM_IN)
    z_NC = torch.randn(30, DIM_IN, generator=torch.Generator().manual_seed(seed))
    codes = vq.codes(torch.arange(size)).double()
    for row, chosen in zip(z_NC.double(), vq.snap(z_NC).ids.tolist(), strict=True):
        apart = [float((row - code).norm()) for code in codes]
        if cosine:
            apart = [1 - float(row @ code / row.norm() / code.norm()) for code in codes]
        assert apart[chosen] <= min(apart) + 1e-6


@pytest.mark.parametrize("levels", [(3,), (8, 5, 5, 5), (4, 7, 6)])
def test_fsq_counts_every_combination_of_levels_once(levels: tuple[int, ...]) -> None:
    fsq = quantizer("fsq", levels=levels)
    ids = torch.arange(fsq.config.num_codes)
    codes = fsq.codes(ids)
    assert len({tuple(code) for code in codes.tolist()}) == math.prod(levels)
    half = torch.tensor([count // 2 for count in levels])
    even = torch.tensor([count % 2 == 0 for count in levels])
    reach = (torch.tensor(levels) - 1) * 1.001 / 2
    before = ((codes * half + even * 0.5) / reach).atanh() - (even * 0.5 / reach).atanh()
    assert torch.equal(fsq.snap(before).ids, ids)
    torch.testing.assert_close(fsq.snap(before).tokens, codes)


@few
@given(seed=st.integers(0, 999), bits=st.integers(1, 6), spherical=st.booleans())
def test_entropies_are_those_of_the_whole_softmax(seed: int, bits: int, spherical: bool) -> None:
    lfq = quantizer("lfq", bits=bits, spherical=spherical, inv_temperature=2.0, diversity=0.7)
    assert isinstance(lfq, Lfq)
    z_NC = torch.randn(9, bits, generator=torch.Generator().manual_seed(seed))
    codes_KC = lfq.codes(torch.arange(1 << bits))
    chance_NK = (4.0 * z_NC @ codes_KC.T).double().softmax(dim=-1)

    def entropy(chance: Tensor) -> Tensor:
        return -(chance * chance.clamp(min=1e-5).log()).sum(dim=-1)

    expected = entropy(chance_NK).mean() - 0.7 * entropy(chance_NK.mean(dim=0))
    torch.testing.assert_close(lfq.entropy_loss(z_NC).double(), expected, atol=1e-4, rtol=1e-4)


def test_a_codebook_follows_its_rows_and_dead_codes_come_back() -> None:
    centres = torch.eye(4) * 10
    generator = torch.Generator().manual_seed(0)
    rows = centres.repeat(32, 1) + torch.randn(128, 4, generator=generator) * 0.1
    vq = PROJECTORS.make("vq", dim_in=4, dim_out=4, codebook_size=6).build().train()
    assert isinstance(vq, Vq)
    before = float((vq.quantize(rows).tokens - rows).norm())
    for _ in range(20):
        vq.quantize(rows)
    vq.eval()
    found = vq.quantize(rows)
    assert float((found.tokens - rows).norm()) < 0.1 * before
    assert float(found.loss) == 0
    frozen = vq.embed.clone()
    vq.quantize(rows)
    assert torch.equal(vq.embed, frozen)


def test_a_step_of_training_is_the_same_every_time() -> None:
    video = dense(Grid(2, 4, 4))
    first, second = (quantizer("vq").train() for _ in range(2))
    for made in (first, second):
        made.quantize(video.tokens)
        made.quantize(video.tokens)
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name])


@pytest.mark.parametrize("gradient", ["rotation", "straight_through"])
def test_gradients_pass_a_code_as_said(gradient: str) -> None:
    vq = quantizer("vq", codebook_dim=DIM_IN, dim_out=DIM_IN, gradient=gradient).train()
    x_ND = dense(Grid(1, 2, 2)).tokens.requires_grad_()
    found = vq.quantize(x_ND)
    code = vq.codes(found.ids) if gradient == "never" else found.tokens.detach()
    towards = torch.ones_like(x_ND)
    (grad,) = torch.autograd.grad(found.tokens, x_ND, towards, retain_graph=True)
    if gradient == "straight_through":
        torch.testing.assert_close(grad, towards)
        return
    # A turn and a scale: lengths change by the quotient of lengths, and x is mapped to its code.
    ratio = code.norm(dim=1) / x_ND.detach().norm(dim=1)
    torch.testing.assert_close(grad.norm(dim=1), ratio * towards.norm(dim=1), atol=1e-4, rtol=1e-4)
    along = (grad * x_ND.detach()).sum(dim=1)
    torch.testing.assert_close(along, (towards * code).sum(dim=1), atol=1e-4, rtol=1e-4)


def test_settings_out_of_range_are_named() -> None:
    with pytest.raises(ConfigError, match="at least 3"):
        make("fsq", levels=(2, 5))
    with pytest.raises(ConfigError, match="bits"):
        make("lfq", bits=40)
