"""What an evaluation asks: a model's face, and the arms that are compared.

An arm is what the model sees of a video: all tokens, none, or those that a method keeps.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

from torch import Tensor

from vidcomp.budget import Budget
from vidcomp.compress.base import Compressor, QueryAware
from vidcomp.encode.vlm.tokens import PTS
from vidcomp.errors import BudgetError, ConfigError
from vidcomp.sample.base import Sampler
from vidcomp.types import Grid, VideoTokens

from ..comparison import Method, fit_to, parse_methods, short_budget

if TYPE_CHECKING:
    from vidcomp.llm.model import VideoLLM

__all__ = [
    "Arm",
    "Asked",
    "LoadedModel",
    "Model",
    "Reply",
    "Shown",
    "frames_of",
    "make_arms",
    "slots_of",
    "tokens_of",
]


class Reply(Protocol):
    """An answer."""

    @property
    def text(self) -> str:
        """What the model said."""
        ...


class Asked(Protocol):
    """Videos that the model has read, or none."""

    def ask(self, question: str, **settings: Any) -> Reply:  # of transformers
        """The answer to a question."""
        ...

    def option_scores(self, question: str, options: Sequence[str], /) -> Tensor:
        """[options] log-probabilities of letters as the first token of the answer."""
        ...


class Shown(NamedTuple):
    """A video's file, or the part of it that a question is about."""

    path: str
    start_s: float | None = None
    end_s: float | None = None


class Model(Protocol):
    """What a model has to do to be evaluated."""

    @property
    def name(self) -> str:
        """Folder or hub id."""
        ...

    def encode(self, path: str, start_s: float | None, end_s: float | None, /) -> VideoTokens:
        """All tokens of a video or a part of it."""
        ...

    def structural(self, grid: Grid, /) -> int:
        """Slots of a video that stand for no patch: newlines, CLS."""
        ...

    def bind(self, stage: Compressor, question: str, /) -> Compressor:
        """A stage that chooses tokens by a question, told it."""
        ...

    def session(self, videos: Sequence[VideoTokens], /) -> Asked:
        """The videos, read once for many questions."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """A ``VideoLLM`` as an evaluation needs it."""

    name: str
    llm: "VideoLLM"
    sampler: Sampler | None = None
    """Which frames; ``None``: as the model's own processor chooses."""

    def encode(self, path: str, start_s: float | None, end_s: float | None, /) -> VideoTokens:
        """All tokens of a video or a part of it."""
        from vidcomp.llm.model import Clip

        clip = Clip(path=path, start_s=start_s, end_s=end_s, sampler=self.sampler)
        return self.llm.encode(clip)

    def shown(self, arm: "Arm", one: Shown) -> VideoTokens:
        """What an arm keeps of a video; where the method streams, all tokens are never held.

        Raises:
            ConfigError: the arm shows no video.
        """
        if arm.kind == "blind":
            raise ConfigError("an arm that shows a video was wanted, got 'blind': choose another")
        if arm.stage is not None and arm.stage.streaming:
            from vidcomp.llm.model import Clip

            clip = Clip(path=one.path, start_s=one.start_s, end_s=one.end_s, sampler=self.sampler)
            return self.llm.encode(clip, compressor=arm.stage, budget=arm.budget)
        return tokens_of(arm, self, self.encode(*one))[0]

    def structural(self, grid: Grid, /) -> int:
        """Slots of a video that stand for no patch: newlines, CLS."""
        return len(self.llm.adapter.layout(grid)) - grid.num_patches

    def bind(self, stage: Compressor, question: str, /) -> Compressor:
        """A stage that chooses tokens by a question, told it in the model's own words.

        Raises:
            ConfigError: the question has no words.
        """
        from vidcomp.llm.queries import bound
        from vidcomp.llm.towers import WordRows

        return bound(stage, question, WordRows(self.llm.adapter.model, self.llm.text.tokenizer))

    def session(self, videos: Sequence[VideoTokens], /) -> Asked:
        """The videos, read once for many questions; without one, questions alone."""
        return self.llm.session(videos) if videos else _Blind(self.llm)


@dataclass(frozen=True, slots=True)
class _Blind:
    """A model that sees nothing."""

    llm: "VideoLLM"

    def ask(self, question: str, **settings: Any) -> Reply:  # of transformers
        return self.llm.ask(question, [], **settings)

    def option_scores(self, question: str, options: Sequence[str], /) -> Tensor:
        return self.llm.option_scores(question, [], options)


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """One of the things that are compared."""

    kind: Literal["full", "blind", "method"]
    method: str
    """``full``, ``blind``, or the method as a person writes it."""
    stage: Compressor | None = None
    budget: Budget | None = None

    @property
    def name(self) -> str:
        """``full``, ``tome@10%``."""
        return self.method if self.budget is None else f"{self.method}@{self.share}"

    @property
    def asks(self) -> bool:
        """Whether every question gets tokens of its own."""
        return isinstance(self.stage, QueryAware) and self.stage.lacks_query

    @property
    def share(self) -> str:
        """The budget as a person writes it; empty where there is none."""
        return "" if self.budget is None else short_budget(self.budget)


def make_arms(
    methods: Sequence[str],
    budgets: Sequence[Budget],
    baselines: Sequence[str] = ("full", "blind", "uniform_frames"),
) -> list[Arm]:
    """All arms: baselines first, then every method at every budget.

    Args:
        methods: of ``parse_methods``.
        budgets: what each may keep.
        baselines: of ``full`` (all tokens), ``blind`` (no video at all) and ``uniform_frames``
            (all tokens of fewer frames, as many tokens as the methods have).

    Raises:
        ConfigError: an unknown method or baseline, or nothing to do.
    """
    unknown = sorted(set(baselines) - {"full", "blind", "uniform_frames"})
    if unknown:
        raise ConfigError(
            f"baselines are full, blind and uniform_frames, got {unknown[0]!r}: choose among them"
        )
    arms = [
        Arm(kind=kind, method=kind)
        for kind in ("full", "blind")
        if kind in baselines  # in this order
    ]
    words = [*methods, *["uniform_frames"] * ("uniform_frames" in baselines and bool(budgets))]
    found = parse_methods(words) if words and budgets else []
    arms += [
        Arm(kind="method", method=method.label, stage=method.stage, budget=budget)
        for method in found
        for budget in budgets
    ]
    if not arms:
        raise ConfigError("there is nothing to compare: give methods with budgets, or a baseline")
    return arms


def tokens_of(
    arm: Arm, model: Model, dense: VideoTokens | None, question: str = ""
) -> list[VideoTokens]:
    """What the model sees in an arm: one video, or nothing.

    Args:
        arm: what is kept.
        model: that will read it.
        dense: all tokens; not needed by ``blind``.
        question: what is asked, where the arm chooses by it.

    Raises:
        BudgetError: the method cannot reach the budget on this video.
        ShapeError: the method does not work on such tokens.
    """
    if arm.kind == "blind":
        return []
    assert dense is not None  # noqa: S101  # the caller encodes
    if arm.stage is None or arm.budget is None:
        return [dense]
    slots = arm.budget.resolve(dense.grid.num_patches, frames_of(dense), dense.num_seconds)
    fixed = model.structural(dense.grid)
    if slots <= fixed:
        raise BudgetError(
            f"the model adds {fixed} rows that stand for no patch to this video, got a budget of "
            f"{slots}: give at least {fixed + 1}"
        )
    stage = fit_to(Method(label=arm.method, stage=arm.stage), dense).stage
    if arm.asks:
        stage = model.bind(stage, question)
    return [stage(dense, slots - fixed)]


def slots_of(model: Model, videos: Sequence[VideoTokens]) -> int:
    """Tokens of the videos in the prompt, structural rows included."""
    return sum(len(video) + model.structural(video.grid) for video in videos)


def frames_of(video: VideoTokens) -> int:
    """Frames that were sampled; repeats that fill the last tubelet do not count."""
    times = video.frame_extras.get(PTS)
    return video.grid.t if times is None else len(set(times.flatten().tolist()))
