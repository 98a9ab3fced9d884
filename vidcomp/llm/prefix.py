"""Many questions about the same videos: what comes before them is computed once.

Keys and values of everything up to the last token of the last video are kept, so that a question
costs only its own tokens.  Videos have to stand before the questions, see ``TextProcessor``.

Legend: L tokens of a prompt, A of an answer, B questions, V the vocabulary.
"""

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from vidcomp.errors import ConfigError
from vidcomp.llm.adapter import Adapter
from vidcomp.llm.inject import Filled, fill, join
from vidcomp.llm.padding import feels_padding
from vidcomp.llm.prompt import Prompt
from vidcomp.types import VideoTokens

__all__ = ["Prefix"]


class Prefix:
    """Videos that the model has read, waiting for questions.

    Args:
        adapter: of the model.
        prompt: of any question about the videos.
        videos: those of the prompt.

    Raises:
        ConfigError: a prompt without a video.
    """

    def __init__(self, adapter: Adapter, prompt: Prompt, videos: Sequence[VideoTokens]) -> None:
        if not prompt.visuals:
            raise ConfigError("a prefix is read up to its last video, got none: give a video")
        self._adapter = adapter
        self._prompt = prompt
        self._end = _end_of_videos(prompt)
        inputs = adapter.inject(_part(prompt, slice(0, self._end)), videos)
        with torch.no_grad():
            out = adapter.model(**inputs, use_cache=True, logits_to_keep=1)
        inputs.pop("mm_encoder_outputs")
        self._inputs = inputs
        self._cache: Any = out.past_key_values

    def __len__(self) -> int:
        """Tokens that questions share."""
        return int(self._inputs["input_ids"].shape[1])

    @torch.no_grad()
    def generate(self, prompts: Sequence[Prompt], **settings: Any) -> list[Tensor]:
        """The new tokens of the answers, as ``Adapter.generate`` without a prefix gives them.

        Questions are answered together; one by one where layers would feel the padding between.

        Args:
            prompts: questions about the same videos.
            settings: of ``model.generate``.

        Returns:
            [A] int64 each, see ``Adapter.generate``.

        Raises:
            ConfigError: a prompt that begins otherwise.
        """
        if len(prompts) > 1 and feels_padding(self._adapter.model.config):
            return [answer for one in prompts for answer in self.generate([one], **settings)]
        several = max(settings.get("num_beams") or 1, settings.get("num_return_sequences") or 1)
        return self._adapter.say(self.inputs(prompts, several), settings)

    def inputs(self, prompts: Sequence[Prompt], several: int = 1) -> dict[str, Any]:
        """What ``model.generate`` takes, with a copy of the keys and values.

        Args:
            prompts: see ``generate``.
            several: rows that ``generate`` makes of each prompt, as its beams: it repeats the
                prompts, but not what was read before.

        Raises:
            ConfigError: a prompt that begins otherwise.
        """
        return {**self._whole(prompts), "past_key_values": self._copy(len(prompts) * several)}

    @torch.no_grad()
    def next_logits(self, prompts: Sequence[Prompt]) -> Tensor:
        """[B, V] logits of the first token of each answer, without sampling.

        Raises:
            ConfigError: a prompt that begins otherwise.
        """
        if len(prompts) > 1 and feels_padding(self._adapter.model.config):
            return torch.cat([self.next_logits([one]) for one in prompts])
        inputs = self._whole(prompts)
        for name in ("input_ids", "position_ids"):
            inputs[name] = inputs[name][..., len(self) :]
        cache = self._copy(len(prompts))
        out = self._adapter.model(**inputs, past_key_values=cache, use_cache=True, logits_to_keep=1)
        return torch.as_tensor(out.logits[:, -1])

    def _copy(self, num: int) -> Any:
        cache = copy.deepcopy(self._cache)
        if num > 1:
            # Not batch_repeat_interleave, which states of recurrent layers lack.
            cache.reorder_cache(torch.zeros(num, dtype=torch.int64))
        return cache

    def _whole(self, prompts: Sequence[Prompt]) -> dict[str, Any]:
        """Sequences padded between what they share and each question."""
        rest = [self._rest(prompt) for prompt in prompts]
        new = join(rest, self._adapter.pad_id, self._adapter.model.device)
        whole = {}
        for name, shared in self._inputs.items():
            shape = list(shared.shape)
            shape[-2] = len(prompts)
            whole[name] = torch.cat([shared.expand(shape), new[name]], dim=-1)
        if whole["position_ids"].ndim == 3:  # the first are those of the text, without jumps
            whole["position_ids"][0] = (whole["attention_mask"].cumsum(-1) - 1).clamp(min=0)
        return whole

    def _rest(self, prompt: Prompt) -> Filled:
        """The question of a prompt that begins as that of the prefix."""
        begins = [_part(one, slice(0, self._end)) for one in (prompt, self._prompt)]
        if not all(
            torch.equal(getattr(begins[0], name), getattr(begins[1], name))
            for name in ("input_ids", "positions")
        ):
            raise ConfigError(
                "the question's prompt begins otherwise than that of the prefix: put the videos "
                "and the system prompt before the question, or make a new prefix"
            )
        return fill(_part(prompt, slice(self._end, None)), [], [])


def _end_of_videos(prompt: Prompt) -> int:
    """Place behind the last token that is read as part of a video: signs that end a frame may be,
    and then all of them see each other.
    """
    last = [int(visual.slots[-1]) for visual in prompt.visuals]
    typed = [value.nonzero().squeeze(1) for value in prompt.types.values()]
    return 1 + max([*last, *(int(places[-1]) for places in typed if len(places))])


def _part(prompt: Prompt, part: slice) -> Prompt:
    """Some of the tokens; videos stay with the first ones."""
    return replace(
        prompt,
        input_ids=prompt.input_ids[part],
        positions=prompt.positions[..., part],
        types={name: value[part] for name, value in prompt.types.items()},
        visuals=() if part.start else prompt.visuals,
    )
