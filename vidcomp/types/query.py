"""What a question looks like to stages that choose tokens by it."""

from dataclasses import dataclass

from torch import Tensor

from vidcomp.errors import ShapeError

__all__ = ["QueryFeatures"]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class QueryFeatures:
    """A text in the space in which it is compared with tokens or frames.

    Raises:
        ShapeError: not [Q, D] float, or empty.
    """

    embedding: Tensor
    """[Q, D] float: one row a text (or a text token), on any device."""

    def __post_init__(self) -> None:
        shape = tuple(self.embedding.shape)
        if len(shape) != 2 or 0 in shape or not self.embedding.is_floating_point():
            raise ShapeError(
                f"a query's embedding must be [Q, D] float with at least one row, got "
                f"{list(shape)} {self.embedding.dtype}: add the axis with embedding[None]"
            )
