"""What every backend gives: pictures by index, in one pass forward."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["BackendError", "Picture", "Reader"]


@dataclass(frozen=True, slots=True)
class Picture:
    """One decoded frame."""

    index: int
    """Row of the scan."""
    pixels: NDArray[np.uint8]
    """[H, W, 3] upright RGB."""
    is_doubtful: bool = False
    """Decoded after an error that it may depend on: perhaps with artefacts."""


class BackendError(Exception):
    """A backend cannot go on with a file; another may."""


class Reader(Protocol):
    """An open file; used by one thread, closed by its owner."""

    @property
    def name(self) -> str:
        """Name of the backend."""

    @property
    def fault(self) -> str:
        """The last thing that went wrong; empty if nothing did."""

    @property
    def num_unexplained(self) -> int:
        """Frames that did not come although nothing went wrong: the scan miscounted."""

    def read(self, wanted: Sequence[int]) -> Iterator[Picture]:
        """The frames ``wanted`` (ascending, without repeats); what cannot be decoded is left out.

        Raises:
            BackendError: the backend cannot go on; frames given so far are good.
        """

    def close(self) -> None:
        """Gives files and decoders back."""
