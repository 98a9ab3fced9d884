"""Positions by sines, tables and Fourier features, on any grid and between its cells."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.resamplers import slow_sines, slow_sines_hw
from torch.nn.functional import interpolate

from vidcomp.projectors.positions import read_table
from vidcomp.projectors.sincos import fourier, grid_table, sincos, sincos_hw

few = settings(deadline=None, max_examples=25)
CLOSE = {"atol": 1e-5, "rtol": 1e-5}
places = st.floats(0, 80, width=32)


@few
@given(values=st.lists(places, min_size=1, max_size=5), half=st.integers(1, 5))
def test_sines_stand_before_cosines(values: list[float], half: int) -> None:
    expected = torch.tensor([slow_sines(v, 2 * half) for v in values])
    torch.testing.assert_close(sincos(torch.tensor(values), 2 * half), expected, **CLOSE)


@few
@given(row=places, column=places, quarter=st.integers(1, 4), cut=st.integers(0, 3))
def test_columns_stand_before_rows(row: float, column: float, quarter: int, cut: int) -> None:
    dim = 4 * quarter - cut
    expected = slow_sines_hw(row, column, 4 * quarter)[:dim].float()
    torch.testing.assert_close(sincos_hw(torch.tensor([row, column]), dim), expected, **CLOSE)


def test_a_table_is_read_row_by_row() -> None:
    table = grid_table(3, 5, 8)
    torch.testing.assert_close(table[7], slow_sines_hw(1, 2, 8).float(), **CLOSE)
    assert table.shape == (15, 8)


def cells(h: int, w: int) -> torch.Tensor:
    return torch.cartesian_prod(torch.arange(h), torch.arange(w)).float()


@few
@given(own=st.tuples(*[st.integers(1, 5)] * 2), grids=st.lists(st.tuples(*[st.integers(1, 7)] * 2)))
def test_a_table_is_stretched_over_each_grid(
    own: tuple[int, int], grids: list[tuple[int, int]]
) -> None:
    table = torch.randn(own[0] * own[1], 3, generator=torch.Generator().manual_seed(0))
    grids = [*grids, own]
    most = max(h * w for h, w in grids)
    place = torch.stack([torch.cat([cells(*g), torch.zeros(most - g[0] * g[1], 2)]) for g in grids])
    found = read_table(table, own, place, torch.tensor(grids))
    picture = table.view(1, *own, 3).permute(0, 3, 1, 2)
    for (h, w), rows in zip(grids, found, strict=True):
        wide = interpolate(picture, size=(h, w), mode="bicubic", align_corners=False)
        torch.testing.assert_close(rows[: h * w], wide[0].flatten(1).T, **CLOSE)
    torch.testing.assert_close(found[-1, : len(table)], table, **CLOSE)


@few
@given(row=st.floats(0, 3, width=32), column=st.floats(0, 5, width=32))
def test_between_cells_a_table_is_bilinear(row: float, column: float) -> None:
    table = torch.randn(6, 2, generator=torch.Generator().manual_seed(0))
    size = torch.tensor([[4, 6]])
    wide = read_table(table, (2, 3), cells(4, 6)[None], size)[0].view(4, 6, 2)
    r, c = math.floor(row), math.floor(column)
    expected = torch.zeros(2)
    for y, share_y in ((r, 1 - (row - r)), (r + 1, row - r)):
        for x, share_x in ((c, 1 - (column - c)), (c + 1, column - c)):
            if share_y * share_x:
                expected += share_y * share_x * wide[y, x]
    found = read_table(table, (2, 3), torch.tensor([[[row, column]]]), size)[0, 0]
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@few
@given(
    sizes=st.tuples(*[st.integers(1, 6)] * 3),
    shares=st.tuples(*[st.floats(0, 1)] * 3),
    bands=st.integers(1, 3),
)
def test_fourier_features_axis_by_axis(
    sizes: tuple[int, int, int], shares: tuple[float, float, float], bands: int
) -> None:
    place = [share * (size - 1) for share, size in zip(shares, sizes, strict=True)]
    expected = []
    for at, size in zip(place, sizes, strict=True):
        x = -1 + 2 * at / (size - 1) if size > 1 else -1.0
        step = (4.0 - 1) / (bands - 1) if bands > 1 else 0.0
        angles = [x * (1 + i * step) * math.pi for i in range(bands)]
        expected += [math.sin(a) for a in angles] + [math.cos(a) for a in angles] + [x]
    found = fourier(torch.tensor([[place]]), torch.tensor([sizes]), bands, 8.0)
    torch.testing.assert_close(found[0, 0], torch.tensor(expected), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_table_keeps_its_type(dtype: torch.dtype) -> None:
    found = read_table(
        torch.ones(4, 2, dtype=dtype), (2, 2), cells(3, 3)[None], torch.tensor([[3, 3]])
    )
    assert found.dtype == dtype
    torch.testing.assert_close(found, torch.ones_like(found))
