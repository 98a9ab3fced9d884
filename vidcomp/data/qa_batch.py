"""Questions with the tokens of their videos: items and batches.

Legend: B examples.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, overload

import torch
from torch import Tensor

from vidcomp.data.annotations import QAExample
from vidcomp.types import PaddedTokens, TokenBatch, VideoTokens
from vidcomp.types.tokens import ROW_FIELDS

__all__ = ["QABatch", "QASample", "QASamples", "collate_qa", "collate_qa_padded", "pinned", "taken"]


class QASample(NamedTuple):
    """One question and the tokens of its video."""

    example: QAExample
    video: VideoTokens
    key: str
    """Of the record, which the example may name otherwise."""


@dataclass(frozen=True, slots=True, eq=False)
class QABatch:
    """Questions and the tokens of their videos, one video an example."""

    tokens: TokenBatch | PaddedTokens
    """Of B videos; ``tokens.keys`` are the records' keys."""
    examples: tuple[QAExample, ...]
    """[B]."""

    def __len__(self) -> int:
        return len(self.examples)

    @property
    def keys(self) -> tuple[str, ...]:
        """[B] keys of the records."""
        return self.tokens.keys

    @property
    def ids(self) -> tuple[str, ...]:
        """[B]."""
        return tuple(example.id for example in self.examples)

    @property
    def questions(self) -> tuple[str, ...]:
        """[B]."""
        return tuple(example.question for example in self.examples)

    @property
    def answers(self) -> tuple[str | None, ...]:
        """[B] the first answer of each, ``None`` where there is none."""
        return tuple(example.answer for example in self.examples)

    def padded(self) -> "QABatch":
        """The same with rectangular tokens."""
        if isinstance(self.tokens, PaddedTokens):
            return self
        return QABatch(self.tokens.padded(), self.examples)

    def to(
        self,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        non_blocking: bool = False,
    ) -> "QABatch":
        """All tensors on ``device``; only the tokens (if they are float) take ``dtype``."""
        return QABatch(self.tokens.to(device, dtype, non_blocking), self.examples)

    def pin_memory(self) -> "QABatch":
        """A copy in page-locked memory; data loaders call it."""
        return QABatch(pinned(self.tokens), self.examples)


class QASamples(Sequence[QASample]):
    """Items that were read at once; ``collate_qa`` takes their batch as it is."""

    def __init__(self, batch: QABatch, tokens: TokenBatch) -> None:
        self.batch, self.tokens = batch, tokens

    def __len__(self) -> int:
        return len(self.batch)

    @overload
    def __getitem__(self, index: int) -> QASample: ...
    @overload
    def __getitem__(self, index: slice) -> list[QASample]: ...
    def __getitem__(self, index: int | slice) -> QASample | list[QASample]:
        if isinstance(index, slice):
            return [self[i] for i in range(len(self))[index]]
        return QASample(self.batch.examples[index], self.tokens[index], self.tokens.keys[index])

    def __iter__(self) -> Iterator[QASample]:
        return (self[i] for i in range(len(self)))


def collate_qa(items: Sequence[QASample]) -> QABatch:
    """Examples as one batch, videos end to end.

    Raises:
        ShapeError: no items, or videos of other widths or types.
    """
    if isinstance(items, QASamples):
        return items.batch
    tokens = TokenBatch.pack([item.video for item in items], [item.key for item in items])
    return QABatch(tokens, tuple(item.example for item in items))


def collate_qa_padded(items: Sequence[QASample]) -> QABatch:
    """Examples as one batch, videos side by side, zeros behind the shorter ones, with a mask.

    Raises:
        ShapeError: no items, or videos of other widths or types.
    """
    return collate_qa(items).padded()


def taken(tokens: TokenBatch | PaddedTokens, index: Sequence[int]) -> TokenBatch | PaddedTokens:
    """A batch of the videos ``index``, any of them as often as wanted, pinned if it was.

    Args:
        tokens: of some videos.
        index: numbers of videos in it.
    """
    keys = tuple(tokens.keys[b] for b in index)
    if isinstance(tokens, PaddedTokens):
        out: TokenBatch | PaddedTokens = _mapped(tokens, lambda value: value[list(index)], keys)
    else:
        out = _taken_rows(tokens, list(index), keys)
    return pinned(out) if tokens.tokens.is_pinned() else out


def _taken_rows(tokens: TokenBatch, index: list[int], keys: tuple[str, ...]) -> TokenBatch:
    starts = tokens.offsets.tolist()
    rows = torch.cat([torch.arange(starts[b], starts[b + 1]) for b in index])
    return replace(
        tokens,
        **{name: getattr(tokens, name)[rows] for name in ROW_FIELDS},
        offsets=torch.tensor([0, *tokens.lengths[index].tolist()]).cumsum(0),
        grids=tuple(tokens.grids[b] for b in index),
        assigns=tuple(tokens.assigns[b] for b in index),
        weights=tuple(tokens.weights[b] for b in index),
        extras={name: value[rows] for name, value in tokens.extras.items()},
        frame_extras=tuple(tokens.frame_extras[b] for b in index) if tokens.frame_extras else (),
        keys=keys,
    )


def pinned(tokens: TokenBatch | PaddedTokens) -> TokenBatch | PaddedTokens:
    """A copy in page-locked memory."""
    if isinstance(tokens, TokenBatch):
        return tokens.pin_memory()
    return _mapped(tokens, Tensor.pin_memory, tokens.keys)


def _mapped(
    padded: PaddedTokens, function: Callable[[Tensor], Tensor], keys: tuple[str, ...]
) -> PaddedTokens:
    tokens, mask, positions, spans, mass = map(function, padded[:5])
    return PaddedTokens(tokens, mask, positions, spans, mass, keys)
