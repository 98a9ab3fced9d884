"""Asking in one call: a file and a question in, the answer out."""

from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, overload

from vidcomp.budget import Budget
from vidcomp.compress.base import Compressor, QueryAware
from vidcomp.errors import ConfigError
from vidcomp.llm.cached import narrowed
from vidcomp.llm.generation import ANSWER_TOKENS
from vidcomp.llm.model import Clip, Video, VideoLLM
from vidcomp.llm.session import Answer
from vidcomp.registry import COMPRESSORS
from vidcomp.types import VideoTokens

__all__ = ["Compressing", "answers", "ask"]


@dataclass(frozen=True, slots=True)
class Compressing:
    """How many slots each video may take, and who chooses."""

    compressor: Compressor | None
    budget: Budget | None

    @classmethod
    def of(
        cls, method: str | Compressor | None, budget: Budget | int | str | None
    ) -> "Compressing":
        """By the name of a method.

        Raises:
            ConfigError: an unknown method, or a budget without a method.
            BudgetError: no budget.
        """
        if budget is None or method is None:
            if budget is not None:
                raise ConfigError(
                    f"a budget of {budget} tokens needs a method that reaches it, got none: give "
                    f"one of 'vidcomp list compressors'"
                )
            return cls(None, None)
        made: Compressor = COMPRESSORS.make(method) if isinstance(method, str) else method
        return cls(made, Budget.parse(budget))

    @property
    def asks(self) -> bool:
        """Whether each question chooses tokens of its own."""
        return isinstance(self.compressor, QueryAware) and self.compressor.lacks_query

    @property
    def before(self) -> "Compressing":
        """What is done before there is a question: nothing, if it chooses."""
        return Compressing(None, None) if self.asks else self

    def tokens(self, model: VideoLLM, video: Video) -> VideoTokens:
        """The tokens of a video that the model is to read, or that questions choose from.

        Raises:
            DecodeError: the file does not give its frames.
            BudgetError: the budget cannot be reached.
        """
        how = self.before
        if isinstance(video, VideoTokens):
            return narrowed(model, video, how.compressor, how.budget)
        return model.encode(video, compressor=how.compressor, budget=how.budget)

    def answers(
        self,
        model: VideoLLM,
        questions: Sequence[str],
        videos: Sequence[VideoTokens],
        **settings: Any,
    ) -> list[Answer]:
        """``answers``; where questions choose, by the model's own words for them, each about its
        own tokens.

        Args:
            model: that is asked.
            questions: at least one.
            videos: of ``tokens``.
            settings: of transformers' GenerationConfig.
        """
        if not self.asks or self.compressor is None:
            return answers(model, questions, videos, **settings)
        from vidcomp.llm.queries import bound
        from vidcomp.llm.towers import WordRows

        words, found = WordRows(model.adapter.model, model.text.tokenizer), []
        for question in questions:
            stage = bound(self.compressor, question, words)
            own = [narrowed(model, video, stage, self.budget) for video in videos]
            found += answers(model, [question], own, **settings)
        return found


def answers(
    model: VideoLLM, questions: Sequence[str], videos: Sequence[VideoTokens], **settings: Any
) -> list[Answer]:
    """An answer to each question; several share what the model has read of the videos.

    Args:
        model: that is asked.
        questions: at least one.
        videos: that all of them are about.
        settings: of transformers' GenerationConfig; ``do_sample`` is False if nobody says
            otherwise.

    Raises:
        ConfigError: no question.
        BudgetError: a prompt that is too long.
    """
    settings = {"do_sample": False, "max_new_tokens": ANSWER_TOKENS, **settings}
    if not questions or not all(question.strip() for question in questions):
        raise ConfigError("a question was wanted, got none or an empty one: write what to ask")
    if len(questions) == 1:
        return [model.ask(questions[0], videos, **settings)]
    return model.session(videos).ask_all(questions, **settings)


@overload
def ask(
    video: Video | Sequence[Video],
    question: str,
    *,
    model: str | Path | VideoLLM,
    budget: Budget | int | str | None = ...,
    method: str | Compressor | None = ...,
    start_s: float | None = ...,
    end_s: float | None = ...,
    device: str = ...,
    dtype: str = ...,
    **settings: Any,
) -> Answer: ...


@overload
def ask(
    video: Video | Sequence[Video],
    question: Sequence[str],
    *,
    model: str | Path | VideoLLM,
    budget: Budget | int | str | None = ...,
    method: str | Compressor | None = ...,
    start_s: float | None = ...,
    end_s: float | None = ...,
    device: str = ...,
    dtype: str = ...,
    **settings: Any,
) -> list[Answer]: ...


def ask(
    video: Video | Sequence[Video],
    question: str | Sequence[str],
    *,
    model: str | Path | VideoLLM,
    budget: Budget | int | str | None = 1024,
    method: str | Compressor | None = "partition",
    start_s: float | None = None,
    end_s: float | None = None,
    device: str = "cpu",
    dtype: str = "auto",
    **settings: Any,  # of transformers' GenerationConfig
) -> Answer | list[Answer]:
    """What a video language model says about a video.

    Args:
        video: a file, a ``Clip``, tokens of the model's own encoder; or several, which stand in the
            prompt in that order.
        question: one, or several, which share what the model has read of the videos.
        model: folder or hub id of a checkpoint; or a ``VideoLLM``, to load it once.
        budget: slots that each video may take, as a number, ``"10%"`` or a ``Budget``; ``None``:
            all of its tokens.
        method: the compressor that reaches it, by name or made before; ``None`` with a budget of
            ``None``.
        start_s: start of the range of every file, in seconds.
        end_s: end of it.
        device: where the model runs.
        dtype: ``auto`` (as stored), ``float32``, ``bfloat16`` or ``float16``.
        settings: as ``max_new_tokens`` (256), ``do_sample`` (False), ``temperature``.

    Returns:
        The answer, or one for each question.

    Raises:
        ConfigError: a model that cannot be loaded or is of no known family, an unknown method.
        DecodeError: a file that does not give its frames.
        BudgetError: what does not fit the model's context or the machine's memory, told before
            anything is decoded.
    """
    how = Compressing.of(None if budget is None else method, budget)
    loaded = model
    if not isinstance(loaded, VideoLLM):
        loaded = VideoLLM.load(loaded, device=device, dtype=dtype)
    several = [video] if isinstance(video, str | PathLike | Clip | VideoTokens) else list(video)
    if not several:
        raise ConfigError("a video was wanted, got an empty list: name one")
    clips = [_ranged(one, start_s, end_s) for one in several]
    most = int(settings.get("max_new_tokens", ANSWER_TOKENS))
    loaded.plan(clips, how.budget, compressor=how.compressor, max_new_tokens=most).check()
    tokens = [how.tokens(loaded, clip) for clip in clips]
    one = isinstance(question, str)
    found = how.answers(
        loaded, [question] if isinstance(question, str) else question, tokens, **settings
    )
    return found[0] if one else found


def _ranged(video: Video, start_s: float | None, end_s: float | None) -> Clip | VideoTokens:
    if isinstance(video, str | PathLike):
        return Clip(path=video, start_s=start_s, end_s=end_s)
    if start_s is not None or end_s is not None:
        raise ConfigError(
            f"start_s and end_s cut files, got them with {type(video).__name__}: give the range to "
            f"the Clip, or when the tokens are made"
        )
    return video
