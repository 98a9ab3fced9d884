"""Plans at one price after another, each only of what the prices before leave open.

The least cost of a segment is a concave function of the price, whose slope is the number of prices
that are paid.  Where the slope is the same at two prices it is the same between them: as a search
closes in on a price, fewer and fewer segments have to be divided anew.

Legend: B segments of a layer, P prices, Q prices before.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from vidcomp.functional.partition_forest import Forest
from vidcomp.functional.partition_prices import Cheapest, Plan

__all__ = ["Planner"]

_ROUNDING = 1e6
"""Units in the last place of a cost within which two plans may seem to cost the same."""


class _Known(NamedTuple):
    """What prices before have found, by rising price."""

    price: Tensor
    """[B, Q] wide."""
    best: Cheapest
    """[B, Q] each."""


class Planner:
    """The plans of a forest at any prices, as ``Forest.plans``; remembers those it was asked for.

    What it finds for a video depends on the prices of this video only, not on those beside it.
    """

    def __init__(self, forest: Forest) -> None:
        self._forest = forest
        self._known: dict[int, _Known] = {}

    def __call__(self, price_VP: Tensor) -> list[list[Plan]]:
        """The best plan of each video for each of its prices."""
        return self._forest.plans(price_VP, self._segments)

    def _segments(self, number: int, price_BP: Tensor) -> Cheapest:
        spread = self._forest.layers[number].group.spread
        price_BP = price_BP.to(spread.dtype).to(spread.device)
        known = self._known.get(number)
        if known is None:
            found = self._forest.segments_at(number, price_BP)
        else:
            found, is_open_BP = _between(known, price_BP)
            which_B = is_open_BP.any(dim=1).nonzero().squeeze(1)
            if len(which_B):
                anew = self._forest.segments_at(number, price_BP[which_B], which_B)
                for part_BP, new in zip(found, anew, strict=True):
                    part_BP[which_B] = torch.where(is_open_BP[which_B], new, part_BP[which_B])
        self._known[number] = _joined(known, price_BP, found)
        return found


def _between(known: _Known, price_BP: Tensor) -> tuple[Cheapest, Tensor]:
    """What is known at some prices, and [B, P] bool where nothing is."""
    num = known.price.shape[1]
    above = torch.searchsorted(known.price, price_BP.contiguous())
    low, high = (i.clamp(0, num - 1) for i in (above - 1, above))
    ends = [known.price.gather(1, i) for i in (low, high)]
    # Plans differ by one paid price at least: by less than a cost's rounding if prices are closer.
    least_BP = torch.maximum(price_BP, known.best.cost.gather(1, high))
    margin_BP = least_BP * (_ROUNDING * torch.finfo(price_BP.dtype).eps)
    inside_BP = (price_BP - ends[0] > margin_BP) & (ends[1] - price_BP > margin_BP)
    for part in known.best[1:]:
        inside_BP &= part.gather(1, low) == part.gather(1, high)
    cost, tokens, paid = (part.gather(1, high) for part in known.best)
    cost = cost + (price_BP - ends[1]) * paid
    return Cheapest(cost, tokens, paid), ~(inside_BP | (price_BP == ends[1]))


def _joined(known: _Known | None, price_BP: Tensor, found: Cheapest) -> _Known:
    if known is not None:
        price_BP = torch.cat([known.price, price_BP], dim=1)
        found = Cheapest(*(torch.cat(pair, dim=1) for pair in zip(known.best, found, strict=True)))
    order = price_BP.argsort(dim=1, stable=True)
    return _Known(price_BP.gather(1, order), Cheapest(*(part.gather(1, order) for part in found)))
