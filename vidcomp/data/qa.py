"""Cached tokens joined with questions and answers, as a data set."""

import logging
import math
from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal, NamedTuple

from vidcomp.data.annotations import QAExample, read_annotations
from vidcomp.data.dataset import CachedTokenDataset
from vidcomp.data.matching import KeyMatcher
from vidcomp.data.qa_batch import QABatch, QASample, QASamples, pinned, taken
from vidcomp.errors import ConfigError, ShapeError, StoreMissError
from vidcomp.store import Memory, TokenCache
from vidcomp.store.disk.format import hexdigest
from vidcomp.types import PaddedTokens, TokenBatch, VideoTokens

__all__ = ["QADataset"]

_log = logging.getLogger(__name__)

_Range = tuple[float | None, float | None]


class QADataset(CachedTokenDataset):
    """Questions about videos of a token cache, one an index.

    All that is said of ``CachedTokenDataset`` holds: it can be pickled, works in worker processes,
    and loaders and samplers take it.  A video that several examples of a batch share is read once.

    An example with a range (``start_s``, ``end_s``) gets the tokens whose spans meet it: the record
    of that very range if the cache has one (``clip.mp4@5-10``, as ``extract`` names it), else the
    rows of the video's record, of which there may be none where compression kept none.
    ``num_tokens`` counts the whole record: an upper bound.

    Args:
        cache: a cache, or the path or URL of one.
        annotations: examples, or a file for ``read_annotations``.
        missing: what to do with examples whose video has no record, or several that it is not
            clear between: ``raise``, or ``skip`` and say so in the log.

    Raises:
        StoreMissError: no such cache, or videos without a record and ``missing="raise"``.
        ConfigError: annotations that cannot be read.
    """

    examples: list[QAExample]
    """Those that have a record, in the order of the annotations."""
    missing: tuple[str, ...]
    """Videos that have none, as the annotations name them."""
    num_skipped: int
    """Examples of those videos."""

    def __init__(
        self,
        cache: TokenCache | str | Path,
        annotations: Sequence[QAExample] | str | Path,
        *,
        missing: Literal["raise", "skip"] = "raise",
    ) -> None:
        if missing not in ("raise", "skip"):
            raise ConfigError(f"missing is 'raise' or 'skip', got {missing!r}: choose one")
        if isinstance(annotations, str | Path):
            annotations = read_annotations(annotations)
        opened = cache if isinstance(cache, TokenCache) else TokenCache(cache)
        joined = _join(opened, annotations)
        self.missing = tuple(joined.missing)
        self.num_skipped = len(annotations) - len(joined.examples)
        if self.missing:
            problem = _lacking(opened, annotations, joined)
            if missing == "raise":
                raise StoreMissError(f"{problem}: extract those videos, or pass missing='skip'")
            _log.warning("%s, which are left out", problem)
        self.examples = joined.examples
        self._ranges = joined.ranges
        super().__init__(opened, joined.keys)

    @property
    def digest(self) -> str:
        """16 hex digits of keys, token counts, ids and ranges in order."""
        return hexdigest(f"{self.selection.digest} {self._examples_digest}".encode())

    @cached_property
    def _examples_digest(self) -> str:
        told = [(e.id, e.start_s, e.end_s) for e in self.examples]
        return hexdigest(repr(told).encode("utf-8", "surrogatepass"))

    def __getitem__(self, index: int) -> QASample:  # type: ignore[override]  # it knows its question
        """Example ``index`` with its video; negative ones count from the end.

        Raises:
            IndexError: there is no such example.
            StoreCorruptError: its bytes are not those that were written.
        """
        i = range(len(self))[index]
        return QASample(self.examples[i], self._video(i), self.keys[i])

    def __getitems__(self, indices: Sequence[int]) -> Sequence[QASample]:  # type: ignore[override]
        """Several examples, read at once; torch's own ``DataLoader`` asks for them this way.

        Raises:
            IndexError, StoreCorruptError: as for one.
        """
        wanted = [range(len(self))[i] for i in indices]
        try:
            batch = self.batch(wanted)
        except ShapeError:
            return [self[i] for i in wanted]  # of several widths: no batch, but still items
        assert isinstance(batch.tokens, TokenBatch)  # noqa: S101  # not padded
        return QASamples(batch, batch.tokens)

    def batch(
        self, indices: Sequence[int], memory: Memory | None = None, *, padded: bool = False
    ) -> QABatch:
        """Examples as one batch; what ``TokenLoader`` yields.

        Args:
            indices: examples from 0 on.
            memory: where batches are put; by default fresh memory.
            padded: with ``PaddedTokens`` and not a ``TokenBatch``.

        Raises:
            StoreCorruptError: bytes that are not those that were written.
            ShapeError: no examples, or videos of other widths or types.
        """
        examples = tuple(self.examples[i] for i in indices)
        places = [(self.keys[i], self._ranges.get(i)) for i in indices]
        first: dict[tuple[str, _Range | None], int] = {}
        for place, i in zip(places, indices, strict=True):
            first.setdefault(place, i)
        tokens = self._read(list(first.values()), memory, padded)
        if len(first) < len(indices):
            number = {place: n for n, place in enumerate(first)}
            tokens = taken(tokens, [number[place] for place in places])
        return QABatch(tokens, examples)

    def _read(
        self, indices: Sequence[int], memory: Memory | None, padded: bool
    ) -> TokenBatch | PaddedTokens:
        whole = [i for i in indices if i not in self._ranges]
        if len(whole) == len(indices):
            return self.selection.batch(indices, memory, padded=padded)
        videos = {i: self._video(i) for i in indices if i in self._ranges}
        if whole:
            batch = self.selection.batch(whole)  # at once: a remote store is asked in parallel
            assert isinstance(batch, TokenBatch)  # noqa: S101  # not padded
            videos.update(zip(whole, batch, strict=True))
        packed = TokenBatch.pack([videos[i] for i in indices], [self.keys[i] for i in indices])
        tokens = packed.padded() if padded else packed
        is_pinning = memory is not None and memory.take([1])[0].is_pinned()
        return pinned(tokens) if is_pinning else tokens

    def _video(self, i: int) -> VideoTokens:
        if i not in self._ranges:
            return self.selection[i]
        start_s, end_s = self._ranges[i]
        return self.selection.window(
            i,
            -math.inf if start_s is None else start_s,
            math.inf if end_s is None else end_s,
        )


class _Joined(NamedTuple):
    """Examples that have a record, which one, and what part of it if not all."""

    examples: list[QAExample]
    keys: list[str]
    ranges: dict[int, _Range]
    missing: Counter[str]
    """Examples of each video that has none."""
    unclear: dict[str, list[str]]
    """Of these, the videos that several records might be."""


def _join(cache: TokenCache, examples: Sequence[QAExample]) -> _Joined:
    joined = _Joined([], [], {}, Counter(), {})
    matcher = KeyMatcher(cache)
    known: dict[tuple[str, _Range], tuple[list[str], bool]] = {}
    for example in examples:
        wanted = (example.key, (example.start_s, example.end_s))
        if wanted not in known:
            known[wanted] = _find(matcher, *wanted)
        found, is_part = known[wanted]
        if len(found) != 1:
            joined.missing[example.key] += 1
            if found:
                joined.unclear[example.key] = found
            continue
        if is_part:
            joined.ranges[len(joined.examples)] = wanted[1]
        joined.examples.append(example)
        joined.keys.append(found[0])
    return joined


def _find(matcher: KeyMatcher, name: str, part: _Range) -> tuple[list[str], bool]:
    """Records that may be meant, and whether only a part of them is."""
    if part == (None, None):
        return matcher.find(name), False
    own = matcher.find(name, *part)
    return (own, False) if own else (matcher.find(name), True)


def _lacking(cache: TokenCache, examples: Sequence[QAExample], joined: _Joined) -> str:
    num_videos = len({example.key for example in examples})
    names = [_unclear(name, joined.unclear.get(name)) for name in list(joined.missing)[:3]]
    more = ", ..." if len(joined.missing) > 3 else ""
    return (
        f"{cache.path} lacks {len(joined.missing)} of the {num_videos} videos asked about "
        f"({', '.join(names)}{more}), and so {joined.missing.total()} of {len(examples)} examples"
    )


def _unclear(name: str, found: list[str] | None) -> str:
    if found is None:
        return repr(name)
    return f"{name!r}, which may be {' or '.join(map(repr, found[:2]))}"
