"""The video language models that people use, as data: what differs between their inputs.

All of them take features that were encoded before by the keyword ``mm_encoder_outputs``
(transformers 5), so one adapter serves them all.
"""

from dataclasses import dataclass
from typing import Any, Literal

from vidcomp.errors import ConfigError

__all__ = ["FAMILIES", "Family", "family_of", "is_recurrent"]

Key = Literal["image", "video"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """What the adapter has to know of a kind of model."""

    model_type: str
    """``config.model_type`` of the checkpoint."""
    title: str
    """As its authors write it."""
    key: Key = "video"
    """Entry of ``mm_encoder_outputs`` that frames of a video go into."""
    encoded_by: Key | None = None
    """``get_..._features`` of the model that encodes them, if not that of the key."""
    head_rows: int = 0
    """Rows before the patches of every frame that stand for none of them (CLS)."""
    newline: bool = False
    """Whether the model's ``image_newline`` ends the video."""
    one_tensor: tuple[Key, ...] = ()
    """Entries of ``mm_encoder_outputs`` that are read as one tensor, not as a list of them."""
    note: str = ""
    """What a user should know."""

    @property
    def encoder(self) -> str:
        """Name of the model's own method that turns pixels into features."""
        return f"get_{self.encoded_by or self.key}_features"


_V: tuple[Key, ...] = ("video",)
_I: tuple[Key, ...] = ("image",)
_BOTH: tuple[Key, ...] = ("image", "video")

FAMILIES: dict[str, Family] = {
    family.model_type: family
    for family in (
        Family(model_type="llava_onevision", title="LLaVA-OneVision", newline=True, one_tensor=_V),
        Family(model_type="llava_next_video", title="LLaVA-NeXT-Video", one_tensor=_V),
        Family(model_type="video_llava", title="Video-LLaVA", head_rows=1, one_tensor=_BOTH),
        Family(model_type="qwen2_vl", title="Qwen2-VL"),
        Family(model_type="qwen2_5_vl", title="Qwen2.5-VL"),
        Family(model_type="qwen3_vl", title="Qwen3-VL"),
        Family(model_type="qwen3_vl_moe", title="Qwen3-VL-MoE"),
        Family(model_type="qwen3_5", title="Qwen3.5"),
        Family(model_type="qwen3_5_moe", title="Qwen3.5-MoE"),
        Family(model_type="internvl", title="InternVL", key="image", one_tensor=_I),
        Family(model_type="smolvlm", title="SmolVLM", key="image"),
        Family(model_type="video_llama_3", title="VideoLLaMA3"),
        Family(
            model_type="perception_lm", title="PerceptionLM", encoded_by="image", one_tensor=_BOTH
        ),
        Family(model_type="gemma3", title="Gemma 3", key="image", one_tensor=_I),
        Family(model_type="gemma4", title="Gemma 4"),
        Family(model_type="molmo2", title="Molmo2"),
        Family(model_type="glm4v", title="GLM-4.1V", key="image", encoded_by="video"),
        Family(model_type="glm4v_moe", title="GLM-4.5V", key="image", encoded_by="video"),
        Family(model_type="glm46v", title="GLM-4.6V", key="image", encoded_by="video"),
        Family(model_type="minicpmv4_6", title="MiniCPM-V 4.6"),
        Family(
            model_type="nemotron_h_omni",
            title="Nemotron-H Omni",
            note="transformers 5.23 cannot run its own video path",
        ),
    )
}


def family_of(config: Any) -> Family:  # a transformers config
    """The family of a model by its config.

    Raises:
        ConfigError: no family has its type.
    """
    found = FAMILIES.get(config.model_type)
    if found is None:
        raise ConfigError(
            f"a model of a known family was wanted, got the type {config.model_type!r}: take one "
            f"of {', '.join(sorted(FAMILIES))}, or a plain language model with a projector"
        )
    return found


def is_recurrent(config: Any) -> bool:  # a transformers config
    """Whether layers of the language model pass a state on, as linear attention and Mamba do.

    There a token that is dropped is not a token that is masked: later layers see a shorter
    sequence, and caches cannot be cut back.
    """
    text = config.get_text_config(decoder=True)
    layers = getattr(text, "layer_types", None) or getattr(text, "layers_block_type", None) or ()
    return any("attention" not in kind or kind.startswith("linear") for kind in layers)
