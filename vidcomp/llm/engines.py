"""Compressed tokens for serving engines: what vLLM and SGLang take in place of a video.

* Plain language models: vLLM's mixed prompt of ids and vectors (``mixed_prompt``), any tokens.
* vLLM, Qwen-VL models: features on a grid (``to_vllm``).  The engine numbers positions by the grid,
  so the tokens have to lie on one: all of them, or pooled evenly.
* SGLang, Qwen-VL models: precomputed features with their positions (``to_sglang``), any tokens,
  pruned and merged ones too.

Fields are those of vLLM 0.33 (``EmbedsPrompt``, data of ``Qwen3VLMultiModalDataParser``) and of
SGLang 0.5.23 (``collect_mm_items_from_processor_output``).  vLLM needs ``enable_prompt_embeds`` or
``enable_mm_embeds``, which both trust whoever sends.

Legend: N tokens, L tokens of a prompt, D features, S steps of time.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import xxhash
from torch import Tensor

from vidcomp.errors import ConfigError, ShapeError
from vidcomp.functional.structure import is_structural
from vidcomp.llm.inject import deepstack_of, fill
from vidcomp.llm.text import Message, times_of
from vidcomp.types import Grid, VideoTokens

if TYPE_CHECKING:
    from vidcomp.llm.model import VideoLLM
    from vidcomp.llm.plain import PlainLLM

__all__ = ["Lattice", "lattice_of", "mixed_prompt", "to_sglang", "to_vllm"]

_QWEN = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe", "qwen3_5", "qwen3_5_moe")
_TIMED_BY_TEXT = ("qwen3_vl", "qwen3_vl_moe", "qwen3_5", "qwen3_5_moe")
"""Models that read the time of each frame from the prompt."""
_STEP = 1e-3
"""Positions that are closer are the same: pooling rounds them."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Lattice:
    """An even grid that tokens lie on."""

    grid: Grid
    """Its size, at most that of the video."""
    places: Tensor
    """[S] float64: where its steps of time lie among the frames of the video's own grid."""

    @property
    def step(self) -> float | None:
        """Frames of the video's own grid from step to step; ``None`` if that differs."""
        steps = self.places.diff()
        if not len(steps):
            return 1.0
        return float(steps.mean()) if _is_even(self.places) else None


def lattice_of(video: VideoTokens) -> Lattice:
    """The even grid that the tokens lie on.

    Raises:
        ShapeError: they lie on none, as after most ways to prune and merge.
    """
    axes = [(axis_N.double() / _STEP).round() for axis_N in video.positions.cpu().T]
    values = [axis_N.unique() for axis_N in axes]
    sizes = [len(value) for value in values]
    full_N3 = torch.cartesian_prod(*values).view(-1, 3)
    fits = len(full_N3) == len(video) and torch.equal(torch.stack(axes, dim=1), full_N3)
    even = all(_is_even(value * _STEP) for value in values[1:])
    if not fits or not even or bool(is_structural(video).any()):
        raise ShapeError(
            f"tokens on an even grid were wanted, as the engine numbers positions by it, got "
            f"{len(video)} tokens in other places: use a method that pools evenly (avg_pool, "
            f"adaptive_pool), to_sglang, or vidcomp's own ask and serve"
        )
    return Lattice(grid=Grid(*sizes), places=values[0] * _STEP)


def to_vllm(
    llm: "VideoLLM | PlainLLM", messages: str | Sequence[Message], videos: Sequence[VideoTokens]
) -> dict[str, Any]:
    """What ``vllm.LLM(..., enable_mm_embeds=True).generate`` takes for a question.

    Args:
        llm: the model that the engine serves; only its text and config are used.  For a plain
            language model the vectors of its projector go into a ``mixed_prompt``.
        messages: see ``VideoLLM.ask``.
        videos: in the order of the prompt, of the model's own encoder, in its width.

    Returns:
        ``prompt`` as the chat template writes it, and ``multi_modal_data`` with the features of
        all videos (those of deepstack beside them) and their grids before the merging of patches.

    Raises:
        ConfigError: the engine takes no features for this model.
        ShapeError: tokens that lie on no even grid; a plain model takes any.
    """
    from vidcomp.llm.plain import PlainLLM

    if isinstance(llm, PlainLLM):
        return mixed_prompt(llm.prompt(messages, videos).parts)
    kind = _checked(llm, "vLLM")
    lattices = [lattice_of(video) for video in videos]
    prompt = llm.text.unexpanded(messages, len(videos))
    if not videos:
        return {"prompt": prompt}
    merge = int(llm.adapter.model.config.vision_config.spatial_merge_size)
    grids = [(one.grid.t, one.grid.h * merge, one.grid.w * merge) for one in lattices]
    data: dict[str, Any] = {
        "video_embeds": torch.cat([_rows(video) for video in videos]),
        "video_grid_thw": torch.tensor(grids),
    }
    pairs = list(zip(videos, lattices, strict=True))
    if kind in _TIMED_BY_TEXT:
        data["timestamps"] = [_times(video, one).tolist() for video, one in pairs]
    else:
        data["second_per_grid_ts"] = torch.tensor([_period(video, one) for video, one in pairs])
    return {"prompt": prompt, "multi_modal_data": {"video": data}}


def to_sglang(
    llm: "VideoLLM", messages: str | Sequence[Message], videos: Sequence[VideoTokens]
) -> dict[str, Any]:
    """What ``sglang.Engine(...).generate`` takes for a question.

    The features come with the positions that the model itself gives their places, so that they may
    be pruned and merged in any way.

    Args:
        llm: see ``to_vllm``.
        messages: see ``to_vllm``.
        videos: see ``to_vllm``.

    Returns:
        ``input_ids`` of the prompt with one placeholder a token, and ``video_data``.

    Raises:
        ConfigError: the engine takes no positions for this model.
    """
    _checked(llm, "SGLang")
    prompt = llm.prompt(messages, videos)
    filled = fill(prompt, videos, [None] * len(videos))
    ids = filled.input_ids
    made: dict[str, Any] = {"input_ids": ids.tolist()}
    if not videos:
        return made
    key = llm.adapter.family.key
    rows = torch.cat([filled.features[key], *filled.deepstack[key]], dim=1)
    made["video_data"] = [
        {
            "format": "processor_output",
            "modality": "VIDEO",
            "precomputed_embeddings": rows.detach().cpu(),
            "offsets": _runs(ids == llm.adapter.token_id(key)),
            "mrope_positions": filled.positions,
            # As with vidcomp's own generation, an answer goes on behind the prompt's last token.
            "mrope_position_delta": filled.positions[:1, -1:] + 1 - len(ids),
        }
    ]
    return made


def mixed_prompt(parts: Sequence[Tensor]) -> dict[str, Any]:
    """What ``vllm.LLM(..., enable_prompt_embeds=True).generate`` takes: ids of text, vectors.

    Args:
        parts: in the order of the prompt: [n] integer ids, or [n, D] floats as the projector
            gives them, in the width of the language model.

    Returns:
        ``prompt_token_ids`` [L], ``prompt_embeds`` [L, D] (zeros where ids count),
        ``prompt_is_token_ids`` [L], and a ``cache_salt`` of the vectors, for the engine's cache of
        prefixes looks at ids alone.

    Raises:
        ShapeError: parts of other shapes, of several widths, or without any vectors.
    """
    vectors = [part for part in parts if part.is_floating_point()]
    if (
        len({part.shape[-1] for part in vectors}) != 1
        or any(part.ndim != 2 for part in vectors)
        or any(part.ndim != 1 for part in parts if not part.is_floating_point())
    ):
        shapes = [tuple(part.shape) for part in parts]
        raise ShapeError(
            f"parts of a prompt are ids [n] and vectors [n, D] of one width, got {shapes}: give "
            f"the text as integers and each video in the language model's width"
        )
    dim, dtype = vectors[0].shape[-1], vectors[0].dtype
    ids: list[int] = []
    rows: list[Tensor] = []
    is_id: list[bool] = []
    for part in parts:
        is_text = not part.is_floating_point()
        ids += part.tolist() if is_text else [0] * len(part)
        is_id += [is_text] * len(part)
        rows.append(
            torch.zeros(len(part), dim, dtype=dtype) if is_text else part.detach().to("cpu", dtype)
        )
    embeds = torch.cat(rows)
    return {
        "prompt_token_ids": ids,
        "prompt_embeds": embeds,
        "prompt_is_token_ids": is_id,
        "cache_salt": xxhash.xxh3_128_hexdigest(embeds.float().numpy().tobytes()),
    }


def _checked(llm: "VideoLLM", engine: str) -> str:
    """The type of a model that engines take features with places for."""
    family = llm.adapter.family
    if family.model_type not in _QWEN:
        raise ConfigError(
            f"{engine} takes a video's features with their places for {', '.join(_QWEN)}, got "
            f"{family.title}, whose tokens it would number anew: use vidcomp ask or vidcomp serve"
        )
    return family.model_type


def _rows(video: VideoTokens) -> Tensor:
    """[N, (1 + layers) * D] features with those of deepstack beside them."""
    return torch.cat([video.tokens, *deepstack_of(video)], dim=1).detach().cpu()


def _times(video: VideoTokens, lattice: Lattice) -> Tensor:
    """[S] seconds of the steps: those of the tubelets' middles, between them in proportion."""
    pts = times_of(video)
    middle_T = (pts[:, 0] + pts[:, -1]) / 2
    low = lattice.places.floor().long().clamp(0, len(middle_T) - 1)
    high = (low + 1).clamp(max=len(middle_T) - 1)
    return middle_T[low].lerp(middle_T[high], lattice.places - low)


def _period(video: VideoTokens, lattice: Lattice) -> float:
    """Seconds from step to step."""
    if lattice.step is None:
        raise ShapeError(
            "steps of time at even distances were wanted, as the engine numbers them by one "
            "period, got others: choose frames evenly, or use to_sglang"
        )
    times = _times(video, lattice)
    if len(times) > 1:
        return float((times[-1] - times[0]) / (len(times) - 1))
    pts = times_of(video)  # one step: as long as its frames
    return float(pts[0].diff().mean() * pts.shape[1]) if pts.shape[1] > 1 else 1.0


def _is_even(values: Tensor) -> bool:
    steps = values.diff()
    return not len(steps) or bool((steps - steps.mean()).abs().max() <= 2 * _STEP)


def _runs(where_L: Tensor) -> list[tuple[int, int]]:
    """First and last place of every run."""
    edges = torch.nn.functional.pad(where_L.int(), (1, 1)).diff()
    first, stop = (edges == 1).nonzero()[:, 0], (edges == -1).nonzero()[:, 0]
    return list(zip(first.tolist(), (stop - 1).tolist(), strict=True))
