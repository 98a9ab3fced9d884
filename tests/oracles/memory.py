"""Memories by plain loops, straight from their descriptions."""

from itertools import pairwise

import torch
from torch.nn.functional import cosine_similarity


def bank_slowly(x_TPD, lengths):
    """MA-LMM's bank of each place: [(feature, times)] in the order of time.

    ``lengths(rows)`` says, after each frame, how many rows each place may have.
    """
    banks = [[] for _ in range(x_TPD.shape[1])]
    for t, frame in enumerate(x_TPD):
        for place, bank in enumerate(banks):
            bank.append((frame[place].double(), [t]))
        for bank, length in zip(banks, lengths([len(b) for b in banks]), strict=True):
            while len(bank) > length:
                alike = [float(cosine_similarity(a, b, dim=0)) for (a, _), (b, _) in pairwise(bank)]
                i = alike.index(max(alike))
                (a, one), (b, two) = bank[i : i + 2]
                mean = (a * len(one) + b * len(two)) / (len(one) + len(two))
                bank[i : i + 2] = [(mean, one + two)]
    return banks


def equal_levels_slowly(total):
    """Shares of ``total`` up to one level, filled one by one, the first places first."""

    def shares(rows):
        given = [0] * len(rows)
        for _ in range(min(total, sum(rows))):
            wanting = [i for i, n in enumerate(rows) if given[i] < n]
            given[min(wanting, key=lambda i: (given[i], i))] += 1
        return given

    return shares


def moviechat_slowly(x_TPD, short, merged):
    """MovieChat's frames as published: halves of the pair with the largest mean dot product."""
    out = []
    for start in range(0, len(x_TPD), short):
        window = list(x_TPD[start : start + short].double())
        while len(window) > merged and start + short <= len(x_TPD):
            alike = [float((a @ b.T).mean()) for a, b in pairwise(window)]
            i = alike.index(max(alike))
            window[i : i + 2] = [(window[i] + window[i + 1]) / 2]
        out += window
    return torch.stack(out)
