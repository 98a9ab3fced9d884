"""Tokens of a model's own encoder in a cache: whether they are this model's, and fewer of them."""

from typing import TYPE_CHECKING, Any, Literal, cast

import torch

from vidcomp.budget import Budget
from vidcomp.compress.base import Compressor
from vidcomp.config import CompressSettings, Recipe, Stage, StoreSettings, identity
from vidcomp.encode.video_llm import VideoLlm
from vidcomp.encode.vlm.tokens import DEEPSTACK, PTS, STRUCTURAL, layout
from vidcomp.errors import ConfigError
from vidcomp.sample.base import Sampler
from vidcomp.store import TokenCache
from vidcomp.types import VideoTokens

if TYPE_CHECKING:
    from vidcomp.llm.model import VideoLLM

__all__ = ["KEPT", "fitting", "identity_of", "narrowed", "recipe_of"]

_Dtype = Literal["float32", "bfloat16", "float16"]

KEPT: dict[str, Any] = {
    "assign": True,
    "extras": (f"{DEEPSTACK}*",),
    "frame_extras": (PTS, f"{STRUCTURAL}*"),
}
"""Store settings without which cached tokens cannot be asked about."""


def recipe_of(
    model: "VideoLLM", sampler: Sampler, compressor: Compressor | None, budget: Budget | None
) -> Recipe:
    """What makes the tokens that ``model.encode`` gives, as a recipe that ``extract`` takes.

    Args:
        model: whose encoder it is.
        sampler: which frames.
        compressor: ``None`` for all tokens.
        budget: of each video.
    """
    dtype = cast("_Dtype", str(model.adapter.model.dtype).removeprefix("torch."))
    compress = None
    if compressor is not None:
        compress = CompressSettings(budget=budget, stages=(Stage(compressor=compressor),))
    return Recipe(
        sample=sampler,
        encode=VideoLlm(
            model=model.name, revision=model.revision, processor=model.changed, dtype=dtype
        ),
        compress=compress,
        store=StoreSettings(dtype=dtype, **KEPT),
    )


def identity_of(model: "VideoLLM", recipe: Recipe) -> dict[str, Any]:
    """What a cache of these tokens says of itself.

    Recipes count tokens; ``VideoLLM.encode`` counts slots, so where a model adds rows of its own
    the two are not the same.
    """
    said = identity(recipe)
    family = model.adapter.family
    if recipe.compress is not None and (family.newline or family.head_rows):
        said["structural_rows"] = "within the budget"
    return said


def fitting(model: "VideoLLM", cache: TokenCache, key: str) -> VideoTokens:
    """A record of a cache, if the model can read it.

    Args:
        model: that is to read it.
        cache: made by ``extract`` with the encoder ``video_llm``, or by ``ask``.
        key: of the record.

    Raises:
        StoreMissError: there is no such record.
        ConfigError: tokens of another encoder or of other weights, projected ones, or without what
            the prompt needs.
    """
    _check_origin(model, cache)
    video = cache[key]
    where = f"{key!r} in {cache.path}"
    if video.tokens.ndim != 2 or video.tokens.shape[1] != model.adapter.dim:
        raise ConfigError(
            f"{where} has tokens of shape {list(video.tokens.shape)} and {model.name} takes "
            f"{model.adapter.dim} features: extract with the encoder 'video_llm' of this model"
        )
    missing = [name for name in _needed(model) if not _has(video, name)]
    if missing:
        raise ConfigError(
            f"{where} was stored without {', '.join(missing)}, which the prompt needs: extract "
            f"with the recipe 'video-llm', or with its store settings"
        )
    return video.to(model.adapter.model.device, model.adapter.model.dtype)


def narrowed(
    model: "VideoLLM", video: VideoTokens, compressor: Compressor | None, budget: Budget | None
) -> VideoTokens:
    """At most as many tokens as the budget has slots.

    Args:
        model: that is to read them.
        video: of its own encoder, compressed or not.
        compressor: what reduces it further; ``None``: it stays as it is.
        budget: slots, structural rows included; shares count from the full grid.

    Raises:
        BudgetError: the budget has no room for a patch beside structural rows.
    """
    if compressor is None or budget is None:
        return video
    grid = video.grid
    slots = budget.resolve(grid.num_patches, video.frame_extras[PTS].numel(), video.num_seconds)
    fixed = len(layout(model.adapter.family, grid)) - grid.num_patches
    room = model.adapter.room(slots, fixed)
    with torch.no_grad():
        return video if len(video) <= room else compressor(video, room)


def _check_origin(model: "VideoLLM", cache: TokenCache) -> None:
    said, weights = cache.manifest.identity, cache.manifest.weights
    encoder = (said.get("encode") or {}).get("name")
    if encoder != VideoLlm.name:
        raise ConfigError(
            f"{cache.path} holds tokens of the encoder {encoder!r}, which {model.name} was not "
            f"trained on: extract with the encoder 'video_llm' of this model"
        )
    if said.get("project") is not None:
        raise ConfigError(
            f"{cache.path} holds tokens after the projector {said['project']['name']!r}, and "
            f"{model.name} takes those of its own: extract without project"
        )
    if weights.get("encode") != model.weights_hash:
        raise ConfigError(
            f"{cache.path} holds tokens of a model with other weights or preprocessor files than "
            f"{model.name}: ask the model it was made with, or extract anew"
        )


def _needed(model: "VideoLLM") -> list[str]:
    vision = model.adapter.model.config.vision_config
    layers = len(getattr(vision, "deepstack_visual_indexes", None) or ())
    rows = [STRUCTURAL] if model.adapter.family.head_rows else []
    return ["provenance", *(f"{DEEPSTACK}{i}" for i in range(layers)), *rows, PTS]


def _has(video: VideoTokens, name: str) -> bool:
    if name == "provenance":
        return video.assign is not None or video.weights is not None
    return name in video.extras or name in video.frame_extras
