"""How many tokens may remain, as exact integers.

A budget counts the visual slots that enter the language model.  Real numbers are turned into
integers in one place, by decimal arithmetic: ``0.29`` of 100 tokens is 29, although
``int(0.29 * 100)`` is 28.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from decimal import Decimal, InvalidOperation

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
            return f"{_decimal('retention', self.retention) * 100:f}% of the tokens"
        if self.per_frame is not None:
            return f"{self.per_frame} tokens per frame"
        return f"{self.per_second} tokens per second"


def apportion(
    weights: Tensor | Sequence[float],
    *,
    total: int,
    caps: Tensor | Sequence[int] | None = None,
    minimum: int = 0,
) -> Tensor:
    """Whole shares that sum to ``total``, by largest remainder.

    Nobody gets more than their cap or less than ``minimum`` (or the cap, if that is lower); what
    one cap refuses is shared among the others in proportion.  Ties go to the lower index.

    Args:
        weights: [K] wishes, finite and >= 0; all zero means equal wishes.
        total: what is handed out; more than the caps allow is cut to their sum.
        caps: [K] largest shares; none by default.
        minimum: smallest share.

    Returns:
        [K] int64 on the device of ``weights``, summing to ``min(total, sum(caps))``.

    Raises:
        BudgetError: a weight is negative or not finite, or the minimums exceed ``total``.
    """
    device = weights.device if isinstance(weights, Tensor) else torch.device("cpu")
    wish = [float(w) for w in weights]
    if any(not math.isfinite(w) or w < 0 for w in wish):
        raise BudgetError("shares need finite weights >= 0, got others: clamp or softmax them")
    limit = [total] * len(wish) if caps is None else [int(c) for c in caps]
    total = min(total, sum(limit))
    share = [min(minimum, c) for c in limit]
    if sum(share) > total:
        raise BudgetError(
            f"cannot give {len(wish)} parts at least {minimum} each out of {total}: "
            f"raise the budget or lower the minimum"
        )
    target = _water_fill(wish, total, share, limit)
    share = [min(c, max(s, math.floor(t))) for s, t, c in zip(share, target, limit, strict=True)]
    _hand_out(share, target, limit, total)
    return torch.tensor(share, dtype=torch.int64, device=device)


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


def _water_fill(wish: list[float], total: int, low: list[int], high: list[int]) -> list[float]:
    """Real shares proportional to the wishes, clamped between ``low`` and ``high``."""
    target = [float(s) for s in low]
    open_ = [i for i in range(len(wish)) if high[i] > low[i]]
    remaining = float(total - sum(low[i] for i in range(len(wish)) if i not in set(open_)))
    while open_:
        weight = sum(wish[i] for i in open_)
        fair = {i: remaining * (wish[i] / weight if weight else 1 / len(open_)) for i in open_}
        excess = sum(max(0.0, fair[i] - high[i]) - max(0.0, low[i] - fair[i]) for i in open_)
        # Clamp only on the side that is violated more: the other side may resolve itself.
        clamped = {i: float(high[i]) for i in open_ if fair[i] > high[i] and excess >= 0}
        clamped |= {i: float(low[i]) for i in open_ if fair[i] < low[i] and excess <= 0}
        if not clamped:
            for i in open_:
                target[i] = fair[i]
            break
        for i, value in clamped.items():
            target[i] = value
        remaining -= sum(clamped.values())
        open_ = [i for i in open_ if i not in clamped]
    return target


def _hand_out(share: list[int], target: list[float], limit: list[int], total: int) -> None:
    """Give (or take back) single units by remainder until ``share`` sums to ``total``."""
    while (missing := total - sum(share)) > 0:
        ready = [i for i in range(len(share)) if share[i] < limit[i]]
        ready.sort(key=lambda i: (share[i] - target[i], i))
        for i in ready[:missing]:
            share[i] += 1
    while (surplus := sum(share) - total) > 0:  # float error, or minimums above the fair share
        ready = [i for i in range(len(share)) if share[i] > 0]
        ready.sort(key=lambda i: (target[i] - share[i], -i))
        for i in ready[:surplus]:
            share[i] -= 1
