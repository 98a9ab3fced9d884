"""What ``resample`` gives where the new rows are made from sets of old ones, by dense products.

Legend: R rows of a video, C sets, N rows of the largest set, K new rows of a set, D features.
"""

from dataclasses import replace

import torch
from torch import Tensor

from vidcomp.functional.geometry import is_dense
from vidcomp.functional.merge import float_rows
from vidcomp.functional.provenance import compose, patch_weights
from vidcomp.functional.reduce import wide
from vidcomp.types import VideoTokens

__all__ = ["resample_sets"]


def resample_sets(
    video: VideoTokens, rows_CN: Tensor, shares_CKN: Tensor, tokens: Tensor
) -> VideoTokens:
    """``resample`` for new rows that take from the rows of one set each.

    With sets of many rows it is many times faster than the sparse matrix of all shares.

    Args:
        video: R tokens.
        rows_CN: int64 rows of each set, ascending; -1 fills up short sets at their ends.  A row is
            in one set at most, and no set is empty.
        shares_CKN: what each new row takes from each row of its set: not negative, 0 where there is
            no row, and 1 together.
        tokens: [C * K, D] made from the sets.

    Raises:
        ShapeError: integer extras.
    """
    (c, k, _), index_CN = shares_CKN.shape, rows_CN.clamp(min=0)
    share_CKN = wide(shares_CKN.detach())

    def mix(x_RD: Tensor) -> Tensor:
        mixed_CKD = share_CKN @ wide(x_RD.flatten(1) if x_RD.ndim > 1 else x_RD[:, None])[index_CN]
        return mixed_CKD.to(x_RD.dtype).reshape(c * k, *x_RD.shape[1:])

    taken_CN = share_CKN.sum(dim=1)
    # A row that nothing is taken from gives its mass to none; 1 keeps its quotient finite.
    each_CN = wide(video.mass)[index_CN] / torch.where(taken_CN > 0, taken_CN, 1)
    return replace(
        video,
        tokens=tokens,
        positions=mix(video.positions),
        spans=_spans(video, rows_CN).repeat_interleave(k, dim=0),
        mass=(share_CKN @ each_CN[..., None]).flatten().float(),
        assign=None,
        weights=_weights(video, rows_CN, shares_CKN.detach()),
        extras={name: mix(float_rows(name, value)) for name, value in video.extras.items()},
    )


def _spans(video: VideoTokens, rows_CN: Tensor) -> Tensor:
    """[C, 2] seconds from the first start to the last stop of each set."""
    start_CN, stop_CN = video.spans[rows_CN.clamp(min=0)].unbind(dim=-1)
    missing_CN = rows_CN < 0
    start_C = start_CN.masked_fill(missing_CN, torch.inf).amin(dim=1)
    stop_C = stop_CN.masked_fill(missing_CN, -torch.inf).amax(dim=1)
    return torch.stack([start_C, stop_C], dim=1)


def _weights(video: VideoTokens, rows_CN: Tensor, shares_CKN: Tensor) -> Tensor | None:
    """Sparse [C * K, P] provenance of the new rows, if the old ones have any."""
    old = patch_weights(video) if not is_dense(video) else None
    if old is None and video.assign is None:
        return None
    c, k, n = shares_CKN.shape
    new_CK1 = torch.arange(c * k, device=rows_CN.device).view(c, k, 1)
    both = torch.stack([new_CK1.expand(c, k, n), rows_CN[:, None].expand(c, k, n)])
    index_2E, value_E = both.flatten(1), shares_CKN.flatten()
    if not bool((rows_CN >= 0).all()):
        real_E = index_2E[1] >= 0
        index_2E, value_E = index_2E[:, real_E], value_E[real_E]
    if old is None:
        # New rows ascend, and the rows of a set do: nothing needs to be sorted.
        return torch.sparse_coo_tensor(
            index_2E,
            value_E.float(),
            (c * k, len(video)),
            check_invariants=False,
            is_coalesced=True,
        )
    return compose(old, index_2E[0], index_2E[1], value_E, c * k)
