"""Random records of the two sizes that are measured."""

from collections.abc import Iterator
from typing import NamedTuple

import torch

from bench_store_parts.raw import Record

__all__ = ["Size", "records", "sizes"]


class Size(NamedTuple):
    """One set of records."""

    name: str
    count: int
    least: int
    """Tokens of the shortest record."""
    most: int
    dim: int

    def counts(self) -> list[int]:
        """Tokens of each record, the same every time."""
        g = torch.Generator().manual_seed(0)
        return torch.randint(self.least, self.most + 1, (self.count,), generator=g).tolist()

    def keys(self) -> list[str]:
        """Keys as the paths of videos are, in order."""
        return [f"videos/{i:07d}.mp4" for i in range(self.count)]


def sizes(num_large: int, num_small: int, chosen: str = "both") -> list[Size]:
    """The sets of ``chosen``: ``large``, ``small`` or ``both``."""
    both = [Size("large", num_large, 196, 1568, 1152), Size("small", num_small, 64, 64, 768)]
    return [size for size in both if chosen in (size.name, "both")]


def records(size: Size) -> Iterator[Record]:
    """All records: random normals."""
    for i, (key, n) in enumerate(zip(size.keys(), size.counts(), strict=True)):
        g = torch.Generator().manual_seed(i)
        tokens = torch.randn(n, size.dim, generator=g).to(torch.bfloat16)
        yield Record(
            key, tokens, *(torch.rand(n, *width, generator=g) for width in ((3,), (2,), ()))
        )
