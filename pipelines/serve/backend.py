"""What the server asks of a model, and the models of vidcomp behind it."""

import hashlib
import json
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
import xxhash

from vidcomp.encode.vlm.tokens import DEEPSTACK, PTS, STRUCTURAL
from vidcomp.errors import ConfigError
from vidcomp.llm.model import Clip, VideoLLM
from vidcomp.llm.prefix import Prefix
from vidcomp.llm.prompt import Prompt
from vidcomp.llm.sampling import sampling_of
from vidcomp.llm.session import pieces
from vidcomp.llm.text import Message
from vidcomp.sample.decode import DecodeRequest
from vidcomp.types import VideoTokens

from ..comparison import parse_methods
from .limits import Limits, Recent, RefusedError
from .shelf import Choice, Tokens

__all__ = ["Asked", "Backend", "LLMBackend", "Talk", "stage_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """How an answer is to be generated."""

    new_tokens: int
    temperature: float = 0.0
    """0: always the likeliest token."""
    top_p: float = 1.0
    seed: int | None = None


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Talk:
    """An answer that is about to be generated."""

    pieces: Generator[str]
    """Closing it stops the model."""
    num_prompt: int
    """Tokens that the model reads."""
    num_video: int
    """Those of them that are of videos."""
    num_reused: int
    """Those whose keys and values were there already."""
    num_new: Callable[[], int]
    """Tokens that were generated so far."""


class Backend(Protocol):
    """A model that the server speaks for; all but ``request`` is called by one thread."""

    @property
    def name(self) -> str:
        """As clients call it."""

    @property
    def identity(self) -> dict[str, Any]:
        """What tokens depend on; ``extras`` and ``frame_extras`` name what to keep with them."""

    @property
    def dtype(self) -> torch.dtype:
        """Of tokens."""

    def encode(self, path: Path, choice: Choice) -> VideoTokens:
        """Tokens of a video."""

    def talk(self, messages: Sequence[Message], videos: Sequence[Tokens], asked: Asked) -> Talk:
        """Answer the last message."""

    def request(self, path: Path) -> DecodeRequest:
        """How a video's frames are read, for its token map."""


def stage_of(method: str) -> Any:  # a Compressor
    """The compressor that a client names.

    Raises:
        ConfigError: there is none, or it chooses by a question.
    """
    found = parse_methods([method])
    if len(found) != 1:
        raise ConfigError(f"one method was wanted, got {method!r}: name one, see vidcomp list")
    stage = found[0].stage
    if getattr(stage, "lacks_query", False):
        raise ConfigError(
            f"{method!r} chooses tokens by the question, and the server keeps them for all "
            f"questions: take a method that goes without"
        )
    return stage


class LLMBackend:
    """A video language model.

    Args:
        llm: loaded.
        name: as clients call it.
        limits: of prefixes in memory.
    """

    def __init__(self, llm: VideoLLM, name: str, limits: Limits) -> None:
        self._llm, self._name = llm, name
        self._prefixes: Recent[tuple[str, ...], Prefix] = Recent(limits.prefixes)

    @property
    def name(self) -> str:
        """As clients call it."""
        return self._name

    @property
    def dtype(self) -> torch.dtype:
        """Of the model."""
        found: torch.dtype = self._llm.adapter.model.dtype
        return found

    @property
    def identity(self) -> dict[str, Any]:
        """The model's config and a sample of its weights, and how frames are chosen."""
        model = self._llm.adapter.model
        config = json.dumps(model.config.to_dict(), sort_keys=True, default=str)
        weights = xxhash.xxh3_128()
        for name, value in sorted(model.state_dict().items()):
            weights.update(name.encode())
            weights.update(value.flatten()[:64].float().cpu().numpy().tobytes())
        layers = len(getattr(model.config.vision_config, "deepstack_visual_indexes", None) or ())
        return {
            "model": hashlib.sha256(config.encode()).hexdigest()[:16],
            "weights": weights.hexdigest(),
            "frames": repr(sampling_of(self._llm.pixels)),
            "extras": [f"{DEEPSTACK}{i}" for i in range(layers)],
            "frame_extras": [PTS] + [STRUCTURAL] * bool(self._llm.adapter.family.head_rows),
        }

    def encode(self, path: Path, choice: Choice) -> VideoTokens:
        """Tokens of a video, see ``VideoLLM.encode``.

        Raises:
            BudgetError: they would not fit the model's context or the machine's memory.
        """
        self._llm.plan(Clip(path=path), choice.budget).check()
        if choice.method is None:
            return self._llm.encode(path)
        return self._llm.encode(path, compressor=stage_of(choice.method), budget=choice.budget)

    def request(self, path: Path) -> DecodeRequest:
        """How the model reads a video."""
        return self._llm.request(Clip(path=path))

    @torch.no_grad()
    def talk(self, messages: Sequence[Message], videos: Sequence[Tokens], asked: Asked) -> Talk:
        """Answer the last message; what comes before the question is read once.

        Raises:
            RefusedError: the prompt is longer than the model's context.
        """
        tokens = [one.video for one in videos]
        prompt = self._llm.prompt(messages, tokens)
        num_video = sum(map(len, tokens)) + sum(v.num_structural for v in prompt.visuals)
        num_prompt = len(prompt) - sum(len(v.slots) for v in prompt.visuals) + num_video
        self._check(num_prompt, asked)
        reused, inputs = self._inputs(prompt, videos, tokens)
        steps = _Steps()
        return Talk(
            pieces=_closable(
                pieces(self._llm.adapter, self._llm.text, inputs, _settings(asked, steps))
            ),
            num_prompt=num_prompt,
            num_video=num_video,
            num_reused=reused,
            num_new=lambda: steps.num,
        )

    def _check(self, num_prompt: int, asked: Asked) -> None:
        text = self._llm.adapter.model.config.get_text_config(decoder=True)
        most = getattr(text, "max_position_embeddings", None) or 0
        if most and num_prompt + asked.new_tokens > most:
            raise RefusedError(
                f"prompt and answer may have {most:,} tokens, and these have {num_prompt:,} and "
                f"{asked.new_tokens:,}: ask for a lower budget, or a shorter answer",
                code="context_length_exceeded",
                param="messages",
            )

    def _inputs(
        self, prompt: Prompt, videos: Sequence[Tokens], tokens: Sequence[VideoTokens]
    ) -> tuple[int, dict[str, Any]]:
        """(tokens that were read before, what the model is called with)."""
        if not videos:
            return 0, self._llm.adapter.inject(prompt, [])
        end = 1 + max(int(visual.slots[-1]) for visual in prompt.visuals)
        head = xxhash.xxh3_128_hexdigest(prompt.input_ids[:end].numpy().tobytes())
        key = (head, *(one.key for one in videos))
        prefix = self._prefixes.get(key)
        reused = 0 if prefix is None else len(prefix)
        if prefix is None:
            prefix = Prefix(self._llm.adapter, prompt, tokens)
            self._prefixes.add(key, prefix)
        return reused, prefix.inputs([prompt])


def _closable(said: Iterator[str]) -> Generator[str]:
    yield from said


class _Steps:
    """Counts tokens while they are generated, as a processor of logits."""

    def __init__(self) -> None:
        self.num = 0

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        del input_ids
        self.num += 1
        return scores


def _settings(asked: Asked, steps: _Steps) -> dict[str, Any]:
    """Of transformers' GenerationConfig."""
    from transformers import LogitsProcessorList

    settings: dict[str, Any] = {
        "max_new_tokens": asked.new_tokens,
        "logits_processor": LogitsProcessorList([steps]),
        "do_sample": asked.temperature > 0,
    }
    if asked.temperature > 0:
        settings |= {"temperature": asked.temperature, "top_p": asked.top_p}
        if asked.seed is not None:
            torch.manual_seed(asked.seed)
    return settings
