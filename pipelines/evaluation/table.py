"""The result of an evaluation as tables for people."""

from collections.abc import Mapping, Sequence
from typing import Any

from vidcomp.data.benchmarks import Benchmark

from ..comparison import Interval
from ..output import format_table, json_text, printable
from .evaluate import Evaluation
from .prompts import Prompts
from .report import ArmResult, chance

__all__ = ["format_evaluation"]

_HEAD = (
    "seen",
    "budget",
    "frames",
    "before",
    "tokens",
    "answers",
    "accuracy",
    "95 %",
    "to full",
    "95 %",
    "p",
    "gained",
    "lost",
    "McNemar",
    "gold logp",
    "to full",
    "s",
)
_BASELINES = {"full": "all tokens", "blind": "no video"}
_MANY_GROUPS = 24
"""A grouping with more groups stands in the JSON only."""


def format_evaluation(
    done: Evaluation,
    results: Sequence[ArmResult],
    benchmark: Benchmark,
    settings: Mapping[str, Any],
    prompts: Prompts,
) -> str:
    """Arms, groups of questions, and all that has to be known to compare them with others."""
    parts = [_arms(results)] if results else []
    if benchmark.over_kinds and any(result.over_kinds for result in results):
        parts.append(_over_kinds(results))
    parts += _groups(results)
    return "\n".join([*parts, *_notes(done, results, benchmark, settings, prompts)])


def _arms(results: Sequence[ArmResult]) -> str:
    rows = [_row(result) for result in results]
    used = [i for i in range(len(_HEAD)) if any(row[i] is not None for row in rows)]
    return format_table(
        [_HEAD[i] for i in used], [[row[i] for i in used] for row in rows], digits=3
    )


def _row(result: ArmResult) -> list[Any]:
    versus = result.versus
    logp = versus.gold_logp if versus is not None else None
    return [
        _BASELINES.get(result.arm.kind, result.arm.method),
        result.arm.share or None,
        round(result.frames),
        round(result.tokens_before),
        round(result.tokens_after),
        result.judged or result.answered,
        None if result.accuracy is None else result.accuracy.mean,
        _ends(result.accuracy),
        None if versus is None else versus.accuracy.difference.mean,
        None if versus is None else _ends(versus.accuracy.difference),
        None if versus is None else versus.accuracy.p,
        None if versus is None else versus.mcnemar.gained,
        None if versus is None else versus.mcnemar.lost,
        None if versus is None else versus.mcnemar.p,
        None if result.gold_logp is None else result.gold_logp.mean,
        None if logp is None else logp.difference.mean,
        result.seconds,
    ]


def _over_kinds(results: Sequence[ArmResult]) -> str:
    """The score of benchmarks whose kinds of questions count alike."""
    rows: list[list[Any]] = []
    for result in results:
        if result.over_kinds is None:
            continue
        versus = None if result.versus is None else result.versus.over_kinds
        rows.append(
            [
                _BASELINES.get(result.arm.kind, result.arm.name),
                result.over_kinds.mean,
                _ends(result.over_kinds),
                None if versus is None else versus.difference.mean,
                None if versus is None else _ends(versus.difference),
                None if versus is None else versus.p,
            ]
        )
    head = ["mean over kinds", "accuracy", "95 %", "to full", "95 %", "p"]
    return "\n" + format_table(head, rows, digits=3)


def _groups(results: Sequence[ArmResult]) -> list[str]:
    """A table a grouping: accuracy of each group in each arm."""
    tables = []
    names = list(dict.fromkeys(name for result in results for name in result.groups))
    for name in names:
        groups = sorted({group for result in results for group in result.groups.get(name, {})})
        if not 1 < len(groups) <= _MANY_GROUPS:
            continue
        rows = [[printable(group), *_group_cells(results, name, group)] for group in groups]
        head = [name, "answers", *(_BASELINES.get(r.arm.kind, r.arm.name) for r in results)]
        tables.append("\n" + format_table(head, rows, digits=3))
    return tables


def _group_cells(results: Sequence[ArmResult], name: str, group: str) -> list[Any]:
    found = [result.groups.get(name, {}).get(group) for result in results]
    most = max(one[0] for one in found if one is not None)
    return [most, *(None if one is None else one[1].mean for one in found)]


def _notes(
    done: Evaluation,
    results: Sequence[ArmResult],
    benchmark: Benchmark,
    settings: Mapping[str, Any],
    prompts: Prompts,
) -> list[str]:
    questions = done.questions
    videos = len({question.video for question in questions})
    what = f"{benchmark.title}: {len(questions)} questions on {videos} videos"
    model = f"model {settings['model']} ({settings['dtype']})"
    lines = ["", f"{what}; {model}; frames: {settings['frames']}"]
    guessing = chance(questions)
    if guessing is not None:
        lines.append(f"guessing among the options: {guessing:.3f}")
    unknown = sum(not question.has_answer for question in questions)
    if unknown:
        lines.append(f"questions without a published answer: {unknown}; they are not judged")
    free = sum(not question.is_choice for question in questions)
    if free:
        lines.append(f"free answers: {free}; right if equal to a known one, which is strict")
    if any(result.versus is not None for result in results):
        lines.append("to full: less the accuracy with all tokens, paired, resampled by video")
    lines.append(f"prompt: {json_text(prompts.text(questions[0]))}, in the model's chat template")
    lines += [
        f"failed: {printable(one.video)} {one.arm}".rstrip() + f": {printable(one.error)}"
        for one in done.failures
    ]
    if done.is_stopped:
        lines.append("stopped by --max-failures; run again to go on")
    return lines


def _ends(found: Interval | None) -> str | None:
    if found is None or found.low is None or found.high is None:
        return None
    return f"{found.low:.3f} {found.high:.3f}"
