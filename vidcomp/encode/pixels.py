"""What a checkpoint's own processor does to a picture: the size it wants and the colours.

Sizes become a ``Resize``, which readers apply while decoding; colours become one multiplication and
one addition a pixel.  Together they give what the model's processor gives, within one grey level.

Legend: B pictures, C colour channels, H W pixels.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from vidcomp.encode.vision import quiet
from vidcomp.encode.weights import Checkpoint
from vidcomp.errors import ConfigError
from vidcomp.functional.resize import Resize

__all__ = ["Normalize", "read_processor", "resize_of", "with_mean_fill"]

_FILTERS: dict[int, Literal["nearest", "lanczos", "bilinear", "bicubic"]] = {
    0: "nearest",
    1: "lanczos",
    2: "bilinear",
    3: "bicubic",
}
_BIGGEST_CROP_PCT = 384
_SHARE_FILLED = 0.75


class Normalize:
    """``(pixel * rescale + offset - mean) / std`` of uint8 pictures, in float32."""

    def __init__(
        self,
        mean: Sequence[float],
        std: Sequence[float],
        *,
        rescale: float = 1 / 255,
        offset: float = 0.0,
        device: torch.device | str = "cpu",
    ) -> None:
        self.mean = tuple(mean)
        exact_mean, exact_std = (torch.tensor(v, dtype=torch.float64) for v in (mean, std))
        self._factor_C = (rescale / exact_std).float().to(device)
        self._shift_C = ((offset - exact_mean) / exact_std).float().to(device)
        self._std, self._rescale, self._offset = tuple(std), rescale, offset

    @classmethod
    def of(cls, processor: Mapping[str, Any], device: torch.device | str) -> "Normalize":
        """As a processor's settings say.

        Raises:
            ConfigError: they say to normalise and not by what.
        """
        mean, std = [0.0, 0.0, 0.0], [1.0, 1.0, 1.0]
        if processor.get("do_normalize", True):
            try:
                mean, std = list(processor["image_mean"]), list(processor["image_std"])
            except (KeyError, TypeError) as error:
                raise ConfigError(
                    "the model's preprocessor file normalises but has no image_mean and "
                    "image_std: add them"
                ) from error
        do_rescale = processor.get("do_rescale", True)
        rescale = processor.get("rescale_factor") or 1 / 255
        return cls(
            mean,
            std,
            rescale=rescale if do_rescale else 1.0,
            offset=-1.0 if processor.get("offset") else 0.0,
            device=device,
        )

    def then(self, factor: float, shift: float, device: torch.device | str) -> "Normalize":
        """``factor * x + shift`` of what this one gives, in one step."""
        std = [s / factor for s in self._std]
        mean = [m - shift * s for m, s in zip(self.mean, std, strict=True)]
        return Normalize(mean, std, rescale=self._rescale, offset=self._offset, device=device)

    @property
    def neutral(self) -> tuple[int, ...]:
        """The grey level of each channel that becomes 0: the processor's mean colour."""
        levels = [(mean - self._offset) / self._rescale for mean in self.mean]
        return tuple(min(255, max(0, round(level))) for level in levels)

    def __call__(self, pictures_BCHW: Tensor) -> Tensor:
        """[B, C, H, W] float32 of uint8 of the same shape; a channels-last layout is kept."""
        rows = pictures_BCHW.permute(0, 2, 3, 1)
        if not rows.is_contiguous():
            scaled = pictures_BCHW.float().mul_(self._factor_C[:, None, None])
            return scaled.add_(self._shift_C[:, None, None])
        # Factors tiled to a whole row of interleaved colours: six times as fast on a CPU as
        # broadcasting three of them.
        width = rows.shape[2]
        flat = rows.flatten(2).float()
        flat.mul_(self._factor_C.repeat(width)).add_(self._shift_C.repeat(width))
        return flat.view(rows.shape).permute(0, 3, 1, 2)


def read_processor(checkpoint: Checkpoint) -> dict[str, Any]:
    """The settings of the model's own processor, its class's defaults filled in.

    Raises:
        ConfigError: the checkpoint has no preprocessor file.
    """
    import transformers

    raw = checkpoint.json("video_preprocessor_config.json")
    if raw is not None:
        return raw
    raw = checkpoint.json("preprocessor_config.json")
    nested = checkpoint.json("processor_config.json") or {}
    for name in ("image_processor", "video_processor"):
        raw = nested.get(name) if raw is None else raw
    if raw is None:
        raise ConfigError(
            f"the model folder {str(checkpoint.folder)!r} has no preprocessor_config.json, which "
            f"says how pictures are sized and scaled: copy it from the original checkpoint"
        )
    try:
        auto: Any = transformers.AutoImageProcessor
        with quiet():
            processor = auto.from_pretrained(
                str(checkpoint.folder), local_files_only=True, trust_remote_code=False
            )
    except (ImportError, OSError, ValueError):
        # Some classes need torchvision; their files are new enough to be complete.
        return raw
    known: dict[str, Any] = processor.to_dict()
    return {**raw, **{name: value for name, value in known.items() if value is not None}}


def resize_of(processor: Mapping[str, Any]) -> Resize:
    """The sizes that a processor's settings ask for.

    Raises:
        ConfigError: no policy of ours does the same.
    """
    if not processor.get("do_resize", True):
        return Resize(mode="none")
    if "max_num_patches" in processor:
        return _naflex(processor)
    interpolation = _interpolation(processor)
    size = _sides(processor.get("size"), square=not processor.get("do_center_crop"))
    crop = _sides(processor.get("crop_size"), square=True)
    if not processor.get("do_center_crop"):
        crop = {}
    short = size.get("shortest_edge")
    if short and processor.get("crop_pct"):  # ConvNeXT: warps from 384 on, crops below
        crop = {"height": short, "width": short}
        short = None if short >= _BIGGEST_CROP_PCT else int(short / processor["crop_pct"])
        size = crop if short is None else size
    if short and crop:
        return Resize(mode="crop", short_side=short, interpolation=interpolation, **crop)
    if short is None and "height" in size and crop in ({}, size):
        return Resize(mode="stretch", interpolation=interpolation, **size)
    raise ConfigError(
        f"the model's processor asks for size {dict(size)} and crop {dict(crop)}, which no resize "
        f"policy does: say what to do with the setting resize, e.g. "
        f"{{mode: crop, height: 224, width: 224}}"
    )


def with_mean_fill(resize: Resize, normalize: Normalize) -> Resize:
    """A letterbox without a colour gets bars of the processor's mean colour."""
    if resize.mode != "letterbox" or resize.fill is not None:
        return resize
    return resize.model_copy(update={"fill": normalize.neutral})


def _interpolation(
    processor: Mapping[str, Any],
) -> Literal["nearest", "lanczos", "bilinear", "bicubic"]:
    number = processor.get("resample")
    if number is None or int(number) not in _FILTERS:
        raise ConfigError(
            f"the model's processor resizes with filter {number}, and known are "
            f"{', '.join(f'{k} ({v})' for k, v in _FILTERS.items())}: choose one with the setting "
            f"resize"
        )
    return _FILTERS[int(number)]


def _sides(size: object, *, square: bool) -> dict[str, int]:
    """``{height, width}`` or ``{shortest_edge}`` of any spelling; old files write one number."""
    if isinstance(size, int):
        return {"height": size, "width": size} if square else {"shortest_edge": size}
    if not isinstance(size, Mapping):
        return {}
    known = {name: size.get(name) for name in ("height", "width", "shortest_edge", "longest_edge")}
    return {name: int(value) for name, value in known.items() if value is not None}


def _naflex(processor: Mapping[str, Any]) -> Resize:
    """SigLIP 2 NaFlex: the aspect is kept, sides are multiples of the patch, patches are limited.

    The original enlarges every picture to the limit; ours enlarges small ones to three quarters
    of it, which leaves room for rounding up.
    """
    side = int(processor["patch_size"])
    limit = int(processor["max_num_patches"]) * side * side
    return Resize(
        mode="smart",
        factor=side,
        max_pixels=limit,
        min_pixels=int(limit * _SHARE_FILLED),
        interpolation=_interpolation(processor),
    )
