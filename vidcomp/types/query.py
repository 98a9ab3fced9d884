"""What a question looks like to stages that choose tokens by it."""

from dataclasses import dataclass

import torch
from torch import Tensor

from vidcomp.errors import ShapeError

__all__ = ["Query", "QueryFeatures", "QueryIds"]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class QueryFeatures:
    """A text in the space in which it is compared with tokens or frames.

    Raises:
        ShapeError: not [Q, D] float, or empty.
    """

    embedding: Tensor
    """[Q, D] float: one row a text (or a text token), on any device."""

    def __post_init__(self) -> None:
        _check_tensor("a query's embedding", self.embedding)
        shape = tuple(self.embedding.shape)
        if len(shape) != 2 or 0 in shape or not self.embedding.is_floating_point():
            raise ShapeError(
                f"a query's embedding must be [Q, D] float with at least one row, got "
                f"{list(shape)} {self.embedding.dtype}: add the axis with embedding[None]"
            )


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class QueryIds:
    """A text as token ids, for stages that have a table of word embeddings of their own.

    Raises:
        ShapeError: not [Q] integers, or empty.
    """

    ids: Tensor
    """[Q] int64: ids of the tokenizer that the stage was trained with, without padding, on any
    device."""

    def __post_init__(self) -> None:
        _check_tensor("the token ids of a query", self.ids)
        shape = tuple(self.ids.shape)
        if len(shape) != 1 or 0 in shape or self.ids.dtype != torch.int64:
            raise ShapeError(
                f"the token ids of a query must be [Q] int64 with at least one, got {list(shape)} "
                f"{self.ids.dtype}: pass the ids of one text, without padding"
            )


Query = QueryFeatures | QueryIds
"""What a stage may be asked by."""


def _check_tensor(what: str, value: object) -> None:
    if not isinstance(value, Tensor):
        raise ShapeError(
            f"{what} must be a tensor, got {type(value).__name__}: convert it with torch.tensor"
        )
