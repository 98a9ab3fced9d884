"""``vidcomp compare`` as it is typed."""

import json
import sys

import pytest

QUICK = ["--set", "sample.num_frames=4", "--set", "encode.size=56", "--runs", "1", "-q"]


def test_a_table_json_and_a_picture(vidcomp, clips, tmp_path):
    pytest.importorskip("matplotlib")
    out = tmp_path / "new" / "out"
    words = ["--budgets", "10%", "25%", "--methods", "uniform,tome,tome:scope=frame", "--out", out]
    run = vidcomp("compare", clips / "clip1.mp4", clips / "clip2.mp4", *words, *QUICK)
    assert run.code == 0, run.err
    lines = run.out.splitlines()
    assert lines[0].split()[2:] == [
        "distortion",
        "10%",
        "25%",
        "coverage",
        "10%",
        "25%",
        "s",
        "at",
        "25%",
    ]
    assert {line.split()[0] for line in lines[2:5]} == {"uniform", "tome", "tome:scope=frame"}
    assert lines[5].startswith("2 clips of 64 patch tokens (dct)")
    assert lines[-2:] == [f"wrote {out / 'compare.json'}", f"wrote {out / 'compare.png'}"]
    written = json.loads((out / "compare.json").read_text())
    assert written["budgets"] == ["10%", "25%"]
    assert len(written["results"]) == 6
    assert (out / "compare.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "words",
    [["--budgets", "10%,25%"], ["--budgets=10%", "--budgets=25%"], ["--budgets", "10%", "25%"]],
)
def test_budgets_are_written_as_one_likes(vidcomp, clips, words):
    run = vidcomp(
        "compare", *words, "--methods", "uniform", "--json", *QUICK, "--", clips / "clip0.mp4"
    )
    assert run.code == 0, run.err
    assert run.json["budgets"] == ["10%", "25%"]
    assert [r["tokens"] for r in run.json["results"]] == [6, 16]
    assert run.json["files"] == []


def test_the_video_may_come_last(vidcomp, clips):
    words = ["--budgets", "5", "7", clips / "clip0.mp4", "--methods", "uniform", "--json"]
    run = vidcomp("compare", *words, *QUICK)
    assert [r["tokens"] for r in run.json["results"]] == [5, 7]


def test_all_methods_run_or_say_why(vidcomp, clips):
    from vidcomp.registry import COMPRESSORS

    run = vidcomp("compare", clips / "clip1.mp4", "--budgets", "25%", "--json", *QUICK)
    assert run.code == 0, run.err
    ran = {result["method"] for result in run.json["results"]}
    left_out = {line["method"]: line["reason"] for line in run.json["left_out"]}
    assert ran | set(left_out) == set(COMPRESSORS.names())
    assert all(reason.endswith((".", ")")) or len(reason) > 20 for reason in left_out.values())
    for result in run.json["results"]:
        measured = {name: value["mean"] for name, value in result["quality"].items()}
        assert measured["distortion"] >= 0, result["method"]
        assert all(0 <= measured[n] <= 1 for n in measured if "cover" in n or "entropy" in n)


def test_a_range_of_a_video(vidcomp, clips):
    words = ["--start", "0.5", "--end", "1", "--budgets", "5", "--methods", "uniform", "--json"]
    run = vidcomp("compare", clips / "clip1.mp4", *words, *QUICK)
    assert run.json["clips"][0]["key"] == "clip1.mp4@0.5-1"
    assert run.json["clips"][0]["seconds"] == 0.5


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (["--methods", "tomee"], 2, "did you mean 'tome'"),
        (["--budgets", "0%"], 2, "must be in (0, 1]"),
        (["--budgets", "ten"], 2, "must be a number"),
        (["--budgets", ","], 2, "got none"),
        (["--budgets", "1", "--methods", "static_average"], 2, "none of 1 methods can run"),
        (["--recipe", "nothing"], 2, "no recipe is called"),
        (["--device", "nowhere"], 2, "cannot be used"),
    ],
)
def test_mistakes_are_one_sentence(vidcomp, clips, words, code, sentence):
    run = vidcomp("compare", clips / "clip0.mp4", "--methods", "uniform", *QUICK, *words)
    if "--methods" in words:
        run = vidcomp("compare", clips / "clip0.mp4", *QUICK, *words)
    assert run.code == code
    assert sentence in run.err
    assert run.err.startswith("vidcomp: ")
    assert run.err.count("\n") == 1


def test_unreadable_videos(vidcomp, clips, tmp_path):
    bad = tmp_path / "bad.mp4"
    bad.write_text("no video")
    words = ["--methods", "uniform", "--budgets", "5", *QUICK]
    assert vidcomp("compare", bad, *words).code == 1
    run = vidcomp("compare", bad, clips / "clip0.mp4", *words)
    assert run.code == 3
    assert "failed: bad.mp4: " in run.out


def test_the_picture_is_asked_for_before_the_work(vidcomp, clips, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    run = vidcomp("compare", clips / "clip0.mp4", "--out", tmp_path / "out", *QUICK)
    assert run.code == 2
    assert "vidcomp[report]" in run.err
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_written(vidcomp, clips, tmp_path):
    pytest.importorskip("matplotlib")
    (tmp_path / "file").touch()
    words = ["--methods", "uniform", "--budgets", "5", "--out", tmp_path / "file" / "out", *QUICK]
    run = vidcomp("compare", clips / "clip0.mp4", *words)
    assert run.code == 5
    assert "cannot be written" in run.err
