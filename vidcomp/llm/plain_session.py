"""Many questions to a plain language model about the same videos, which it reads once.

Legend: L rows of a prompt, B questions, V the vocabulary.
"""

import copy
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vidcomp.errors import ConfigError
from vidcomp.llm.padding import feels_padding
from vidcomp.llm.plain import PlainPrompt
from vidcomp.llm.session import Answer, letter_scores, pieces
from vidcomp.types import VideoTokens

if TYPE_CHECKING:
    from vidcomp.llm.plain import PlainLLM

__all__ = ["PlainSession"]


class PlainSession:
    """Videos that were read once, for many questions; see ``PlainLLM.ask`` for the methods.

    Keys and values of everything up to the last token of the last video are kept.  Questions are
    single turns, put behind the videos.

    Args:
        llm: that reads them.
        videos: in the order of the prompt.

    Raises:
        ConfigError: no videos, or a projector that reads the question.
    """

    @torch.no_grad()
    def __init__(self, llm: "PlainLLM", videos: Sequence[VideoTokens]) -> None:
        self._llm = llm
        self.videos = llm.project(videos)
        self._texts = llm.chat.pieces("?", len(videos))[:-1]
        parts = llm.joined([*self._texts, ""], self.videos).parts
        if not videos or not parts[-1].is_floating_point():
            raise ConfigError(
                f"a session is read up to its last video, got {len(videos)} videos, the last one "
                f"without tokens: give a video"
            )
        self._prefix = PlainPrompt(parts)
        inputs = llm.inputs([self._prefix])
        self._cache: Any = llm.run(inputs, use_cache=True, logits_to_keep=1).past_key_values
        self._inputs = inputs

    def __len__(self) -> int:
        """Rows that questions share."""
        return self._prefix.num_prompt

    def ask(self, question: str, **settings: Any) -> Answer:  # of transformers' GenerationConfig
        """The answer to one question.

        Raises:
            ConfigError: settings that give several answers.
        """
        answers = self.ask_all([question], **settings)
        if len(answers) != 1:
            raise ConfigError(
                f"ask gives one answer, got settings for {len(answers)}: use ask_all, which gives "
                f"them in a row"
            )
        return answers[0]

    @torch.no_grad()
    def ask_all(self, questions: Sequence[str], **settings: Any) -> list[Answer]:
        """The answers to several questions, which the model reads together; one by one where it
        would feel the padding between.

        ``seconds`` of each is that of all.
        """
        if len(questions) > 1 and feels_padding(self._llm.model.config):
            return [answer for one in questions for answer in self.ask_all([one], **settings)]
        if not questions:
            return []
        start_s = time.perf_counter()
        prompts = [self._prompt(question) for question in questions]
        for prompt in prompts:
            self._llm.check_length(prompt, settings)
        said = self._llm.say(self._generating(prompts, settings), settings)
        return self._llm.answers(prompts, said, start_s)

    @torch.no_grad()
    def stream(self, question: str, **settings: Any) -> Iterator[str]:
        """The answer piece by piece; closing the iterator stops the model."""
        inputs = self._generating([self._prompt(question)], settings)
        return pieces(self._llm, self._llm.chat, inputs, settings)

    @torch.no_grad()
    def option_scores(self, question: str, options: Sequence[str]) -> Tensor:
        """[options] log-probabilities, see ``PlainLLM.option_scores``."""
        inputs = self._inputs_of([self._prompt(question)])
        for name in ("inputs_embeds", "position_ids"):
            inputs[name] = inputs[name][:, len(self) :]
        cache = copy.deepcopy(self._cache)
        out = self._llm.run(inputs, past_key_values=cache, use_cache=True, logits_to_keep=1)
        return letter_scores(self._llm.tokenizer, out.logits[0, -1], options)

    def _prompt(self, question: str) -> PlainPrompt:
        *texts, text = self._llm.chat.pieces(question, len(self.videos))
        if texts != self._texts:
            raise ConfigError(
                "the chat template writes something of the question before the videos, so nothing "
                "can be read ahead: ask without a session"
            )
        return PlainPrompt((*self._prefix.parts, self._llm.chat.ids(text)))

    def _inputs_of(self, prompts: Sequence[PlainPrompt]) -> dict[str, Tensor]:
        """Padded between what questions share and each of them."""
        rest = self._llm.inputs([PlainPrompt(prompt.parts[-1:]) for prompt in prompts])
        inputs = {
            name: torch.cat([shared.expand(len(prompts), *shared.shape[1:]), rest[name]], dim=1)
            for name, shared in self._inputs.items()
        }
        inputs["position_ids"] = (inputs["attention_mask"].cumsum(-1) - 1).clamp(min=0)
        return inputs

    def _generating(
        self, prompts: Sequence[PlainPrompt], settings: Mapping[str, Any]
    ) -> dict[str, Any]:
        """What ``generate`` takes, with a copy of the keys and values for each of its rows."""
        several = max(settings.get("num_beams") or 1, settings.get("num_return_sequences") or 1)
        cache = copy.deepcopy(self._cache)
        if (num := len(prompts) * several) > 1:
            # Not batch_repeat_interleave, which states of recurrent layers lack.
            cache.reorder_cache(torch.zeros(num, dtype=torch.int64))
        return {**self._inputs_of(prompts), "past_key_values": cache}
