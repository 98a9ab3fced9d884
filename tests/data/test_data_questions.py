"""Annotation files of benchmarks become questions, and what is wrong in them is named."""

import json

import pytest
from data import benchmark_files as files
from data.benchmark_files import put
from hypothesis import given, settings
from hypothesis import strategies as st

from vidcomp.data.benchmarks import BENCHMARKS
from vidcomp.data.questions import LETTERS, Question, find_option, without_letters
from vidcomp.data.read_questions import read_names, read_questions
from vidcomp.errors import ConfigError

FILES = [
    ("videomme", "test-00000-of-00001.parquet", files.VIDEOMME, 2),
    ("videomme", "videomme.json", files.VIDEOMME, 2),
    ("mvbench", "action_sequence.json", files.MVBENCH, 0),
    ("mvbench", "action_sequence/train-00000-of-00001.parquet", files.MVBENCH, 0),
    ("nextqa", "mc.csv", files.NEXTQA, 0),
    ("nextqa", "MC/test-00000-of-00001.parquet", files.NEXTQA, 0),
    ("nextqa", "gqa.csv", files.NEXTQA | {"answer": "2"}, 2),
    ("nextqa", "gqa.csv", files.NEXTQA | {"answer": "hit with sticks"}, 3),
    ("egoschema", "Subset/test-00000-of-00001.parquet", files.EGOSCHEMA, 3),
    ("egoschema", "questions.json", files.EGOSCHEMA_JSON, None),
    ("longvideobench", "validation-00000-of-00001.parquet", files.LONGVIDEOBENCH, 1),
    ("longvideobench", "lvb.json", files.LONGVIDEOBENCH | {"correct_choice": -1}, None),
    ("mlvu", "test-00000-of-00001.parquet", files.MLVU, 1),
    ("mlvu", "4_count.json", files.MLVU_JSON, 1),
]


@pytest.mark.parametrize(("name", "file", "row", "correct"), FILES, ids=lambda v: str(v)[:30])
def test_choices_as_they_are_published(tmp_path, name, file, row, correct):
    found, (question,) = read_questions(put(tmp_path / file, [row]))
    assert found is BENCHMARKS[name]
    assert question.correct == correct
    assert question.letter == (None if correct is None else LETTERS[correct])
    wanted = row.get("options") or row.get("option") or row.get("candidates") or []
    assert len(question.options) == (len(wanted) or {"nextqa": 5, "egoschema": 5}.get(name, 3))
    assert not any(option.startswith(("A.", "B.", "(A)")) for option in question.options)
    assert question.text == question.text.strip()
    assert "\n" not in question.text


def test_fields_of_each(tmp_path):
    def one(file, row):
        return read_questions(put(tmp_path / file, [row])).questions[0]

    question = one("mme.json", files.VIDEOMME)
    assert (question.video, question.id) == ("fFjv93ACGo8", "001-1")
    assert question.options[2] == "Berries."
    assert question.kind == "Counting Problem"
    assert question.groups == {
        "duration": "short",
        "domain": "Knowledge",
        "sub_category": "Humanity & History",
    }
    question = one("action_sequence.json", files.MVBENCH)
    assert (question.kind, question.start_s, question.end_s) == ("action_sequence", 11.1, 20.6)
    assert question.folder == "star"
    question = one("mc.csv", files.NEXTQA)
    assert question.text == "How do the two man play the instrument?"
    assert question.groups == {"group": "causal"}
    question = one("oe.json", files.NEXTQA_OPEN)
    assert (question.answers, question.options) == (("two", "a pair"), ())
    question = one("lvb.json", files.LONGVIDEOBENCH)
    assert (question.kind, question.groups["duration_group"]) == ("TOS", "600")
    assert question.options[-1] == "at the end"
    question = one("mlvu.json", files.MLVU)
    assert question.text == "How many shots?"
    question = one("4_count.json", files.MLVU_JSON)
    assert (question.folder, question.kind) == ("4_count", "count")
    question = one("anet.json", files.ACTIVITYNET)
    assert (question.video, question.aliases) == ("v_1QIUV7WYKXg", ("1QIUV7WYKXg",))
    assert (question.text, question.kind) == ("Is the athlete wearing trousers?", "yes or no")
    question = one("test_qa.json", files.MSVD)
    assert (question.video, question.kind, question.answers) == ("vid1301", "what", ("cut",))


def test_questions_inside_of_a_video(tmp_path):
    """Video-MME as JSON has its questions in the row of the video."""
    outer = {k: files.VIDEOMME[k] for k in ("video_id", "videoID", "domain", "sub_category")}
    inner = {k: files.VIDEOMME[k] for k in ("question", "options", "answer", "task_type")}
    rows = [{**outer, "questions": [{**inner, "question_id": f"001-{i}"} for i in range(3)]}]
    _, questions = read_questions(put(tmp_path / "a.json", rows))
    assert [q.id for q in questions] == ["001-0", "001-1", "001-2"]
    assert {q.video for q in questions} == {"fFjv93ACGo8"}


def test_answers_in_another_file(tmp_path):
    asked = {k: v for k, v in files.ACTIVITYNET.items() if k not in ("answer", "type")}
    path = put(tmp_path / "test_q.json", [asked, {**asked, "question_id": "other"}])
    told = {k: files.ACTIVITYNET[k] for k in ("answer", "type", "question_id")}
    gold = put(tmp_path / "test_a.json", [told])
    assert not any(q.has_answer for q in read_questions(path).questions)
    (question,) = read_questions(path, answers=gold).questions
    assert (question.answers, question.kind) == (("yes",), "yes or no")
    path = put(tmp_path / "questions.json", [files.EGOSCHEMA_JSON])
    gold = tmp_path / "subset_answers.json"
    gold.write_text(json.dumps({files.EGOSCHEMA_JSON["q_uid"]: 4}))
    (question,) = read_questions(path, answers=gold).questions
    assert (question.correct, question.letter) == (4, "E")
    with pytest.raises(ConfigError, match="has its answers beside"):
        read_questions(put(tmp_path / "m.json", [files.VIDEOMME]), answers=gold)


def test_a_folder_of_tasks(tmp_path):
    put(tmp_path / "json" / "action_count.json", [files.MVBENCH, files.MVBENCH])
    put(tmp_path / "json" / "object_shuffle.json", [files.MVBENCH])
    found, questions = read_questions(tmp_path / "json")
    assert found.name == "mvbench"
    assert found.over_kinds
    assert [q.id for q in questions] == ["action_count-1", "action_count-2", "object_shuffle-1"]
    assert [q.kind for q in questions] == ["action_count"] * 2 + ["object_shuffle"]


def test_a_table_of_ones_own(tmp_path):
    rows = [
        {"video": "a.mp4", "question": "What?", "answer": "a cat"},
        {"video": "a.mp4", "question": "Which?", "options": ["3", "1", "2"], "answer": "1"},
    ]
    found, (first, second) = read_questions(put(tmp_path / "own.json", rows))
    assert found.name == "plain"
    assert (first.answers, first.is_choice) == (("a cat",), False)
    assert second.correct == 1, "the text of an option goes before its number"
    csv = tmp_path / "own.csv"
    csv.write_text(
        'video,question,options,answer,start,end\na,Which?,"[""x"", ""y""]",B,1,2.5\n'
        "a,Which?,\"['x', 'y']\",0,,\n"
    )
    _, (first, second) = read_questions(csv)
    assert (first.options, first.correct, first.start_s, first.end_s) == (("x", "y"), 1, 1.0, 2.5)
    assert (second.options, second.correct, second.start_s) == (("x", "y"), 0, None)


@pytest.mark.parametrize(
    ("good", "change", "sentence"),
    [
        (files.VIDEOMME, {"answer": "F"}, "the answer is one of"),
        (files.VIDEOMME, {"question": None}, "there is no 'question'"),
        (files.VIDEOMME, {"options": ["A. x"], "answer": "A"}, "no options or 2 to 26, got 1"),
        (files.VIDEOMME, {}, "there is a question '001-1' before it"),
        (files.MVBENCH, {"start": "soon"}, "time in seconds, got 'soon'"),
        (files.MVBENCH, {"start": 5, "end": 5}, "is empty, got 5.0 to 5.0"),
        (files.MVBENCH, {"answer": "Flew."}, "the answer is one of"),
        (files.NEXTQA, {"answer": 7}, "the answer is one of"),
    ],
)
def test_a_bad_row_is_named(tmp_path, good, change, sentence):
    path = put(tmp_path / "file.json", [good, good | change])
    with pytest.raises(ConfigError, match=r"row 2 of .*file\.json") as error:
        read_questions(path)
    assert sentence in str(error.value)


def test_files_that_are_none(tmp_path):
    with pytest.raises(ConfigError, match="of no known format"):
        read_questions(put(tmp_path / "a.json", [{"x": 1}]))
    with pytest.raises(ConfigError, match="no benchmark 'mme'"):
        read_questions(put(tmp_path / "a.json", [{"x": 1}]), benchmark="mme")
    with pytest.raises(ConfigError, match="no questions"):
        read_questions(put(tmp_path / "b.json", []))
    with pytest.raises(ConfigError, match="cannot be read"):
        read_questions(tmp_path / "gone.json")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="holds no annotations"):
        read_questions(tmp_path / "empty")


def test_names_of_videos(tmp_path):
    lines = tmp_path / "youtube_mapping.txt"
    lines.write_text("-4wsuPCjDBc_5_15 vid1\n-7KMZQEsJW4_205_208 vid2\n")
    names = read_names(lines)
    assert names["vid1"] == "-4wsuPCjDBc_5_15"
    assert names["-7KMZQEsJW4_205_208"] == "vid2"
    table = tmp_path / "map.json"
    table.write_text(json.dumps({"4010069381": "1164/4010069381"}))
    assert read_names(table)["4010069381"] == "1164/4010069381"
    lines.write_text("one two three\n")
    with pytest.raises(ConfigError, match="two words a line"):
        read_names(lines)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.text("abc d.()", min_size=1, max_size=9), min_size=2, max_size=8, unique=True))
def test_letters_come_off_only_where_all_have_theirs(options):
    options = [option.strip() or "x" for option in options]
    for form in ("{}. {}", "({}) {}", "{}) {}"):
        lettered = [form.format(LETTERS[i], text) for i, text in enumerate(options)]
        assert without_letters(lettered) == tuple(options)
    assert without_letters(options) == tuple(options), "small letters are text"
    mixed = ["A. M.", *options[1:]]
    assert without_letters(mixed)[0] == "A. M."


@settings(deadline=None, max_examples=50)
@given(st.integers(2, 26), st.data())
def test_every_way_to_name_an_option(num, data):
    options = [f"option {i}" for i in range(num)]
    i = data.draw(st.integers(0, num - 1))
    ways = (options[i], LETTERS[i], f"({LETTERS[i]})", f"{LETTERS[i]}.", str(i), f"{LETTERS[i]}. x")
    assert {find_option(way, options) for way in ways} == {i}


def test_numbers_among_the_options():
    options = ["3", "0", "1"]
    assert find_option("0", options) == 1
    assert find_option("0", options, number_first=True) == 0


def test_questions_that_cannot_be():
    with pytest.raises(ConfigError, match="from 0 to 1, got 2"):
        Question(id="a", video="v", text="t", options=("x", "y"), correct=2)
