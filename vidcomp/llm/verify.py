"""Whether a model given its own tokens answers as it does to pixels."""

import inspect
from typing import TYPE_CHECKING

import torch

from vidcomp.errors import ConfigError
from vidcomp.functional.resize import target_size
from vidcomp.llm.prompt import Prompt
from vidcomp.types import Frames, VideoTokens

if TYPE_CHECKING:
    from vidcomp.llm.model import VideoLLM

__all__ = ["check_identity"]

_TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-5}
_HALF_TOLERANCE = 0.05
"""Of the spread of the logits: half precision rounds by the shape of a product."""


def check_identity(model: "VideoLLM") -> float:
    """See ``VideoLLM.verify``."""
    import transformers

    frames = _noise(model)
    made = model.pixels.prepare(frames)
    (video,) = model.chunks([frames])
    inputs = model.text.inputs("What happens?", [video])
    prompt = model.adapter.prompt(inputs, [made.grid])
    network = model.adapter.model
    known = inspect.signature(network.forward).parameters
    whole = {**inputs, **made.inputs}
    native = {name: value for name, value in whole.items() if name in known}
    native = {
        name: value.to(network.device) if isinstance(value, torch.Tensor) else value
        for name, value in native.items()
    }
    version = f"transformers {transformers.__version__}"
    try:
        expected = network(**native).logits.float()
    except (TypeError, RuntimeError, ValueError) as error:
        raise ConfigError(
            f"{model.adapter.family.title} cannot be checked: its own video path fails in "
            f"{version} ({str(error).splitlines()[0]}): try another version"
        ) from error
    found = _logits(model, prompt, [video])
    if found.shape != expected.shape:
        raise ConfigError(
            f"{model.adapter.family.title} reads {expected.shape[1]} tokens of a prompt and ours "
            f"has {found.shape[1]} in {version}: please report it"
        )
    worst = float((found - expected).abs().max())
    allowed = _TOLERANCE.get(network.dtype, _HALF_TOLERANCE * float(expected.std()))
    if worst > allowed:
        raise ConfigError(
            f"{model.adapter.family.title} answers otherwise to its own tokens in {version}: "
            f"logits differ by {worst:.3g} where {allowed:.3g} is allowed{_cause(model)}; use "
            f"another version, and please report it"
        )
    return worst


def _noise(model: "VideoLLM") -> Frames:
    """Two tubelets of random pixels, of the size that the model asks for."""
    num = 2 * model.pixels.frames_multiple
    height, width = target_size(48, 64, model.pixels.resize(64, 48, num))
    generator = torch.Generator().manual_seed(0)
    data = torch.randint(0, 256, (num, 3, height, width), dtype=torch.uint8, generator=generator)
    pts_s = torch.arange(num, dtype=torch.float64)
    return Frames(data=data, pts_s=pts_s, duration_s=torch.ones_like(pts_s))


def _logits(model: "VideoLLM", prompt: Prompt, videos: list[VideoTokens]) -> torch.Tensor:
    inputs = model.adapter.inject(prompt, videos)
    logits: torch.Tensor = model.adapter.model(**inputs).logits
    return logits.float()


def _cause(model: "VideoLLM") -> str:
    """Which part gives something else, if one alone does."""
    rotary = hasattr(model.adapter.model.base_model, "get_rope_index")
    return ", perhaps by its positions (get_rope_index)" if rotary else ""
