"""Files of questions become examples, and names in them become records."""

import json
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vidcomp.data.annotations import QAExample, read_annotations
from vidcomp.data.matching import KeyMatcher, ranged_key
from vidcomp.data.tables import read_rows
from vidcomp.errors import ConfigError, MissingExtraError

ROWS = [
    {"video": "a", "question": "what, then?", "answer": "a ball", "question_id": "q1", "type": "D"},
    {"video": "b", "question": "é\u2028who?", "answer": "2", "question_id": "q2", "type": "C"},
]


def put(path, rows):
    """The rows in the form that the name of the file says."""
    kind = path.suffix.removeprefix(".")
    if kind == "json":
        path.write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    elif kind in ("jsonl", "ndjson"):
        lines = [json.dumps(row, ensure_ascii=False) for row in rows]
        path.write_text("\n".join(lines) + "\n\n", encoding="utf-8")
    elif kind == "parquet":
        pyarrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        separator = "," if kind == "csv" else "\t"
        cells = [list(rows[0]), *(row.values() for row in rows)]
        lines = [separator.join(f'"{cell}"' for cell in row) for row in cells]
        path.write_text("\ufeff" + "\n".join(lines), encoding="utf-8")
    return path


KINDS = ["csv", "tsv", "jsonl", "ndjson", "json", "parquet"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_form_of_file_gives_the_same_examples(tmp_path, kind):
    first, second = read_annotations(put(tmp_path / f"qa.{kind}", ROWS))
    assert first == QAExample(
        key="a", question="what, then?", answers=("a ball",), id="q1", extra={"type": "D"}
    )
    assert (first.answer, second.question, second.answer) == ("a ball", "é\u2028who?", "2")


@pytest.mark.parametrize(
    "names",
    [
        ("video_id", "question", "answer", "id"),
        ("video_name", "Q", "A", "q_uid"),
        ("vid", "query", "response", "QID"),
        ("Video", "prompt", "correct_choice", "uid"),
    ],
)
def test_columns_of_common_names_are_found(tmp_path, names):
    row = dict(zip(names, ("v", "why?", "so", "7"), strict=True))
    (example,) = read_annotations(put(tmp_path / "qa.jsonl", [row]))
    assert example == QAExample(key="v", question="why?", answers=("so",), id="7")


def test_named_columns_win_and_the_rest_is_kept(tmp_path):
    row = {"video_id": "001", "videoID": "fFj", "question": "q", "options": ["A", "B"], "n": 3}
    path = put(tmp_path / "qa.jsonl", [row])
    (example,) = read_annotations(path, key="videoID")
    assert example.key == "fFj"
    assert example.extra == {"video_id": "001", "options": ["A", "B"], "n": 3}
    assert example.answers == ()
    assert example.answer is None
    assert example.id == "1"  # the row's number


def test_several_answers_numbers_and_gaps(tmp_path):
    rows = [
        {"video": 4010069381, "question": "q", "answer": ["x", "y"], "qid": 0},
        {"video": ["b"], "question": "q", "answer": 4, "qid": None},
        {"video": "c", "question": "q", "answer": None},
        {"video": "d", "question": "q", "answer": float("nan")},
    ]
    examples = read_annotations(put(tmp_path / "qa.json", rows))
    assert [e.key for e in examples] == ["4010069381", "b", "c", "d"]
    assert [e.answers for e in examples] == [("x", "y"), ("4",), (), ()]
    assert [e.id for e in examples] == ["0", "2", "3", "4"]


def test_an_object_that_holds_the_list_is_opened(tmp_path):
    path = tmp_path / "qa.json"
    path.write_text(json.dumps({"info": {"year": 1}, "tags": [], "annotations": ROWS}))
    assert len(read_annotations(path)) == 2
    path.write_text(json.dumps({"train": ROWS, "test": ROWS}))
    with pytest.raises(ConfigError, match="one list of objects, this one has 2"):
        read_annotations(path)


TALK = [
    {"from": "human", "value": "<image>\nWhat is it?"},
    {"from": "gpt", "value": "A ball."},
    {"from": "human", "value": "Its colour?"},
    {"from": "gpt", "value": "Red."},
]
CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "What is it?"}]},
    {"role": "assistant", "content": "A ball."},
    {"role": "user", "content": "Its colour?"},
    {"role": "assistant", "content": "Red."},
]


@pytest.mark.parametrize(
    ("kind", "column", "talk"),
    [
        ("jsonl", "conversations", TALK),
        ("json", "messages", CHAT),
        ("parquet", "conversations", TALK),
    ],
)
def test_a_conversation_is_questions_with_their_history(tmp_path, kind, column, talk):
    row = {"id": "x", "video": "a", column: talk, "source": "s"}
    path = put(tmp_path / f"qa.{kind}", [row])
    first, second = read_annotations(path)
    assert (first.id, first.question, first.answers) == ("x#1", "What is it?", ("A ball.",))
    assert (second.id, second.question, second.answer) == ("x#2", "Its colour?", "Red.")
    assert (first.history, second.history) == ((), (("What is it?", "A ball."),))
    assert second.extra == {column: talk, "source": "s"}
    assert read_annotations(path, turns="whole") == [second]


def test_a_single_question_of_a_conversation_keeps_its_id_and_may_be_open(tmp_path):
    row = {"id": "x", "video": "a", "conversations": TALK[:1]}
    (example,) = read_annotations(put(tmp_path / "qa.jsonl", [row]))
    assert (example.id, example.answers) == ("x", ())


@pytest.mark.parametrize(
    ("talk", "message"),
    [
        (TALK[1:], "turn 1 .* is the assistant's"),
        (TALK[::2], "turn 2 .* is the user's"),
        ([{"from": "bird", "value": "x"}], "turn 1 .* must be"),
        ([{"role": "user", "content": None}], "turn 1 .* must be"),
        ([{"role": "system", "content": "x"}], "no question"),
    ],
)
def test_a_conversation_that_makes_no_sense_is_one_sentence(tmp_path, talk, message):
    rows = [{"video": "a", "conversations": TALK}, {"video": "a", "conversations": talk}]
    with pytest.raises(ConfigError, match=f"row 2 of .*{message}"):
        read_annotations(put(tmp_path / "qa.jsonl", rows))


def test_ranges_are_read_only_where_asked_for(tmp_path):
    rows = [
        {"video": "a", "question": "q", "start": "1.5", "end": 4, "moment": [2, 3]},
        {"video": "a", "question": "q", "start": 0, "end": "", "moment": None},
        {"video": "a", "question": "q", "start": None, "end": float("nan")},
    ]
    path = put(tmp_path / "qa.jsonl", rows)

    def ranges(**names):
        return [(e.start_s, e.end_s) for e in read_annotations(path, **names)]

    assert ranges() == [(None, None)] * 3
    assert ranges(start="start", end="end") == [(1.5, 4.0), (0.0, None), (None, None)]
    assert ranges(start="moment", end="moment") == [(2.0, 3.0), (None, None), (None, None)]
    assert read_annotations(path)[0].extra == {"start": "1.5", "end": 4, "moment": [2, 3]}


@pytest.mark.parametrize(
    ("row", "names", "message"),
    [
        ({"question": "q"}, {}, r"no column for key .*video_id, video, .*it has 'question'; say"),
        ({"video": "a", "x": 1}, {}, "no column for question .*it has 'video', 'x'"),
        ({"video": "a", "question": "q"}, {"answer": "b"}, "no column 'b' for answer: it has"),
        ({"video": "a", "question": "q"}, {"start": "s"}, "no column 's' for start"),
        ({"video": "", "question": "q"}, {}, r"row 1 of .*: there is no 'video'"),
        ({"video": "a", "question": None}, {}, r"row 1 of .*: there is no 'question'"),
        ({"video": ["a", "b"], "question": "q"}, {}, "row 1 of .*one value is wanted"),
        ({"video": {"path": "a"}, "question": "q"}, {}, "row 1 of .*text or a list of texts"),
        ({"video": "a", "question": "q", "s": "soon"}, {"start": "s"}, "'s' is 'soon': write sec"),
        ({"video": "a", "question": "q", "s": [1]}, {"start": "s", "end": "s"}, "a pair of sec"),
        ({"video": "a", "question": "q", "s": [3, 1]}, {"start": "s", "end": "s"}, "got 3.0 to 1"),
        ({"video": "a", "question": "q", "s": -1}, {"start": "s"}, "starts at 0 s or later"),
    ],
)
def test_a_row_or_column_that_is_wrong_is_one_sentence(tmp_path, row, names, message):
    with pytest.raises(ConfigError, match=message):
        read_annotations(put(tmp_path / "qa.jsonl", [row]), **names)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("qa.txt", "", "an annotation file is csv, tsv, jsonl, json or parquet, got qa.txt"),
        ("qa.jsonl", '{"video": 1}\n\n{', "line 3: "),
        ("qa.jsonl", "[1]", "line 1 holds a list, not an object"),
        ("qa.json", "{", "cannot be read"),
        ("qa.json", "3", "holds a int, not a list"),
        ("qa.json", "[3]", "entry 1 is a int"),
        ("qa.csv", "video,question\na,b,c\n", "line 2 has more cells than the 2 columns"),
        ("qa.csv", 'video,question\na,"' + "x" * 200_000, "cannot be read .field larger"),
        ("qa.parquet", "PAR1", "cannot be read"),
    ],
)
def test_a_file_that_is_no_table_is_one_sentence(tmp_path, name, text, message):
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_annotations(tmp_path / name)


def test_files_that_are_not_there_and_words_that_are_not_known(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        read_annotations(tmp_path / "gone.jsonl")
    with pytest.raises(ConfigError, match="'each' or 'whole', got 'all'"):
        read_annotations(tmp_path / "gone.jsonl", turns="all")
    with pytest.raises(ConfigError, match="answers is a tuple"):
        QAExample(key="a", question="q", answers="yes")


def test_no_rows_are_no_examples(tmp_path):
    (tmp_path / "qa.csv").write_text("video,question\n")
    assert read_annotations(tmp_path / "qa.csv") == []


@pytest.mark.parametrize("what", ["manifest", "annotation file"])
def test_parquet_without_its_package_says_what_to_install(tmp_path, monkeypatch, what):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "x.parquet").write_bytes(b"PAR1")
    with pytest.raises(MissingExtraError, match=f"a parquet {what} needs pyarrow"):
        next(read_rows(tmp_path / "x.parquet", what))


def test_rows_are_read_as_they_are_needed(tmp_path):
    (tmp_path / "x.jsonl").write_text('{"a": 1}\nbroken\n')
    rows = read_rows(tmp_path / "x.jsonl")
    assert next(rows) == {"a": 1}
    with pytest.raises(ConfigError, match="line 2"):
        next(rows)


# --- names and records ---

KEYS = [
    "a.mp4",
    "sub/b.webm",
    "sub/c.mkv",
    "other/c.mkv",
    "d.mp4",
    "d.avi",
    "e",
    "v1.5",
    "a/b/f.mp4",
]


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("a.mp4", ["a.mp4"]),
        ("a", ["a.mp4"]),
        ("a.MKV", ["a.mp4"]),
        ("./a.mp4", ["a.mp4"]),
        ("/data/videos/a.mp4", ["a.mp4"]),
        ("b", ["sub/b.webm"]),
        ("videos/sub/b.mp4", ["sub/b.webm"]),
        ("else/b.mp4", []),  # another folder: another video
        ("c", ["sub/c.mkv", "other/c.mkv"]),
        ("sub/c", ["sub/c.mkv"]),
        ("d", ["d.mp4", "d.avi"]),
        ("x/d.avi", ["d.avi"]),
        ("e.mp4", ["e"]),
        ("v1", []),  # .5 is no extension
        ("v1.5.mp4", ["v1.5"]),
        ("b/f", ["a/b/f.mp4"]),
        ("zzz", []),
        ("", []),
        ("/", []),
        (".", []),
    ],
)
def test_a_name_finds_its_record_only_if_it_is_clear(name, found):
    assert KeyMatcher(dict.fromkeys(KEYS)).find(name) == found


def test_ranges_have_records_of_their_own():
    matcher = KeyMatcher({"v/a.mp4": 0, "v/a.mp4@1.5-3": 0, "v/a.mp4@2-": 0})
    assert matcher.find("a") == ["v/a.mp4"]
    assert matcher.find("a", 1.5, 3.0) == ["v/a.mp4@1.5-3"]
    assert matcher.find("a.mp4", 2.0) == ["v/a.mp4@2-"]
    assert matcher.find("a", 1.0, 3.0) == []
    assert matcher.find("v/a.mp4@2-") == ["v/a.mp4@2-"]
    assert (ranged_key("a", None, None), ranged_key("a", None, 2.0)) == ("a", "a@0-2")


@settings(deadline=None)
@given(
    st.sets(st.text(st.sampled_from("ab/.@-14mp"), min_size=1, max_size=9), max_size=8), st.data()
)
def test_a_key_finds_itself_and_what_is_found_is_there(keys, data):
    matcher = KeyMatcher(keys)
    for key in keys:
        assert matcher.find(key) == [key]
    name = data.draw(st.text(st.sampled_from("ab/.@-14mp"), max_size=9))
    assert set(matcher.find(name)) <= keys
