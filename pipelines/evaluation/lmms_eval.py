"""A plug-in of lmms-eval: ``lmms-eval --model vidcomp --model_args pretrained=...,budget=...``.

lmms-eval finds ``manifest`` by the entry point ``lmms_eval.models``; nothing of it is imported
before it asks.
"""

from typing import Any

from vidcomp.errors import MissingExtraError

__all__ = ["manifest"]

_PLACE = "vidcomp.pipelines.evaluation._lmms_eval_model"


def manifest() -> Any:  # an lmms_eval ModelManifest
    """What lmms-eval has to know: the model's name and its classes.

    Raises:
        MissingExtraError: lmms-eval is not installed.
    """
    try:
        from lmms_eval.models.registry_v2 import ModelManifest
    except ImportError as error:
        raise MissingExtraError(
            "the plug-in is for lmms-eval 0.7 or later, which is not installed: pip install "
            "lmms-eval"
        ) from error
    return ModelManifest(
        model_id="vidcomp",
        chat_class_path=f"{_PLACE}.VidComp",
        simple_class_path=f"{_PLACE}.SimpleVidComp",
    )
