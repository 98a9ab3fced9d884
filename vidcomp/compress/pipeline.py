"""Stages one after another, the last of which closes on the budget."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, ClassVar, Self

from pydantic import Field, model_validator

from vidcomp.compress._pipeline_stream import PipelineStream, share
from vidcomp.compress.base import Compressor, Kind, QueryAware, Stream
from vidcomp.config import Stage
from vidcomp.errors import ConfigError
from vidcomp.registry import COMPRESSORS
from vidcomp.types import QueryFeatures, VideoTokens

__all__ = ["Pipeline"]


class Pipeline(Compressor):
    """A compressor made of compressors: ``Pipeline((Stage(a, retention=0.5), Stage(b)))``.

    A stage before the last leaves its retention of the tokens that it is given, rounded down, but
    never fewer than the final budget.
    """

    kind: ClassVar[Kind] = "mixed"

    stages: tuple[Stage, ...] = Field(min_length=1)
    """In order; all but the last have a retention."""

    def __init__(self, stages: Sequence[Stage | Compressor] | None = None, **settings: Any) -> None:
        if stages is not None:
            made = (s if isinstance(s, Stage | str | dict) else Stage(s) for s in stages)
            settings["stages"] = tuple(made)
        super().__init__(**settings)

    @model_validator(mode="after")
    def _check_retentions(self) -> Self:
        *inner, last = self.stages
        for place, stage in enumerate(inner, start=1):
            if stage.retention is None:
                raise ConfigError(
                    f"stage {place} of {len(self.stages)} ({stage.compressor.name!r}) has no "
                    f"retention, so it would leave nothing to do for those after it: give it a "
                    f"retention, or leave them out"
                )
        if last.retention is not None:
            raise ConfigError(
                f"the last stage ({last.compressor.name!r}) closes on the budget, got "
                f"retention={last.retention}: leave it out, or make it the budget"
            )
        return self

    def bind(self, query: QueryFeatures) -> "Pipeline":
        """The same stages; those that choose by a question know it."""
        return Pipeline(
            [
                Stage(
                    member.bind(query) if isinstance(member, QueryAware | Pipeline) else member,
                    retention=retention,
                )
                for member, retention in self._members()
            ]
        )

    @property
    def lacks_query(self) -> bool:
        """Whether a stage needs a query and was given none."""
        return any(
            isinstance(member, QueryAware | Pipeline) and member.lacks_query
            for member, _ in self._members()
        )

    def check_query(self) -> None:
        """Refuse stages that nobody can ask: what is stored must not depend on a question.

        Raises:
            ConfigError: a stage needs a query and was given none.
        """
        if self.lacks_query:
            raise ConfigError(
                "a stage of this recipe chooses tokens by a question, which belongs to no video: "
                "use stages that go without, and choose by the question among what they leave"
            )

    @property
    def needs_features(self) -> bool:
        """Whether a stage computes with the tokens."""
        return any(member.needs_features for member, _ in self._members())

    def check_rows(self, video: VideoTokens) -> None:
        """Nothing, if all stages can work on such tokens.

        Raises:
            ShapeError: they are ids, and a stage wants features.
        """
        for member, _ in self._members():
            member.check_rows(video)

    @property
    def exact(self) -> bool:
        """True if the stage that closes on the budget is exact, and no other may fall below it."""
        return all(compressor.exact for compressor, _ in self._members())

    def count(self, video: VideoTokens, budget: int) -> int:
        """The count that the stages arrive at.

        Known without running them as long as each is exact; a stage that is not has to see its
        input, so that those before it are run.
        """
        *inner, _ = members = list(self._members())
        done = 0  # stages that ``video`` has been through
        n = len(video)
        for place, (compressor, retention) in enumerate(members):
            target = _target(n, budget, retention)
            if compressor.exact:
                n = min(n, target)
                continue
            video, done = self._run(video, budget, inner[done:place]), place
            n = compressor.plan(video, target)
        return n

    def reduce(self, video: VideoTokens, budget: int) -> VideoTokens:
        """The output of the last stage."""
        return self._run(video, budget, list(self._members()))

    @property
    def last(self) -> Compressor:
        """The stage that closes on the budget."""
        *_, (last, _) = self._members()
        return last

    @property
    def streaming(self) -> bool:  # type: ignore[override]  # a pipeline's depends on its settings
        """Whether ``stream`` works: the last stage has an online form."""
        return self.last.streaming

    def check_stream(self) -> None:
        """Nothing, if ``stream`` works with these settings.

        Raises:
            ConfigError: the last stage has no online form, or not with its settings; which stages
                have one.
        """
        *inner, (last, _) = self._members()
        if not last.streaming:
            names = [name for name in COMPRESSORS.names() if COMPRESSORS[name].streaming]
            raise ConfigError(
                f"compress.stream=true needs a last stage that works online, and {last.name!r} "
                f"sees all tokens at once: use one of {', '.join(names)}, or leave stream out"
            )
        mixing = [stage.name for stage, _ in inner if stage.kind != "prune"]
        if last.streams_patches and mixing:
            raise ConfigError(
                f"compress.stream=true with {last.name!r} takes stages that prune before it, got "
                f"{', '.join(mixing)}: leave them out, or close with another streaming stage"
            )
        last.stream(1, (1, 1))

    def _stream(self, budget: int, grid_hw: tuple[int, int], provenance: bool) -> Stream:
        self.check_stream()
        *inner, (last, _) = self._members()
        stream = last.stream(budget, grid_hw, provenance=provenance)
        if not inner:
            return stream
        return PipelineStream(
            " > ".join(stage.compressor.name for stage in self.stages),
            budget,
            grid_hw,
            [(stage, retention) for stage, retention in inner if retention is not None],
            stream,
            partial(self, budget=budget),
            provenance=provenance,
        )

    def _members(self) -> Iterator[tuple[Compressor, float | None]]:
        for stage in self.stages:
            compressor = stage.compressor
            if not isinstance(compressor, Compressor):
                raise ConfigError(f"a stage is a compressor, got {compressor!r}: pass one")
            yield compressor, stage.retention

    @staticmethod
    def _run(
        video: VideoTokens, budget: int, members: Sequence[tuple[Compressor, float | None]]
    ) -> VideoTokens:
        for compressor, retention in members:
            video = compressor(video, _target(len(video), budget, retention))
        return video


def _target(num_tokens: int, budget: int, retention: float | None) -> int:
    if retention is None:
        return budget
    return max(budget, share(num_tokens, retention))
