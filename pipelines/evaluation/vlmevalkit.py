"""A model for VLMEvalKit: ``register("MyModel-10%", pretrained=..., compressor=..., budget=...)``.

VLMEvalKit has no plug-ins: its models are a dictionary, to which this adds one.  Call it before
VLMEvalKit's own ``main``, see docs/evaluation.md.
"""

from functools import partial
from typing import Any

from vidcomp.errors import MissingExtraError

__all__ = ["register"]


def register(name: str = "vidcomp", **settings: Any) -> Any:  # a callable that makes the model
    """Add a model to VLMEvalKit's ``supported_VLM``; it is loaded when a run asks for it.

    Args:
        name: what ``--model`` calls it.
        settings: of ``Harness``: ``pretrained``, ``compressor``, ``budget``, ``num_frames``,
            ``device``, ``dtype``, ``revision``; and ``max_new_tokens``.

    Returns:
        What makes it.

    Raises:
        MissingExtraError: VLMEvalKit is not installed.
    """
    try:
        from vlmeval.config import supported_VLM
    except ImportError as error:
        raise MissingExtraError(
            f"the model is for VLMEvalKit, which cannot be imported ({error}): install it from "
            f"its repository"
        ) from error
    from ._vlmevalkit_model import VidComp

    make = partial(VidComp, **settings)
    supported_VLM[name] = make
    return make
