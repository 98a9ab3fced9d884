from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.dct import slow_patch, slow_zigzag
from tiny_models import random_frames

from vidcomp.encode.dct import Dct, color_basis, cosine_basis, zigzag
from vidcomp.errors import ConfigError, ShapeError
from vidcomp.functional.resize import Resize
from vidcomp.types import Grid

sizes = st.tuples(st.integers(1, 9), st.integers(1, 3), st.integers(1, 3))


def dct(patch: int, coefficients: int | str = "all", **settings: object):
    resize = Resize(mode="none")
    return Dct(patch=patch, coefficients=coefficients, resize=resize, **settings).build()


@given(size=st.integers(1, 20))
@settings(deadline=None, max_examples=20)
def test_both_transforms_are_rotations(size: int):
    for basis in (cosine_basis(size), color_basis()):
        assert torch.allclose(basis @ basis.T, torch.eye(len(basis)).double(), atol=1e-12)
    assert zigzag(size) == slow_zigzag(size)


@given(sizes=sizes, seed=st.integers(0, 99))
@settings(deadline=None, max_examples=30)
def test_all_coefficients_keep_energy_and_distances(sizes: tuple[int, int, int], seed: int):
    patch, h, w = sizes
    frames = random_frames(2, h * patch, w * patch, seed=seed)
    video = dct(patch)(frames)
    pixels = frames.data.double() / 255 - 0.5
    assert video.grid == Grid(2, h, w)
    assert video.tokens.shape[1] == 3 * patch * patch
    assert torch.isclose(video.tokens.double().square().sum(), pixels.square().sum(), rtol=1e-5)
    first, second = video.tokens.double().unflatten(0, (2, -1))
    assert torch.isclose((first - second).norm(), (pixels[0] - pixels[1]).norm(), rtol=1e-5)


@given(sizes=sizes, count=st.integers(1, 81), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=20)
def test_agrees_with_the_slow_twin(sizes: tuple[int, int, int], count: int, seed: int):
    patch, h, w = sizes
    count = min(count, patch * patch)
    frames = random_frames(1, h * patch, w * patch, seed=seed)
    video = dct(patch, count)(frames)
    rows = frames.data[0].permute(1, 2, 0)
    for token, (_, i, j) in zip(video.tokens, video.positions.long().tolist(), strict=True):
        cut = rows[i * patch : (i + 1) * patch, j * patch : (j + 1) * patch]
        wanted = torch.tensor(slow_patch(cut.tolist(), count))
        assert torch.allclose(token, wanted, atol=2e-5)


def test_by_default_16_by_16_tokens_of_48_features():
    encoder = Dct().build()
    assert (encoder.resize.mode, encoder.resize.height, encoder.resize.width) == (
        "stretch",
        224,
        224,
    )
    video = encoder(random_frames(3, 224, 224))
    assert video.grid == Grid(3, 16, 16)
    assert video.tokens.shape == (768, encoder.dim) == (768, 48)
    assert encoder.weights_hash == ""
    assert torch.equal(video.tokens, encoder(random_frames(3, 224, 224)).tokens)


def test_even_black_is_a_direction_and_grey_has_no_detail():
    frames = random_frames(3, 14, 14)
    frames.data[0], frames.data[1], frames.data[2] = 0, 255, 100
    black, white, grey = Dct().build()(frames).tokens
    assert torch.allclose(black, -white, atol=1e-5)
    assert black[0] < -1
    assert torch.allclose(grey[1:], torch.zeros(47), atol=1e-5)


def test_memory_layout_does_not_matter():
    frames = random_frames(2, 28, 42)
    planes = replace(frames, data=frames.data.contiguous())
    assert frames.data.stride() != planes.data.stride()
    encoder = Dct().build()
    assert torch.equal(encoder(frames).tokens, encoder(planes).tokens)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_lower_precision_is_rounding_of_float32(dtype: str):
    frames = random_frames(1, 28, 28)
    low = Dct(dtype=dtype).build()(frames).tokens
    assert low.dtype == getattr(torch, dtype)
    assert torch.equal(low, Dct().build()(frames).tokens.to(low.dtype))


def test_sizes_that_patches_do_not_divide_are_refused():
    with pytest.raises(ShapeError, match="resize to 28 x 42"):
        Dct().build()(random_frames(1, 30, 44))
    with pytest.raises(ConfigError, match="multiple"):
        Dct(size=225).build()


@pytest.mark.parametrize("coefficients", [0, 197])
def test_more_coefficients_than_pixels_are_refused(coefficients: int):
    with pytest.raises(ConfigError, match="1 to 196"):
        Dct(coefficients=coefficients).build()


@pytest.mark.compile
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # from inside torch
def test_compiled_agrees():
    frames = random_frames(2, 28, 28)
    fast = Dct().build(compile=True)(frames)
    assert torch.allclose(fast.tokens, Dct().build()(frames).tokens, atol=1e-5)
