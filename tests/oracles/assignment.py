"""Linear assignment by trying everything."""

from itertools import permutations


def best_cost(costs):
    """The least sum of costs with a different column for each row."""
    rows, columns = range(len(costs)), range(len(costs[0]))
    return min(
        sum(costs[i][j] for i, j in zip(rows, chosen, strict=True))
        for chosen in permutations(columns, len(costs))
    )
