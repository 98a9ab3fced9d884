"""The videos of a simulated run: lengths, what each costs, which of them are broken and how."""

import csv
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .costs import Costs

__all__ = [
    "CORRUPT",
    "CRASHES",
    "GOOD",
    "HANGS",
    "Corpus",
    "Videos",
    "encode_seconds",
    "fitted",
    "make_videos",
    "read_lengths",
]

GOOD, CORRUPT, CRASHES, HANGS = range(4)
"""What a file is: gives its frames, gives an error, ends its reader, or never comes to an end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Corpus:
    """What is assumed of the videos; all of it is an example unless it was given."""

    median_s: float = 60.0
    """Median length."""
    sigma: float = 1.0
    """Of the logarithm of the length: 1 means that one video in six is longer than 2.7 medians."""
    heights: Mapping[int, float] | None = None
    """Share of each height of picture; by default the same of all that were measured."""
    corrupt: float = 0.005
    """Share of files that give an error at once."""
    crashes: float = 1e-4
    """Share of files that end their reader."""
    hangs: float = 1e-4
    """Share of files that make no progress until they are given up."""
    stall_s: float = 60.0
    """After which a file is given up (``--stall``)."""


@dataclass(frozen=True, slots=True)
class Videos:
    """Parallel arrays, one entry a video."""

    decode_s: NDArray[np.float64]
    """Time of one reader, both attempts of a file that ends its reader."""
    encode_s: NDArray[np.float64]
    """Time of the encoder; 0 for broken files, which never reach it."""
    frame_bytes: NDArray[np.int64]
    """Pixels that wait for the encoder; 0 for broken files."""
    kind: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.kind)

    @property
    def is_good(self) -> NDArray[np.bool_]:
        """Whether it can be done at all."""
        return self.kind == GOOD


def read_lengths(path: Path, column: str = "seconds") -> NDArray[np.float64]:
    """The positive numbers in a column of a CSV file."""
    with path.open(newline="") as file:
        rows = csv.DictReader(file)
        found = [float(row[column]) for row in rows if row.get(column)]
    lengths = np.array([value for value in found if value > 0])
    if not len(lengths):
        raise SystemExit(f"{path} has no positive numbers in a column {column!r}")
    return lengths


def fitted(lengths: NDArray[np.float64]) -> tuple[float, float]:
    """Median and sigma of the lognormal nearest to these lengths (of largest likelihood)."""
    logs = np.log(lengths)
    return math.exp(float(logs.mean())), float(logs.std())


def make_videos(
    number: int,
    costs: Costs,
    corpus: Corpus,
    *,
    frames_per_s: float | None,
    rng: np.random.Generator,
) -> Videos:
    """Draw videos and price them.

    Args:
        number: of videos.
        costs: measured.
        corpus: assumed.
        frames_per_s: see ``encode_seconds``.
        rng: where the draws come from.
    """
    length_s = corpus.median_s * np.exp(corpus.sigma * rng.standard_normal(number))
    shares = corpus.heights or dict.fromkeys(costs.decode, 1 / len(costs.decode))
    heights = rng.choice(list(shares), size=number, p=list(shares.values()))
    decode_s = np.empty(number)
    for height, cost in costs.decode.items():
        of_it = heights == height
        decode_s[of_it] = cost.of(length_s[of_it])
    del length_s, heights
    decode_s += costs.overhead_s
    encode_s = np.full(number, encode_seconds(costs, frames_per_s))
    kind = _kinds(number, corpus, rng)
    broken = kind != GOOD
    encode_s[broken] = 0.0
    decode_s[kind == CORRUPT] = costs.overhead_s
    # The file is read once more by a fresh process: twice what it takes, and twice a new process.
    decode_s[kind == CRASHES] += costs.child_start_s
    decode_s[kind == CRASHES] *= 2
    decode_s[kind == HANGS] = 2 * (corpus.stall_s + costs.child_start_s)
    pixels = np.where(broken, 0, costs.num_frames * costs.frame_bytes)
    return Videos(decode_s, encode_s, pixels, kind)


def encode_seconds(costs: Costs, frames_per_s: float | None) -> float:
    """Seconds of the encoder for one video.

    Args:
        costs: measured.
        frames_per_s: of the device, compression included; ``None``: one core, as measured.
    """
    if frames_per_s is None:
        return costs.num_frames * costs.encode_per_frame_s + costs.compress_s
    return costs.num_frames / frames_per_s


def _kinds(number: int, corpus: Corpus, rng: np.random.Generator) -> NDArray[np.uint8]:
    drawn = rng.random(number)
    edges = np.cumsum([corpus.corrupt, corpus.crashes, corpus.hangs])
    kind = np.full(number, GOOD, np.uint8)
    for name, low, high in zip((CORRUPT, CRASHES, HANGS), [0.0, *edges[:-1]], edges, strict=True):
        kind[(drawn >= low) & (drawn < high)] = name
    return kind
