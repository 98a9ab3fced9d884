"""Joining of similar neighbours in time, by plain loops."""

import itertools

from oracles.match import cosine_slowly


def chains_slowly(positions):
    """Rows at each place of the picture, in the order of time."""
    places = {}
    for row, (t, h, w) in enumerate(positions):
        places.setdefault((h, w), []).append((t, row))
    return {place: [row for _, row in sorted(rows)] for place, rows in places.items()}


def joins_slowly(x, mass, positions, threshold, reference):
    """Rows that join the run before them, and the similarity each row was judged by."""
    joined, scores = set(), {}
    for rows in chains_slowly(positions).values():
        run = [rows[0]]
        for previous, row in itertools.pairwise(rows):
            if reference == "previous":
                other = x[previous]
            elif reference == "first":
                other = x[run[0]]
            else:
                total = sum(mass[r] for r in run)
                other = [sum(mass[r] * x[r][d] for r in run) / total for d in range(len(x[0]))]
            scores[row] = cosine_slowly(x[row], other)
            if scores[row] >= threshold:
                joined.add(row)
                run.append(row)
            else:
                run = [row]
    return joined, scores
