"""Block-transform features: no weights to download, exact about pixels.

Each patch is turned by an orthonormal colour transform (luma and two chroma differences) and an
orthonormal two-dimensional cosine transform (DCT-II; Ahmed, Natarajan and Rao, "Discrete Cosine
Transform", 1974), and the lowest frequencies of each channel are kept in JPEG's zig-zag order.

Pixels are scaled to -0.5..0.5, so that black is not the zero vector, which has no direction.  Both
transforms are rotations: with all coefficients, the distance of two tokens is the distance of
their patches' pixels (in units of white minus black), and the squared norm of a token is its
pixels' energy (Parseval).  With fewer it is the distance of the smoothed patches.

Legend: B pictures, C colour channels, p side of a patch, K coefficients of a channel.
"""

import math
from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F  # noqa: N812
from pydantic import Field
from torch import Tensor

from vidcomp.encode._kept import Kept
from vidcomp.encode.base import EncoderConfig
from vidcomp.encode.clips import ClipEncoder, Features
from vidcomp.errors import ConfigError, ShapeError
from vidcomp.functional.resize import Resize
from vidcomp.registry import ENCODERS
from vidcomp.types import Grid

__all__ = ["Dct", "DctEncoder", "color_basis", "cosine_basis", "zigzag"]

_WHITE = 255.0
_MIDDLE = 0.5


@ENCODERS.add("dct")
class Dct(EncoderConfig):
    """Low frequencies of every patch; the embedded default."""

    patch: int = Field(14, ge=1, le=64)
    """Pixels of a patch's side."""
    coefficients: int | Literal["all"] = 16
    """Lowest frequencies kept of each of the three channels, so a token has three times as many
    features; ``all`` keeps patch x patch of them."""
    size: int = Field(224, ge=1)
    """Side of the square that pictures are stretched to; not used where ``resize`` is given."""

    def build(
        self,
        *,
        device: str = "cpu",
        compile: bool = False,  # noqa: A002
        batch_size: int = 32,
    ) -> "DctEncoder":
        """The encoder; nothing is loaded.

        Raises:
            ConfigError: more coefficients than a patch has pixels, or the size is not a multiple of
                the patch.
        """
        return DctEncoder(self, device=device, compile=compile, batch_size=batch_size)


class DctEncoder(ClipEncoder):
    """One matrix product a patch; a picture may have any size that patches divide."""

    def __init__(self, config: Dct, *, device: str, compile: bool, batch_size: int) -> None:  # noqa: A002
        resize = config.resize or Resize(height=config.size, width=config.size)
        super().__init__(config, resize, device=device, batch_size=batch_size)
        self._side = config.patch
        self.patch = (self._side, self._side)
        basis_KC = _basis(config.patch, config.coefficients)
        self.dim = len(basis_KC)
        self._basis_KC = basis_KC.to(self.device)
        # Scaling is part of the product: uint8 goes in, and only the mean is taken off after it.
        self._offset_K = _MIDDLE * self._basis_KC.sum(dim=1)
        self._basis_KC /= _WHITE
        self._transform: Callable[..., Tensor] = (
            torch.compile(_transform) if compile else _transform
        )
        self.check_resize()

    def grid(self, num_frames: int, height: int, width: int) -> Grid:
        """Patch counts; the size must be a multiple of the patch."""
        side = self._side
        if height % side or width % side or height < side or width < side:
            raise ShapeError(
                f"the dct encoder cuts patches of {side} x {side} pixels, and {height} x {width} "
                f"is not a multiple of that: resize to "
                f"{max(1, round(height / side)) * side} x {max(1, round(width / side)) * side}"
            )
        return Grid(num_frames, height // side, width // side)

    def features(self, clips_BFCHW: Tensor) -> Features:
        """[B, 1, h, w, D]; computed in float32."""
        pictures = clips_BFCHW.flatten(0, 1)
        tokens: Tensor = self._transform(pictures, self._basis_KC, self._offset_K, self._side)
        return Features(tokens.to(self.dtype).unsqueeze(1))

    def features_kept(self, clips_BFCHW: Tensor, keep_BTHW: Tensor) -> Kept:
        """[M, D]: only the kept patches are multiplied."""
        patches = _patches(clips_BFCHW.flatten(0, 1), self._side)[keep_BTHW.flatten(0, 1)]
        return Kept((patches.float() @ self._basis_KC.T - self._offset_K).to(self.dtype))


def cosine_basis(size: int) -> Tensor:
    """[size, size] float64, the orthonormal DCT-II: row u has frequency u; rows are orthonormal."""
    place = torch.arange(size, dtype=torch.float64)
    basis: Tensor = torch.cos(math.pi / size * (place + 0.5) * place[:, None]) * math.sqrt(2 / size)
    basis[0] /= math.sqrt(2)
    return basis


def color_basis() -> Tensor:
    """[3, 3] float64 rotation of RGB: luma, red minus blue, green against both."""
    rows = torch.tensor([[1, 1, 1], [1, 0, -1], [-1, 2, -1]], dtype=torch.float64)
    return F.normalize(rows, dim=1)


def zigzag(size: int) -> list[tuple[int, int]]:
    """All (row, column) of a square along its anti-diagonals, in JPEG's order."""

    def key(cell: tuple[int, int]) -> tuple[int, int]:
        row, column = cell
        return row + column, row if (row + column) % 2 else column

    return sorted(((u, v) for u in range(size) for v in range(size)), key=key)


def _basis(patch: int, coefficients: int | Literal["all"]) -> Tensor:
    """[3 * K, patch * patch * 3] float32: channel by channel; a patch's pixels are interleaved."""
    num = patch * patch if coefficients == "all" else coefficients
    if not 1 <= num <= patch * patch:
        raise ConfigError(
            f"a patch of {patch} x {patch} pixels has 1 to {patch * patch} coefficients, got "
            f"{coefficients}: choose one of them or 'all'"
        )
    rows, columns = torch.tensor(zigzag(patch)[:num]).unbind(dim=1)
    cosine = cosine_basis(patch)
    waves = cosine[rows][:, :, None] * cosine[columns][:, None, :]
    basis = torch.einsum("kyx,dc->dkyxc", waves, color_basis())
    return basis.flatten(2).flatten(0, 1).float()


def _transform(pictures_BCHW: Tensor, basis_KC: Tensor, offset_K: Tensor, side: int) -> Tensor:
    """[B, h, w, 3 * K] float32 of [B, 3, H, W] uint8."""
    return _patches(pictures_BCHW, side).float() @ basis_KC.T - offset_K


def _patches(pictures_BCHW: Tensor, side: int) -> Tensor:
    """[B, h, w, side * side * 3] uint8 pixels of each patch."""
    num, channels, height, width = pictures_BCHW.shape
    # Interleaved colours are the layout that decoders give, so this moves whole runs of bytes.
    cells = pictures_BCHW.permute(0, 2, 3, 1).reshape(
        num, height // side, side, width // side, side, channels
    )
    return cells.transpose(2, 3).flatten(3)
