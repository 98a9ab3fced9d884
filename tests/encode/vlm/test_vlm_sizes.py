"""Sizes are those of functions of transformers that need no torchvision, and keep their laws."""

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from vidcomp.encode.vlm.pixels.sizes import (
    Bounds,
    fitting_size,
    in_area,
    longest_edge_size,
    patch_target,
    smart_size,
    volume_size,
)
from vidcomp.errors import ShapeError

sides = st.integers(1, 3000)
units = st.sampled_from([8, 28, 32, 48])


@settings(deadline=None, max_examples=300)
@given(height=sides, width=sides, unit=units, least=st.integers(1, 400), most=st.integers(0, 4000))
def test_smart_sizes_are_those_of_qwen2(height, width, unit, least, most):
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

    bounds = Bounds(least * unit**2, (least + most) * unit**2)
    try:
        wanted = smart_resize(height, width, unit, bounds.least, bounds.most)
    except ValueError:
        with pytest.raises(ShapeError, match="aspect"):
            smart_size(height, width, unit, bounds)
        return
    assert smart_size(height, width, unit, bounds) == wanted


@settings(deadline=None, max_examples=300)
@given(
    frames=st.integers(2, 900),
    height=sides,
    width=sides,
    unit=units,
    least=st.integers(1, 400),
    most=st.integers(0, 40_000),
)
def test_sizes_of_a_volume_are_those_of_glm(frames, height, width, unit, least, most):
    from transformers.models.glm4v.image_processing_pil_glm4v import smart_resize

    bounds = Bounds(least * unit**2, (least + most) * unit**2)
    try:
        wanted = smart_resize(frames, height, width, 2, unit, bounds.least, bounds.most)
    except ValueError:
        with pytest.raises(ShapeError, match="aspect"):
            volume_size(frames, height, width, unit, bounds, 2)
        return
    assert volume_size(frames, height, width, unit, bounds, 2) == wanted


def test_a_video_of_one_frame_has_the_size_of_a_tubelet():
    bounds = Bounds(4096, 25_165_824)
    assert volume_size(1, 540, 960, 32, bounds, 2) == volume_size(2, 540, 960, 32, bounds, 2)


@settings(deadline=None, max_examples=300)
@given(height=sides, width=sides, units=st.sampled_from([70, 140, 280, 560, 1120]))
def test_fitting_sizes_are_those_of_gemma4(height, width, units):
    from transformers.models.gemma4.image_processing_pil_gemma4 import (
        get_aspect_ratio_preserving_size,
    )

    found = fitting_size(height, width, 48, units)
    assert found == get_aspect_ratio_preserving_size(height, width, 16, units * 9, 3)
    assert found[0] * found[1] <= units * 48 * 48


@settings(deadline=None, max_examples=200)
@given(height=sides, width=sides)
def test_areas_are_near_the_square(height, width):
    assume(max(height, width) <= 4 * min(height, width))
    h, w = in_area(height, width, 448, 56)
    assert h % 56 == 0
    assert w % 56 == 0
    assert 0.6 <= h * w / 448**2 <= 1.4


@settings(deadline=None, max_examples=200)
@given(height=sides, width=sides, edge=st.integers(2, 2000))
def test_the_long_side_is_the_edge(height, width, edge):
    found = longest_edge_size(height, width, edge)
    long, short = (0, 1) if height > width else (1, 0)
    assert found[long] == edge
    exact = edge * min(height, width) / max(height, width)
    assert found[short] == 1 or found[short] % 2 == 0
    assert abs(found[short] - exact) <= 1 + 1e-6


@settings(deadline=None, max_examples=200)
@given(height=sides, width=sides, keep_aspect=st.booleans())
def test_patches_are_near_the_target(height, width, keep_aspect):
    assume(max(height, width) <= 8 * min(height, width))
    h, w = patch_target(height, width, 1024, 2, keep_aspect=keep_aspect)
    assert h % 2 == w % 2 == 0
    assert 0.75 * 1024 <= h * w <= 1.1 * 1024  # of the original too
    if not keep_aspect:
        assert h == w == 32


def test_sizes_that_people_meet():
    # Published bounds of Qwen3-VL and Qwen2.5-VL, a film of 1080p.
    assert volume_size(32, 1080, 1920, 32, Bounds(4096, 25_165_824), 2) == (640, 1152)
    assert smart_size(1080, 1920, 28, Bounds(128 * 784, 768 * 784)) == (560, 1008)
    assert fitting_size(1080, 1920, 48, 70) == (288, 528)
    assert in_area(1080, 1920, 448, 56) == (336, 616)
