"""Questions and answers about videos, read from the files that data sets publish.

A file is jsonl, json, csv, tsv or parquet (the latter needs pyarrow): a row a question, or a row a
conversation as LLaVA writes it (``conversations``: turns of ``from`` and ``value``) or as chat
models take it (``messages``: turns of ``role`` and ``content``).
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

from vidcomp.data.conversations import CONVERSATIONS, is_conversation, pairs
from vidcomp.data.tables import TABLE_KINDS, read_rows
from vidcomp.errors import ConfigError

__all__ = ["QAExample", "read_annotations"]

_KINDS = (*TABLE_KINDS[:-1], "json", TABLE_KINDS[-1])

# In the order in which they are looked for; letter case is ignored.
_KNOWN = {
    "key": ("video_id", "video", "vid", "video_name", "video_path", "video_idx", "videos", "key"),
    "question": ("question", "q", "query", "prompt", *CONVERSATIONS),
    "answer": ("answer", "a", "answers", "correct_choice", "response"),
    "id": ("id", "question_id", "qid", "q_uid", "uid", "sample_id"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class QAExample:
    """One question about one video."""

    key: str
    """The video, as the file names it."""
    question: str
    answers: tuple[str, ...] = ()
    """All answers that are right; none where they are not known, as in a test set."""
    id: str = ""
    """As the file says, else the row's number from 1; some sets use one id for many questions."""
    history: tuple[tuple[str, str], ...] = ()
    """Questions and answers that come before in the same conversation."""
    start_s: float | None = None
    """Start of the part of the video that the question is about, in seconds."""
    end_s: float | None = None
    """End of that part."""
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """All other columns: choices, kinds of question, a conversation as it was written."""

    def __post_init__(self) -> None:
        if not issubclass(type(self.answers), tuple):
            raise ConfigError(f"answers is a tuple, got {self.answers!r}: write a tuple of texts")
        start, end = self.start_s or 0.0, math.inf if self.end_s is None else self.end_s
        if not 0 <= start < end:
            raise ConfigError(
                f"a part of a video starts at 0 s or later and ends after it starts, got "
                f"{self.start_s} to {self.end_s} s: correct it, or leave it out"
            )

    @property
    def answer(self) -> str | None:
        """The first answer."""
        return self.answers[0] if self.answers else None


class _Columns(NamedTuple):
    """Which column holds what; ``None``: no column does."""

    key: str
    question: str
    answer: str | None
    id: str | None
    start: str | None
    end: str | None


class _Row(NamedTuple):
    number: int  # from 1
    cells: dict[str, Any]


def read_annotations(
    path: str | Path,
    *,
    key: str | None = None,
    question: str | None = None,
    answer: str | None = None,
    id: str | None = None,  # noqa: A002  # the column's usual name
    start: str | None = None,
    end: str | None = None,
    turns: Literal["each", "whole"] = "each",
) -> list[QAExample]:
    """The questions of a file, in its order.

    Columns that are not named are looked for under the names that common sets use, in this order
    and in any letter case; a file without a column of answers or of ids is fine then.

    Args:
        path: jsonl, ndjson, json, csv, tsv or parquet file.
        key: column of the video: ``video_id``, ``video``, ``vid``, ``video_name``,
            ``video_path``, ``video_idx``, ``videos``, ``key``.
        question: column of the question or of the conversation: ``question``, ``q``, ``query``,
            ``prompt``, ``conversations``, ``messages``.
        answer: column of the answer or the list of answers: ``answer``, ``a``, ``answers``,
            ``correct_choice``, ``response``.
        id: column of the question's id: ``id``, ``question_id``, ``qid``, ``q_uid``, ``uid``,
            ``sample_id``.
        start: column of the start, in seconds, of the part of the video to show.  It is never
            guessed: in many sets such a column is what the model has to find.
        end: column of the end; the same as ``start`` if that one holds pairs of both.
        turns: ``each`` question of a conversation is an example, with what was said before as its
            history; ``whole``: only the last one is, so that a conversation is one example.

    Raises:
        ConfigError: the file cannot be read, lacks a column, or a row lacks a value.
        MissingExtraError: a parquet file, and pyarrow is not installed.
    """
    if turns not in ("each", "whole"):
        raise ConfigError(f"turns is 'each' or 'whole', got {turns!r}: choose one")
    rows = [_Row(n, row) for n, row in enumerate(read_rows(path, "annotation file", _KINDS), 1)]
    if not rows:
        return []
    there = list(dict.fromkeys(name for row in rows for name in row.cells))
    named = {"key": key, "question": question, "answer": answer, "id": id}
    found = {role: _column(path, there, role, name) for role, name in named.items()}
    ranges = {
        role: _column(path, there, role, name) for role, name in (("start", start), ("end", end))
    }
    columns = _Columns(**found, **ranges)  # type: ignore[arg-type]  # key and question are there
    examples: list[QAExample] = []
    for row in rows:
        try:
            made = list(_examples(row, columns))
        except ConfigError as error:
            raise ConfigError(f"row {row.number} of {path}: {error}") from error
        examples += made if turns == "each" else made[-1:]
    return examples


def _column(path: str | Path, there: Sequence[str], role: str, name: str | None) -> str | None:
    """The column for a role: the one named, else one of a known name.

    Raises:
        ConfigError: it is not there, and needed.
    """
    if name is not None:
        if name in there:
            return name
        raise ConfigError(
            f"{path} has no column {name!r} for {role}: it has {', '.join(map(repr, there))}"
        )
    folded = {other.lower(): other for other in reversed(there)}
    known = _KNOWN.get(role, ())
    for other in known:
        if other in folded:
            return folded[other]
    if role in ("key", "question"):
        raise ConfigError(
            f"{path} has no column for {role} of a known name ({', '.join(known)}): it has "
            f"{', '.join(map(repr, there))}; say which one with {role}=..."
        )
    return None


def _examples(row: _Row, columns: _Columns) -> Iterator[QAExample]:
    """The questions of one row."""
    cells = row.cells
    extra = {name: value for name, value in cells.items() if name not in columns}
    start_s, end_s = _range(cells, columns)
    make = partial(
        QAExample, key=_text(cells, columns.key), start_s=start_s, end_s=end_s, extra=extra
    )
    name = "" if columns.id is None else _one(cells.get(columns.id))
    name = name or str(row.number)
    talk = cells.get(columns.question)
    if is_conversation(talk):
        extra[columns.question] = talk  # as it was, with what is cut out of questions
        yield from _conversation(make, name, pairs(talk))
    else:
        answers = () if columns.answer is None else _texts(cells.get(columns.answer))
        yield make(id=name, question=_text(cells, columns.question), answers=answers)


def _conversation(
    make: Callable[..., QAExample], name: str, said: Sequence[tuple[str, str | None]]
) -> Iterator[QAExample]:
    """An example for each question, after those before it."""
    history: tuple[tuple[str, str], ...] = ()
    for turn, (question, answer) in enumerate(said, start=1):
        answers = () if answer is None else (answer,)
        turn_id = name if len(said) == 1 else f"{name}#{turn}"
        yield make(id=turn_id, question=question, answers=answers, history=history)
        history += ((question, answer or ""),)


def _text(cells: Mapping[str, Any], column: str) -> str:
    text = _one(cells.get(column))
    if not text:
        raise ConfigError(f"there is no {column!r}: give it one, or leave the row out")
    return text


def _one(value: object) -> str:
    """A cell as text, or the text of a list of one; empty if there is nothing."""
    texts = _texts(value)
    if len(texts) > 1:
        raise ConfigError(f"one value is wanted, got {list(texts)}: write a row for each")
    return texts[0] if texts else ""


def _texts(value: object) -> tuple[str, ...]:
    """A cell as texts; ids that a table holds as numbers are texts, too."""
    if isinstance(value, str):
        return (value,) if value else ()
    values = value if isinstance(value, list | tuple) else [value]
    if any(isinstance(one, list | tuple | dict) for one in values):
        raise ConfigError(f"text or a list of texts is wanted, got {value!r}: write it flat")
    return tuple(
        str(one)
        for one in values
        if one is not None and one != "" and one == one  # no NaN
    )


def _range(cells: Mapping[str, Any], columns: _Columns) -> tuple[float | None, float | None]:
    start = None if columns.start is None else cells.get(columns.start)
    end = None if columns.end is None else cells.get(columns.end)
    if columns.start is not None and columns.start == columns.end and start is not None:
        if not isinstance(start, list | tuple) or len(start) != 2:
            raise ConfigError(
                f"{columns.start!r} should be a pair of seconds, got {start!r}: write [start, end]"
            )
        start, end = start
    return _seconds(columns.start, start), _seconds(columns.end, end)


def _seconds(column: str | None, value: object) -> float | None:
    if value is None or value == "":
        return None
    try:
        seconds = float(value)  # type: ignore[arg-type]  # what is no number says so
    except (TypeError, ValueError):
        seconds = math.inf
    if math.isnan(seconds):
        return None  # how tables of numbers say that there is none
    if math.isinf(seconds):
        raise ConfigError(f"{column!r} is {value!r}: write seconds")
    return seconds
