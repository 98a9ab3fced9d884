"""Which rows of a set its new rows are made from, and to what shares.

Legend: C sets, N rows of the largest set, K new rows of a kind, W rows that one of them takes from,
L shares of all new rows of a set together.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

__all__ = ["SetSources", "SourceKind"]


class SourceKind(NamedTuple):
    """New rows that take from equally many rows of their set."""

    num_new: int
    """K."""
    num_old: int
    """W."""
    places: Tensor | None
    """[C, K, W] int64 place in the set of what each takes from, ascending, -1 (and a share of 0)
    where nothing is; ``None``: all N rows in order."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class SetSources:
    """Shares of the rows of each set in its new rows, which come kind after kind."""

    values: Tensor
    """[C, L] float32 shares of one new row after the other; none is negative, and those of a new
    row are 1 together."""
    kinds: tuple[SourceKind, ...]
    """In the order of the new rows."""

    @classmethod
    def empty(
        cls, kinds: Sequence[SourceKind], num_sets: int, device: torch.device
    ) -> "SetSources":
        """Shares that are still to be written into ``parts``."""
        length = sum(kind.num_new * kind.num_old for kind in kinds)
        values = torch.empty(num_sets, length, dtype=torch.float32, device=device)
        return cls(values=values, kinds=tuple(kinds))

    @classmethod
    def of(cls, parts: Sequence[tuple[Tensor, Tensor | None]]) -> "SetSources":
        """Kinds of new rows by their shares [C, K, W] and places."""
        flat = [shares.flatten(1) for shares, _ in parts]
        return cls(
            values=torch.cat(flat, dim=1) if len(flat) > 1 else flat[0],
            kinds=tuple(
                SourceKind(shares.shape[1], shares.shape[2], places) for shares, places in parts
            ),
        )

    @property
    def num_new(self) -> int:
        """New rows of a set."""
        return sum(kind.num_new for kind in self.kinds)

    def parts(self, values: Tensor | None = None) -> list[tuple[Tensor, Tensor | None]]:
        """Shares [C, K, W] of every kind, views of ``values`` (or of another [C, L]), and its
        places.
        """
        values_CL = self.values if values is None else values
        ends = list(accumulate((kind.num_new * kind.num_old for kind in self.kinds), initial=0))
        return [
            (values_CL[:, start:stop].view(-1, kind.num_new, kind.num_old), kind.places)
            for start, stop, kind in zip(ends, ends[1:], self.kinds, strict=False)
        ]

    def split(self, counts: Sequence[int]) -> list["SetSources"]:
        """Those of so many sets each, views."""
        found, first = [], 0
        for count in counts:
            own = slice(first, first + count)
            kinds = [
                kind if kind.places is None else kind._replace(places=kind.places[own])
                for kind in self.kinds
            ]
            found.append(SetSources(values=self.values[own], kinds=tuple(kinds)))
            first += count
        return found

    @staticmethod
    def together(some: Sequence["SetSources"], order: Tensor, num_rows: int) -> "SetSources":
        """Sets of several with the same kinds of new rows, in another order.

        Args:
            some: with fewer rows than others in their largest set, maybe.
            order: [C] int64 which of all sets comes first, second ...
            num_rows: N of all sets together.
        """
        parts = []
        for same in zip(*(sources.parts() for sources in some), strict=True):
            whole = same[0][1] is None
            width = num_rows if whole else max(shares.shape[2] for shares, _ in same)
            shares = torch.cat([_wider(shares, width, 0) for shares, _ in same])[order]
            places = [_wider(places, width, -1) for _, places in same if places is not None]
            parts.append((shares, None if whole else torch.cat(places)[order]))
        return SetSources.of(parts)


def _wider(x_CKW: Tensor, width: int, filling: int) -> Tensor:
    return pad(x_CKW, (0, width - x_CKW.shape[2]), value=filling)
