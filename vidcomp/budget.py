"""How many tokens may remain, as exact integers.

A budget counts the visual slots that enter the language model.  Real numbers are turned into
integers in one place, by decimal arithmetic: ``0.29`` of 100 tokens is 29, although
``int(0.29 * 100)`` is 28.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from decimal import Decimal, InvalidOperation
from functools import cmp_to_key
from itertools import groupby

import torch
from torch import Tensor

from vidcomp.errors import BudgetError

__all__ = ["Budget", "apportion", "frames_within"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """Tokens allowed to remain, said in exactly one of four ways.

    Structural rows (newline, CLS) count; timestamps written as text do not.
    """

    tokens: int | None = None
    """Tokens for the whole video, at least 1."""
    retention: float | None = None
    """Share of the tokens before compression, in (0, 1]."""
    per_frame: float | None = None
    """Tokens for each sampled frame, more than 0."""
    per_second: float | None = None
    """Tokens for each second of the sampled range, more than 0."""

    def __post_init__(self) -> None:
        given = {f.name: getattr(self, f.name) for f in fields(self)}
        given = {name: value for name, value in given.items() if value is not None}
        if len(given) != 1:
            raise BudgetError(
                f"a budget is exactly one of tokens, retention, per_frame, per_second, got "
                f"{given or 'none'}: pass one"
            )
        (name, value), *_ = given.items()
        number = _decimal(name, value)
        if number <= 0 or (name == "retention" and number > 1):
            wanted = "in (0, 1]" if name == "retention" else "more than 0"
            raise BudgetError(f"budget {name} must be {wanted}, got {value}: pass another number")
        if name == "tokens" and number != int(number):
            raise BudgetError(f"budget tokens must be a whole number, got {value}: round it first")
        # One meaning, one value: 16, 16.0 and "16" are the same budget and the same fingerprint.
        object.__setattr__(self, name, int(number) if name == "tokens" else float(number))

    @classmethod
    def parse(cls, value: "Budget | int | float | str | dict[str, float]") -> "Budget":
        """A budget from what a person writes: ``196``, ``"10%"``, ``{"per_frame": 16}``.

        Raises:
            BudgetError: anything else.
        """
        if isinstance(value, Budget):
            return value
        if isinstance(value, dict):
            unknown = sorted(set(value) - {f.name for f in fields(cls)})
            if unknown:
                raise BudgetError(
                    f"a budget has no setting {unknown[0]!r}: known are tokens, retention, "
                    f"per_frame, per_second"
                )
            return cls(**value)  # type: ignore[arg-type]  # checked by __post_init__
        if isinstance(value, str) and value.strip().endswith("%"):
            percent = _decimal("retention", value.strip()[:-1])
            return cls(retention=float(percent / 100))
        number = _decimal("tokens", value)
        if number != int(number):
            raise BudgetError(
                f"a bare budget is a whole number of tokens, got {value}: write a share as "
                f"'{number * 100:f}%'"
            )
        return cls(tokens=int(number))

    @classmethod
    def for_context(cls, context_length: int, reserve: int) -> "Budget":
        """What a language model's context leaves for video.

        Args:
            context_length: tokens that the model can attend to.
            reserve: tokens kept for text and the answer.

        Raises:
            BudgetError: nothing is left.
        """
        if context_length - reserve < 1:
            raise BudgetError(
                f"a context of {context_length} tokens leaves none for video after {reserve} are "
                f"reserved: reserve less or use a longer context"
            )
        return cls(tokens=context_length - reserve)

    def resolve(self, num_tokens: int, num_frames: int, num_seconds: float) -> int:
        """The budget as a count for one video: floor of the exact product, at least 1.

        Args:
            num_tokens: tokens before compression.
            num_frames: sampled frames.
            num_seconds: length of the sampled range.
        """
        if self.tokens is not None:
            return int(self.tokens)
        if self.retention is not None:
            exact = _decimal("retention", self.retention) * num_tokens
        elif self.per_frame is not None:
            exact = _decimal("per_frame", self.per_frame) * num_frames
        else:
            seconds = _decimal("num_seconds", num_seconds)
            exact = _decimal("per_second", self.per_second) * seconds
        return max(1, math.floor(exact))

    def __str__(self) -> str:
        """How a person would write it, e.g. ``10% of the tokens``."""
        if self.tokens is not None:
            return f"{self.tokens} tokens"
        if self.retention is not None:
            percent = _decimal("retention", self.retention) * 100
            return f"{percent.normalize():f}% of the tokens"
        if self.per_frame is not None:
            return f"{self.per_frame:g} tokens per frame"
        return f"{self.per_second:g} tokens per second"


def apportion(
    weights: Tensor | Sequence[float],
    *,
    total: int,
    caps: Tensor | Sequence[int] | None = None,
    minimum: int | Tensor | Sequence[int] = 0,
) -> Tensor:
    """Whole shares that sum to ``total``, by largest remainder.

    Nobody gets more than their cap or less than ``minimum`` (or the cap, if that is lower); what
    one cap refuses is shared among the others in proportion.  Ties go to the lower index.

    Args:
        weights: [K] wishes, finite and >= 0; all zero means equal wishes.
        total: what is handed out; more than the caps allow is cut to their sum.
        caps: [K] largest shares; none by default.
        minimum: smallest share, one for all or [K].

    Returns:
        [K] int64 on the device of ``weights``, summing to ``min(total, sum(caps))``.

    Raises:
        BudgetError: a weight is negative or not finite, the minimums exceed ``total``, or not one
            cap and minimum a part.
    """
    values = weights.detach().tolist() if isinstance(weights, Tensor) else list(weights)
    if any(not math.isfinite(w) or w < 0 for w in values):
        raise BudgetError("shares need finite weights >= 0, got others: clamp or softmax them")
    high = [max(total, 0)] * len(values) if caps is None else _whole(caps)
    if len(high) != len(values) or min(high, default=0) < 0:
        raise BudgetError(
            f"each of {len(values)} parts needs one cap >= 0, got {len(high)} caps from "
            f"{min(high, default=0)}: match them"
        )
    total = min(total, sum(high))
    least = [minimum] * len(values) if isinstance(minimum, int) else _whole(minimum)
    if len(least) != len(values):
        raise BudgetError(
            f"each of {len(values)} parts needs one minimum, got {len(least)}: match them"
        )
    low = [min(n, c) for n, c in zip(least, high, strict=True)]
    if sum(low) > total:
        each = f"{minimum} each" if isinstance(minimum, int) else f"{sum(low)} in all"
        raise BudgetError(
            f"cannot give {len(values)} parts at least {each} out of {total}: "
            f"raise the budget or lower the minimum"
        )
    device = weights.device if isinstance(weights, Tensor) else None
    return torch.tensor(_share(_integers(values), total, low, high), device=device).long()


def frames_within(budget: int, *, tokens_per_frame: int, num_frames: int) -> int:
    """How many of ``num_frames`` fit a budget at ``tokens_per_frame`` each.

    Raises:
        BudgetError: not even one does.
    """
    if budget < tokens_per_frame:
        raise BudgetError(
            f"one frame needs {tokens_per_frame} tokens and the budget is {budget}: raise the "
            f"budget or pool each frame to fewer tokens"
        )
    return min(num_frames, budget // tokens_per_frame)


def _decimal(name: str, value: object) -> Decimal:
    try:
        number = Decimal(str(value).strip())
    except InvalidOperation:
        raise BudgetError(f"budget {name} must be a number, got {value!r}: pass one") from None
    if isinstance(value, bool) or not number.is_finite():
        raise BudgetError(f"budget {name} must be a finite number, got {value!r}: pass one")
    return number


def _whole(caps: Tensor | Sequence[int]) -> list[int]:
    return [int(c) for c in (caps.tolist() if isinstance(caps, Tensor) else caps)]


def _integers(weights: Sequence[float]) -> list[int]:
    """Integers in exactly the proportions of the (finite) floats; every float is m / 2**k."""
    ratios = [float(w).as_integer_ratio() for w in weights]
    common = max((below for _, below in ratios), default=1)
    return [above * (common // below) for above, below in ratios]


def _share(wish: list[int], total: int, low: list[int], high: list[int]) -> list[int]:
    """Shares between ``low`` and ``high`` that sum to ``total``, in exact integer arithmetic."""
    keen = [i for i, w in enumerate(wish) if w]
    if not keen:
        return _fill([1] * len(wish), total, low, high)
    # Parts without a wish get their minimum, and more only when all others are at their caps.
    idle = [i for i, w in enumerate(wish) if not w]
    for_keen = min(total - sum(low[i] for i in idle), sum(high[i] for i in keen))
    share = [0] * len(wish)
    for group, amount, weights in (
        (keen, for_keen, [wish[i] for i in keen]),
        (idle, total - for_keen, [1] * len(idle)),
    ):
        part = _fill(weights, amount, [low[i] for i in group], [high[i] for i in group])
        for i, value in zip(group, part, strict=True):
            share[i] = value
    return share


def _fill(wish: list[int], total: int, low: list[int], high: list[int]) -> list[int]:
    """Largest remainder on the water level: part ``i`` holds ``clamp(level * wish, low, high)``.

    The wishes are positive and ``sum(low) <= total <= sum(high)``.  The level rises past the
    points where a part leaves its minimum or meets its cap, until the total is reached.
    """
    share = list(low)
    held, weight, active = sum(low), 0, set[int]()
    for level, below, i, stops in _level_marks(wish, low, high):
        if held * below + weight * level >= total * below:
            break
        if stops:
            active.discard(i)
            share[i], held, weight = high[i], held + high[i], weight - wish[i]
        else:
            active.add(i)
            held, weight = held - low[i], weight + wish[i]
    remainder = {}
    for i in sorted(active):
        share[i], remainder[i] = divmod((total - held) * wish[i], weight)
    missing = total - sum(share)
    for i in sorted(remainder, key=lambda i: (-remainder[i], i))[:missing]:
        share[i] += 1
    return share


def _level_marks(
    wish: list[int], low: list[int], high: list[int]
) -> list[tuple[int, int, int, bool]]:
    """(level * wish, wish, part, whether it stops there) in exact ascending order of the level."""
    marks = [(low[i], w, i, False) for i, w in enumerate(wish)]
    marks += [(high[i], w, i, True) for i, w in enumerate(wish)]

    def compare(a: tuple[int, int, int, bool], b: tuple[int, int, int, bool]) -> int:
        left, right = a[0] * b[1], b[0] * a[1]
        return (left > right) - (left < right) or a[3] - b[3]

    # Division rounds but never swaps, so that only runs of equal quotients need exact comparison.
    marks.sort(key=lambda m: (_quotient(m[0], m[1]), m[3]))
    runs = groupby(marks, key=lambda m: _quotient(m[0], m[1]))
    return [mark for _, run in runs for mark in sorted(run, key=cmp_to_key(compare))]


def _quotient(a: int, b: int) -> float:
    try:
        return a / b
    except OverflowError:
        return math.inf
