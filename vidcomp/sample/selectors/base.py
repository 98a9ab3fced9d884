"""What every selector is: settings, and a mask of the patches that an encoder is to compute.

Legend: T frames, C channels, H W pixels, t h w the grid of a chunk.
"""

from abc import ABC, abstractmethod

from torch import Tensor

from vidcomp.config import Config
from vidcomp.types import Frames, Grid

__all__ = ["FrameSelector", "SelectorStream"]


class FrameSelector(Config, ABC):
    """Settings of a choice of patches by their pixels: ``encoder(frames, keep=mask)``."""

    @abstractmethod
    def stream(self, *, tubelet: int = 1, patch: tuple[int, int] | None = None) -> "SelectorStream":
        """The state of one video whose frames arrive chunk by chunk.

        Args:
            tubelet: frames of one step of the encoder's grid (``encoder.tubelet``).
            patch: pixels (height, width) of a cell of it (``encoder.patch``); ``None``: the
                picture's share of one.
        """

    def __call__(
        self,
        frames: Frames,
        grid: Grid,
        *,
        tubelet: int = 1,
        patch: tuple[int, int] | None = None,
        valid: Tensor | None = None,
    ) -> Tensor:
        """The patches of a whole video that are worth encoding.

        Args:
            frames: pixels as the encoder takes them.
            grid: their grid, as ``encoder.grid`` says.
            tubelet: frames of one step of the grid.
            patch: pixels (height, width) of a cell.
            valid: [t, h, w] bool: patches with a real pixel (``encoder.valid``); the others are
                neither kept nor counted.  ``None``: all.

        Returns:
            [t, h, w] bool.

        Raises:
            ShapeError: frames and grid do not belong together.
            BudgetError: what is asked for cannot be kept.
        """
        return self.stream(tubelet=tubelet, patch=patch).update(frames, grid, valid)


class SelectorStream(ABC):
    """A video that arrives in chunks; what is carried on is one picture and two counts."""

    @abstractmethod
    def update(self, frames: Frames, grid: Grid, valid: Tensor | None = None) -> Tensor:
        """[t, h, w] bool on the CPU: the patches of the next chunk that are kept.

        Chunks follow in time, and all but the last hold whole tubelets.

        Raises:
            ShapeError: frames of another size than before, a chunk that does not follow, or a grid
                or ``valid`` that does not fit the frames.
            BudgetError: what is asked for cannot be kept.
        """
