"""An evaluation asks each question once an arm, remembers it, and survives bad videos."""

import json
import math

import pytest
from fake_answers import FakeModel

from vidcomp.budget import Budget
from vidcomp.data.questions import Question
from vidcomp.errors import ConfigError, StoreError, VidcompError
from vidcomp.pipelines.evaluation.evaluate import evaluate
from vidcomp.pipelines.evaluation.model import make_arms
from vidcomp.pipelines.evaluation.prompts import Prompts, judge, normalise
from vidcomp.pipelines.evaluation.records import Answers
from vidcomp.pipelines.evaluation.report import chance, summarise_arms, to_json
from vidcomp.pipelines.evaluation.videos import VideoFiles

OPTIONS = ("red", "green", "blue")
NEEDS = (0, 10, 20, 40)


def make_questions(num_videos=4):
    """Four questions a video that need ever more tokens."""
    return [
        Question(
            id=f"{v}-{needs}",
            video=f"v{v}",
            text=f"What {v} needs {needs}?",
            options=OPTIONS,
            correct=(v + needs // 10) % 3,
            kind=f"needs {needs}",
            groups={"half": "first" if v < num_videos / 2 else "second"},
        )
        for v in range(num_videos)
        for needs in NEEDS
    ]


def known(questions):
    return {q.text: q.options[q.correct] if q.is_choice else q.answers[0] for q in questions}


@pytest.fixture
def files(tmp_path):
    folder = tmp_path / "videos"
    (folder / "part").mkdir(parents=True)
    for v in range(4):
        (folder / "part" / f"v{v}.mp4").write_bytes(b"the fake model does not look")
    return VideoFiles(folder)


@pytest.fixture
def run(files, tmp_path):
    """Evaluates in the test's folder; gives the evaluation and the model."""

    def call(questions, arms=None, model=None, prompts=None, settings=None, **options):
        model = model or FakeModel(known(questions))
        arms = arms or make_arms(["tome"], [Budget(tokens=16), Budget(tokens=32)])
        answers = Answers(tmp_path / "out", settings or {"model": model.name})
        return evaluate(questions, arms, model, files, answers, prompts=prompts, **options), model

    return call


def test_arms_are_right_where_they_see_enough(run):
    done, _ = run(make_questions())
    results = {result.arm.name: result for result in summarise_arms(done)}
    assert list(results) == [
        "full",
        "blind",
        "tome@16",
        "tome@32",
        "uniform_frames@16",
        "uniform_frames@32",
    ]
    lucky = sum(q.correct == 0 for q in make_questions() if not q.text.endswith(" 0?")) / 16
    assert results["full"].accuracy.mean == 1
    # Knows the first question of each video, guesses A for the others.
    assert results["blind"].accuracy.mean == 1 / 4 + lucky
    for name in ("tome", "uniform_frames"):
        at_16, at_32 = results[f"{name}@16"], results[f"{name}@32"]
        assert 0.5 <= at_16.accuracy.mean <= at_32.accuracy.mean < 1
        assert (at_16.tokens_before, at_16.tokens_after) == (64, 16)
        assert at_16.groups["kind"]["needs 10"][1].mean == 1
        assert at_16.versus.mcnemar.gained == 0
        lost = round(16 * (1 - at_16.accuracy.mean))
        assert at_16.versus.mcnemar.lost == lost
        assert at_16.versus.accuracy.difference.mean == pytest.approx(-lost / 16)
        assert at_16.versus.gold_logp.difference.mean < 0
        over = at_16.versus.over_kinds.difference.mean
        assert over == pytest.approx(at_16.over_kinds.mean - 1), "kinds are of one size"
    assert results["full"].frames == 8
    assert (results["blind"].frames, results["blind"].tokens_before) == (0, 0)
    assert results["full"].versus is None
    assert set(results["full"].groups) == {"kind", "half"}
    assert done.exit_code == 0


def test_questions_of_a_video_share_all_there_is_to_share(run):
    done, model = run(make_questions())
    assert len(model.encoded) == 4, "one pass of the encoder a video"
    assert len(model.sessions) == 4 * 6, "one session a video and arm"
    assert len(model.asked) == 4 * 6 * 4
    assert done.asked == 4 * 6 * 4
    assert sorted(set(map(tuple, model.sessions))) == [(), (16,), (32,), (64,)]


def test_methods_that_choose_by_the_question_are_told_it(run):
    questions = make_questions(2)
    arms = make_arms(["longvu_query", "uniform"], [Budget(tokens=16)], ["full"])
    done, model = run(questions, arms)
    assert model.bound == [q.text for q in questions]
    assert sorted(model.sessions) == sorted([[16]] * 8 + [[16]] * 2 + [[64]] * 2)
    assert len(model.encoded) == 2
    assert [len(done.of(arm)) for arm in arms] == [8, 8, 8]
    assert done.exit_code == 0


def test_a_second_run_asks_what_is_missing(run, tmp_path):
    questions = make_questions()
    run(questions[:6])
    lines = (tmp_path / "out" / "answers.jsonl").read_text().splitlines()
    assert len(lines) == 6 * 6
    done, model = run(questions)
    assert (len(model.asked), done.asked) == (60, 60)
    assert len(model.encoded) == 3, "the second video was half done"
    done, model = run(questions)
    assert (model.asked, model.encoded, done.asked) == ([], [], 0)
    assert len(done.of(done.arms[0])) == 16
    more = make_arms(["tome"], [Budget(tokens=8)])
    done, model = run(questions, more)
    assert {tuple(s) for s in model.sessions} == {(8,)}


def test_a_run_that_was_killed_goes_on(run, tmp_path):
    questions = make_questions()
    whole, _ = run(questions)
    path = tmp_path / "out" / "answers.jsonl"
    content = path.read_bytes()
    path.write_bytes(content[:-30])
    done, model = run(questions)
    assert len(model.asked) == 1
    first, second = (summarise_arms(one) for one in (whole, done))
    assert [r.accuracy for r in first] == [r.accuracy for r in second]
    assert len(path.read_bytes().splitlines()) == len(content.splitlines())
    path.write_text("{}\n" + path.read_text())
    with pytest.raises(StoreError, match=r"line 1 of .* is no answer"):
        run(questions)


def test_a_question_that_was_changed_is_asked_anew(run):
    questions = make_questions()
    run(questions)
    changed = [
        Question(
            id=q.id, video=q.video, text="Again, " + q.text, options=q.options, correct=q.correct
        )
        for q in questions[:1]
    ]
    _, model = run([*changed, *questions[1:]], model=FakeModel(known([*changed, *questions])))
    assert len(model.asked) == 6


def test_answers_that_become_known_later_count(run):
    questions = make_questions()
    hidden = [
        Question(id=q.id, video=q.video, text=q.text, options=q.options, kind=q.kind)
        for q in questions
    ]
    model = FakeModel(known(questions))
    done, _ = run(hidden, model=model)
    assert all(r.accuracy is None and r.versus is None for r in summarise_arms(done))
    later, model = run(questions)
    assert model.asked == []
    assert later.asked == 0
    full = summarise_arms(later)[0]
    assert full.accuracy.mean == 1
    assert full.gold_logp.mean == pytest.approx(-math.log(1 + 2 * math.exp(-2)))


def test_answers_of_other_settings_are_not_mixed(run):
    run(make_questions(), settings={"model": "a", "frames": 8})
    with pytest.raises(ConfigError, match="answers with frames=8, got 16"):
        run(make_questions(), settings={"model": "a", "frames": 16})


def test_a_bad_video_is_told_and_the_rest_goes_on(run):
    questions = make_questions()
    broken = FakeModel(known(questions), broken=("v1",))
    gone = Question(id="gone", video="gone", text="What needs 0?", options=OPTIONS, correct=0)
    done, _ = run([*questions, gone], model=broken)
    assert done.exit_code == 3
    assert [(f.video, f.arm, f.questions) for f in done.failures] == [
        ("v1", "", 4),
        ("gone", "", 1),
    ]
    assert "is broken: mend it" in done.failures[0].error
    assert "is not in" in done.failures[1].error
    found = {r.arm.name: r for r in summarise_arms(done)}
    assert found["full"].answered == 12
    assert found["full"].videos == 3
    done, model = run(questions)  # mended
    assert (done.exit_code, len(model.encoded)) == (0, 1)


def test_a_method_that_cannot_reach_its_budget_is_left_out(run):
    arms = make_arms(["static_average", "uniform"], [Budget(tokens=3)])
    done, _ = run(make_questions(), arms)
    assert {f.arm for f in done.failures} == {"static_average@3"}
    assert "static_average@3" not in [r.arm.name for r in summarise_arms(done)]
    assert done.exit_code == 3


def test_too_many_failures_stop(run):
    questions = make_questions()
    done, _ = run(questions, model=FakeModel(known(questions), broken=("v1", "v2")), max_failures=1)
    assert done.exit_code == 4
    assert len(done.of(done.arms[0])) == 4


def test_nothing_at_all_is_an_error(run):
    questions = make_questions()
    arms = make_arms(["uniform"], [Budget(tokens=3)], ["full"])
    with pytest.raises(VidcompError, match=r"none of 16 questions .*v0\.mp4 is broken"):
        run(questions, arms, model=FakeModel({}, broken=("v",)))


def test_blind_needs_no_video(run):
    gone = Question(id="x", video="gone", text="What needs 0?", options=OPTIONS, correct=2)
    done, model = run([gone], make_arms([], [], ["blind"]))
    assert (done.failures, model.encoded) == ([], [])
    assert summarise_arms(done)[0].accuracy.mean == 1


def test_structural_rows_are_part_of_the_budget(run):
    questions = make_questions()
    model = FakeModel(known(questions), extra_rows=3)
    done, model = run(questions, make_arms(["uniform"], [Budget(tokens=16)], ["full"]), model=model)
    assert {tuple(s) for s in model.sessions} == {(64,), (13,)}
    counted = {r.arm.name: (r.tokens_before, r.tokens_after) for r in summarise_arms(done)}
    assert counted == {"full": (67, 67), "uniform@16": (67, 16)}
    with pytest.raises(VidcompError, match="give at least 4"):
        run(questions, make_arms(["uniform"], [Budget(tokens=3)], []), model=model)


def test_parts_of_videos_are_shown_apart(run):
    ranges = [(None, None), (0.0, 1.0), (1.0, 2.0), (0.0, 1.0)]
    questions = [
        Question(
            id=str(i),
            video="v0",
            text=f"What {i} needs 0?",
            options=OPTIONS,
            correct=0,
            start_s=start,
            end_s=end,
        )
        for i, (start, end) in enumerate(ranges)
    ]
    _, model = run(questions)
    assert [part for _, *part in model.encoded] == [[None, None], [0, 1], [1, 2]]


def test_free_answers(run):
    questions = [
        Question(id="a", video="v0", text="Who needs 0?", answers=("a man",), kind="who"),
        Question(id="b", video="v0", text="How many needs 40?", answers=("two",), kind="how"),
        Question(id="c", video="v1", text="Why needs 0?", kind="why"),
    ]
    right = {"Who needs 0?": "The man.", "How many needs 40?": "2", "Why needs 0?": "because"}
    arms = make_arms(["uniform"], [Budget(tokens=16)], ["full"])
    done, _ = run(questions, arms, FakeModel(right))
    full, few = summarise_arms(done)
    assert (full.accuracy.mean, few.accuracy.mean) == (1, 0.5)
    assert (full.answered, full.judged, full.gold_logp) == (3, 2, None)
    assert chance(questions) is None
    assert done.of(done.arms[0])["c"].is_right is None
    text = json.dumps(to_json(done, [full, few], {"model": "fake"}))
    assert json.loads(text)["results"][1]["versus_full"]["questions"] == 2


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("The Man.", "man"),
        ("two", "2"),
        ("yes!", "Yes"),
        ("it's a  cat", "its cat"),
        ("3.5", "3.5"),
        ("T-shirt", "t shirt"),
    ],
)
def test_answers_that_are_the_same(one, other):
    assert normalise(one) == normalise(other)


@pytest.mark.parametrize(("one", "other"), [("3.5", "35"), ("cat", "cats"), ("no", "yes")])
def test_answers_that_differ(one, other):
    assert normalise(one) != normalise(other)


def test_permutations_take_out_the_liking_of_a_letter():
    questions = make_questions()
    model = FakeModel(known(questions), bias=5.0)
    session = model.session([model.encode("v", None, None)])
    plain = [judge(session, q, Prompts()) for q in questions]
    assert all(one.answer == "A" for one in plain)
    turned = [judge(session, q, Prompts(permutations=True)) for q in questions]
    assert all(one.is_right for one in turned)
    assert [sum(math.exp(x) for x in one.logps) for one in turned] == pytest.approx(
        [1] * len(turned)
    )
    assert all(one.gold_logp == max(one.logps) for one in turned)


def test_every_option_stands_everywhere_once():
    orders = Prompts(permutations=True).orders(5)
    assert all(sorted(place) == list(range(5)) for place in zip(*orders, strict=True))
    question = make_questions()[0]
    text = Prompts().text(question, [2, 0, 1])
    assert text.splitlines()[1:4] == ["A. blue", "B. red", "C. green"]


def test_arms_are_checked():
    arms = make_arms(["tome", "tome"], [Budget(tokens=9), Budget(retention=0.1)], ["blind", "full"])
    assert [arm.name for arm in arms] == ["full", "blind", "tome@9", "tome@10%"]
    with pytest.raises(ConfigError, match="got 'dense'"):
        make_arms([], [], ["dense"])
    with pytest.raises(ConfigError, match="nothing to compare"):
        make_arms(["tome"], [], [])


def test_files_are_found_by_the_names_of_annotations(tmp_path):
    for name in ("star/a.mp4", "clevrer/a.mp4", "v_b.webm", "youtube_1_2.avi"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    files = VideoFiles(tmp_path, {"vid7": "youtube_1_2"})

    def find(video, **fields):
        return files.find(Question(id="x", video=video, text="?", **fields))[len(str(tmp_path)) :]

    assert find("a.mp4", folder="clevrer") == "/clevrer/a.mp4"
    assert find("b", aliases=("v_b",)) == "/v_b.webm"
    assert find("vid7") == "/youtube_1_2.avi"
    with pytest.raises(ConfigError, match="may be"):
        find("a.mp4")
    with pytest.raises(ConfigError, match="is not in"):
        find("c")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="holds no videos"):
        VideoFiles(tmp_path / "empty")
