"""``vidcomp evaluate`` behind its options: a run, then a table, JSON and a picture."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
from tqdm import tqdm

from vidcomp.budget import Budget
from vidcomp.data.read_questions import QuestionSet, read_names, read_questions
from vidcomp.errors import StoreError
from vidcomp.report.accuracy import Level, Score, ScoreCurve, draw_accuracy
from vidcomp.report.curves import check_drawing
from vidcomp.sample.base import Sampler

from ..output import json_text, print_json
from .evaluate import Evaluation, evaluate
from .model import Arm, LoadedModel, make_arms
from .prompts import Prompts
from .records import Answers
from .report import ArmResult, chance, summarise_arms, to_json
from .table import format_evaluation
from .videos import VideoFiles

__all__ = ["draw_results", "run_evaluate"]


def run_evaluate(options: dict[str, Any]) -> int:
    """``vidcomp evaluate``."""
    if options["picture"]:
        check_drawing()  # before the work, not after it
    found = _questions(options)
    arms = make_arms(
        _words(options["methods"]), _budgets(options["budgets"]), _words(options["baselines"])
    )
    videos = VideoFiles(
        options["videos"], None if options["names"] is None else read_names(options["names"])
    )
    prompts = Prompts(
        permutations=options["permutations"], max_new_tokens=options["max_new_tokens"]
    )
    settings = _settings(options, found, prompts)
    answers = Answers(options["out"], settings)
    model = _load(options)
    with _bar(found, arms, quiet=options["quiet"]) as bar:

        def tick(line: str) -> None:
            bar.set_postfix_str(line, refresh=False)
            bar.update(not line.endswith(" encode"))

        done = evaluate(
            found.questions,
            arms,
            model,
            videos,
            answers,
            prompts=prompts,
            max_failures=options["max_failures"],
            progress=tick,
        )
    results = summarise_arms(done)
    files = _write(done, results, settings, found, picture=options["picture"])
    if options["as_json"]:
        print_json(to_json(done, results, settings) | {"files": [str(path) for path in files]})
    else:
        click.echo(format_evaluation(done, results, found.benchmark, settings, prompts))
        for path in files:
            click.echo(f"wrote {path}")
    return done.exit_code


def draw_results(
    results: Sequence[ArmResult], path: Path, *, title: str, facts: str, guessing: float | None
) -> Path | None:
    """A curve a method over the tokens that were read; ``None`` where no method has a score."""
    scores: dict[str, list[Score]] = {}
    levels = []
    for result in results:
        found = result.accuracy
        if found is None:
            continue
        if result.arm.kind == "method":
            score = Score(
                tokens=result.tokens_after, mean=found.mean, low=found.low, high=found.high
            )
            scores.setdefault(result.arm.method, []).append(score)
        else:
            name = {"full": "all tokens"}.get(result.arm.kind, "no video")
            levels.append(Level(name=name, mean=found.mean, low=found.low, high=found.high))
    if guessing is not None:
        levels.append(Level(name="guessing", mean=guessing))
    curves = [ScoreCurve(name=name, scores=tuple(own)) for name, own in scores.items()]
    return draw_accuracy(curves, levels, path, title=title, facts=facts) if curves else None


def _questions(options: Mapping[str, Any]) -> QuestionSet:
    found = read_questions(
        options["annotations"], benchmark=options["form"], answers=options["answers"]
    )
    questions = found.questions
    if options["whole"]:
        questions = [replace(one, start_s=None, end_s=None) for one in questions]
    return found._replace(questions=questions[: options["limit"]])


def _settings(options: Mapping[str, Any], found: QuestionSet, prompts: Prompts) -> dict[str, Any]:
    """What must be the same in all runs into one folder."""
    return {
        "benchmark": found.benchmark.name,
        "model": options["model"],
        "revision": options["revision"],
        "dtype": options["dtype"],
        "frames": options["num_frames"] or "as the model's processor chooses",
        "choice_prompt": prompts.choice,
        "free_prompt": prompts.free,
        "permutations": prompts.permutations,
        "max_new_tokens": prompts.max_new_tokens,
    }


def _load(options: Mapping[str, Any]) -> LoadedModel:
    from vidcomp.api import sampler
    from vidcomp.llm.model import VideoLLM

    if options["quiet"]:
        from transformers.utils import logging

        hub: Any = logging
        hub.disable_progress_bar()
    chosen: Sampler | None = None
    if options["num_frames"]:
        chosen = sampler("uniform", num_frames=options["num_frames"])
    llm = VideoLLM.load(
        options["model"],
        device=options["device"],
        dtype=options["dtype"],
        revision=options["revision"],
    )
    return LoadedModel(name=options["model"], llm=llm, sampler=chosen)


def _budgets(texts: Sequence[str]) -> list[Budget]:
    return list(dict.fromkeys(Budget.parse(word) for word in _words(texts)))


def _words(texts: Sequence[str]) -> list[str]:
    words = [word for text in texts for word in text.replace(",", " ").split()]
    return [word for word in words if word != "none"]


def _write(
    done: Evaluation,
    results: Sequence[ArmResult],
    settings: Mapping[str, Any],
    found: QuestionSet,
    *,
    picture: bool,
) -> list[Path]:
    folder = done.answers.folder
    try:
        folder.mkdir(parents=True, exist_ok=True)  # where nothing was answered
        (folder / "evaluate.json").write_text(
            json_text(to_json(done, results, settings), indent=1) + "\n", encoding="utf-8"
        )
    except OSError as error:
        raise StoreError(
            f"the folder {folder} cannot be written ({error.strerror or error}): choose another "
            f"place"
        ) from error
    files = [folder / "evaluate.json"]
    if picture:
        questions, videos = len(done.questions), len({one.video for one in done.questions})
        drawn = draw_results(
            results,
            folder / "accuracy.png",
            title=f"{found.benchmark.title}, {Path(settings['model']).name}",
            facts=f"{questions} questions on {videos} videos; bars: 95 % over videos",
            guessing=chance(done.questions),
        )
        files += [drawn] if drawn is not None else []
    return files


def _bar(found: QuestionSet, arms: Sequence[Arm], *, quiet: bool) -> "tqdm[Any]":
    videos = {(one.video, one.folder, one.start_s, one.end_s) for one in found.questions}
    return tqdm(
        total=len(videos) * len(arms), unit="run", disable=True if quiet else None, leave=False
    )
