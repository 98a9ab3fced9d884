"""Annotation files of video question answering benchmarks, as they are published.

==============  ============================================================================
videomme        Video-MME: A Comprehensive Evaluation Benchmark of Multi-modal LLMs (2024)
mvbench         MVBench: A Comprehensive Multi-modal Video Understanding Benchmark (2023)
nextqa          NExT-QA: Next Phase of Question-Answering to Explaining Temporal Actions (2021)
egoschema       EgoSchema: A Diagnostic Benchmark for Very Long-form Video Language
                Understanding (2023)
longvideobench  LongVideoBench: A Benchmark for Long-context Interleaved Video-Language
                Understanding (2024)
mlvu            MLVU: A Comprehensive Benchmark for Multi-Task Long Video Understanding (2024)
activitynet_qa  ActivityNet-QA: A Dataset for Understanding Complex Web Videos via Question
                Answering (2019)
msvd_qa         Video Question Answering via Gradually Refined Attention over Appearance and
                Motion (2017)
plain           a table of your own
==============  ============================================================================
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vidcomp.data.cells import Cells, first_text, listed, option_cells, range_of, text, texts
from vidcomp.data.questions import Question, find_option, without_letters
from vidcomp.errors import ConfigError

__all__ = ["BENCHMARKS", "Benchmark", "Row", "detect"]


@dataclass(frozen=True, slots=True)
class Row:
    """A row of annotations and where it stands."""

    cells: Cells
    number: int
    """In its file, from 1."""
    stem: str
    """Name of the task by the file's name, ``action_sequence``, or by its folder's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Benchmark:
    """A format of annotations."""

    name: str
    title: str
    """As its authors write it."""
    parse: Callable[[Row], Iterator[Question]]
    """Questions of a row."""
    columns: tuple[str, ...]
    """Columns by which the format is recognised: all are there (``a|b``: one of them)."""
    over_kinds: bool = False
    """Whether its score is the mean of the accuracies of the kinds of questions."""
    joins: str = ""
    """Column by which a separate file of answers is joined, if they are published so."""

    def fits(self, names: Sequence[str]) -> bool:
        """Whether a table with columns of these names is of this format."""
        return all(any(way in names for way in one.split("|")) for one in self.columns)


def detect(names: Sequence[str]) -> Benchmark:
    """The format of a table with columns of these names.

    Raises:
        ConfigError: none fits.
    """
    for benchmark in BENCHMARKS.values():
        if benchmark.fits(names):
            return benchmark
    raise ConfigError(
        f"the columns {', '.join(map(repr, names))} are of no known format: name the format, one "
        f"of {', '.join(BENCHMARKS)}; a table of your own has video, question and answer"
    )


def _choice(
    options: Sequence[str],
    answer: object,
    *,
    number_first: bool = False,
    **fields: Any,  # of Question
) -> Question:
    """A question whose answer is one of the options, if it is told; -1 is how some hide it."""
    plain = without_letters(options)
    told = texts(answer)
    correct = None
    if told and told[0] != "-1":
        try:
            correct = find_option(told[0], plain, number_first=number_first)
        except ConfigError:
            correct = find_option(told[0], options)  # as it is written, with its letter
    return Question(options=plain, correct=correct, **fields)


def _videomme(row: Row) -> Iterator[Question]:
    cells = row.cells
    asked = cells.get("questions")
    rows = [{**cells, **one} for one in asked] if isinstance(asked, list) else [cells]
    for one in rows:
        yield _choice(
            option_cells(one, ("options", "candidates"), ()),
            one.get("answer"),
            id=text(one, "question_id", "index"),
            video=text(one, "videoID", "video", "video_id"),
            text=text(one, "question"),
            kind=first_text(one, "task_type"),
            groups=_groups(one, "duration", "domain", "sub_category"),
        )


_MVBENCH_FOLDERS = {
    "action_sequence": "star",
    "action_prediction": "star",
    "action_antonym": "ssv2",
    "fine_grained_action": "Moments_in_Time",
    "unexpected_action": "FunQA",
    "object_existence": "clevrer",
    "object_interaction": "star",
    "object_shuffle": "perception",
    "moving_direction": "clevrer",
    "action_localization": "sta/",
    "scene_transition": "scene_qa",
    "action_count": "perception",
    "moving_count": "clevrer",
    "moving_attribute": "clevrer",
    "state_change": "perception",
    "fine_grained_pose": "nturgbd",
    "character_order": "perception",
    "egocentric_navigation": "vlnqa",
    "episodic_reasoning": "tvqa",
    "counterfactual_inference": "clevrer",
}
"""Where the videos of each task come from: several of these have a video of the same name."""


def _mvbench(row: Row) -> Iterator[Question]:
    cells = row.cells
    kind = first_text(cells, "task_type") or row.stem
    start_s, end_s = range_of(cells, "start", "end")
    yield _choice(
        option_cells(cells, ("candidates",), ()),
        cells.get("answer"),
        id=f"{kind}-{first_text(cells, 'question_id') or row.number}",
        video=text(cells, "video"),
        text=text(cells, "question"),
        kind=kind,
        start_s=start_s,
        end_s=end_s,
        folder=_MVBENCH_FOLDERS.get(kind.lower().replace(" ", "_"), ""),
    )


_NEXTQA = {"C": "causal", "T": "temporal", "D": "descriptive"}


def _nextqa(row: Row) -> Iterator[Question]:
    cells = row.cells
    kind = first_text(cells, "type")
    video = text(cells, "video", "video_id")
    fields: dict[str, Any] = {
        "id": f"{video}-{first_text(cells, 'qid') or row.number}",  # counted in each video
        "video": video,
        "text": _asked(text(cells, "question")),
        "kind": kind,
        "groups": {"group": _NEXTQA[kind[0]]} if kind[:1] in _NEXTQA else {},
    }
    options = option_cells(cells, (), ("a",))
    if options:
        yield _choice(options, cells.get("answer"), number_first=True, **fields)
    else:
        answers = texts(cells.get("answer")) + texts(cells.get("additional_ref_answer"))
        yield Question(answers=answers, **fields)


def _egoschema(row: Row) -> Iterator[Question]:
    cells = row.cells
    video = text(cells, "video_idx", "q_uid")
    yield _choice(
        option_cells(cells, ("option", "options"), ("option ",)),
        cells.get("answer"),
        number_first=True,
        id=first_text(cells, "question_idx", "q_uid") or video,
        video=video,
        text=text(cells, "question"),
    )


def _longvideobench(row: Row) -> Iterator[Question]:
    cells = row.cells
    yield _choice(
        option_cells(cells, ("candidates",), ("option",)),
        cells.get("correct_choice"),
        number_first=True,
        id=text(cells, "id"),
        video=text(cells, "video_path", "video_id"),
        text=text(cells, "question"),
        kind=first_text(cells, "question_category"),
        groups=_groups(cells, "duration_group", "topic_category", "level"),
    )


_INSIDE = re.compile(r"^\s*\(?([A-Z])[).:]\s*(.+?)\s*$", re.MULTILINE)


def _mlvu(row: Row) -> Iterator[Question]:
    cells = row.cells
    asked = text(cells, "question")
    options = option_cells(cells, ("candidates",), ())
    inside = [found for found in _INSIDE.finditer(asked) if found[1] in "ABCDEFGH"]
    if len(inside) > 1:  # the text holds the options too
        options = options or tuple(found[2] for found in inside)
        asked = asked[: inside[0].start()].strip()
    kind = first_text(cells, "task_type", "question_type") or row.stem
    fields: dict[str, Any] = {
        "id": f"{row.stem}-{first_text(cells, 'question_id') or row.number}",
        "video": text(cells, "video_name", "video"),
        "text": asked,
        "kind": kind,
        "folder": row.stem if row.stem[:1].isdecimal() else "",
    }
    if options:
        yield _choice(options, cells.get("answer"), **fields)
    else:
        yield Question(answers=texts(cells.get("answer")), **fields)


_ACTIVITYNET = (
    "motion",
    "spatial relationship",
    "temporal relationship",
    "yes or no",
    "colour",
    "object",
    "location",
    "number",
    "other",
)


def _activitynet_qa(row: Row) -> Iterator[Question]:
    cells = row.cells
    kind = first_text(cells, "type")
    name = text(cells, "video_name")
    bare = name.removeprefix("v_")
    yield Question(
        id=text(cells, "question_id"),
        video=f"v_{bare}",
        aliases=(bare,),
        text=_asked(text(cells, "question")),
        answers=texts(cells.get("answer")),
        kind=_ACTIVITYNET[int(kind)] if kind.isdecimal() and int(kind) < 9 else kind,
    )


def _msvd_qa(row: Row) -> Iterator[Question]:
    cells = row.cells
    asked = text(cells, "question")
    number = text(cells, "video_id").removeprefix("vid")
    word = asked.split()[0].lower()
    yield Question(
        id=text(cells, "id"),
        video=f"vid{number}",
        aliases=(number,),
        text=_asked(asked),
        answers=texts(cells.get("answer")),
        kind=word if word in ("what", "who", "how", "when", "where") else "other",
    )


def _plain(row: Row) -> Iterator[Question]:
    cells = row.cells
    start_s, end_s = range_of(cells, "start", "end")
    fields: dict[str, Any] = {
        "id": first_text(cells, "id", "question_id") or f"{row.stem}-{row.number}",
        "video": text(cells, "video"),
        "text": text(cells, "question"),
        "kind": first_text(cells, "kind", "type"),
        "start_s": start_s,
        "end_s": end_s,
    }
    options = option_cells(cells, ("options", "candidates", "choices"), ("option",))
    if options:
        yield _choice(options, cells.get("answer"), **fields)
    else:
        yield Question(answers=texts(cells.get("answer")), **fields)


def _asked(question: str) -> str:
    """A question that annotators wrote without capital and question mark."""
    return question[:1].upper() + question[1:] + "?" * (question[-1] not in "?.!")


def _groups(cells: Mapping[str, Any], *names: str) -> dict[str, str]:
    found = {name: first_text(cells, name) for name in names if listed(cells.get(name))}
    return {name: value for name, value in found.items() if value}


BENCHMARKS: dict[str, Benchmark] = {
    one.name: one
    for one in (
        Benchmark(
            name="videomme",
            title="Video-MME",
            parse=_videomme,
            columns=("videoID|video_id|video", "domain", "sub_category"),
        ),
        Benchmark(
            name="nextqa",
            title="NExT-QA",
            parse=_nextqa,
            columns=("video|video_id", "question", "qid", "type"),
        ),
        Benchmark(
            name="egoschema",
            title="EgoSchema",
            parse=_egoschema,
            columns=("video_idx|q_uid", "question", "option|options|option 0"),
            joins="q_uid",
        ),
        Benchmark(
            name="longvideobench",
            title="LongVideoBench",
            parse=_longvideobench,
            columns=("video_path", "question", "duration_group"),
        ),
        Benchmark(
            name="mlvu",
            title="MLVU",
            parse=_mlvu,
            columns=("video_name|video", "question", "task_type|question_type"),
            over_kinds=True,
        ),
        Benchmark(
            name="activitynet_qa",
            title="ActivityNet-QA",
            parse=_activitynet_qa,
            columns=("video_name", "question", "question_id"),
            joins="question_id",
        ),
        Benchmark(
            name="mvbench",
            title="MVBench",
            parse=_mvbench,
            columns=("video", "question", "candidates", "answer"),
            over_kinds=True,
        ),
        Benchmark(
            name="msvd_qa",
            title="MSVD-QA",
            parse=_msvd_qa,
            columns=("video_id", "question", "answer", "id"),
        ),
        Benchmark(
            name="plain",
            title="a table of your own",
            parse=_plain,
            columns=("video", "question"),
        ),
    )
}
"""Formats by name, in the order in which they are looked for."""
