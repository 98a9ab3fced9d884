"""Groups of rows around rows that are dense and far from denser ones (DPC-KNN).

Study on Density Peaks Clustering Based on k-Nearest Neighbors and Principal Component Analysis (Du
et al., 2016), without that analysis, in the form that video token reducers share: distances are
Euclidean over sqrt(D), a row's density is ``exp(-mean squared distance to its nearest rows, itself
included)``, its separation is the distance to the nearest denser row (the largest distance of all
for the densest), and the rows with the largest product of both are centres.  We add no noise to the
densities: equal ones are ordered by row.  Products are compared as sums of logarithms, so that far
rows do not all underflow to 0.

Squared distances are computed in float64 (where there is one), those below what float64 can tell
are 0, and the rest is rounded to float32: duplicates tie exactly.

Legend: B groups of the same size, N rows, M a block of them, D features, K centres.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from vidcomp.errors import BudgetError
from vidcomp.functional.reduce import wide

__all__ = ["Peaks", "density_peaks", "nearest_centres", "peak_scores", "peaks_in_parts"]

_HELD = 1 << 24
"""Distances that are kept (64 MiB): all of up to 4,096 rows; more rows go in blocks."""
_STRIP = 160
"""Rows whose distances to those behind them are found at once, on the CPU."""
_UNSURE = 4096
"""Roundings of the squared lengths below which a squared distance is 0."""


class Peaks(NamedTuple):
    """How much of a centre each row is."""

    log_density: Tensor
    """[..., N] float64, at most 0; -inf where masked."""
    separation: Tensor
    """[..., N] float64 distance over sqrt(D) to the nearest denser row, at least 0; the largest
    distance of all for the densest row, 0 where masked."""

    @property
    def log_score(self) -> Tensor:
        """[..., N] float32 logarithm of density times separation; -inf for repeated rows."""
        return (self.log_density + self.separation.log()).float()


def density_peaks(
    x_ND: Tensor, num_clusters: int, neighbours: int, *, mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Centres and the centre that each row is nearest to; exactly ``num_clusters``, all different.

    Groups of the same size may be given at once, [B, N, D]; each is clustered alone and all results
    get the axis B.  Time grows with N * N * D, memory with B * N beyond 64 MiB of distances.

    Args:
        x_ND: [N, D] (or [B, N, D]) finite, any float type.
        num_clusters: K, 1 to the number of rows that are not masked.
        neighbours: rows that vote on a density, the row itself included; at most all rows vote.
        mask: [N] (or [B, N]) bool, False: the row is no centre, no neighbour, and in no cluster.

    Returns:
        [K] int64 rows of the centres, in the published order: by falling density times separation,
        ties to the lower row; and [N] int64 place in that list of each row's nearest centre, ties
        to the earlier one, a centre's own place for a centre, -1 where masked.

    Raises:
        BudgetError: ``num_clusters`` is out of range.
    """
    batched_BND = x_ND if x_ND.ndim == 3 else x_ND[None]
    mask_BN = None if mask is None else mask.reshape(batched_BND.shape[:2])
    rows = batched_BND.shape[1] if mask_BN is None else int(mask_BN.sum(dim=1).min())
    if not 1 <= num_clusters <= rows:
        raise BudgetError(
            f"{rows} rows make 1 to {rows} clusters, got {num_clusters}: change the number"
        )
    unit_BND, scale_B = _standard(batched_BND, mask_BN)
    parts = [
        _clusters(
            unit_BND[part], scale_B[part], num_clusters, neighbours,
            None if mask_BN is None else mask_BN[part],
        )
        for part in _parts(unit_BND)
    ]  # fmt: skip
    centre_BK, assign_BN = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
    return (centre_BK, assign_BN) if x_ND.ndim == 3 else (centre_BK[0], assign_BN[0])


def peak_scores(x_ND: Tensor, neighbours: int, *, mask: Tensor | None = None) -> Peaks:
    """Densities and separations of rows; arguments as for ``density_peaks``."""
    batched_BND = x_ND if x_ND.ndim == 3 else x_ND[None]
    mask_BN = None if mask is None else mask.reshape(batched_BND.shape[:2])
    unit_BND, scale_B = _standard(batched_BND, mask_BN)
    parts = [
        _peaks(
            unit_BND[p],
            scale_B[p],
            neighbours,
            None if mask_BN is None else mask_BN[p],
            _held(unit_BND[p]),
        )
        for p in _parts(unit_BND)
    ]
    density_BN, separation_BN = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
    if x_ND.ndim == 3:
        return Peaks(density_BN, separation_BN)
    return Peaks(density_BN[0], separation_BN[0])


def peaks_in_parts(x_ND: Tensor, part_N: Tensor, share_T: Tensor, neighbours: int) -> Tensor:
    """Each part is clustered alone, parts of the same size and share at once.

    Time grows with the sum of the squares of the parts' sizes, memory with N.

    Args:
        x_ND: [N, D] finite, any float type.
        part_N: [N] int64 part of each row, in 0..T - 1.
        share_T: [T] int64 clusters of each part, 1 to its rows.
        neighbours: as for ``density_peaks``.

    Returns:
        [N] int64 cluster of each row, part after part, in each in the order of its centres.

    Raises:
        BudgetError: a share is out of range.
    """
    size_T = torch.bincount(part_N, minlength=len(share_T))
    first_T = share_T.cumsum(0) - share_T
    members = torch.split(part_N.argsort(stable=True), size_T.tolist())
    alike: dict[tuple[int, int], list[int]] = {}
    for part, kind in enumerate(zip(size_T.tolist(), share_T.tolist(), strict=True)):
        alike.setdefault(kind, []).append(part)
    cluster_N = torch.empty_like(part_N)
    for (size, share), parts in alike.items():
        at_once = max(1, _HELD // max(1, size * x_ND.shape[1]))
        for start in range(0, len(parts), at_once):
            chosen = parts[start : start + at_once]
            row_Bn = torch.stack([members[part] for part in chosen])
            _, found_Bn = density_peaks(x_ND[row_Bn], share, neighbours)
            cluster_N[row_Bn] = found_Bn + first_T[chosen, None]
    return cluster_N


def nearest_centres(x_ND: Tensor, centre_KD: Tensor) -> Tensor:
    """[N] int64 the row of ``centre_KD`` at the least Euclidean distance, ties to the lower one.

    Works in blocks; groups may be given at once, [B, N, D] and [B, K, D].
    """
    x_BND = x_ND if x_ND.ndim == 3 else x_ND[None]
    centre_BKD = centre_KD if centre_KD.ndim == 3 else centre_KD[None]
    num_rows = x_BND.shape[1]
    both_BND, _ = _standard(torch.cat([x_BND, centre_BKD], dim=1), None)
    nearest_BN = _nearest(both_BND[:, :num_rows], both_BND[:, num_rows:])
    return nearest_BN if x_ND.ndim == 3 else nearest_BN[0]


def _standard(x_BND: Tensor, mask_BN: Tensor | None) -> tuple[Tensor, Tensor]:
    """[B, N, D] wide rows around 0, and [B] what a squared distance is to be multiplied with:
    nothing overflows, and little cancels.
    """
    x_BND, dtype = x_BND.detach(), x_BND.dtype
    if mask_BN is not None:
        x_BND = torch.where(mask_BN[..., None], x_BND, 0)  # whatever padding holds
    x_BND = wide(x_BND)
    num_features = max(1, x_BND.shape[2])
    if x_BND.dtype == torch.float64 != dtype:
        # A copy of numbers whose squares float64 holds: what float32 can hold needs no scale.
        x_BND -= x_BND.mean(dim=1, keepdim=True)
        low, high = torch.finfo(torch.float32).tiny ** 0.5, torch.finfo(torch.float32).max ** 0.5
        size_B = _sizes(x_BND).amax(dim=1)
        if bool(((size_B == 0) | (size_B > low) & (size_B < high)).all()):
            return x_BND, x_BND.new_full((len(x_BND),), 1 / num_features)
        x_BND = x_BND / 2
    else:
        x_BND = x_BND / 2  # the difference of the two largest numbers is a number
        x_BND -= x_BND.mean(dim=1, keepdim=True)
    largest_B = x_BND.abs().amax(dim=(1, 2)) if x_BND[0].numel() else x_BND.new_zeros(len(x_BND))
    # A power of two: no number is rounded by it.
    safe_B = torch.ldexp(torch.ones_like(largest_B), torch.frexp(largest_B).exponent)
    return x_BND.div_(safe_B[:, None, None]), (2 * safe_B) ** 2 / num_features


def _parts(x_BND: Tensor) -> list[slice]:
    """Groups that are worked on at once."""
    size = max(1, _HELD // max(1, x_BND.shape[1] ** 2))
    return [slice(start, start + size) for start in range(0, len(x_BND), size)]


def _squared(
    a_BMD: Tensor, b_BND: Tensor, a_BM: Tensor | None = None, b_BN: Tensor | None = None
) -> Tensor:
    """[B, M, N] float32 squared distances, with the squared lengths of both if they are known;
    equal rows are exactly 0 apart.
    """
    a_BM1 = (_sizes(a_BMD) if a_BM is None else a_BM)[..., None]
    b_B1N = (_sizes(b_BND) if b_BN is None else b_BN)[:, None, :]
    squared_BMN = torch.bmm(a_BMD, b_BND.mT).mul_(-2).add_(a_BM1).add_(b_B1N).float()
    unsure = _UNSURE * torch.finfo(a_BM1.dtype).eps
    unsure_BMN = (a_BM1 * unsure).float() + (b_B1N * unsure).float()
    return squared_BMN.masked_fill_(squared_BMN <= unsure_BMN, 0)


def _all_squared(x_BND: Tensor, rows: int) -> Tensor:
    """[B, N, N] float32 squared distances; those of each pair are found once."""
    num_rows = x_BND.shape[1]
    if not x_BND.is_cuda:
        rows = min(rows, max(64, min(_STRIP, num_rows // 3)))
    squared_BNN = torch.empty(len(x_BND), num_rows, num_rows, device=x_BND.device)
    size_BN = _sizes(x_BND)
    for start in range(0, num_rows, rows):
        stop = start + rows
        sizes = size_BN[:, start:stop], size_BN[:, start:]
        strip_BMN = _squared(x_BND[:, start:stop], x_BND[:, start:], *sizes)
        squared_BNN[:, start:stop, start:] = strip_BMN
        squared_BNN[:, stop:, start:stop] = strip_BMN[:, :, rows:].mT
    return squared_BNN


def _sizes(x_BND: Tensor) -> Tensor:
    """[B, N] squared lengths."""
    size_BN: Tensor = torch.linalg.vector_norm(x_BND, dim=-1).square()
    return size_BN


def _clusters(
    x_BND: Tensor, scale_B: Tensor, num_clusters: int, neighbours: int, mask_BN: Tensor | None
) -> tuple[Tensor, Tensor]:
    held_BNN = _held(x_BND)
    score_BN = _peaks(x_BND, scale_B, neighbours, mask_BN, held_BNN).log_score
    if mask_BN is not None:  # below repeated rows
        score_BN = score_BN.nan_to_num(neginf=torch.finfo(torch.float32).min)
        score_BN = score_BN.masked_fill(~mask_BN, -torch.inf)
    order_BN = score_BN.argsort(dim=1, descending=True, stable=True)
    centre_BK = order_BN[:, :num_clusters]
    if held_BNN is None:
        chosen_BKD = x_BND.gather(1, centre_BK[..., None].expand(-1, -1, x_BND.shape[2]))
        assign_BN = _nearest(x_BND, chosen_BKD)
    else:
        group_B1 = torch.arange(len(x_BND), device=x_BND.device)[:, None]
        assign_BN = held_BNN[group_B1, centre_BK].min(dim=1).indices
    place_BK = torch.arange(num_clusters, device=x_BND.device).expand_as(centre_BK)
    assign_BN = assign_BN.scatter(1, centre_BK, place_BK)
    return centre_BK, assign_BN if mask_BN is None else assign_BN.masked_fill(~mask_BN, -1)


def _nearest(x_BND: Tensor, centre_BKD: Tensor) -> Tensor:
    rows = max(1, _HELD // 4 // max(1, len(x_BND) * centre_BKD.shape[1]))
    blocks = torch.split(x_BND, rows, dim=1)
    return torch.cat([_squared(block, centre_BKD).min(dim=2).indices for block in blocks], dim=1)


def _block_rows(x_BND: Tensor) -> int:
    """Rows whose distances to all rows are worked on at once."""
    return max(1, _HELD // 4 // max(1, x_BND.shape[0] * x_BND.shape[1]))


def _held(x_BND: Tensor) -> Tensor | None:
    """All distances, if they are few enough to be held."""
    if x_BND.shape[0] * x_BND.shape[1] ** 2 > _HELD:
        return None
    return _all_squared(x_BND, _block_rows(x_BND))


def _peaks(
    x_BND: Tensor,
    scale_B: Tensor,
    neighbours: int,
    mask_BN: Tensor | None,
    held_BNN: Tensor | None,
) -> Peaks:
    """Log densities and separations of groups that fit in a part."""
    num_groups, num_rows, _ = x_BND.shape
    rows, k = _block_rows(x_BND), min(max(1, neighbours), num_rows)
    density, largest = [], x_BND.new_zeros(num_groups)
    for start in range(0, num_rows, rows):
        block = slice(start, start + rows)
        squared_BMN = _squared(x_BND[:, block], x_BND) if held_BNN is None else held_BNN[:, block]
        if mask_BN is not None:
            largest_BM1 = squared_BMN.masked_fill(~mask_BN[:, None], 0).amax(dim=2, keepdim=True)
            largest_BM = largest_BM1[..., 0].masked_fill(~mask_BN[:, block], 0)
            squared_BMN = squared_BMN.masked_fill(~mask_BN[:, None], torch.inf)
        else:
            largest_BM = squared_BMN.amax(dim=2)
        largest = torch.maximum(largest, wide(largest_BM.amax(dim=1)))
        near_BMk = wide(squared_BMN.topk(k, dim=2, largest=False).values)
        known_BMk = near_BMk.isfinite()  # fewer rows than neighbours
        total_BM = near_BMk.masked_fill(~known_BMk, 0).sum(dim=2)
        density.append(-total_BM / known_BMk.sum(dim=2).clamp(min=1))
    density_BN = torch.cat(density, dim=1)
    if mask_BN is not None:
        density_BN = density_BN.masked_fill(~mask_BN, -torch.inf)
    separation_BN = _separations(x_BND, density_BN, largest, held_BNN, rows)
    if mask_BN is not None:
        separation_BN = separation_BN.masked_fill(~mask_BN, 0)
    return Peaks(density_BN * scale_B[:, None], (separation_BN * scale_B[:, None]).sqrt())


def _separations(
    x_BND: Tensor, density_BN: Tensor, largest_B: Tensor, held_BNN: Tensor | None, rows: int
) -> Tensor:
    """[B, N] squared distance to the nearest row before it in the order of falling density."""
    order_BN = density_BN.argsort(dim=1, descending=True, stable=True)
    num_rows = order_BN.shape[1]
    place_N = torch.arange(num_rows, device=x_BND.device)
    if held_BNN is not None:
        # In the order of the rows: nothing is moved.
        turn_BN = torch.empty_like(order_BN).scatter_(1, order_BN, place_N.expand_as(order_BN))
        turn_BN = turn_BN.int()
        least = []
        for start in range(0, num_rows, rows):
            block = slice(start, start + rows)
            later_BMN = turn_BN[:, None, :] >= turn_BN[:, block, None]
            least.append(wide(held_BNN[:, block].masked_fill(later_BMN, torch.inf).amin(dim=2)))
        return torch.cat(least, dim=1).scatter_(1, order_BN[:, :1], largest_B[:, None])
    sorted_BND = x_BND.gather(1, order_BN[..., None].expand_as(x_BND))
    least = []
    for start in range(0, num_rows, rows):
        stop = min(start + rows, num_rows)
        squared = _squared(sorted_BND[:, start:stop], sorted_BND[:, :stop])
        squared = squared.masked_fill(place_N[:stop] >= place_N[start:stop, None], torch.inf)
        least.append(wide(squared.amin(dim=2)))
    sorted_BN = torch.cat(least, dim=1)
    sorted_BN[:, 0] = largest_B
    return torch.empty_like(sorted_BN).scatter_(1, order_BN, sorted_BN)
