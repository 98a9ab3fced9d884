"""Asking a video language model of transformers about compressed tokens.

Legend: S slots.
"""

import inspect
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from vidcomp.encode.vlm.families import Family, family_of
from vidcomp.encode.vlm.tokens import STRUCTURAL, encode, layout
from vidcomp.errors import BudgetError, ConfigError, ShapeError
from vidcomp.llm.generation import new_tokens
from vidcomp.llm.inject import Filled, fill, join
from vidcomp.llm.prompt import Prompt, Visual
from vidcomp.types import Grid, VideoTokens

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["Adapter"]

_TYPES = ("mm_token_type_ids", "token_type_ids")


class Adapter:
    """A model of one of the families, taking tokens in place of pixels.

    Args:
        model: of ``transformers``, e.g. by ``AutoModelForImageTextToText.from_pretrained``.

    Raises:
        ConfigError: a model of no known family, or of a transformers without
            ``mm_encoder_outputs``.
    """

    def __init__(self, model: "PreTrainedModel") -> None:
        self.model: Any = model  # each class of transformers has its own methods
        self.family: Family = family_of(model.config)
        if "mm_encoder_outputs" not in inspect.signature(model.forward).parameters:
            raise ConfigError(
                f"the class {type(model).__name__} does not take features that were encoded "
                f"before: upgrade transformers to 5.23 or newer"
            )

    @property
    def dim(self) -> int:
        """Features of the language model."""
        return int(self.model.config.get_text_config(decoder=True).hidden_size)

    @property
    def pad_id(self) -> int:
        """Id that prompts of a batch are padded with."""
        found = self.model.config.get_text_config(decoder=True).pad_token_id
        return 0 if found is None else int(found)

    def token_id(self, key: str) -> int:
        """Id of the placeholder of an entry of ``mm_encoder_outputs``."""
        return int(getattr(self.model.config, f"{key}_token_id"))

    def layout(self, grid: Grid) -> Tensor:
        """[S] int64: the patch of the grid in each slot of a video, ``-1 - k`` for its row k that
        stands for none.
        """
        return layout(self.family, grid)

    def room(self, slots: int, fixed: int) -> int:
        """Slots that are left for patches of a video beside its structural rows.

        Args:
            slots: the budget of the video.
            fixed: its rows that stand for no patch.

        Raises:
            BudgetError: none is left.
        """
        if slots <= fixed:
            raise BudgetError(
                f"{self.family.title} adds {fixed} rows that stand for no patch to this video, "
                f"got a budget of {slots}: give at least {fixed + 1}"
            )
        return slots - fixed

    def encode(
        self, inputs: Mapping[str, Any], grid: Grid, spans_T2: Tensor, *, first_t: int = 0
    ) -> VideoTokens:
        """Tokens of the model's own encoder and projector, see ``encode.vlm.tokens.encode``."""
        base = self.model.base_model
        return encode(base, self.family, inputs, grid, spans_T2, first_t=first_t)

    def positions(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Positions of a full sequence as the model itself numbers them.

        Args:
            inputs: ``input_ids`` [1, L] and what the model's position code reads beside
                (``mm_token_type_ids``, ``video_grid_thw`` ...).

        Returns:
            [L] int64, or [3, L] for models with positions of three axes.
        """
        number = getattr(self.model.base_model, "get_rope_index", None)
        ids_1L = inputs["input_ids"]
        if number is None:
            return torch.arange(ids_1L.shape[-1])
        known = inspect.signature(number).parameters
        named = {name: value for name, value in inputs.items() if name in known}
        return cast("Tensor", number(**named)[0][:, 0].cpu())

    def prompt(
        self,
        inputs: Mapping[str, Tensor],
        grids: Sequence[Grid],
        *,
        image_grids: Sequence[Grid] = (),
    ) -> Prompt:
        """A full sequence, one placeholder a token of the model's own encoder, and its slots.

        Args:
            inputs: of one question, as the model's own processor makes them: ``input_ids``
                [1, L] and what its position code reads.
            grids: of its videos, in their order, after the model's own merging.
            image_grids: of its images; for models where frames and images share one placeholder
                those of the videos stand in ``grids``, among them images as grids of one frame.

        Raises:
            ShapeError: other numbers of placeholders than the grids have tokens.
        """
        ids_L = inputs["input_ids"][0].cpu()
        visuals = self._visuals(
            ids_L, self.family.key, [self.layout(grid) for grid in grids], grids
        )
        if image_grids:
            patches = [torch.arange(grid.num_patches) for grid in image_grids]
            visuals += self._visuals(ids_L, "image", patches, image_grids)
        return Prompt(
            input_ids=ids_L,
            positions=self.positions(inputs),
            visuals=tuple(sorted(visuals, key=lambda visual: int(visual.slots[0]))),
            types={name: inputs[name][0].cpu() for name in _TYPES if name in inputs},
        )

    def _visuals(
        self, ids_L: Tensor, key: str, patches: Sequence[Tensor], grids: Sequence[Grid]
    ) -> list[Visual]:
        slots = (ids_L == self.token_id(key)).nonzero().squeeze(1)
        sizes = [len(patch) for patch in patches]
        if len(slots) != sum(sizes):
            raise ShapeError(
                f"{self.family.title} has {sum(sizes)} tokens for grids of "
                f"{[tuple(grid) for grid in grids]}, the prompt has {len(slots)} placeholders: "
                f"make both from the same frames"
            )
        return [
            Visual(key=key, slots=part, patch=patch, grid=grid)
            for part, patch, grid in zip(torch.split(slots, sizes), patches, grids, strict=True)
        ]

    def inject(
        self,
        prompts: Prompt | Sequence[Prompt],
        videos: Sequence[VideoTokens] | Sequence[Sequence[VideoTokens]],
    ) -> dict[str, Any]:
        """What ``model(...)`` and ``model.generate(...)`` take for these questions.

        Gradients flow into the tokens.  Make it anew for every call: ``generate`` changes it.

        Args:
            prompts: one, or several for a batch (padded on the left).
            videos: the tokens for the videos and images of the prompt, in their order; for
                several prompts one such list each.

        Raises:
            ShapeError: see ``inject.fill``.
        """
        if isinstance(prompts, Prompt):
            prompts, videos = [prompts], [cast("Sequence[VideoTokens]", videos)]
        pairs = zip(prompts, cast("Sequence[Sequence[VideoTokens]]", videos), strict=True)
        filled = [
            fill(prompt, of_one, [self._structural(video) for video in of_one])
            for prompt, of_one in pairs
        ]
        inputs = join(filled, self.pad_id, self.model.device)
        keys = sorted({key for one in filled for key in one.features})
        if keys:
            inputs["mm_encoder_outputs"] = {key: self._output(filled, key) for key in keys}
        return inputs

    @torch.no_grad()
    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        videos: Sequence[VideoTokens] | Sequence[Sequence[VideoTokens]],
        **settings: Any,  # those of transformers' GenerationConfig
    ) -> list[Tensor]:
        """The new tokens of each answer, of the generation that ``settings`` ask for.

        Placeholders are never generated.

        Args:
            prompts: see ``inject``.
            videos: see ``inject``.
            settings: of ``model.generate``, as ``max_new_tokens``.

        Returns:
            One [A] int64 an answer, up to where it ends: ``num_return_sequences`` in a row for
            each prompt.
        """
        if isinstance(prompts, Prompt):
            prompts, videos = [prompts], [cast("Sequence[VideoTokens]", videos)]
        several = max(settings.get("num_beams") or 1, settings.get("num_return_sequences") or 1)
        if several > 1 and len(prompts) > 1 and self.family.key in self.family.one_tensor:
            # transformers repeats a tensor by its first axis: one row for prompts of many lengths.
            parts = zip(prompts, cast("Sequence[Sequence[VideoTokens]]", videos), strict=True)
            answers = [self.generate(prompt, of_one, **settings) for prompt, of_one in parts]
            return [answer for of_one in answers for answer in of_one]
        return self.say(self.inject(prompts, videos), settings)

    @torch.no_grad()
    def say(self, inputs: Mapping[str, Any], settings: Mapping[str, Any]) -> list[Tensor]:
        """The new tokens of each answer, up to its end, without placeholders.

        Args:
            inputs: of ``model.generate``.
            settings: see ``new_tokens``.
        """
        known = [getattr(self.model.config, f"{key}_token_id", None) for key in ("image", "video")]
        placeholders = sorted({int(number) for number in known if number is not None})
        return new_tokens(self.model, inputs, {"suppress_tokens": placeholders, **settings})

    def _structural(self, video: VideoTokens) -> Tensor | None:
        rows = video.frame_extras.get(STRUCTURAL)
        parts = [] if rows is None else [rows.flatten(0, 1)]
        if self.family.newline:
            newline_D: Tensor = self.model.base_model.image_newline
            parts.append(newline_D[None])
        return torch.cat(parts) if parts else None

    def _output(self, filled: Sequence[Filled], key: str) -> Any:  # a ModelOutput
        def in_container(parts: list[Tensor]) -> Any:  # as the model reads it
            parts = [part.to(self.model.device) for part in parts]
            if key not in self.family.one_tensor:
                return parts
            same = len({len(part) for part in parts}) == 1
            return torch.stack(parts) if same else torch.cat(parts)[None]

        with_some = [one for one in filled if key in one.features]
        output = {"pooler_output": in_container([one.features[key] for one in with_some])}
        layers = list(zip(*(one.deepstack[key] for one in with_some), strict=True))
        if layers:
            output["deepstack_features"] = [in_container(list(layer)) for layer in layers]
        return self._output_type(**output)

    @property
    def _output_type(self) -> Any:  # a class of ModelOutput
        from transformers.modeling_outputs import BaseModelOutputWithPooling

        module = sys.modules[type(self.model).__module__]
        return getattr(module, "BaseModelOutputWithDeepstackFeatures", BaseModelOutputWithPooling)
