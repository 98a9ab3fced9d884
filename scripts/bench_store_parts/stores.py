"""The same records as a flat file, a second copy of it, and a store."""

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench_store_parts.raw import Record, write_raw
from bench_store_parts.synthetic import Size, records
from vidcomp.store import CacheWriter, SourceId
from vidcomp.types import Grid, VideoTokens

__all__ = ["Corpus", "videos", "write_cache"]


@dataclass(frozen=True)
class Corpus:
    """The folders of one size."""

    size: Size
    raw: Path
    copy: Path
    """The same bytes again, for the A/A control."""
    cache: Path

    @classmethod
    def make(cls, size: Size, folder: Path) -> "Corpus":
        """Write what is not there yet below ``folder``."""
        out = cls(size, *(folder / size.name / name for name in ("raw", "raw_aa", "cache")))
        for path in (out.raw, out.copy):
            if not path.exists():
                write_raw(path, records(size), size.dim)
        if not out.cache.exists():
            write_cache(out.cache, videos(records(size)))
        return out

    def order(self, seed: int = 0) -> list[str]:
        """All keys in random order, the same for the same seed."""
        keys = self.size.keys()
        random.Random(seed).shuffle(keys)
        return keys


def videos(items: Iterable[Record]) -> Iterator[tuple[str, VideoTokens]]:
    """Key and video of each record."""
    for key, tokens, positions, spans, mass in items:
        yield (
            key,
            VideoTokens(
                tokens=tokens, positions=positions, spans=spans, mass=mass, grid=Grid(8, 14, 14)
            ),
        )


def write_cache(
    path: Path,
    items: Iterable[tuple[str, VideoTokens]],
    *,
    source: SourceId | None = None,
    **options: Any,
) -> None:
    """A store of all of them through a writer with defaults, committed.

    Args:
        path: the store's folder.
        items: keys and videos.
        source: what every record is said to come from.
        options: of the writer.
    """
    with CacheWriter(path, identity={"sample": {"name": "uniform"}}, **options) as writer:
        for key, video in items:
            writer.add(key, video, source=source)
