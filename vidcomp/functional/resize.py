"""From pictures of any size to the size an encoder wants (placeholder until its owner fills it)."""

from typing import Literal

from pydantic import Field

from vidcomp.config import Config

__all__ = ["Resize"]


class Resize(Config):
    """How pictures are brought to the encoder's size."""

    mode: Literal["stretch", "crop", "letterbox", "smart", "none"] = "stretch"
    """``stretch`` ignores the aspect; ``crop`` resizes the short side and cuts the centre;
    ``letterbox`` fits inside and fills; ``smart`` is Qwen's smart_resize; ``none`` keeps."""
    height: int = Field(224, ge=1)
    """Pixels (not used by ``smart`` and ``none``)."""
    width: int = Field(224, ge=1)
    """Pixels (not used by ``smart`` and ``none``)."""
