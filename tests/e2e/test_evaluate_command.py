"""``vidcomp evaluate`` as it is typed, with a tiny model in a folder and real clips."""

import json
import sys

import pytest

pytest.importorskip("transformers")

from data.benchmark_files import put
from llm.tiny_folders import save_folder

ROW = {
    "duration": "short",
    "domain": "Knowledge",
    "sub_category": "Law",
    "task_type": "OCR Problems",
    "options": ["A. one", "B. two", "C. three", "D. four"],
}
ROWS = [
    ROW | {"videoID": f"clip{v}", "question_id": f"{v}-{k}", "question": q, "answer": "ABCD"[k]}
    for v in range(3)
    for k, q in enumerate(("What moves?", "Where to?"))
]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_folder("qwen3_vl", tmp_path_factory.mktemp("hub") / "tiny-vl")


@pytest.fixture
def evaluate(vidcomp, clips, model, tmp_path):
    """Calls the command on a table of questions about the clips."""

    def call(*words, rows=ROWS, out="out", videos=clips):
        table = put(tmp_path / "mme.json", rows)
        given = [
            "--videos",
            videos,
            "--model",
            model,
            "--out",
            tmp_path / out,
            "--dtype",
            "float32",
        ]
        return vidcomp("evaluate", table, *given, "-q", *words)

    return call


def test_table_json_answers_and_picture(evaluate, tmp_path):
    pytest.importorskip("matplotlib")
    run = evaluate("--budgets", "25%", "12", "--methods", "tome", "--num-frames", "4")
    assert run.code == 0, run.err
    lines = run.out.splitlines()
    assert [line.split("  ")[0] for line in lines[2:8]] == [
        "all tokens",
        "no video",
        "tome",
        "tome",
        "uniform_frames",
        "uniform_frames",
    ]
    assert "Video-MME: 6 questions on 3 videos" in run.out
    assert "guessing among the options: 0.250" in run.out
    assert r'prompt: "What moves?\nA. one\nB. two' in run.out
    out = tmp_path / "out"
    assert lines[-2:] == [f"wrote {out / 'evaluate.json'}", f"wrote {out / 'accuracy.png'}"]
    assert (out / "accuracy.png").read_bytes().startswith(b"\x89PNG")
    written = json.loads((out / "evaluate.json").read_text())
    assert (written["benchmark"], written["frames"], written["chance"]) == ("videomme", 4, 0.25)
    answers = [json.loads(line) for line in (out / "answers.jsonl").read_text().splitlines()]
    assert len(answers) == 6 * 6
    for one in answers:
        few = {"full": one["tokens_before"], "blind": 0, "tome@12": 12, "uniform_frames@12": 12}
        assert one["tokens_after"] == few.get(one["arm"], one["tokens_before"] // 4)
        assert one["frames"] == (0 if one["arm"] == "blind" else 4)
        assert one["answer"] in "ABCD"
        assert sum(2.718281828**logp for logp in one["logps"]) == pytest.approx(1)


def test_more_methods_later_ask_only_them(evaluate):
    words = ["--no-picture", "--json", "--budgets", "25%"]
    assert evaluate("--methods", "uniform", *words).json["asked_now"] == 6 * 4
    again = evaluate("--methods", "uniform", *words).json
    assert again["asked_now"] == 0
    more = evaluate("--methods", "uniform,evs", *words).json
    assert more["asked_now"] == 6
    assert more["results"][0] == again["results"][0]
    other = evaluate("--num-frames", "2", *words)
    assert other.code == 2
    assert "those do not compare" in other.err


def test_all_tokens_are_what_a_budget_of_all_gives(evaluate):
    words = ["--methods", "uniform", "--budgets", "100%", "--json", "--no-picture"]
    full, _, same, frames = evaluate(*words).json["results"]
    assert full["tokens_after"] == same["tokens_after"] == frames["tokens_after"]
    assert full["gold_logp"] == same["gold_logp"]
    assert same["versus_full"]["mcnemar"] == {"gained": 0, "lost": 0, "p": 1.0}


def test_letters_are_scored_as_the_model_itself_would(evaluate, model, clips, tmp_path):
    """Without prefix, session or batch: the log-softmax of the last logits at the letters."""
    import torch

    from vidcomp.llm.model import VideoLLM

    evaluate("--methods", "none", "--baselines", "full,blind", "--no-picture")
    lines = (tmp_path / "out" / "answers.jsonl").read_text().splitlines()
    answers = {(a["arm"], a["id"]): a for a in map(json.loads, lines)}
    llm = VideoLLM.load(model, dtype="float32")
    video = llm.encode(clips / "clip1.mp4")
    for arm, videos in (("full", [video]), ("blind", [])):
        for k in range(2):
            told = answers[arm, f"1-{k}"]
            inputs = llm.adapter.inject(llm.prompt(told["prompt"], videos), videos)
            with torch.no_grad():
                logits = llm.adapter.model(**inputs).logits[0, -1]
            ids = [llm.text.tokenizer.encode(x, add_special_tokens=False)[0] for x in "ABCD"]
            logps = logits[ids].double().log_softmax(0).tolist()
            assert told["logps"] == pytest.approx(logps, abs=1e-4)


def test_a_method_that_chooses_by_the_question(evaluate):
    words = ["--methods", "longvu_query,cdpruner", "--budgets", "25%", "--baselines", "none"]
    run = evaluate(*words, "--json", "--no-picture")
    assert run.code == 0, run.out
    for found in run.json["results"]:
        assert (found["answered"], found["tokens_after"]) == (6, found["tokens_before"] / 4)
    assert len(run.json["results"]) == 2


def test_free_answers_are_generated(evaluate):
    rows = [{"video": "clip0", "question": "What?", "answer": "a square", "kind": "what"}]
    words = ["--methods", "none", "--baselines", "full", "--max-new-tokens", "3", "--json"]
    run = evaluate(*words, "--no-picture", rows=rows)
    assert run.code == 0, run.err
    assert run.json["benchmark"] == "plain"
    assert run.json["results"][0]["judged"] == 1


def test_a_bad_video_is_recorded(evaluate, clips, tmp_path):
    rows = [*ROWS, ROWS[0] | {"videoID": "gone", "question_id": "x"}]
    run = evaluate("--methods", "uniform", "--no-picture", rows=rows)
    assert run.code == 3
    assert "failed: gone" in run.out
    folder = tmp_path / "videos"
    folder.mkdir()
    (folder / "clip0.mp4").write_text("no video")
    run = evaluate(
        "--methods", "none", "--baselines", "full", "--no-picture", videos=folder, out="o"
    )
    assert run.code == 1
    assert run.err.count("\n") == 1
    assert "none of 6 questions could be asked" in run.err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--methods", "tomee"], "did you mean 'tome'"),
        (["--budgets", "0%"], "must be in (0, 1]"),
        (["--baselines", "dense"], "got 'dense'"),
        (["--methods", "none", "--baselines", "none"], "nothing to compare"),
        (["--videos", "nowhere"], "holds no videos"),
        (["--model", "no/such/folder"], "no/such/folder"),
        (["--format", "egoschema"], "row 1 of"),
        (["--answers", "a.json"], "has its answers beside"),
    ],
)
def test_mistakes_are_one_sentence(evaluate, words, sentence, tmp_path):
    run = evaluate("--no-picture", *words)
    assert (run.code, run.err.count("\n")) == (2, 1), run.err
    assert sentence in run.err
    assert run.err.startswith("vidcomp: ")
    assert not (tmp_path / "out").exists(), "the next try starts from nothing"


def test_the_picture_is_asked_for_before_the_work(evaluate, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    run = evaluate()
    assert run.code == 2
    assert "vidcomp[report]" in run.err
    assert not (tmp_path / "out").exists()


def test_formats_of_the_command_are_those_there_are():
    from vidcomp.data.benchmarks import BENCHMARKS
    from vidcomp.pipelines.evaluation.command import evaluate as command

    (form,) = [option for option in command.params if option.name == "form"]
    assert list(form.type.choices) == sorted(BENCHMARKS)
