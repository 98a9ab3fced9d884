"""How much a place of the picture changed."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.linear_pruners import pixel_change_slowly

from vidcomp.errors import ShapeError
from vidcomp.functional.change import pixel_change

lawful = settings(deadline=None, max_examples=40)


@given(
    num_frames=st.integers(1, 7),
    tubelet=st.integers(1, 3),
    reference=st.sampled_from(["previous", "last_kept"]),
    threshold=st.sampled_from([0.0, 0.2, 0.4]),
    scale=st.sampled_from([None, (1.0, 2.0, 0.5)]),
    as_bytes=st.booleans(),
    seed=st.integers(0, 9),
)
@lawful
def test_pixels_equal_their_slow_twin(
    num_frames, tubelet, reference, threshold, scale, as_bytes, seed
):
    draw = torch.Generator().manual_seed(seed)
    frames = torch.randint(0, 256, (num_frames, 3, 4, 6), generator=draw, dtype=torch.uint8)
    frames = frames if as_bytes else frames.float() / 255
    options = {"threshold": threshold, "tubelet": tubelet, "scale": scale, "reference": reference}
    got = pixel_change(frames, (2, 3), **options)
    change, kept = pixel_change_slowly(frames, (2, 3), **options)
    assert torch.allclose(got.change.double(), change, atol=1e-6)
    clear = (change - threshold).abs() > 1e-6
    assert torch.equal(got.kept[clear], kept[clear])
    # The same in two chunks.
    cut = num_frames // 2 // tubelet * tubelet
    if cut:
        first = pixel_change(frames[:cut], (2, 3), **options)
        second = pixel_change(frames[cut:], (2, 3), before=first.last, **options)
        assert torch.equal(torch.cat([first.change, second.change]), got.change)
        assert torch.equal(torch.cat([first.kept, second.kept]), got.kept)


def test_a_fade_is_seen_only_against_what_was_kept():
    fade = torch.arange(0, 200, 2, dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 4, 4)
    previous = pixel_change(fade, (2, 2), threshold=0.1)
    assert int(previous.kept.sum()) == 4  # the first frame only
    kept = pixel_change(fade, (2, 2), threshold=0.1, reference="last_kept").kept
    assert kept.flatten(1).all(dim=1).nonzero().squeeze(1).tolist() == list(range(0, 100, 13))


def test_frames_that_cells_do_not_fill_are_refused():
    for frames, cell in ((torch.zeros(2, 3, 4, 5), (2, 2)), (torch.zeros(0, 3, 4, 4), (2, 2))):
        with pytest.raises(ShapeError, match=": "):
            pixel_change(frames, cell)
    with pytest.raises(ShapeError, match="one video"):
        pixel_change(torch.zeros(3, 4, 4), (2, 2))
