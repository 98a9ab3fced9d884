"""Answers: whole, piece by piece, as scores of letters; many about the same videos.

Legend: L tokens of a prompt, V the vocabulary.
"""

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from vidcomp.errors import ConfigError
from vidcomp.llm.prefix import Prefix
from vidcomp.llm.prompt import Prompt
from vidcomp.types import VideoTokens

if TYPE_CHECKING:
    from vidcomp.llm.model import VideoLLM

__all__ = ["Answer", "Says", "Session", "Words", "answer_of", "letter_scores", "pieces", "sizes_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the model said, and what it cost."""

    text: str
    num_prompt: int
    """Tokens that the model read."""
    num_video: int
    """Those of them that are of videos, structural rows included."""
    num_new: int
    """Tokens of the answer."""
    seconds: float
    """From the question to its answer."""

    def __str__(self) -> str:
        return self.text


def answer_of(
    text: str, prompt: Prompt, videos: Sequence[VideoTokens], num_new: int, start_s: float
) -> Answer:
    """The answer to a prompt, begun at ``start_s`` of ``time.perf_counter``."""
    num_prompt, num_video = sizes_of(prompt, videos)
    return Answer(
        text=text,
        num_prompt=num_prompt,
        num_video=num_video,
        num_new=num_new,
        seconds=time.perf_counter() - start_s,
    )


def sizes_of(prompt: Prompt, videos: Sequence[VideoTokens]) -> tuple[int, int]:
    """Tokens that the model reads, and those of them that are of videos."""
    full = sum(len(visual.slots) for visual in prompt.visuals)
    fixed = sum(visual.num_structural for visual in prompt.visuals)
    num_video = fixed + sum(len(video) for video in videos)
    return len(prompt) - full + num_video, num_video


class Session:
    """Videos that were read once, for many questions; see ``VideoLLM.ask`` for the methods.

    Questions are single turns, put behind the videos.

    Args:
        model: that reads them.
        videos: in the order of the prompt.
    """

    def __init__(self, model: "VideoLLM", videos: Sequence[VideoTokens]) -> None:
        self._model = model
        self.videos = list(videos)
        self._prefix = Prefix(model.adapter, model.prompt("?", videos), videos)

    def ask(self, question: str, **settings: Any) -> Answer:  # of transformers' GenerationConfig
        """The answer to one question."""
        return self.ask_all([question], **settings)[0]

    def ask_all(self, questions: Sequence[str], **settings: Any) -> list[Answer]:
        """The answers to several questions, which the model reads together.

        ``seconds`` of each is that of all.
        """
        start_s = time.perf_counter()
        prompts = [self._prompt(question, settings) for question in questions]
        said = self._prefix.generate(prompts, **settings)
        return [
            answer_of(self._model.text.decode(ids), prompt, self.videos, len(ids), start_s)
            for prompt, ids in zip(prompts, said, strict=True)
        ]

    def stream(self, question: str, **settings: Any) -> Iterator[str]:
        """The answer piece by piece; closing the iterator stops the model."""
        inputs = self._prefix.inputs([self._prompt(question, settings)])
        return pieces(self._model.adapter, self._model.text, inputs, settings)

    def _prompt(self, question: str, settings: Mapping[str, Any]) -> Prompt:
        prompt = self._model.prompt(question, self.videos)
        self._model.check_length(prompt, self.videos, settings)
        return prompt

    def option_scores(self, question: str, options: Sequence[str]) -> Tensor:
        """[options] log-probabilities, see ``VideoLLM.option_scores``."""
        prompt = self._model.prompt(question, self.videos)
        (logits,) = self._prefix.next_logits([prompt])
        return letter_scores(self._model.text.tokenizer, logits, options)


def letter_scores(tokenizer: Any, logits_V: Tensor, options: Sequence[str]) -> Tensor:
    """[options] float32 log-probabilities of letters as the next token.

    Args:
        tokenizer: of the model.
        logits_V: of the next token.
        options: letters or short words; the spelling with a space before counts, too.

    Raises:
        ConfigError: an option is more than one token.
    """
    log_V = logits_V.float().log_softmax(dim=-1).cpu()
    scores = []
    for option in options:
        ids = [tokenizer.encode(way, add_special_tokens=False) for way in (option, " " + option)]
        single = sorted({way[0] for way in ids if len(way) == 1})
        if not single:
            raise ConfigError(
                f"options are scored as single tokens, got {option!r}, which the tokenizer cuts "
                f"into {len(ids[0])}: name options by letters"
            )
        scores.append(log_V[single].logsumexp(dim=0))
    return torch.stack(scores)


class Says(Protocol):
    """A model that answers inputs, as ``Adapter`` does."""

    def say(self, inputs: Mapping[str, Any], settings: Mapping[str, Any]) -> list[Tensor]:
        """See ``Adapter.say``."""


class Words(Protocol):
    """What has a tokenizer, as ``TextProcessor`` does."""

    @property
    def tokenizer(self) -> Any:
        """Of transformers."""


def pieces(
    adapter: Says, text: Words, inputs: Mapping[str, Any], settings: Mapping[str, Any]
) -> Iterator[str]:
    """Text of an answer as it is generated.

    Closing the iterator ends the generation after the token that is under way.

    Args:
        adapter: the model.
        text: of the model.
        inputs: of ``model.generate``.
        settings: of transformers' GenerationConfig.
    """
    from transformers import StoppingCriteria, StoppingCriteriaList, TextIteratorStreamer

    stopped = threading.Event()
    failed: list[BaseException] = []

    class Stopped(StoppingCriteria):
        def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: Any) -> Tensor:
            del scores, kwargs
            return torch.full((len(input_ids),), stopped.is_set(), device=input_ids.device)

    streamer: Any = TextIteratorStreamer(text.tokenizer, skip_prompt=True, skip_special_tokens=True)
    own = {"streamer": streamer, "stopping_criteria": StoppingCriteriaList([Stopped()])}

    def run() -> None:
        try:
            adapter.say(inputs, {**settings, **own})
        except BaseException as error:  # noqa: BLE001  # told to the reader
            failed.append(error)
        finally:
            streamer.end()

    worker = threading.Thread(target=run, daemon=True)
    worker.start()
    try:
        yield from streamer
    finally:
        stopped.set()
        worker.join()
    if failed:
        raise failed[0]
