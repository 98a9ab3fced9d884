"""Largest remainder with bounds, by plain loops over fractions."""

from fractions import Fraction
from math import floor


def apportion_slowly(wishes, total, caps=None, minimum=0):
    """Clamp whoever is out of bounds and share again, until nobody is; then single units."""
    n = len(wishes)
    high = [total] * n if caps is None else list(caps)
    total = min(total, sum(high))
    low = [min(minimum, c) for c in high]
    if any(wishes) and (idle := [i for i in range(n) if not wishes[i]]):
        keen = [i for i in range(n) if wishes[i]]
        room = min(total - sum(low[i] for i in idle), sum(high[i] for i in keen))
        first = _bounded(_pick(wishes, keen), room, _pick(low, keen), _pick(high, keen))
        rest = total - room
        second = _bounded([1] * len(idle), rest, _pick(low, idle), _pick(high, idle))
        shares = dict(zip(keen + idle, first + second, strict=True))
        return [shares[i] for i in range(n)]
    return _bounded(wishes if any(wishes) else [1] * n, total, low, high)


def _pick(values, places):
    return [values[i] for i in places]


def _bounded(wishes, total, low, high):
    wishes = [Fraction(w) for w in wishes]
    fixed = {}
    while True:
        free = [i for i in range(len(wishes)) if i not in fixed]
        left = total - sum(fixed.values())
        fair = {i: left * wishes[i] / sum(wishes[j] for j in free) for i in free}
        over = sum(max(Fraction(0), fair[i] - high[i]) for i in free)
        under = sum(max(Fraction(0), low[i] - fair[i]) for i in free)
        # Only the side that is violated more is settled for good: the other may resolve itself.
        settled = {i: high[i] for i in free if fair[i] > high[i] and over >= under}
        settled |= {i: low[i] for i in free if fair[i] < low[i] and under >= over}
        if not settled:
            break
        fixed |= settled
    target = {**fixed, **fair}
    share = [floor(target[i]) for i in range(len(wishes))]
    order = sorted(range(len(wishes)), key=lambda i: (share[i] - target[i], i))
    for i in order[: total - sum(share)]:
        share[i] += 1
    return share
