"""Sizes by the formulas, pixels by Pillow and by the processors of transformers."""

import importlib
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from oracles.resize import pil_resize, slow_crop, slow_letterbox

from vidcomp.errors import ConfigError, ShapeError
from vidcomp.functional.resize import Resize, resize_frames, smart_max_pixels, target_size

sides = st.integers(1, 90)


def pictures(height, width, num_frames=1, seed=0, hard=False):
    """[T, 3, H, W] uint8 as decoders give it: interleaved rows, seen with channels first."""
    rng = np.random.default_rng(seed)
    data = rng.integers(0, 256, (num_frames, height, width, 3), dtype=np.uint8)
    if hard:  # black and white only: the overshoot of bicubic is clamped everywhere
        data = (data > 127).astype(np.uint8) * 255
    return torch.from_numpy(data).permute(0, 3, 1, 2)


def max_difference(a, b):
    assert a.shape == b.shape
    return int((a.int() - b.int()).abs().max())


def assert_pillow_equal(out, pillow, interpolation):
    """Within one grey level; two in very few values, of pictures this small at most a handful."""
    difference = (out.int() - pillow.int()).abs()
    assert out.shape == pillow.shape
    assert difference.max() <= (0 if interpolation == "nearest" else 2)
    handful = 20 if interpolation == "lanczos" else 2  # its overshoot is larger
    assert (difference > 1).sum() <= max(handful, 1e-3 * difference.numel())


def has_ties(old, new):
    """Whether some centre of a new pixel falls exactly between two old ones."""
    return any((2 * i + 1) * old % (2 * new) == 0 for i in range(new))


@settings(deadline=None, max_examples=60)
@given(
    height=sides,
    width=sides,
    new=st.tuples(sides, sides),
    interpolation=st.sampled_from(["bilinear", "bicubic", "lanczos", "nearest"]),
    hard=st.booleans(),
    seed=st.integers(0, 99),
)
def test_stretching_equals_pillow_within_one_level(height, width, new, interpolation, hard, seed):
    if interpolation == "nearest":  # Pillow adds up floats and misses some ties
        assume(not has_ties(height, new[0]) and not has_ties(width, new[1]))
    data = pictures(height, width, seed=seed, hard=hard)
    policy = Resize(height=new[0], width=new[1], interpolation=interpolation)
    out, content = resize_frames(data, policy)
    assert content is None
    assert out.dtype == torch.uint8
    assert_pillow_equal(out[0], pil_resize(data[0], new, interpolation), interpolation)


@settings(deadline=None, max_examples=60)
@given(old=st.tuples(sides, sides), new=st.tuples(sides, sides))
def test_nearest_takes_the_pixel_under_the_centre(old, new):
    data = pictures(*old)
    out, _ = resize_frames(data, Resize(height=new[0], width=new[1], interpolation="nearest"))
    rows, columns = (
        [math.floor(Fraction(2 * i + 1, 2) * Fraction(a, b)) for i in range(b)]
        for a, b in zip(old, new, strict=True)
    )
    assert torch.equal(out, data[:, :, rows][:, :, :, columns])


@settings(deadline=None, max_examples=60)
@given(
    height=sides,
    width=sides,
    canvas=st.tuples(sides, sides),
    fill=st.none() | st.tuples(*[st.integers(0, 255)] * 3),
)
def test_letterboxing_equals_pillow_and_tells_where_the_picture_is(height, width, canvas, fill):
    data = pictures(height, width)
    policy = Resize(mode="letterbox", height=canvas[0], width=canvas[1], fill=fill)
    out, content = resize_frames(data, policy)
    assert_pillow_equal(out[0], slow_letterbox(data[0], policy), "bilinear")
    top, left, h, w = content
    inside = torch.zeros(canvas, dtype=torch.bool)
    inside[top : top + h, left : left + w] = True
    bars = out[0].permute(1, 2, 0)[~inside]
    assert (bars == torch.tensor(fill or (128, 128, 128))).all()
    assert h == canvas[0] or w == canvas[1]
    assert h >= 1
    assert w >= 1


@settings(deadline=None, max_examples=60)
@given(
    height=sides,
    width=sides,
    crop=st.integers(1, 40),
    more=st.none() | st.integers(0, 12),
)
def test_cropping_equals_pillow(height, width, crop, more):
    assume(max(height, width) <= 20 * min(height, width))
    short_side = None if more is None else crop + more
    policy = Resize(mode="crop", height=crop, width=crop, short_side=short_side)
    data = pictures(height, width, num_frames=2)
    out, content = resize_frames(data, policy)
    assert content is None
    for row, picture in zip(out, data, strict=True):
        assert_pillow_equal(row, slow_crop(picture, policy), "bilinear")


@given(height=sides, width=sides, crop=st.tuples(sides, sides))
@settings(deadline=None, max_examples=60)
def test_a_crop_of_any_shape_covers_the_picture_and_is_cut_from_its_middle(height, width, crop):
    assume(max(height, width) <= 20 * min(height, width))
    policy = Resize(mode="crop", height=crop[0], width=crop[1], interpolation="nearest")
    ramp_y = torch.arange(height).view(1, 1, -1, 1).expand(1, 1, height, width)
    ramp_x = torch.arange(width).view(1, 1, 1, -1).expand(1, 1, height, width)
    out, _ = resize_frames(torch.cat([ramp_y, ramp_x], dim=1).to(torch.uint8), policy)
    assert out.shape == (1, 2, *crop)
    scale = max(crop[0] / height, crop[1] / width)
    pixel = max(1, 1 / scale)
    for axis, side in enumerate((height, width)):
        mean = out[0, axis].double().mean()
        assert abs(mean - (side - 1) / 2) <= 1.5 * pixel


@pytest.mark.parametrize(
    ("convention", "size", "left"),
    [("hf", (224, 237), 6), ("torchvision", (224, 237), 6), ("pytorchvideo", (224, 237), 6)],
)
def test_conventions_agree_where_half_rounds_down(convention, size, left):
    assert _cut_of(convention, 540, 572, 224) == (size, left)


def test_conventions_differ_where_half_rounds_up():
    # 15 columns too many: 7 by floor; 7.5 rounds to the even 8.
    assert _cut_of("hf", 540, 577, 224)[1] == 7
    assert _cut_of("torchvision", 540, 577, 224)[1] == 8
    assert _cut_of("pytorchvideo", 540, 577, 224)[1] == 8


def _cut_of(convention, height, width, side):
    """The size before the cut and its left edge, seen from a ramp of columns."""
    new_width = math.floor(side * width / height)
    policy = Resize(
        mode="crop", height=side, width=side, convention=convention, interpolation="nearest"
    )
    ramp = torch.arange(width).expand(1, height, width)
    data = torch.stack([ramp // 256, ramp % 256], dim=1).to(torch.uint8)
    out, _ = resize_frames(data, policy)
    first = int(out[0, 0, 0, 0]) * 256 + int(out[0, 1, 0, 0])
    return (side, new_width), round((first + 0.5) * new_width / width - 0.5)


def test_pytorchvideo_floors_a_ratio_computed_in_floats():
    # 182 * 83 / 83 is 182; in floats long / short * S falls just below an integer for some sizes.
    found = [
        (short, long)
        for short in range(100, 200)
        for long in range(short, 400)
        if math.floor(long / short * 182) != 182 * long // short
    ]
    short, long = found[0]
    data = pictures(short, long)
    exact, _ = resize_frames(data, Resize(mode="crop", height=182, width=182))
    floats, _ = resize_frames(
        data, Resize(mode="crop", height=182, width=182, convention="pytorchvideo")
    )
    assert max_difference(exact, floats) > 1


@settings(deadline=None, max_examples=300)
@given(
    height=st.integers(1, 3000),
    width=st.integers(1, 3000),
    factor=st.sampled_from([14, 28, 32]),
    bounds=st.tuples(st.integers(1, 200_000), st.integers(1024, 1_000_000)).filter(
        lambda b: b[0] <= b[1]
    ),
)
def test_smart_sizes_are_those_of_transformers_where_those_keep_their_promise(
    height, width, factor, bounds
):
    qwen = importlib.import_module("transformers.models.qwen2_vl.image_processing_pil_qwen2_vl")
    assume(max(height, width) <= 200 * min(height, width))
    policy = Resize(mode="smart", factor=factor, min_pixels=bounds[0], max_pixels=bounds[1])
    h, w = target_size(height, width, policy)
    assert h % factor == w % factor == 0
    assert min(h, w) >= factor
    if min(height, width) * 2 > factor:  # else upstream's first rounding gives 0
        theirs = qwen.smart_resize(height, width, factor, *bounds)
        assert (h, w) == theirs or h * w <= bounds[1] < theirs[0] * theirs[1]


def test_smart_never_gives_an_empty_or_too_large_picture():
    policy = Resize(mode="smart", factor=28, min_pixels=1, max_pixels=4 * 28 * 28)
    assert target_size(10, 2000, policy) == (28, 112)
    assert target_size(2000, 10, policy) == (112, 28)
    assert target_size(1, 1, policy) == (28, 28)


def test_smart_refuses_a_strip():
    with pytest.raises(ShapeError, match="aspect of at most 200"):
        target_size(1, 201, Resize(mode="smart"))
    assert min(target_size(1, 200, Resize(mode="smart"))) >= 28


def test_smart_budget_of_a_video():
    assert smart_max_pixels(8) == 768 * 28 * 28
    assert smart_max_pixels(768) == int(128_000 * 28 * 28 * 0.9) * 2 // 768
    assert smart_max_pixels(10**6) == int(128 * 28 * 28 * 1.05)
    assert smart_max_pixels(0) == 768 * 28 * 28


@settings(deadline=None, max_examples=40)
@given(
    height=sides,
    width=sides,
    mode=st.sampled_from(["stretch", "crop", "letterbox", "smart", "none"]),
    num_frames=st.integers(0, 3),
    interpolation=st.sampled_from(["bilinear", "bicubic", "lanczos", "nearest"]),
)
def test_every_policy_gives_the_size_it_tells_and_leaves_the_input_alone(
    height, width, mode, num_frames, interpolation
):
    assume(max(height, width) <= 20 * min(height, width))
    policy = Resize(
        mode=mode,
        height=30,
        width=20,
        interpolation=interpolation,
        factor=7,
        min_pixels=49,
        max_pixels=4900,
    )
    data = pictures(height, width, num_frames)
    before = data.clone()
    out, content = resize_frames(data, policy)
    assert out.shape == (num_frames, 3, *target_size(height, width, policy))
    assert out.dtype == torch.uint8
    assert torch.equal(data, before)
    assert (content is not None) == (mode == "letterbox")


def test_pictures_alone_and_together_are_equal():
    data = pictures(54, 96, num_frames=5)
    for mode in ("stretch", "crop", "letterbox"):
        policy = Resize(mode=mode, height=24, width=24, interpolation="bicubic")
        together, _ = resize_frames(data, policy)
        alone = [resize_frames(data[i : i + 1], policy)[0] for i in range(5)]
        assert torch.equal(together, torch.cat(alone))


def test_layout_of_the_input_does_not_matter():
    data = pictures(54, 96, num_frames=2)
    for interpolation in ("bilinear", "bicubic", "nearest"):
        policy = Resize(height=30, width=33, interpolation=interpolation)
        assert torch.equal(
            resize_frames(data, policy)[0], resize_frames(data.contiguous(), policy)[0]
        )


def test_nothing_is_copied_when_the_size_is_right():
    data = pictures(20, 30)
    for policy in (
        Resize(mode="none"),
        Resize(height=20, width=30),
        Resize(mode="crop", height=20, width=30),
        Resize(mode="letterbox", height=20, width=30),
    ):
        assert resize_frames(data, policy)[0].data_ptr() == data.data_ptr()


def test_decoder_layout_stays_channels_last():
    data = pictures(54, 96, num_frames=2)
    for mode in ("stretch", "crop", "letterbox"):
        out, _ = resize_frames(data, Resize(mode=mode, height=24, width=24))
        assert out.is_contiguous(memory_format=torch.channels_last)


def test_without_antialias_it_is_plain_interpolation():
    data = pictures(54, 96)
    out, _ = resize_frames(data, Resize(height=20, width=20, antialias=False))
    plain = F.interpolate(data.float(), size=(20, 20), mode="bilinear").round()
    assert max_difference(out, plain) <= 1
    assert max_difference(out, resize_frames(data, Resize(height=20, width=20))[0]) > 1


@pytest.mark.parametrize(
    ("name", "policy"),
    [
        ("CLIP", Resize(mode="crop", interpolation="bicubic")),
        ("Siglip", Resize(interpolation="bicubic")),
        ("Bit", Resize(mode="crop", short_side=256, interpolation="bicubic")),  # DINOv2's
    ],
)
@pytest.mark.parametrize("size", [(135, 241), (242, 133), (300, 260)])
def test_processors_of_transformers_give_the_same_pixels(name, policy, size):
    module = importlib.import_module(
        f"transformers.models.{name.lower()}.image_processing_pil_{name.lower()}"
    )
    processor = getattr(module, f"{name}ImageProcessorPil")(
        do_rescale=False,
        do_normalize=False,
        resample=3,
        size=(
            {"height": 224, "width": 224}
            if policy.mode == "stretch"
            else {"shortest_edge": policy.short_side or 224}
        ),
    )
    data = pictures(*size)
    theirs = processor(data[0].permute(1, 2, 0).numpy(), return_tensors="np")["pixel_values"]
    out, _ = resize_frames(data, policy)
    difference = (out.int() - torch.from_numpy(theirs).int()).abs()
    assert difference.max() <= 2
    assert (difference > 1).double().mean() <= 1e-4


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mode": "crop", "short_side": 200}, "short side of at least 224"),
        ({"mode": "smart", "min_pixels": 2000, "max_pixels": 1000}, "max_pixels of at least"),
        ({"mode": "smart", "min_pixels": 1, "max_pixels": 27}, "factor"),
        ({"mode": "letterbox", "fill": (0, 0, 256)}, "0..255"),
        ({"height": 0}, "greater than or equal to 1"),
        ({"mode": "squash"}, "stretch"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        Resize(**settings)


@pytest.mark.parametrize(
    ("data", "policy", "message"),
    [
        (torch.zeros(1, 3, 4, 4), Resize(), "uint8"),
        (torch.zeros(3, 4, 4, dtype=torch.uint8), Resize(), "T, C, H, W"),
        (torch.zeros(1, 3, 0, 4, dtype=torch.uint8), Resize(), "at least 1 x 1"),
        (
            torch.zeros(1, 1, 4, 4, dtype=torch.uint8),
            Resize(mode="letterbox", fill=(1, 2, 3)),
            "each of 1 channels",
        ),
    ],
)
def test_pictures_that_cannot_work_are_refused(data, policy, message):
    with pytest.raises(ShapeError, match=message):
        resize_frames(data, policy)


@pytest.mark.parametrize("mode", ["stretch", "crop", "letterbox"])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "nearest"])
def test_devices_without_a_uint8_kernel_are_served(mode, interpolation):
    # the device "meta" computes shapes and types only, by the rules of the others
    policy = Resize(mode=mode, interpolation=interpolation)
    out, _ = resize_frames(pictures(135, 241, num_frames=2).to("meta"), policy)
    assert out.shape == (2, 3, 224, 224)
    assert out.dtype == torch.uint8
    assert out.device.type == "meta"


@pytest.mark.gpu
def test_other_devices_take_a_float_path_within_one_level():
    data = pictures(135, 241)
    for interpolation in ("bilinear", "bicubic", "lanczos", "nearest"):
        policy = Resize(interpolation=interpolation)
        there, _ = resize_frames(data.cuda(), policy)
        assert max_difference(there.cpu(), resize_frames(data, policy)[0]) <= 1


def test_lanczos_without_its_wide_filter_or_its_torch_is_refused(monkeypatch):
    with pytest.raises(ConfigError, match="choose bicubic"):
        Resize(interpolation="lanczos", antialias=False)
    monkeypatch.delattr(torch._C._nn, "_upsample_lanczos2d_aa")
    with pytest.raises(ConfigError, match="update it, or choose bicubic"):
        Resize(interpolation="lanczos")


@pytest.mark.parametrize("interpolation", ["bicubic", "lanczos"])
def test_the_order_of_torch_is_the_width_first(interpolation):
    data = pictures(200, 24, hard=True)  # so tall that Pillow begins with the height
    policy = Resize(height=28, width=28, interpolation=interpolation, order="torch")
    found = resize_frames(data, policy)[0]
    alone = F.interpolate(data, size=(28, 28), mode=interpolation, antialias=True)
    assert torch.equal(found, alone)
    other = resize_frames(data, policy.model_copy(update={"order": "pillow"}))[0]
    assert max_difference(found, other) > 1
