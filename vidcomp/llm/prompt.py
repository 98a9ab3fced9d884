"""What a language model reads, with the places where tokens of videos enter.

The model's own processor and position code make the full sequence, one placeholder a token that
the model's own encoder would give (a slot).  Compressed tokens take some of these slots, the others
go: timestamps, line breaks and positions of all that stays are the model's own.

Legend: L tokens of a prompt, S slots of a video, P patches of its grid.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from vidcomp.errors import ShapeError
from vidcomp.types import Grid

__all__ = ["Prompt", "Visual"]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Visual:
    """One video or image of a prompt, and its slots."""

    key: str
    """Entry of ``mm_encoder_outputs``: ``"video"`` or ``"image"``."""
    slots: Tensor
    """[S] int64 places in the prompt, ascending."""
    patch: Tensor
    """[S] int64 patch of the grid in each slot; ``-1 - k`` in that of the structural row k."""
    grid: Grid

    def __post_init__(self) -> None:
        patches = self.patch[self.patch >= 0]
        if len(self.slots) != len(self.patch) or len(patches) != self.grid.num_patches:
            raise ShapeError(
                f"a video of the grid {tuple(self.grid)} needs {self.grid.num_patches} slots of "
                f"patches, got {len(patches)} of {len(self.slots)} slots: make the prompt for the "
                f"frames that were encoded"
            )

    @property
    def num_structural(self) -> int:
        """Slots that no patch is in: they stay, whatever the budget."""
        return len(self.slots) - self.grid.num_patches


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Prompt:
    """The full sequence of one question, before anything is left out."""

    input_ids: Tensor
    """[L] int64."""
    positions: Tensor
    """[L] int64, or [3, L] where the model's positions have three axes."""
    visuals: tuple[Visual, ...]
    """In the order of their slots."""
    types: Mapping[str, Tensor] = field(default_factory=dict)
    """[L] each: ``mm_token_type_ids``, ``token_type_ids`` where the model reads them."""

    def __len__(self) -> int:
        return len(self.input_ids)
