"""Image tokenizers of transformers: which there are, their weights, their pixels and their ids.

Papers: "Zero-Shot Text-to-Image Generation" (DALL-E's discrete VAE, 2021), whose codes "BEiT: BERT
Pre-Training of Image Transformers" (2021) and "FLAVA: A Foundational Language And Vision Alignment
Model" (2021) predict; "Chameleon: Mixed-Modal Early-Fusion Foundation Models" (2024); "Emu3:
Next-Token Prediction is All You Need" (2024); "Janus: Decoupling Visual Encoding for Unified
Multimodal Understanding and Generation" (2024).

Legend: B clips, F frames of a clip, C colour channels, H W pixels, t h w the grid of a clip, K
codes, E features of a code.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from vidcomp.encode.pixels import Normalize, resize_of
from vidcomp.encode.vision import load_model
from vidcomp.encode.weights import Checkpoint
from vidcomp.errors import ConfigError
from vidcomp.functional.resize import Resize

__all__ = ["Family", "Tokenizer", "codebook_pixels", "family_of", "load_tokenizer"]

_MAP_EPS = 0.1  # of the logit-Laplace distribution by which the dVAE was trained
_PREFIX = {r"^(model\.)?(vqmodel|image_codebook)\.": ""}


class Family(NamedTuple):
    """How transformers calls a tokenizer."""

    cls: str
    """The model's class, of the package ``transformers``."""
    size: str
    """What its config calls the entries of the codebook."""
    is_dvae: bool = False
    """A classifier over the codes, of which it has no vectors, and pixels in a range of its own."""
    has_time: bool = False
    """Frames are joined to tubelets."""
    unit_codes: bool = False
    """Vectors of codes have length 1."""


_FAMILIES = {  # by model_type of the tokenizer's own config
    "chameleon_vqgan": Family("ChameleonVQVAE", "num_embeddings"),
    "emu3_vqgan": Family("Emu3VQVAE", "codebook_size", has_time=True),
    "flava_image_codebook": Family("FlavaImageCodebook", "vocab_size", is_dvae=True),
    "janus_vqgan": Family("JanusVQVAE", "num_embeddings", unit_codes=True),
}
_PARTS = ("vq_config", "image_codebook_config")


class Tokenizer(nn.Module):
    """Normalised pixels of clips to ids."""

    def __init__(self, model: Any) -> None:
        """``model``: of one of the families, in evaluation mode; it is changed."""
        super().__init__()
        config = model.config
        self.family = family_of(config)
        self.num_codes = int(getattr(config, self.family.size))
        self.tubelet = int(config.temporal_downsample_factor) if self.family.has_time else 1
        # The dVAE's three poolings are part of its code, not of its config.
        halvings = 3 if self.family.is_dvae else len(config.channel_multiplier) - 1
        self.stride = 2**halvings
        if self.family.is_dvae:
            model.blocks.output = _InFloat32(model.blocks.output)
        else:
            model.quantize = _InFloat32(model.quantize)
            model.decoder = None  # pictures are not made again
        self.model = model

    def forward(self, clips_BFCHW: Tensor) -> Tensor:
        """[B, t, h, w] int64; a clip of one frame is a picture, also where tubelets are longer."""
        num, length, _, height, width = clips_BFCHW.shape
        grid = (-(-length // self.tubelet), height // self.stride, width // self.stride)
        if not self.family.has_time:
            pictures = clips_BFCHW.flatten(0, 1)
            if self.family.is_dvae:
                ids = self.model.get_codebook_indices(pictures)
            else:
                ids = self.model.encode(pictures).image_tokens
            picture_ids: Tensor = ids.reshape(num, length, *grid[1:])
            return picture_ids
        pixels = clips_BFCHW[:, 0] if length == 1 else clips_BFCHW
        # It cuts ids down to a size, and of a clip cuts time by the height and height by the
        # width: a size that nothing exceeds leaves them whole.
        side = max(grid) * self.stride
        out = self.model.encode(pixels, image_sizes=[(side, side)] * num)
        return torch.stack(list(out.image_tokens)).reshape(num, *grid)

    def codes(self, ids_N: Tensor) -> Tensor:
        """[N, E] float32 vectors of codes, as the tokenizer's own decoder takes them.

        Raises:
            ConfigError: this family has none.
        """
        if self.family.is_dvae:
            raise ConfigError(
                f"codes of {self.family.cls} are classes without vectors of their own: learn a "
                f"table of embeddings for its {self.num_codes} ids"
            )
        table: Tensor = self.model.quantize.inner.embedding.weight
        codes_NE = table[ids_N]
        return normalize(codes_NE, dim=-1) if self.family.unit_codes else codes_NE


class _InFloat32(nn.Module):
    """Codes are chosen in float32: in half precision many are equally near."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner.float()

    def forward(self, hidden: Tensor) -> Any:
        return self.inner(hidden.float())


def family_of(config: Any) -> Family:
    """The family of a tokenizer's own config.

    Raises:
        ConfigError: it is none that is known.
    """
    kind = str(config.model_type)
    if kind not in _FAMILIES:
        known = ", ".join(family.cls for family in _FAMILIES.values())
        raise ConfigError(
            f"a {kind} is no image tokenizer that is known ({known}): pass the checkpoint of one, "
            f"or use the encoder 'hf' for features"
        )
    return _FAMILIES[kind]


def load_tokenizer(checkpoint: Checkpoint, dtype: torch.dtype) -> Tokenizer:
    """The tokenizer of a checkpoint, or of the whole language model in it, frozen.

    Raises:
        ConfigError: there is none, or its weights cannot be read.
    """
    model = load_model(checkpoint, dtype, find=_find, may_lack=_may_lack, names=_PREFIX)
    return Tokenizer(model)


def codebook_pixels(
    config: Any, processor: Mapping[str, Any], device: torch.device | str
) -> tuple[Resize, Normalize]:
    """What a tokenizer's processor does to a picture: sizes, then colours.

    Args:
        config: the tokenizer's own.
        processor: settings of the checkpoint's processor, defaults filled in.
        device: where pixels are.

    Raises:
        ConfigError: the processor says nothing of the tokenizer's pixels.
    """
    kind = str(config.model_type)
    if kind == "flava_image_codebook":
        return _dvae_pixels(processor, device)
    colours = Normalize.of(processor, device)
    if kind == "janus_vqgan":
        return _padded_square(processor), colours
    if kind == "emu3_vqgan" and "spatial_factor" in processor:
        plain = resize_of({**processor, "size": {"height": 1, "width": 1}})
        smart = {
            "mode": "smart",
            "factor": int(processor["spatial_factor"]),
            "min_pixels": int(processor["min_pixels"]),
            "max_pixels": int(processor["max_pixels"]),
        }
        return plain.model_copy(update=smart), colours
    return resize_of(processor), colours


def _find(whole: Any, _: Checkpoint) -> tuple[Any, Any]:
    import transformers

    parts = (getattr(whole, name, None) for name in _PARTS)
    config = next((part for part in parts if part is not None), whole)
    return config, getattr(transformers, family_of(config).cls)


def _may_lack(name: str) -> bool:
    """Weights on which no id depends."""
    return name.startswith(("decoder.", "post_quant_conv."))


def _dvae_pixels(
    processor: Mapping[str, Any], device: torch.device | str
) -> tuple[Resize, Normalize]:
    """FLAVA's processor has settings of its own for the codebook beside those of its encoder."""
    start = "codebook_"
    own = {name.removeprefix(start): v for name, v in processor.items() if name.startswith(start)}
    if "size" not in own:
        raise ConfigError(
            "the model's preprocessor file has no codebook_size and other settings of the "
            "codebook's pixels: copy the one of FLAVA"
        )
    for name in ("size", "crop_size"):
        if isinstance(own.get(name), int):  # a square, never a short side
            own[name] = {"height": own[name], "width": own[name]}
    colours = Normalize.of(own, device)
    if own.get("do_map_pixels", True):
        colours = colours.then(1 - 2 * _MAP_EPS, _MAP_EPS, device)
    return resize_of(own), colours


def _padded_square(processor: Mapping[str, Any]) -> Resize:
    """Janus: the long side to a length, the rest filled with the mean colour, rounded down."""
    square = resize_of(processor)
    if square.mode != "stretch" or square.height != square.width:
        raise ConfigError(
            f"the model's processor should fit pictures into a square, got {processor.get('size')}:"
            f" say what to do with the setting resize"
        )
    mean = processor.get("image_mean") or [0.5] * 3
    fill = tuple(int(255 * value) for value in mean)
    return square.model_copy(update={"mode": "letterbox", "fill": fill})
