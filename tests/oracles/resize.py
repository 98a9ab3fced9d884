"""Resolution policies by Pillow, one picture at a time, straight from the definitions."""

from fractions import Fraction

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vidcomp.functional.resize import Resize

FILTERS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "nearest": Image.Resampling.NEAREST,
}


def pil_resize(picture: Tensor, size: tuple[int, int], interpolation: str) -> Tensor:
    """[3, H, W] uint8 to [3, h, w] uint8."""
    image = Image.fromarray(picture.permute(1, 2, 0).numpy())
    resized = image.resize((size[1], size[0]), FILTERS[interpolation])
    return torch.from_numpy(np.array(resized)).permute(2, 0, 1)


def slow_letterbox(picture: Tensor, policy: Resize) -> Tensor:
    """[3, H, W] uint8 on a canvas of the fill colour."""
    _, height, width = picture.shape
    ratio = min(policy.height / height, policy.width / width)
    h, w = max(1, round(height * ratio)), max(1, round(width * ratio))
    inside = pil_resize(picture, (h, w), policy.interpolation)
    canvas = Image.new("RGB", (policy.width, policy.height), policy.fill or (128, 128, 128))
    where = ((policy.width - w) // 2, (policy.height - h) // 2)
    canvas.paste(Image.fromarray(inside.permute(1, 2, 0).numpy()), where)
    return torch.from_numpy(np.array(canvas)).permute(2, 0, 1)


def slow_crop(picture: Tensor, policy: Resize) -> Tensor:
    """[3, H, W] uint8 by short side and centre, transformers' rounding, square or short_side."""
    _, height, width = picture.shape
    side = policy.short_side or policy.height
    scale = Fraction(side, min(height, width))
    h, w = int(height * scale), int(width * scale)
    resized = pil_resize(picture, (h, w), policy.interpolation)
    top, left = int((h - policy.height) / 2), int((w - policy.width) / 2)
    return resized[:, top : top + policy.height, left : left + policy.width]
