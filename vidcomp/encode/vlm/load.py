"""The part of a video language model that encodes.

The checkpoint is read whole, as transformers has no door to parts of it; then the language model is
let go, so that its memory is free again before the first frame comes.
"""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from vidcomp.encode.vision import load_model
from vidcomp.encode.vlm.families import Family, family_of
from vidcomp.encode.weights import Checkpoint
from vidcomp.errors import ConfigError

__all__ = ["VlmEncoder", "load_encoder", "load_whole"]

_LANGUAGE = ("language_model", "text_model", "lm_head")
_UNUSED = re.compile(rf"(^|\.)({'|'.join(_LANGUAGE)})\.")


class VlmEncoder(NamedTuple):
    """What turns pixels into tokens for the language model."""

    model: Any
    """Base model of transformers without its language model."""
    family: Family
    config: Any
    """Of the whole model."""
    dim: int
    """Features of the language model, and so of a token."""


def load_encoder(checkpoint: Checkpoint, dtype: torch.dtype) -> VlmEncoder:
    """The encoder and the projector of a checkpoint, frozen.

    Args:
        checkpoint: of a model of a known family.
        dtype: type of the weights and of the computation.

    Raises:
        ConfigError: another model, or weights of the encoder are missing.
    """
    whole = load_whole(checkpoint, dtype, may_lack=_is_language)
    base = whole.base_model
    for name in _LANGUAGE:
        if hasattr(base, name):
            delattr(base, name)
    dim = int(whole.config.get_text_config(decoder=True).hidden_size)
    return VlmEncoder(base, family_of(whole.config), whole.config, dim)


def load_whole(
    checkpoint: Checkpoint,
    dtype: torch.dtype | str = "auto",
    *,
    may_lack: Callable[[str], bool] = lambda _: False,
) -> Any:
    """A video language model of transformers, frozen.

    Args:
        checkpoint: of a model of a known family.
        dtype: type of the weights and of the computation; ``auto``: as stored.
        may_lack: whether a weight may be missing, by its name.

    Raises:
        ConfigError: another model, or weights are missing.
    """
    return load_model(checkpoint, dtype, find=_whole, may_lack=may_lack)


def _is_language(name: str) -> bool:
    return bool(_UNUSED.search(name))


def _whole(config: Any, checkpoint: Checkpoint) -> tuple[Any, Any]:
    import transformers

    family = family_of(config)
    found: Any = transformers.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
    if type(config) not in found:
        raise ConfigError(
            f"transformers {transformers.__version__} has no class for the {family.title} in "
            f"{str(checkpoint.folder)!r}: upgrade it"
        )
    return config, found[type(config)]
