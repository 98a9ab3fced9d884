"""Questions of annotation files: one file, a file a task, answers beside them."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from vidcomp.data.benchmarks import BENCHMARKS, Benchmark, Row, detect
from vidcomp.data.questions import Question
from vidcomp.data.tables import read_rows
from vidcomp.errors import ConfigError

__all__ = ["QuestionSet", "read_names", "read_questions"]

_KINDS = ("csv", "tsv", "jsonl", "json", "parquet")
_SUFFIXES = tuple(f".{kind}" for kind in (*_KINDS, "ndjson"))
_PARTS = ("train-", "test-", "val-", "validation-", "0000.")
"""How the hub names files that lie in a folder of the task's name."""


class QuestionSet(NamedTuple):
    """The questions of a benchmark."""

    benchmark: Benchmark
    questions: list[Question]


def read_questions(
    paths: str | Path | Sequence[str | Path],
    *,
    benchmark: str | None = None,
    answers: str | Path | None = None,
) -> QuestionSet:
    """Questions in the order of the files and rows.

    Args:
        paths: parquet, json, jsonl, csv or tsv files, or folders with a file a task, as MVBench
            and MLVU are published.
        benchmark: name of the format, of ``BENCHMARKS``; by default it is recognised by the
            columns of the first file.
        answers: file with the right answers, where they are published apart: ``test_a.json`` of
            ActivityNet-QA, ``subset_answers.json`` of EgoSchema (questions that it lacks are left
            out).

    Raises:
        ConfigError: a file that cannot be read or is of another format; the message names file
            and row.
        MissingExtraError: a parquet file, and pyarrow is not installed.
    """
    if benchmark is not None and benchmark not in BENCHMARKS:
        raise ConfigError(f"there is no benchmark {benchmark!r}: known are {', '.join(BENCHMARKS)}")
    found = BENCHMARKS.get(benchmark or "")
    gold: dict[str, Mapping[str, Any]] | None = None
    questions: dict[str, Question] = {}
    for path in _files([paths] if isinstance(paths, str | Path) else paths):
        for number, cells in enumerate(read_rows(path, "annotation file", _KINDS), start=1):
            if found is None:
                found = _detected(path, list(cells))
            if answers is not None and gold is None:
                gold = _answers(answers, found)
            for question in _parsed(found, path, number, _joined(cells, found, gold)):
                if questions.setdefault(question.id, question) is not question:
                    raise ConfigError(
                        f"row {number} of {path}: there is a question {question.id!r} before it: "
                        f"give each its own id"
                    )
    if found is None or not questions:
        raise ConfigError(f"no questions in {paths}: pass files that hold some")
    return QuestionSet(found, list(questions.values()))


def read_names(path: str | Path) -> dict[str, str]:
    """Names of videos by other names of the same videos, either way round.

    Args:
        path: a text of two words a line, as ``youtube_mapping.txt`` of MSVD, or a JSON object, as
            ``map_vid_vidorID.json`` of NExT-QA.

    Raises:
        ConfigError: neither.
    """
    try:
        content = Path(path).read_text(encoding="utf-8-sig")
        if content.lstrip().startswith("{"):
            pairs = [(str(a), str(b)) for a, b in json.loads(content).items()]
        else:
            pairs = [(a, b) for a, b in (line.split() for line in content.splitlines() if line)]
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"names of videos are a JSON object or two words a line, and {path} cannot be read so "
            f"({error}): correct it"
        ) from error
    return {**{b: a for a, b in pairs}, **dict(pairs)}


def _files(paths: Sequence[str | Path]) -> Iterator[Path]:
    for path in map(Path, paths):
        if not path.is_dir():
            yield path
            continue
        inside = sorted(one for one in path.rglob("*") if one.suffix.lower() in _SUFFIXES)
        if not inside:
            raise ConfigError(f"the folder {path} holds no annotations: pass the files")
        yield from inside


def _detected(path: Path, names: Sequence[str]) -> Benchmark:
    try:
        return detect(names)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def _parsed(
    benchmark: Benchmark, path: Path, number: int, cells: Mapping[str, Any] | None
) -> Iterator[Question]:
    if cells is None:
        return
    stem = path.parent.name if path.name.startswith(_PARTS) else path.stem
    try:
        yield from benchmark.parse(Row(cells, number, stem))
    except ConfigError as error:
        raise ConfigError(f"row {number} of {path} ({benchmark.title}): {error}") from error


def _joined(
    cells: Mapping[str, Any],
    benchmark: Benchmark,
    gold: Mapping[str, Mapping[str, Any]] | None,
) -> Mapping[str, Any] | None:
    """The row with its answer; ``None`` if it has none."""
    if gold is None:
        return cells
    answer = gold.get(str(cells.get(benchmark.joins)))
    return None if answer is None else {**cells, **answer}


def _answers(path: str | Path, benchmark: Benchmark) -> dict[str, Mapping[str, Any]]:
    """Rows of answers by what joins them; a plain JSON object holds an answer a key."""
    if not benchmark.joins:
        raise ConfigError(
            f"{benchmark.title} has its answers beside the questions, got a file of answers "
            f"({path}): leave it out"
        )
    try:
        held = json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"the answers {path} cannot be read ({error}): mend them") from error
    if isinstance(held, dict):
        return {str(key): {"answer": value} for key, value in held.items()}
    try:
        return {str(row[benchmark.joins]): row for row in held}
    except (KeyError, TypeError) as error:
        raise ConfigError(
            f"answers are an object, or a list of objects with {benchmark.joins!r}, and {path} is "
            f"neither: pass the right file"
        ) from error
