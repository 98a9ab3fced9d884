"""What ``resample`` gives where the new rows are made from sets of old ones, by dense products.

Legend: R rows of a video, C sets, N rows of the largest set, K new rows of a set (of a kind in a
kind), W old rows that each takes from, L shares of a set, F features of all that is mixed.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from vidcomp.functional.geometry import is_dense
from vidcomp.functional.merge import float_rows
from vidcomp.functional.provenance import compose, patch_weights
from vidcomp.functional.reduce import wide
from vidcomp.functional.set_sources import SetSources
from vidcomp.types import VideoTokens

__all__ = ["resample_sets"]

_AT_ONCE = 1 << 20
"""Shares of which a processor mixes so many sets in one go: more would leave its caches."""
_SUMMED = 1 << 10
"""Rows of one large set whose shares are added up in their own type."""
_KEPT = 1 << 16, 1 << 24
"""Entries of a provenance from which on, and up to which, its places are kept for the next video:
fewer are made at once, more (256 MiB) are too large to keep."""
_Places = tuple[Tensor, Tensor | None]
_last: list[tuple[tuple[Tensor, ...], _Places]] = []


def resample_sets(
    video: VideoTokens, rows_CN: Tensor, sources: Tensor | SetSources, tokens: Tensor
) -> VideoTokens:
    """``resample`` for new rows that take from the rows of one set each.

    With sets of many rows it is many times faster than the sparse matrix of all shares.

    Args:
        video: R tokens.
        rows_CN: int64 rows of each set, ascending; -1 fills up short sets at their ends.  A row is
            in one set at most, and no set is empty.
        sources: what each new row takes from each row of its set, [C, K, N] or by kinds of new
            rows: not negative, 0 where there is no row, and 1 together.
        tokens: [C * K, D] made from the sets.

    Raises:
        ShapeError: integer extras.
    """
    if isinstance(sources, Tensor):
        sources = SetSources.of([(sources, None)])
    sources = replace(sources, values=sources.values.detach())
    extras = {name: float_rows(name, value) for name, value in video.extras.items()}
    mixed = [video.positions, *extras.values(), video.mass]
    parts = _mixed(rows_CN, sources, [x.flatten(1) if x.ndim > 1 else x[:, None] for x in mixed])
    positions, *others, mass = (
        part.to(x.dtype).reshape(-1, *x.shape[1:]) for part, x in zip(parts, mixed, strict=True)
    )
    return replace(
        video,
        tokens=tokens,
        positions=positions,
        spans=_spans(video, rows_CN).repeat_interleave(sources.num_new, dim=0),
        mass=mass,
        assign=None,
        weights=_weights(video, rows_CN, sources),
        extras=dict(zip(extras, others, strict=True)),
    )


def _mixed(rows_CN: Tensor, sources: SetSources, columns: Sequence[Tensor]) -> list[Tensor]:
    """[C, K, f] mixtures of each of the columns [R, f], the last of which, mass, is shared out."""
    x_RF = torch.cat([wide(x) for x in columns], dim=1)
    sets, shares = sources.values.shape
    step = min(sets, max(1, _AT_ONCE // shares)) if rows_CN.device.type == "cpu" else sets
    counts = [min(step, sets - first) for first in range(0, sets, step)]
    some = zip(torch.split(rows_CN, counts), sources.split(counts), strict=True)
    mixed_CKF = torch.cat([_mixed_sets(x_RF[rows.clamp(min=0)], own.parts()) for rows, own in some])
    return list(torch.split(mixed_CKF, [x.shape[1] for x in columns], dim=2))


def _mixed_sets(x_CNF: Tensor, parts: Sequence[tuple[Tensor, Tensor | None]]) -> Tensor:
    """[C, K, F] mixtures of some sets, by the shares and places of each kind of new rows."""
    taken_CN = x_CNF.new_zeros(x_CNF.shape[:2])
    for share_CKW, places in parts:
        if places is None:
            taken_CN += (share_CKW.new_ones(1, share_CKW.shape[1]) @ share_CKW).squeeze(1)
        else:
            taken_CN.scatter_add_(1, places.clamp(min=0).flatten(1), wide(share_CKW.flatten(1)))
    # A row that nothing is taken from gives its mass to none; 1 keeps its quotient finite.
    x_CNF[..., -1] /= torch.where(taken_CN > 0, taken_CN, 1)
    return torch.cat([_read(x_CNF, *part) for part in parts], dim=1)


def _read(x_CNF: Tensor, share_CKW: Tensor, places_CKW: Tensor | None) -> Tensor:
    """[C, K, F] of one kind."""
    sets = len(share_CKW)
    if places_CKW is None:
        x_CFN = x_CNF.transpose(1, 2).contiguous()
        if sets > 1 or not share_CKW.is_cpu:
            return (x_CFN @ wide(share_CKW).transpose(1, 2)).transpose(1, 2)
        # One large set: sums of some rows as they are, added up in float64; shares that are twice
        # as wide would not fit into the caches.
        parts = zip(*(torch.split(x, _SUMMED, dim=2) for x in (x_CFN, share_CKW)), strict=True)
        some = [(x.to(share) @ share.transpose(1, 2)).to(x) for x, share in parts]
        return torch.stack(some).sum(dim=0).transpose(1, 2)
    at = torch.arange(sets, device=x_CNF.device)[:, None, None]
    return (wide(share_CKW)[:, :, None] @ x_CNF[at, places_CKW.clamp(min=0)]).squeeze(2)


def _spans(video: VideoTokens, rows_CN: Tensor) -> Tensor:
    """[C, 2] seconds from the first start to the last stop of each set."""
    first_C1 = rows_CN[:, :1]  # in place of rows that are missing; no set is empty
    real_CN = torch.where(rows_CN < 0, first_C1, rows_CN)
    start_CN, stop_CN = (column[real_CN] for column in video.spans.unbind(dim=1))
    return torch.stack([start_CN.amin(dim=1), stop_CN.amax(dim=1)], dim=1)


def _weights(video: VideoTokens, rows_CN: Tensor, sources: SetSources) -> Tensor | None:
    """Sparse [C * K, P] provenance of the new rows, if the old ones have any."""
    old = patch_weights(video) if not is_dense(video) else None
    if old is None and video.assign is None:
        return None
    if old is not None and _is_by_patch(old, rows_CN, sources):
        return _by_patch(old, rows_CN, sources)
    num_new, value_E = len(rows_CN) * sources.num_new, sources.values.flatten()
    index_2E, real_E = _kept_places(rows_CN, sources)
    if real_E is not None:
        value_E = value_E[real_E]
    if old is None:
        # New rows ascend, and the rows of a set do: nothing needs to be sorted.
        return torch.sparse_coo_tensor(
            index_2E,
            value_E.float(),
            (num_new, len(video)),
            check_invariants=False,
            is_coalesced=True,
        )
    return compose(old, index_2E[0], index_2E[1], value_E, num_new)


def _is_by_patch(old: Tensor, rows_CN: Tensor, sources: SetSources) -> bool:
    """Whether every old row is one patch, and new rows of a set take from all of its rows."""
    if rows_CN.device.type != "cpu" or any(kind.places is not None for kind in sources.kinds):
        return False
    return torch.equal(old.indices()[0], torch.arange(len(old)))


def _by_patch(old: Tensor, rows_CN: Tensor, sources: SetSources) -> Tensor:
    """``_weights`` where rows of a set may be the same patch, as those of several encoders: their
    shares are added up set by set, which takes a fraction of the time of sorting all entries.
    """
    patch_R, value_R, num_new = old.indices()[1], wide(old.values()), sources.num_new
    columns, values, counts = [], [], []
    shares_CKN = torch.cat([shares for shares, _ in sources.parts()], dim=1)
    for rows_N, shares_KN in zip(rows_CN, shares_CKN, strict=True):
        rows_N = rows_N[rows_N >= 0]
        patch_U, place_N = torch.unique(patch_R[rows_N], return_inverse=True)
        own_KN = wide(shares_KN[:, : len(rows_N)]) * value_R[rows_N]
        values.append(own_KN.new_zeros(num_new, len(patch_U)).index_add_(1, place_N, own_KN))
        columns.append(patch_U.repeat(num_new))
        counts += [len(patch_U)] * num_new
    new_E = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    return torch.sparse_coo_tensor(
        torch.stack([new_E, torch.cat(columns)]),
        torch.cat([sums_KU.flatten() for sums_KU in values]).float(),
        (len(counts), old.shape[1]),
        check_invariants=False,
        is_coalesced=True,
    )


def _kept_places(rows_CN: Tensor, sources: SetSources) -> _Places:
    """``_places``, those of the last video if they are many and the same: to ask the system for so
    much memory takes longer than all else about provenance.
    """
    entries = sources.values.numel()
    if rows_CN.device.type != "cpu" or not _KEPT[0] <= entries <= _KEPT[1]:
        return _places(rows_CN, sources)
    sizes = torch.tensor([kind[:2] for kind in sources.kinds])
    key = (sizes, rows_CN, *(k.places for k in sources.kinds if k.places is not None))
    for known, places in _last:
        if len(known) == len(key) and all(map(torch.equal, known, key)):
            return places
    _last.clear()
    places = _places(rows_CN, sources)
    _last.append((tuple(x.clone() for x in key), places))
    return places


def _places(rows_CN: Tensor, sources: SetSources) -> _Places:
    """[2, E] int64 new and old row of every share, and [C * L] bool which shares have an old row;
    ``None``: all.
    """
    c, counts = len(rows_CN), [kind.num_new for kind in sources.kinds]
    index_2CL = rows_CN.new_empty(2, *sources.values.shape)
    new_CK = torch.arange(c * sources.num_new, device=rows_CN.device).view(c, -1)
    for (part_CKW, _), own_CK in zip(
        sources.parts(index_2CL[0]), torch.split(new_CK, counts, dim=1), strict=True
    ):
        part_CKW.copy_(own_CK[..., None])
    for part_CKW, places in sources.parts(index_2CL[1]):
        part_CKW.copy_(rows_CN[:, None] if places is None else _rows_at(rows_CN, places))
    index_2E = index_2CL.flatten(1)
    real_E = index_2E[1] >= 0
    return (index_2E, None) if bool(real_E.all()) else (index_2E[:, real_E], real_E)


def _rows_at(rows_CN: Tensor, places_CKW: Tensor) -> Tensor:
    rows_CE = rows_CN.gather(1, places_CKW.clamp(min=0).flatten(1))
    return rows_CE.view(places_CKW.shape).masked_fill(places_CKW < 0, -1)
