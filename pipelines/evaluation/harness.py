"""A video language model inside other people's benchmarks: their messages in, answers out.

What lmms-eval and VLMEvalKit ask about one video shares its compression and what the model has read
of it, as long as the questions come one after another.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from vidcomp.budget import Budget
from vidcomp.errors import ConfigError
from vidcomp.llm.prompt import Prompt
from vidcomp.sample.base import Sampler
from vidcomp.types import VideoTokens

from .model import LoadedModel, Shown, make_arms

if TYPE_CHECKING:
    from vidcomp.llm.session import Session

__all__ = ["Harness", "Part", "settings_of"]

Part = Mapping[str, Any]
"""``{"type": "video", "path": ...}`` with ``start_s`` and ``end_s`` where a part is shown, or
``{"type": "text", "text": ...}``."""

Turn = Mapping[str, Any]
"""``{"role": "user", "content": [Part, ...]}``."""


class _Scored(NamedTuple):
    """How likely a text is as the answer."""

    nll: float
    """Mean negative log-probability of its tokens: lower is likelier."""
    is_greedy: bool
    """Whether the model would say just this."""


class Harness:
    """A model with a fixed way to compress.

    Args:
        pretrained: folder or hub id.
        compressor: a method with settings after colons; empty: all tokens.
        budget: tokens that a video may keep: ``196``, ``"10%"``; with a compressor only.
        num_frames: evenly spaced frames of a video; by default as the model's processor chooses.
        device: where it runs.
        dtype: of the model.
        revision: of the hub.

    Raises:
        ConfigError: no such model or method, a method without a budget, or one that needs a
            question.
    """

    def __init__(
        self,
        pretrained: str,
        *,
        compressor: str = "",
        budget: Budget | int | str | None = None,
        num_frames: int | None = None,
        device: str = "cpu",
        dtype: str = "auto",
        revision: str | None = None,
    ) -> None:
        from vidcomp.api import sampler
        from vidcomp.llm.model import VideoLLM

        if bool(compressor) != (budget is not None):
            raise ConfigError(
                f"a compressor and a budget go together, got compressor={compressor!r} and "
                f"budget={budget!r}: give both, or neither for all tokens"
            )
        budgets = [] if budget is None else [Budget.parse(budget)]
        baselines = [] if compressor else ["full"]
        (self.arm,) = make_arms([compressor] * bool(compressor), budgets, baselines)
        if self.arm.asks:
            raise ConfigError(
                f"{compressor!r} chooses tokens by the question, and here questions about a video "
                f"share its tokens: take another method, or vidcomp evaluate"
            )
        chosen: Sampler | None = None
        if num_frames is not None:
            chosen = sampler("uniform", num_frames=num_frames)
        llm = VideoLLM.load(pretrained, device=device, dtype=dtype, revision=revision)
        self.model = LoadedModel(name=pretrained, llm=llm, sampler=chosen)
        self._held: tuple[tuple[Shown, ...], list[VideoTokens], Session | None] = ((), [], None)

    @property
    def llm(self) -> Any:
        """The ``VideoLLM``."""
        return self.model.llm

    def watch(self, sampler: Sampler | None) -> None:
        """Choose frames so from now on; ``None``: as the model's own processor chooses."""
        if sampler != self.model.sampler:
            self.model = replace(self.model, sampler=sampler)
            self._held = ((), [], None)

    def answer(self, turns: Sequence[Turn], **settings: Any) -> str:  # of transformers
        """What the model says next.

        Args:
            turns: a conversation whose last turn is the user's.
            settings: of transformers' GenerationConfig.
        """
        shown, messages = _split(turns)
        question = _only_question(turns)
        videos = self._tokens(shown)
        if question is None or not shown:
            return str(self.llm.ask(messages, videos, **settings).text)
        if self._held[2] is None:
            self._held = (shown, videos, self.llm.session(videos))
        session = self._held[2]
        assert session is not None  # noqa: S101  # made above
        return session.ask(question, **settings).text

    @torch.no_grad()
    def score(self, turns: Sequence[Turn], continuation: str) -> _Scored:
        """How likely a text is as the next thing the model says."""
        shown, messages = _split(turns)
        videos = self._tokens(shown)
        tokenizer = self.llm.text.tokenizer
        ids_A = torch.tensor(tokenizer.encode(continuation, add_special_tokens=False))
        if not len(ids_A):
            raise ConfigError("an empty text has no probability, got one: give a text")
        prompt = _continued(self.llm.prompt(messages, videos), ids_A)
        inputs = self.llm.adapter.inject(prompt, videos)
        logits = self.llm.adapter.model(**inputs, logits_to_keep=len(ids_A) + 1).logits
        log_AV = logits[0, -len(ids_A) - 1 : -1].float().log_softmax(dim=-1).cpu()
        chosen_A = log_AV.gather(1, ids_A[:, None])
        return _Scored(-float(chosen_A.mean()), bool((log_AV.argmax(dim=-1) == ids_A).all()))

    def _tokens(self, shown: tuple[Shown, ...]) -> list[VideoTokens]:
        if self._held[0] != shown or not shown:
            self._held = (shown, [self.model.shown(self.arm, one) for one in shown], None)
        return self._held[1]


def settings_of(given: Mapping[str, Any], default_new_tokens: int) -> dict[str, Any]:
    """Settings of transformers from those that benchmarks give: a temperature of 0 is greedy."""
    known = {
        name: given[name]
        for name in ("max_new_tokens", "num_beams", "repetition_penalty")
        if given.get(name) is not None
    }
    known.setdefault("max_new_tokens", default_new_tokens)
    temperature = float(given.get("temperature") or 0)
    is_sampled = temperature > 0 and given.get("do_sample") is not False
    known["do_sample"] = is_sampled
    if is_sampled:
        known["temperature"] = temperature
        known.update({n: given[n] for n in ("top_p", "top_k") if given.get(n) is not None})
    return known


def _split(turns: Sequence[Turn]) -> tuple[tuple[Shown, ...], list[dict[str, Any]]]:
    """The videos, and the messages with places for them."""
    shown: list[Shown] = []
    messages = []
    for turn in turns:
        content = []
        for part in turn["content"]:
            if part["type"] == "text":
                content.append({"type": "text", "text": part["text"]})
            elif part["type"] == "video":
                shown.append(Shown(str(part["path"]), part.get("start_s"), part.get("end_s")))
                content.append({"type": "video"})
            else:
                raise ConfigError(
                    f"videos and texts are read here, got {part['type']!r}: choose a benchmark of "
                    f"videos"
                )
        messages.append({"role": turn["role"], "content": content})
    return tuple(shown), messages


def _only_question(turns: Sequence[Turn]) -> str | None:
    """The text of a single turn with its videos first, which can go on after what was read."""
    if len(turns) != 1 or turns[0]["role"] != "user":
        return None
    kinds = [part["type"] for part in turns[0]["content"]]
    if kinds != sorted(kinds, reverse=True) or kinds.count("text") != 1:  # "video" after "text"
        return None
    return str(turns[0]["content"][-1]["text"])


def _continued(prompt: Prompt, ids_A: torch.Tensor) -> Prompt:
    """A prompt with the answer's tokens; text counts its positions on."""
    steps_A = torch.arange(1, len(ids_A) + 1)
    last = prompt.positions[..., -1:]
    zeros = {name: value.new_zeros(len(ids_A)) for name, value in prompt.types.items()}
    return replace(
        prompt,
        input_ids=torch.cat([prompt.input_ids, ids_A]),
        positions=torch.cat([prompt.positions, last + steps_A], dim=-1),
        types={name: torch.cat([value, zeros[name]]) for name, value in prompt.types.items()},
    )
