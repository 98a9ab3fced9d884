"""From a question to its answer: work for the model's thread, and what clients read of it."""

import secrets
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

from vidcomp.budget import Budget
from vidcomp.llm.text import Message

from .backend import Asked, Backend, stage_of
from .library import Stored
from .limits import Limits, RefusedError
from .schema import ChatRequest
from .shelf import Choice, Shelf, Tokens

__all__ = ["Answering", "Begun", "Ended", "choose", "to_messages"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Begun:
    """The model has read the prompt's videos."""

    videos: tuple[Tokens, ...]
    num_prompt: int
    num_video: int
    num_reused: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """The answer is whole."""

    reason: str
    """``stop`` or ``length``."""
    num_new: int


@dataclass(slots=True)
class Answering:
    """One question on its way: the work, and what was said so far."""

    model: str
    asked: ChatRequest
    id: str = field(default_factory=lambda: f"chatcmpl-{secrets.token_hex(12)}")
    created: int = field(default_factory=lambda: int(time.time()))
    begun: Begun | None = None
    ended: Ended | None = None
    text: str = ""

    def work(
        self,
        backend: Backend,
        shelf: Shelf,
        videos: Sequence[Stored],
        choice: Choice,
        limits: Limits,
    ) -> Callable[[], Iterator[Begun | str | Ended]]:
        """What the model's thread does: ``Begun``, pieces of text, ``Ended``."""

        def run() -> Iterator[Begun | str | Ended]:
            tokens = tuple(shelf.get(stored, choice) for stored in videos)
            asked = Asked(
                new_tokens=self.asked.new_tokens(limits),
                temperature=self.asked.temperature,
                top_p=self.asked.top_p,
                seed=self.asked.seed,
            )
            talk = backend.talk(to_messages(self.asked), tokens, asked)
            yield Begun(
                videos=tokens,
                num_prompt=talk.num_prompt,
                num_video=talk.num_video,
                num_reused=talk.num_reused,
            )
            with closing(_until(talk.pieces, self.asked.stops)) as said:
                stopped = yield from said
            at_most = talk.num_new() >= asked.new_tokens and not stopped
            yield Ended(reason="length" if at_most else "stop", num_new=talk.num_new())

        return run

    def note(self, event: Begun | str | Ended) -> None:
        """Remember what came."""
        if isinstance(event, str):
            self.text += event
        elif isinstance(event, Begun):
            self.begun = event
        else:
            self.ended = event

    def whole(self) -> dict[str, Any]:
        """The answer, when it has ended."""
        reason = None if self.ended is None else self.ended.reason
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": self.text, "refusal": None},
            "logprobs": None,
            "finish_reason": reason,
        }
        made = {**self._head("chat.completion"), "choices": [choice], "usage": self.usage()}
        return made | {"vidcomp": self.facts()}

    def chunk(self, delta: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
        """A part of the answer."""
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        return {**self._head("chat.completion.chunk"), "choices": [choice]}

    def last_chunk(self) -> dict[str, Any]:
        """What it took."""
        return {**self._head("chat.completion.chunk"), "choices": [], "usage": self.usage()}

    def usage(self) -> dict[str, Any]:
        """Tokens that were read and said."""
        read = 0 if self.begun is None else self.begun.num_prompt
        said = 0 if self.ended is None else self.ended.num_new
        return {
            "prompt_tokens": read,
            "completion_tokens": said,
            "total_tokens": read + said,
            "prompt_tokens_details": {
                "cached_tokens": 0 if self.begun is None else self.begun.num_reused,
                "video_tokens": 0 if self.begun is None else self.begun.num_video,
            },
        }

    def facts(self) -> dict[str, Any]:
        """What became of the videos; their token maps can be looked at for a while."""
        videos = () if self.begun is None else self.begun.videos
        return {
            "videos": [
                {
                    "tokens_before": one.video.grid.num_patches,
                    "tokens": len(one.video),
                    "cached": one.is_cached,
                    "map": f"/v1/maps/{self.id}/{place}",
                }
                for place, one in enumerate(videos)
            ]
        }

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}


def to_messages(asked: ChatRequest) -> list[Message]:
    """The conversation as a chat template takes it."""
    turns: list[Message] = []
    for turn in asked.messages:
        content = [
            {"type": "text", "text": part.text} if part.type == "text" else {"type": "video"}
            for part in turn.parts
        ]
        role = "system" if turn.role == "developer" else turn.role
        turns.append({"role": role, "content": content})
    return turns


def choose(asked: ChatRequest, default: Choice) -> Choice:
    """The method and the budget of a question, checked before anything waits.

    Raises:
        BudgetError: a budget that is none.
        ConfigError: a method that is none.
    """
    method = asked.method or default.method
    if method == "none" or (method is None and asked.budget is None):
        if asked.budget is not None:
            raise RefusedError(
                f"a budget of {asked.budget} needs a method, got 'none': name one", param="method"
            )
        return Choice()
    if method is None:
        raise RefusedError("a budget needs a method, got none: name one", param="method")
    budget = asked.budget if asked.budget is not None else default.budget
    if budget is None:
        raise RefusedError(f"the method {method!r} needs a budget: give one", param="budget")
    stage_of(method)
    Budget.parse(budget)
    return Choice(method=method, budget=str(budget))


def _until(pieces: Generator[str], stops: Sequence[str]) -> Generator[str, None, bool]:
    """Pieces up to the first of some words; returns whether it came."""
    with closing(pieces) as source:
        if not stops:
            yield from source
            return False
        held, longest = "", max(map(len, stops)) - 1
        for piece in source:
            held += piece
            found = [(held.find(stop) + len(stop), held.find(stop)) for stop in stops]
            found = [(end, place) for end, place in found if place >= 0]
            if found:  # the word that is whole first, however the text was cut into pieces
                yield held[: min(found)[1]]
                return True
            sure = max(0, len(held) - longest)
            if sure:
                yield held[:sure]
                held = held[sure:]
        if held:
            yield held
    return False
