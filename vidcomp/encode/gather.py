"""Running the blocks of a vision transformer on some of its patches only.

After patches are embedded and told where they are, the blocks of a plain transformer do not care
how many there are: patches that are not wanted are taken out between the two, and the blocks' work
shrinks with them.  What is left attends to what is left only, so its features are not those that
the whole picture would give.

Legend: B pictures, E extra tokens (class, registers) before the patches, P patches, L kept patches,
D features.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Gather", "gather_patches"]

# Families whose blocks see positions in the embeddings only, or rotate by a table of patches.
# Others (windows, biases of relative places, grids that are halved) need the whole picture.
_PLAIN = {
    "aimv2_vision_model",
    "clip_vision_model",
    "deit",
    "dinov2",
    "dinov2_with_registers",
    "dinov3_vit",
    "siglip2_vision_model",
    "siglip_vision_model",
    "vit",
}


class Gather:
    """The switch of a model whose patches can be taken out."""

    def __init__(self, taps: list["_Tap"]) -> None:
        self._taps = taps

    @contextmanager
    def only(self, index_BL: Tensor) -> Iterator[None]:
        """Passes inside see the patches ``index_BL`` ([B, L] int64) of each picture only."""
        for tap in self._taps:
            tap.index_BL = index_BL
        try:
            yield
        finally:
            for tap in self._taps:
                tap.index_BL = None


def gather_patches(model: Any, num_extra: int) -> Gather | None:
    """A switch built into ``model`` (changed), or ``None`` if its blocks need all patches.

    Args:
        model: a vision model of transformers.
        num_extra: tokens that its embeddings put before the patches.
    """
    if str(model.config.model_type) not in _PLAIN:
        return None
    parents = dict(model.named_modules())
    taps: list[_Tap] = []
    for name in list(parents):
        parent, _, last = name.rpartition(".")
        made: type[_Tap] | None = {"embeddings": _Rows, "rope_embeddings": _Angles}.get(last)
        if made is not None and not any(name.startswith(f"{tap.place}.") for tap in taps):
            tap = made(parents[name], name, num_extra)
            setattr(parents[parent], last, tap)
            taps.append(tap)
    return Gather(taps) if any(isinstance(tap, _Rows) for tap in taps) else None


class _Tap(nn.Module):
    """Stands in a module's place and takes rows out of what it gives."""

    def __init__(self, inner: nn.Module, place: str, num_extra: int) -> None:
        super().__init__()
        self.inner = inner
        self.place = place
        self.num_extra = num_extra
        self.index_BL: Tensor | None = None

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:  # models read sizes and types off their embeddings
            return getattr(super().__getattr__("inner"), name)


class _Rows(_Tap):
    """The embeddings: [B, E + P, D] to [B, E + L, D]."""

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        hidden: Tensor = self.inner(*args, **kwargs)
        if self.index_BL is None:
            return hidden
        patches = hidden[:, self.num_extra :]
        index = self.index_BL[..., None].expand(-1, -1, hidden.shape[2])
        return torch.cat([hidden[:, : self.num_extra], patches.gather(1, index)], dim=1)


class _Angles(_Tap):
    """Tables of rotations: [P, D] each to [B, 1, L, D], the same for all heads."""

    def forward(self, *args: Any, **kwargs: Any) -> tuple[Tensor, ...]:
        tables: tuple[Tensor, ...] = self.inner(*args, **kwargs)
        if self.index_BL is None:
            return tables
        return tuple(table[self.index_BL].unsqueeze(1) for table in tables)
