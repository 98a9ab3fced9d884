"""The best division of a tiny grid into boxes, among all there are."""

from functools import cache
from itertools import product


def spread_slowly(x, weight, cells):
    """Weighted squared distances of the given cells from their weighted mean."""
    total = sum(weight[c] for c in cells)
    if total == 0:
        return 0.0
    dim = len(next(iter(x.values())))
    mean = [sum(weight[c] * x[c][d] for c in cells) / total for d in range(dim)]
    return sum(
        weight[c] * sum((a - m) ** 2 for a, m in zip(x[c], mean, strict=True)) for c in cells
    )


def best_spreads(x, weight, grid):
    """For every number of tokens, the least spread of any division that splits can make.

    Args:
        x: features of each cell (t, h, w) that has a token.
        weight: of each of these cells.
        grid: lengths of the axes.
    """

    @cache
    def best(box):
        cells = [c for c in product(*(range(*side) for side in box)) if c in x]
        if not cells:
            return {0: 0.0}
        found = {1: spread_slowly(x, weight, cells)}
        for axis, (start, stop) in enumerate(box):
            if stop - start < 2:
                continue
            middle = (start + stop + 1) // 2
            halves = [
                best((*box[:axis], side, *box[axis + 1 :]))
                for side in ((start, middle), (middle, stop))
            ]
            for (n, a), (m, b) in product(*(half.items() for half in halves)):
                found[n + m] = min(found.get(n + m, float("inf")), a + b)
        return found

    return best(tuple((0, length) for length in grid))


def corners(best):
    """Numbers of tokens at which the lower convex hull of (tokens, spread) has a corner."""
    hull = []
    for n, s in sorted(best.items()):
        while len(hull) > 1:
            (a, p), (b, q) = hull[-2:]
            if (q - p) * (n - a) < (s - p) * (b - a) - 1e-9:
                break
            hull.pop()
        hull.append((n, s))
    return dict(hull)


def greedy_slowly(x, weight, grid, boxes, num_splits):
    """Boxes after splits one by one, each the one that takes most from the spread."""

    def tight(box):
        cells = [c for c in product(*(range(*side) for side in box)) if c in x]
        for axis, (start, stop) in enumerate(box):
            middle = (start + stop + 1) // 2
            sides = [(start, middle), (middle, stop)] if stop - start > 1 else []
            full = [side for side in sides if any(side[0] <= c[axis] < side[1] for c in cells)]
            if len(full) == 1:
                return tight((*box[:axis], full[0], *box[axis + 1 :]))
        return box, cells

    boxes = [tight(box) for box in boxes]
    for _ in range(num_splits):
        options = []
        for place, (box, cells) in enumerate(boxes):
            for axis, (start, stop) in enumerate(box):
                if stop - start < 2:
                    continue
                middle = (start + stop + 1) // 2
                halves = [
                    tight((*box[:axis], side, *box[axis + 1 :]))
                    for side in ((start, middle), (middle, stop))
                ]
                gain = spread_slowly(x, weight, cells)
                gain -= sum(spread_slowly(x, weight, half[1]) for half in halves)
                options.append((gain, place, halves))
        _, place, halves = max(options, key=lambda option: option[0])
        boxes[place : place + 1] = halves
    return [box for box, _ in boxes]
