"""Whether padding between tokens of a sequence is only masked, or changes what is read."""

from typing import Any

from vidcomp.encode.vlm.families import is_recurrent

__all__ = ["feels_padding"]


def feels_padding(config: Any) -> bool:  # a transformers config
    """Whether padding behind the first tokens of a sequence changes what layers read.

    It enters the state of recurrent layers, and windows of attention count places, padded or not,
    so that fewer real tokens are left in them.  Padding before all else does neither in windows.
    """
    text = config.get_text_config(decoder=True)
    kinds = getattr(text, "layer_types", None)
    if kinds:
        windowed = any(kind.startswith(("sliding", "chunked")) for kind in kinds)
    else:
        windowed = bool(getattr(text, "sliding_window", None))
    return windowed or is_recurrent(config)
