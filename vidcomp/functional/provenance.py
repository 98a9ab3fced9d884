"""Soft provenance: how much each source patch counts in each token.

Legend: N rows, K new rows, P source patches, E entries of a matrix [K, N], Q entries of [N, P].
"""

import torch
from torch import Tensor

from vidcomp.functional.reduce import wide
from vidcomp.types import VideoTokens

__all__ = ["compose", "patch_weights", "sparse_matrix"]


def patch_weights(video: VideoTokens) -> Tensor | None:
    """Provenance as weights, whichever way the video carries it.

    Returns:
        Sparse [N, P] float32 whose rows sum to 1 (the patches of a hard assignment count alike),
        or ``None`` if the video has no provenance.
    """
    if video.assign is None:
        return None if video.weights is None else video.weights.coalesce()
    patch_Q = (video.assign >= 0).nonzero().squeeze(1)
    row_Q = video.assign[patch_Q]
    count_N = torch.bincount(row_Q, minlength=len(video))
    return sparse_matrix(
        row_Q, patch_Q, 1 / wide(count_N)[row_Q], (len(video), len(video.assign))
    ).float()


def compose(
    weights_NP: Tensor, new_E: Tensor, old_E: Tensor, value_E: Tensor, num_rows: int
) -> Tensor:
    """Provenance of new rows that are mixed from old ones.

    Args:
        weights_NP: sparse [N, P] provenance of the old rows.
        new_E: [E] int64 new row of each entry, in 0..K - 1.
        old_E: [E] int64 old row that it takes from.
        value_E: [E] weight of that.
        num_rows: K.

    Returns:
        Sparse [K, P] float32, the matrix product.
    """
    weights_NP = weights_NP.coalesce()
    (row_Q, patch_Q), value_Q = weights_NP.indices(), wide(weights_NP.values())
    length_N = torch.bincount(row_Q, minlength=len(weights_NP))
    start_N = length_N.cumsum(0) - length_N
    if bool((length_N == 1).all()):
        value = wide(value_E) * value_Q[old_E]
        return sparse_matrix(new_E, patch_Q[old_E], value, (num_rows, weights_NP.shape[1])).float()
    # Every entry (new, old) becomes one entry for each patch of the old row.
    length_E = length_N[old_E]
    entry = torch.repeat_interleave(length_E)
    place = torch.arange(len(entry), device=entry.device) - (length_E.cumsum(0) - length_E)[entry]
    q = start_N[old_E[entry]] + place
    value = wide(value_E)[entry] * value_Q[q]
    return sparse_matrix(new_E[entry], patch_Q[q], value, (num_rows, weights_NP.shape[1])).float()


def sparse_matrix(row: Tensor, column: Tensor, value: Tensor, shape: tuple[int, int]) -> Tensor:
    """Sparse matrix in the type of ``value``, coalesced: entries at one place are added up.

    Indices are not checked (torch warns if nobody says whether they should be).
    """
    index, place = torch.stack([row, column]), row * shape[1] + column
    # Entries that ascend are coalesced already; to look is far cheaper than to sort.
    ascending = bool((place[1:] > place[:-1]).all())
    return torch.sparse_coo_tensor(
        index, value, shape, check_invariants=False, is_coalesced=ascending
    ).coalesce()
