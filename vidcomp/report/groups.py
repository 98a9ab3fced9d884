"""Which token each patch belongs to, which tokens span frames, and colours to tell them apart.

Legend: t h w grid, N tokens, P source patches = t * h * w.
"""

import torch
from torch import Tensor

from vidcomp.errors import ShapeError
from vidcomp.types import VideoTokens

__all__ = ["colour_groups", "patch_tokens", "spans_frames"]


def patch_tokens(video: VideoTokens) -> Tensor:
    """The row of the token that each source patch went to.

    A patch of soft provenance belongs to its strongest token, ties to the lower row.

    Returns:
        [t, h, w] int64 on the CPU, -1 for patches that no token stands for.

    Raises:
        ShapeError: the tokens carry no provenance.
    """
    if video.assign is not None:
        return video.assign.cpu().reshape(video.grid)
    if video.weights is None:
        raise ShapeError(
            "a token map needs the tokens' provenance, got tokens without assign and weights: "
            "keep it (in a cache: store.assign=true)"
        )
    return _strongest(video.weights.cpu(), video.grid.num_patches).reshape(video.grid)


def spans_frames(token_THW: Tensor, num_tokens: int) -> Tensor:
    """[N] bool: tokens with patches in more than one frame of the grid."""
    seen = torch.zeros(num_tokens, len(token_THW), dtype=torch.bool)
    t, h, w = (token_THW >= 0).nonzero(as_tuple=True)
    seen[token_THW[t, h, w], t] = True
    return seen.sum(1) > 1


def colour_groups(token_THW: Tensor, groups: Tensor, num_colours: int) -> Tensor:
    """Few colours for many groups, so that neighbours in space and time differ where they can.

    Greedy graph colouring in the order of the rows; a group whose neighbours use up all colours
    takes the one they use least.

    Args:
        token_THW: [t, h, w] int64 rows of tokens, -1 for none.
        groups: [N] bool rows that are to be coloured.
        num_colours: colours there are.

    Returns:
        [N] int64 in 0..num_colours - 1, -1 for rows that are not groups.
    """
    neighbours = _neighbours(token_THW, groups)
    colour = [-1] * len(groups)
    used_by_all = [0] * num_colours
    for row in groups.nonzero().flatten().tolist():
        used = [0] * num_colours
        for other in neighbours.get(row, ()):
            if colour[other] >= 0:
                used[colour[other]] += 1
        colour[row] = min(range(num_colours), key=lambda c: (used[c], used_by_all[c], c))
        used_by_all[colour[row]] += 1
    return torch.tensor(colour, dtype=torch.int64)


def _strongest(weights: Tensor, num_patches: int) -> Tensor:
    weights = weights.coalesce()
    row, patch = weights.indices()
    value = weights.values().float()
    best = torch.zeros(num_patches).scatter_reduce(0, patch, value, "amax")
    # A weight of zero is no membership, whether it is stored or not.
    is_best = (value == best[patch]) & (value > 0)
    nobody = weights.shape[0]
    first = torch.full((num_patches,), nobody).scatter_reduce(
        0, patch[is_best], row[is_best], "amin"
    )
    return torch.where(first == nobody, -1, first)


def _neighbours(token_THW: Tensor, groups: Tensor) -> dict[int, set[int]]:
    """For each group, the other groups that touch it in a frame or in the next one."""
    found: dict[int, set[int]] = {}
    for dim in range(3):
        size = token_THW.shape[dim]
        a, b = token_THW.narrow(dim, 0, size - 1), token_THW.narrow(dim, 1, size - 1)
        touch = (a != b) & (a >= 0) & (b >= 0)
        pairs = torch.stack([a[touch], b[touch]], dim=1)
        pairs = torch.unique(pairs[groups[pairs].all(dim=1)], dim=0)
        for one, other in pairs.tolist():
            found.setdefault(one, set()).add(other)
            found.setdefault(other, set()).add(one)
    return found
