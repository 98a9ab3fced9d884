"""Questions about videos, answered from all tokens, from few, and from none: the run itself.

All questions about a video share one pass of the encoder, one compression an arm, and what the
model has read of it.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from vidcomp.data.questions import Question
from vidcomp.errors import StoreError, VidcompError
from vidcomp.types import VideoTokens

from .model import Arm, Model, frames_of, slots_of, tokens_of
from .prompts import Judged, Prompts, judge, marked
from .records import Answered, Answers
from .videos import VideoFiles, by_clip

__all__ = ["Evaluation", "Failure", "evaluate"]

Progress = Callable[[str], None]

_OF_ONE_VIDEO = (VidcompError, OSError, RuntimeError, ValueError, MemoryError)
"""What a video, or a method on it, may end with; torch's lack of memory is a RuntimeError."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """What could not be asked."""

    video: str
    arm: str
    """Empty: no arm, as the video itself cannot be used."""
    questions: int
    error: str


@dataclass(slots=True, kw_only=True)
class Evaluation:
    """All answers there are to some questions."""

    questions: list[Question]
    arms: list[Arm]
    answers: Answers
    asked: int = 0
    """Questions that this run asked, over the arms; the others were answered before."""
    failures: list[Failure] = field(default_factory=list)
    is_stopped: bool = False
    """Whether there were more failures than allowed."""

    def of(self, arm: Arm) -> dict[str, Answered]:
        """Answers of an arm by the question's id, held against what is known now to be right."""
        found = ((one, self.answers.get(arm.name, one.id)) for one in self.questions)
        return {
            one.id: _marked(one, answer)
            for one, answer in found
            # Of a question with other options an answer may be left that could not be asked anew.
            if answer is not None and len(answer.logps) == len(one.options)
        }

    @property
    def exit_code(self) -> int:
        """0 all answered, 3 some failed, 4 stopped by too many failures."""
        if self.is_stopped:
            return 4
        return 3 if self.failures else 0


def evaluate(
    questions: Sequence[Question],
    arms: Sequence[Arm],
    model: Model,
    videos: VideoFiles,
    answers: Answers,
    *,
    prompts: Prompts | None = None,
    max_failures: int | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Ask every question in every arm, but for those that were asked before.

    Args:
        questions: with ids of their own.
        arms: see ``make_arms``.
        model: that answers.
        videos: where the files are.
        answers: what was answered before; new answers are added video by video.
        prompts: how questions are put.
        max_failures: stop after more than so many.
        progress: called with a line before each video in each arm.

    Raises:
        VidcompError: no question could be asked, now or before; the message is that of the first.
        StoreError: answers cannot be written.
    """
    done = Evaluation(questions=list(questions), arms=list(arms), answers=answers)
    run = _Run(done, model, videos, prompts or Prompts(), progress or (lambda _: None))
    for group in by_clip(questions):
        for failure in run.ask_all(group):
            done.failures.append(failure)
            if max_failures is not None and len(done.failures) > max_failures:
                done.is_stopped = True
                return done
    if done.failures and not any(done.of(arm) for arm in arms):
        raise VidcompError(
            f"none of {len(done.questions)} questions could be asked; the first: "
            f"{done.failures[0].error}"
        )
    return done


@dataclass(frozen=True, slots=True)
class _Run:
    """What all videos have in common."""

    done: Evaluation
    model: Model
    videos: VideoFiles
    prompts: Prompts
    progress: Progress

    def ask_all(self, group: Sequence[Question]) -> Iterator[Failure]:
        """Ask about one clip in all arms; gives what failed."""
        open_ = {arm.name: self._open(arm, group) for arm in self.done.arms}
        dense: VideoTokens | None = None
        if any(arm.kind != "blind" and open_[arm.name] for arm in self.done.arms):
            self.progress(f"{group[0].video} encode")
            try:
                dense = self._encode(group[0])
            except StoreError:
                raise
            except _OF_ONE_VIDEO as error:
                yield _failure(group, "", error)
                return
        for arm in self.done.arms:
            if not open_[arm.name]:
                continue
            self.progress(f"{group[0].video} {arm.name}")
            try:
                found = self._ask(arm, dense, open_[arm.name])
            except _OF_ONE_VIDEO as error:
                yield _failure(open_[arm.name], arm.name, error)
                continue
            self.done.answers.add(found)
            self.done.asked += len(found)

    def _open(self, arm: Arm, group: Sequence[Question]) -> list[Question]:
        """Questions that were never asked so."""
        before = [self.done.answers.get(arm.name, one.id) for one in group]
        return [
            one
            for one, found in zip(group, before, strict=True)
            if found is None or found.prompt != self.prompts.text(one)
        ]

    def _encode(self, question: Question) -> VideoTokens:
        path = self.videos.find(question)
        return self.model.encode(path, question.start_s, question.end_s)

    def _ask(
        self, arm: Arm, dense: VideoTokens | None, group: Sequence[Question]
    ) -> list[Answered]:
        """Answers to questions that share what the model sees, or each see tokens of their own."""
        if arm.asks and len(group) > 1:
            return [answer for one in group for answer in self._ask(arm, dense, [one])]
        shown = tokens_of(arm, self.model, dense, group[0].text)
        start_s = time.perf_counter()
        session = self.model.session(shown)
        shared_s = (time.perf_counter() - start_s) / len(group)
        whole = [] if dense is None or arm.kind == "blind" else [dense]
        counts = {
            "arm": arm.name,
            "frames": sum(map(frames_of, whole)),
            "tokens_before": slots_of(self.model, whole),
            "tokens_after": slots_of(self.model, shown),
        }
        found = []
        for question in group:
            start_s = time.perf_counter()
            judged = judge(session, question, self.prompts)
            seconds = shared_s + time.perf_counter() - start_s
            found.append(self._answered(question, judged, seconds, counts))
        return found

    def _answered(
        self, question: Question, judged: Judged, seconds: float, counts: dict[str, Any]
    ) -> Answered:
        return Answered(
            **counts,
            id=question.id,
            video=question.video,
            kind=question.kind,
            prompt=self.prompts.text(question),
            answer=judged.answer,
            is_right=judged.is_right,
            gold_logp=judged.gold_logp,
            logps=judged.logps,
            seconds=seconds,
        )


def _marked(question: Question, answer: Answered) -> Answered:
    found = marked(question, answer.answer, answer.logps)
    return replace(answer, is_right=found.is_right, gold_logp=found.gold_logp)


def _failure(group: Sequence[Question], arm: str, error: BaseException) -> Failure:
    told = str(error).strip() or type(error).__name__
    if not isinstance(error, VidcompError):
        told = f"{type(error).__name__}: {told.splitlines()[0]}"
    return Failure(video=group[0].video, arm=arm, questions=len(group), error=told)
