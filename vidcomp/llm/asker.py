"""What models that take vidcomp's tokens from outside have in common: questions in, answers out.

Legend: B questions, A tokens of an answer, V the vocabulary.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor

from vidcomp.encode.vlm.families import is_recurrent
from vidcomp.errors import BudgetError, ConfigError
from vidcomp.llm.chat import Chat
from vidcomp.llm.generation import new_tokens
from vidcomp.llm.session import Answer, letter_scores, pieces
from vidcomp.llm.text import Message
from vidcomp.types import VideoTokens

if TYPE_CHECKING:
    from vidcomp.projectors.base import Projector

__all__ = ["Asked", "Asker", "Counted", "check_rows"]

Asked = tuple[str | Sequence[Message], Sequence[VideoTokens]]
"""A question, or turns of a conversation, and the videos in it."""


class Counted(Protocol):
    """A prompt that knows its size."""

    @property
    def num_prompt(self) -> int:
        """Tokens that the model reads."""

    @property
    def num_video(self) -> int:
        """Tokens of videos."""


Prompt = TypeVar("Prompt", bound=Counted)


class Asker(ABC, Generic[Prompt]):
    """Answers questions about videos; subclasses say how tokens enter the model.

    Args:
        model: of transformers, with ``generate``.
        chat: its text.
    """

    def __init__(self, model: Any, chat: Chat) -> None:
        self.model = model
        self.chat = chat

    @property
    def tokenizer(self) -> Any:
        """Of transformers."""
        return self.chat.tokenizer

    @property
    def pad_id(self) -> int:
        """Id that prompts of a batch are padded with, and that stands where videos do."""
        found = self.model.config.get_text_config(decoder=True).pad_token_id
        return 0 if found is None else int(found)

    @abstractmethod
    def prompt(self, messages: str | Sequence[Message], videos: Sequence[VideoTokens]) -> Prompt:
        """One question with its videos.

        Args:
            messages: a question, which the videos are put before, or turns of a conversation with
                ``{"type": "video"}`` where videos stand.
            videos: in the order of the prompt.
        """

    @abstractmethod
    def inputs(self, prompts: Sequence[Prompt]) -> dict[str, Any]:
        """What ``say`` and ``next_logits`` take, padded on the left."""

    @abstractmethod
    def next_logits(self, inputs: Mapping[str, Any]) -> Tensor:
        """[B, V] logits of the first token of each answer."""

    @torch.no_grad()
    def say(self, inputs: Mapping[str, Any], settings: Mapping[str, Any]) -> list[Tensor]:
        """[A] int64 each: the new tokens of the answers, up to where they end.

        Args:
            inputs: of ``inputs``.
            settings: see ``new_tokens``.
        """
        return new_tokens(self.model, inputs, settings)

    def ask(
        self,
        messages: str | Sequence[Message],
        videos: Sequence[VideoTokens],
        **settings: Any,  # of transformers' GenerationConfig
    ) -> Answer:
        """The answer to a question about videos.

        Args:
            messages: see ``prompt``.
            videos: see ``prompt``.
            settings: as ``max_new_tokens``, ``do_sample``.

        Raises:
            ConfigError: settings that give several answers.
        """
        answers = self.ask_all([(messages, videos)], **settings)
        if len(answers) != 1:
            raise ConfigError(
                f"ask gives one answer, got settings for {len(answers)}: use ask_all, which gives "
                f"them in a row"
            )
        return answers[0]

    @torch.no_grad()
    def ask_all(
        self,
        questions: Sequence[Asked],
        **settings: Any,  # of transformers' GenerationConfig
    ) -> list[Answer]:
        """The answers to several questions, read together; ``seconds`` of each is that of all.

        Models with recurrent layers answer one by one: padding would enter their state.

        Args:
            questions: each with its own videos.
            settings: see ``ask``; with ``num_return_sequences`` the answers to one question follow
                each other.
        """
        if len(questions) > 1 and is_recurrent(self.model.config):
            return [answer for one in questions for answer in self.ask_all([one], **settings)]
        if not questions:
            return []
        start_s = time.perf_counter()
        prompts = [self._checked(messages, videos, settings) for messages, videos in questions]
        said = self.say(self.inputs(prompts), settings)
        return self.answers(prompts, said, start_s)

    @torch.no_grad()
    def stream(
        self,
        messages: str | Sequence[Message],
        videos: Sequence[VideoTokens],
        **settings: Any,  # of transformers' GenerationConfig
    ) -> Iterator[str]:
        """The answer piece by piece; closing the iterator stops the model."""
        inputs = self.inputs([self._checked(messages, videos, settings)])
        return pieces(self, self.chat, inputs, settings)

    @torch.no_grad()
    def option_scores(
        self,
        messages: str | Sequence[Message],
        videos: Sequence[VideoTokens],
        options: Sequence[str],
    ) -> Tensor:
        """[options] log-probabilities of each option as the first token of the answer.

        Args:
            messages: a question whose options are named by letters.
            videos: see ``prompt``.
            options: letters; each with and without a space before it counts.

        Raises:
            ConfigError: an option is no single token.
        """
        (logits_V,) = self.next_logits(self.inputs([self.prompt(messages, videos)]))
        return letter_scores(self.tokenizer, logits_V, options)

    def answers(
        self, prompts: Sequence[Counted], said: Sequence[Tensor], start_s: float
    ) -> list[Answer]:
        """What was said to prompts, begun at ``start_s`` of ``time.perf_counter``.

        Args:
            prompts: in their order.
            said: as many for each.
            start_s: see above.
        """
        seconds = time.perf_counter() - start_s
        each = len(said) // len(prompts)
        return [
            Answer(
                text=self.chat.decode(ids),
                num_prompt=prompts[place // each].num_prompt,
                num_video=prompts[place // each].num_video,
                num_new=len(ids),
                seconds=seconds,
            )
            for place, ids in enumerate(said)
        ]

    def check_length(self, prompt: Counted, settings: Mapping[str, Any]) -> None:
        """Refuse what the model was not made for.

        Raises:
            BudgetError: the prompt and the answer exceed its context.
        """
        text = self.model.config.get_text_config(decoder=True)
        most = int(getattr(text, "max_position_embeddings", 0) or 0)
        needed = prompt.num_prompt + int(settings.get("max_new_tokens") or 1)
        if most and needed > most:
            raise BudgetError(
                f"the prompt and the answer need {needed:,} tokens, {prompt.num_video:,} of them "
                f"for videos, and the model takes {most:,}: lower the budget of the videos by "
                f"{needed - most:,} or more"
            )

    def _checked(
        self,
        messages: str | Sequence[Message],
        videos: Sequence[VideoTokens],
        settings: Mapping[str, Any],
    ) -> Prompt:
        prompt = self.prompt(messages, videos)
        self.check_length(prompt, settings)
        return prompt


def check_rows(projector: "Projector | None", dim: int, reader: str) -> None:
    """Refuse a projector whose rows the model cannot read.

    Raises:
        ConfigError: it gives another width than ``dim``.
    """
    if projector is not None and projector.config.dim_out != dim:
        raise ConfigError(
            f"{reader} reads rows of {dim} features and the projector {projector.config.name!r} "
            f"gives {projector.config.dim_out}: set dim_out={dim}"
        )
