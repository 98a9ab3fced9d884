"""``vidcomp ask`` from files to answers: what it prints, keeps and refuses."""

import json
import shutil

import pytest
from clips import moving_square, write_clip
from llm.tiny_folders import save_folder
from safetensors.torch import load_file, save_file

from vidcomp.store import open_cache

pytestmark = pytest.mark.filterwarnings("ignore")  # of transformers, about its own classes


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_folder("qwen3_vl", tmp_path_factory.mktemp("vlm") / "model")


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    place = tmp_path_factory.mktemp("clips") / "square.mp4"
    return write_clip(place, moving_square(24, 90, 120), fps=10)


@pytest.fixture
def ask(vidcomp, folder):
    def call(*args, model=folder, **options):
        return vidcomp("ask", *args, "--model", model, "--max-new-tokens", 6, **options)

    return call


def test_an_answer_and_what_it_cost(ask, file):
    plain = ask(file, "what happens?", "--budget", 64)
    assert plain.code == 0
    assert plain.out.strip()
    lines = plain.err.splitlines()
    plan = next(i for i, line in enumerate(lines) if line.startswith("4 frames, 280 tokens to 64;"))
    cost = next(i for i, line in enumerate(lines) if "280 tokens to 64 of a prompt of" in line)
    assert plan < cost
    assert "keys and values" in lines[plan]
    assert "answered in" in lines[cost]
    made = ask(file, "what happens?", "--budget", 64, "--json")
    said = made.json
    assert said["answers"][0]["answer"] == plain.out.strip()
    assert (said["frames"], said["tokens_before"], said["tokens_after"]) == (4, 280, 64)
    assert said["answers"][0]["prompt_tokens"] > 64
    assert set(said["seconds"]) == {"load", "video", "answers"}
    assert "280 tokens" not in ask(file, "?", "--budget", 64, "-q").err


def test_several_questions_are_answered_in_their_order(ask, file):
    both = ask(file, "why?", "-", "--budget", 64, stdin="what happens?\n\nwho?\n")
    blocks = both.out.split("> ")[1:]
    assert [block.splitlines()[0] for block in blocks] == ["why?", "what happens?", "who?"]
    for block in blocks:
        question, _, answer = block.partition("\n")
        assert ask(file, question, "--budget", 64).out == answer


def test_ranges_and_methods(ask, file):
    part = ask(file, "?", "--start", 0.5, "--end", 1.5, "--budget", "100%", "--json")
    assert part.json["tokens_before"] == part.json["tokens_after"] < 280 * 2
    uniform = ask(file, "?", "--budget", 16, "--method", "uniform", "--json")
    assert uniform.json["tokens_after"] == 16


def test_a_video_is_compressed_once(ask, file, folder, tmp_path, monkeypatch):
    out = tmp_path / "cache"
    fresh = ask(file, "what happens?", "--budget", 64)
    first = ask(file, "what happens?", "--budget", 64, "--cache", out, "--json")
    assert first.json["from_cache"] is False
    assert open_cache(out).keys() == ["square.mp4"]
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*") if p.is_file()}
    monkeypatch.setattr(
        "vidcomp.llm.model.VideoLLM.encode", lambda *a, **k: pytest.fail("encoded again")
    )
    again = ask(file, "what happens?", "--budget", 64, "--cache", out, "--json")
    assert again.json["from_cache"] is True
    texts = {made.json["answers"][0]["answer"] for made in (first, again)}
    assert texts == {fresh.out.strip()}
    less = ask("--cache", out, "--id", "square.mp4", "why?", "--budget", 20, "--json")
    assert (less.code, less.json["tokens_after"]) == (0, 20)
    assert less.json["tokens_before"] == 280
    more = ask(file, "?", "--budget", 65, "--cache", out)
    assert more.code == 5
    assert "1 fewer than the budget: lower the budget to 64" in more.err
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*") if p.is_file()} == before


def test_what_extract_cached_is_asked_about(ask, vidcomp, file, folder, tmp_path):
    out = tmp_path / "cache"
    own = ["--recipe", "video-llm", "--set", f"encode.model={folder}"]
    exact = ["--set", "encode.dtype=float32", "--set", "store.dtype=float32"]
    assert vidcomp("extract", file, "--out", out, *own, *exact, "-q").code == 0
    cached = ask("--cache", out, "--id", "square.mp4", "what happens?", "--budget", 64)
    fresh = ask(file, "what happens?", "--budget", 64)
    assert cached.code == 0
    assert cached.out == fresh.out
    dense = ask(file, "?", "--budget", 90, "--cache", out, "--json")
    assert (dense.json["from_cache"], dense.json["tokens_after"]) == (True, 90)
    stale = ask(write_clip(tmp_path / "b.mp4", moving_square(6)), "?", "--cache", out)
    assert stale.code == 5
    assert "compress" in stale.err


def test_a_changed_video_is_made_anew(ask, tmp_path):
    path = write_clip(tmp_path / "a.mp4", moving_square(12, 64, 96), fps=10)
    first = ask(path, "?", "--budget", 20, "--cache", tmp_path / "c", "--json")
    write_clip(path, moving_square(24, 64, 96, seed=3), fps=10)
    second = ask(path, "?", "--budget", 20, "--cache", tmp_path / "c", "--json")
    assert not second.json["from_cache"]
    assert second.json["seconds"]["video"] > 0
    assert len(open_cache(tmp_path / "c")) == 1
    assert first.json["tokens_after"] == second.json["tokens_after"] == 20


@pytest.mark.parametrize(
    ("args", "code", "text"),
    [
        (["nothing.mp4", "?"], 1, "there is no file nothing.mp4"),
        (["FILE"], 2, "a question was wanted"),
        (["FILE", ""], 2, "an empty one"),
        ([], 2, "a question was wanted"),
        (["FILE", "?", "--method", "tomee"], 2, "did you mean 'tome'"),
        (["FILE", "?", "--budget", "many"], 2, "budget"),
        (["--id", "x", "?"], 2, "add --cache DIR"),
        (["--id", "x", "?", "--cache", "no-such-folder"], 5, "no-such-folder"),
        (["FILE", "?", "--device", "abacus"], 2, "abacus"),
        (["FILE", "?", "--end", "0"], 1, "choose a range inside"),
        (["FILE", "?", "--start", "2", "--end", "1"], 2, "swap them"),
        (["FILE", "?" * 9000], 2, "shorten the question"),
    ],
)
def test_mistakes_are_told_in_one_sentence(ask, file, args, code, text):
    made = ask(*[file if arg == "FILE" else arg for arg in args], "-q")
    assert made.code == code
    (line,) = [line for line in made.err.splitlines() if line.startswith("vidcomp: ")]
    assert text in line
    assert not made.out


def test_models_that_cannot_answer_are_told(ask, file, folder, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    weights = load_file(copy / "model.safetensors")
    name = next(key for key in weights if "language_model" in key and "mlp" in key)
    save_file({k: v for k, v in weights.items() if k != name}, copy / "model.safetensors")
    assert "lack 1 tensors" in ask(file, "?", model=copy).err
    (copy / "model.safetensors").unlink()
    assert "no model.safetensors" in ask(file, "?", model=copy).err
    config = json.loads((folder / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "model_type": "llama"}))
    save_file(weights, copy / "model.safetensors")
    unknown = ask(file, "?", model=copy)
    assert unknown.code == 2
    assert "a model of a known family was wanted, got the type 'llama'" in unknown.err
    (copy / "config.json").write_text(json.dumps({**config, "model_type": "nonsense"}))
    assert "vidcomp: " in ask(file, "?", model=copy).err
    shutil.copy(folder / "config.json", copy / "config.json")
    (copy / "chat_template.jinja").unlink()
    assert "no chat template" in ask(file, "?", model=copy).err
    missing = ask(file, "?", model=tmp_path / "no")
    assert (missing.code, "no folder" in missing.err) == (2, True)


def test_a_record_of_another_model_is_refused(ask, vidcomp, file, tmp_path, tmp_path_factory):
    other = save_folder("qwen2_vl", tmp_path_factory.mktemp("other") / "model")
    ask(file, "?", "--budget", 20, "--cache", tmp_path / "c")
    wrong = ask("--cache", tmp_path / "c", "--id", "square.mp4", "?", model=other)
    assert wrong.code == 2
    assert "other weights" in wrong.err
    gone = ask("--cache", tmp_path / "c", "--id", "circle.mp4", "?")
    assert gone.code == 5
    assert "no record 'circle.mp4'" in gone.err
    both = ask("--cache", tmp_path / "c", "--id", "square.mp4", "?", "--start", 1)
    assert both.code == 2
    assert "its own range" in both.err


def test_a_real_video(ask, videos, tmp_path):
    made = ask(videos / "bikes_cuts.mp4", "what happens?", "--budget", 100, "--json", "--end", 6)
    assert made.code == 0, made.err
    assert made.json["tokens_after"] == 100 < made.json["tokens_before"]
