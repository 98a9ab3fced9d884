"""The best partition of boxes for a price a token, and the price for a number of tokens.

A token costs its price, a box that is one token costs its spread.  The cheapest way to divide
every box at once is found from the smallest boxes up: it is one token, or the cheapest ways of its
halves along the best axis (dyadic CART: Donoho, "CART and Best-Ortho-Basis: A Connection", 1997;
tree pruning: Chou, Lookabaugh and Gray, "Optimal Pruning with Applications to Tree-Structured
Source Coding and Modeling", 1989).  As the price falls the number of tokens grows, along the lower
convex hull of (tokens, spread).

Legend: X boxes, B grids side by side, P prices, V videos.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from vidcomp.errors import BudgetError
from vidcomp.functional.partition_boxes import Boxes

__all__ = ["Cheapest", "Group", "Plan", "cheapest", "find_prices"]


class Group(NamedTuple):
    """Grids of one shape, side by side, and what their boxes hold."""

    boxes: Boxes
    spread: Tensor
    """[X, B] weighted sum of squared distances from the mean, in the wide type."""
    rows: Tensor
    """[X + 1, B] int32 patches with a token; the last line is 0."""
    cost: Tensor
    """[X, B] the spread, or infinity if a box may not be one token."""


class Cheapest(NamedTuple):
    """The cheapest partition of each box."""

    cost: Tensor
    """[X, B, P] wide: spread + price x ``paid``."""
    tokens: Tensor
    """[X, B, P] int32."""
    paid: Tensor
    """[X, B, P] prices that are paid: the tokens, if all splits cost the same."""


class Plan(NamedTuple):
    """Totals of a video at a price."""

    price: float
    tokens: int
    paid: float
    spread: float


def cheapest(
    group: Group,
    price_BP: Tensor,
    time_price: float,
    leaves: Cheapest | None = None,
    choice_XBP: Tensor | None = None,
) -> Cheapest:
    """The cheapest partition of every box at every price; ties to fewer tokens, then to t, h, w.

    Args:
        group: X boxes of B grids.
        price_BP: [B, P] wide, price of a token.
        time_price: what a split along time costs in units of one along height or width.
        leaves: what stands in for boxes of the lowest level, if they are divided further.
        choice_XBP: [X, B, P] int8; if given, it is set to 0 where a box is one token, else to 1,
            2, 3 for a split along t, h, w.
    """
    boxes, (num, *shape) = group.boxes, (len(group.spread), *price_BP.shape)
    cost = price_BP.new_full((num + 1, *shape), torch.inf)
    tokens = torch.zeros(num + 1, *shape, dtype=torch.int32, device=cost.device)
    paid = tokens if time_price == 1 else torch.zeros_like(cost)
    for level, (a, b) in enumerate(boxes.levels):
        filled = (group.rows[a:b] > 0)[..., None]
        best = [group.cost[a:b, :, None] + filled * price_BP, filled.expand(-1, *shape).int()]
        if level == 0 and leaves is not None:
            best = [leaves.cost, leaves.tokens]
        if paid is not tokens:
            best.append(
                leaves.paid
                if level == 0 and leaves is not None
                else filled.expand_as(best[0]).to(cost)
            )
        for axis in boxes.axes if level else ():
            left, right = boxes.left[axis, a:b], boxes.right[axis, a:b]
            split = cost[left] + cost[right]
            if axis == 0 and paid is not tokens:
                both = ((group.rows[left] > 0) & (group.rows[right] > 0))[..., None]
                split += both * (price_BP * (time_price - 1))
            better = split < best[0]
            best[0] = torch.where(better, split, best[0])
            best[1] = torch.where(better, tokens[left] + tokens[right], best[1])
            if paid is not tokens:
                more = both * (time_price - 1) if axis == 0 else 0
                best[2] = torch.where(better, paid[left] + paid[right] + more, best[2])
            if choice_XBP is not None:
                choice_XBP[a:b].masked_fill_(better, axis + 1)
        cost[a:b], tokens[a:b] = best[:2]
        if paid is not tokens:
            paid[a:b] = best[2]
    return Cheapest(cost, tokens, paid)


def find_prices(
    plans: Callable[[Tensor], list[list[Plan]]],
    spread: Sequence[float],
    budgets: Sequence[int],
    time_price: float,
) -> list[Plan]:
    """The plan with the most tokens within the budget among those that are best for some price.

    A few prices for a start, then the slope of the chord between the plan below and the one above
    the budget: either it finds a plan between them on the hull, or there is none.

    Args:
        plans: [V, P] prices to the plans of V videos.
        spread: [V] of videos that are one token.
        budgets: [V] tokens.
        time_price: as in ``cheapest``.

    Raises:
        BudgetError: even at the highest price there are more tokens.
    """
    searches = [_Search(s, k, time_price) for s, k in zip(spread, budgets, strict=True)]
    while not all(search.done for search in searches):
        num = max(len(search.prices) for search in searches if not search.done)
        padded = [[*s.prices, *[s.prices[0]] * num][:num] for s in searches]
        found = plans(torch.tensor(padded, dtype=torch.float64))
        for search, some in zip(searches, found, strict=True):
            if not search.done:
                search.take(some[: len(search.prices)])
    best = [search.within for search in searches]
    assert all(plan.tokens <= k for plan, k in zip(best, budgets, strict=True))  # noqa: S101
    return best


class _Search:
    """One video's bracket: a plan within the budget, and one above it at a lower price."""

    within: Plan
    above: Plan

    def __init__(self, spread: float, budget: int, time_price: float) -> None:
        self.budget = budget
        self._highest = 2 * spread / min(1.0, time_price) or 1.0  # more than any split can save
        usual = spread / budget
        self.prices = [usual / 4**i for i in range(5)] if usual > 0 else [0.0]
        self.done = False
        self._bracketed = False
        self._known: list[Plan] = []

    def take(self, found: list[Plan]) -> None:
        """Narrow the bracket by new plans; the first is the one at the chord's slope."""
        if self._bracketed and not self.within.paid < found[0].paid < self.above.paid:
            self.done = True  # no plan of the hull lies between
            return
        ranked = self._known = sorted([*self._known, *found], key=lambda plan: -plan.price)
        last = next((i for i, p in enumerate(ranked) if p.tokens > self.budget), None)
        if last == 0:
            self._look_above(ranked[0])
            return
        if last is None:
            self.within, self.done = ranked[-1], ranked[-1].price == 0
            self.prices = [0.0]
            return
        self._bracketed = True
        self.within, self.above = self._known = ranked[last - 1 : last + 1]
        if self.within.tokens == self.budget or self.above.paid <= self.within.paid:
            self.done = True
            return
        between = self.within.spread - self.above.spread
        chord = between / (self.above.paid - self.within.paid)
        if not self.above.price < chord < self.within.price:
            self.done = True  # to the last bit
        self.prices = [chord, self._guess(chord)]

    def _look_above(self, plan: Plan) -> None:
        """The plan with the fewest tokens so far has too many."""
        if plan.price >= self._highest:
            raise BudgetError(
                f"boxes of this video make at least {plan.tokens} tokens, more than a budget of "
                f"{self.budget}: raise the budget or ask for fewer tokens a frame"
            )
        self.prices = [self._highest]

    def _guess(self, chord: float) -> float:
        """Where a power law through both ends meets the budget."""
        if self.above.price <= 0:
            return chord / 8
        ends = [math.log(plan.tokens) for plan in (self.within, self.above)]
        share = (math.log(self.budget + 0.5) - ends[0]) / (ends[1] - ends[0])
        low, high = math.log(self.within.price), math.log(self.above.price)
        return math.exp(low + share * (high - low))
