"""What an evaluation comes to: a score an arm, its certainty, and the difference to all tokens."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from vidcomp.data.questions import Question

from ..comparison import Interval
from .evaluate import Evaluation
from .model import Arm
from .records import Answered
from .statistics import McNemar, Paired, mcnemar, mean_over_videos, paired

__all__ = ["ArmResult", "Versus", "chance", "summarise_arms", "to_json"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Versus:
    """An arm and the uncompressed run on the questions that both answered."""

    questions: int
    accuracy: Paired
    """Arm less uncompressed run."""
    over_kinds: Paired | None
    """Of the means of the kinds' accuracies."""
    gold_logp: Paired | None
    """Of the same, where options are chosen; it varies far less than the accuracy."""
    mcnemar: McNemar


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmResult:
    """One arm over the questions it was asked; intervals are over videos."""

    arm: Arm
    answered: int
    judged: int
    """Of them, with a known right answer."""
    videos: int
    frames: float
    """Mean count."""
    tokens_before: float
    tokens_after: float
    seconds: float
    """Mean of an answer."""
    accuracy: Interval | None
    """``None`` where nothing is known to be right."""
    over_kinds: Interval | None
    """Mean of the accuracies of the kinds of questions."""
    gold_logp: Interval | None
    groups: Mapping[str, Mapping[str, tuple[int, Interval]]]
    """Questions and accuracy by grouping and group; the grouping ``kind`` is that of the kinds."""
    versus: Versus | None


def summarise_arms(done: Evaluation) -> list[ArmResult]:
    """The arms that answered anything, in their order; ``full`` is what others are held against."""
    by_id = {question.id: question for question in done.questions}
    answers = {arm.name: done.of(arm) for arm in done.arms}
    full = answers.get("full")
    return [
        _result(arm, list(answers[arm.name].values()), by_id, full if arm.kind != "full" else None)
        for arm in done.arms
        if answers[arm.name]
    ]


def chance(questions: Sequence[Question]) -> float | None:
    """Accuracy of guessing among options; ``None`` where there are free answers."""
    if not questions or not all(question.is_choice for question in questions):
        return None
    return statistics.fmean(1 / len(question.options) for question in questions)


def to_json(
    done: Evaluation, results: Sequence[ArmResult], settings: Mapping[str, Any]
) -> dict[str, Any]:
    """Plain JSON values: settings, results, and what failed."""
    return {
        **settings,
        "questions": len(done.questions),
        "videos": len({question.video for question in done.questions}),
        "chance": chance(done.questions),
        "asked_now": done.asked,
        "results": [_result_json(result) for result in results],
        "failures": [asdict(failure) for failure in done.failures],
        "exit_code": done.exit_code,
    }


def _result(
    arm: Arm,
    answers: Sequence[Answered],
    by_id: Mapping[str, Question],
    full: Mapping[str, Answered] | None,
) -> ArmResult:
    judged = [one for one in answers if one.is_right is not None]
    rights, videos = [_right(one) for one in judged], [one.video for one in judged]
    kinds = [one.kind for one in judged]
    logps = [(one.gold_logp, one.video) for one in judged if one.gold_logp is not None]
    return ArmResult(
        arm=arm,
        answered=len(answers),
        judged=len(judged),
        videos=len({one.video for one in answers}),
        frames=statistics.fmean(one.frames for one in answers),
        tokens_before=statistics.fmean(one.tokens_before for one in answers),
        tokens_after=statistics.fmean(one.tokens_after for one in answers),
        seconds=statistics.fmean(one.seconds for one in answers),
        accuracy=mean_over_videos(rights, videos) if judged else None,
        over_kinds=mean_over_videos(rights, videos, kinds) if len(set(kinds)) > 1 else None,
        gold_logp=mean_over_videos(*_columns(logps)) if logps else None,
        groups=_by_group(judged, by_id),
        versus=None if full is None else _versus(judged, full),
    )


def _columns(pairs: Sequence[tuple[float, str]]) -> tuple[list[float], list[str]]:
    return [a for a, _ in pairs], [b for _, b in pairs]


def _by_group(
    judged: Sequence[Answered], by_id: Mapping[str, Question]
) -> dict[str, dict[str, tuple[int, Interval]]]:
    members: dict[str, dict[str, list[Answered]]] = {}
    for one in judged:
        for name, group in {"kind": one.kind, **by_id[one.id].groups}.items():
            if group:
                members.setdefault(name, {}).setdefault(group, []).append(one)
    return {
        name: {
            group: (
                len(own),
                mean_over_videos([_right(one) for one in own], [one.video for one in own]),
            )
            for group, own in sorted(groups.items())
        }
        for name, groups in members.items()
    }


def _versus(judged: Sequence[Answered], full: Mapping[str, Answered]) -> Versus | None:
    both = [
        (one, full[one.id])
        for one in judged
        if one.id in full and full[one.id].is_right is not None
    ]
    if not both:
        return None
    videos, kinds = [one.video for one, _ in both], [one.kind for one, _ in both]
    rights = [_right(a) for a, _ in both], [_right(b) for _, b in both]
    logps = [
        (a.gold_logp, b.gold_logp, a.video)
        for a, b in both
        if a.gold_logp is not None and b.gold_logp is not None
    ]
    return Versus(
        questions=len(both),
        accuracy=paired(*rights, videos),
        over_kinds=paired(*rights, videos, kinds) if len(set(kinds)) > 1 else None,
        gold_logp=paired(*_three(logps)) if logps else None,
        mcnemar=mcnemar([bool(a.is_right) for a, _ in both], [bool(b.is_right) for _, b in both]),
    )


def _three(
    rows: Sequence[tuple[float, float, str]],
) -> tuple[list[float], list[float], list[str]]:
    return [a for a, _, _ in rows], [b for _, b, _ in rows], [c for _, _, c in rows]


def _right(one: Answered) -> float:
    return 1.0 if one.is_right else 0.0


def _result_json(result: ArmResult) -> dict[str, Any]:
    versus = result.versus
    return {
        "arm": result.arm.name,
        "kind": result.arm.kind,
        "method": result.arm.method,
        "budget": result.arm.share or None,
        "answered": result.answered,
        "judged": result.judged,
        "videos": result.videos,
        "frames": result.frames,
        "tokens_before": result.tokens_before,
        "tokens_after": result.tokens_after,
        "seconds": result.seconds,
        "accuracy": _interval_json(result.accuracy),
        "over_kinds": _interval_json(result.over_kinds),
        "gold_logp": _interval_json(result.gold_logp),
        "groups": {
            name: {
                group: {"questions": num, **found._asdict()} for group, (num, found) in own.items()
            }
            for name, own in result.groups.items()
        },
        "versus_full": None
        if versus is None
        else {
            "questions": versus.questions,
            "accuracy": _paired_json(versus.accuracy),
            "over_kinds": _paired_json(versus.over_kinds),
            "gold_logp": _paired_json(versus.gold_logp),
            "mcnemar": versus.mcnemar._asdict(),
        },
    }


def _interval_json(found: Interval | None) -> dict[str, float | None] | None:
    return None if found is None else found._asdict()


def _paired_json(found: Paired | None) -> dict[str, float | None] | None:
    return None if found is None else {**found.difference._asdict(), "p": found.p}
