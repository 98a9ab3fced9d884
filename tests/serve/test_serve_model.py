"""The command with a model of a folder: the same answers as without a server, read once."""

import json
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from click.testing import CliRunner
from clips import moving_square, write_clip
from llm.tiny_folders import save_folder
from serve.serve_fakes import httpx, make_server, running

import vidcomp as vc
from vidcomp.llm.model import VideoLLM
from vidcomp.pipelines.cli import main
from vidcomp.pipelines.serve.backend import LLMBackend
from vidcomp.pipelines.serve.limits import Limits

pytestmark = pytest.mark.filterwarnings("ignore")  # of transformers, about its own classes
QUESTION = "what moves?"


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    write_clip(folder / "square.mp4", moving_square(24, 96, 128))
    write_clip(folder / "other.mp4", moving_square(16, 96, 128, seed=3))
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    made = {}

    def load(name):
        if name not in made:
            folder = save_folder(name, tmp_path_factory.mktemp(name) / "tiny")
            made[name] = folder, VideoLLM.load(folder)
        return made[name]

    return load


def ask(*turns, **more):
    """Turns: a text, or a text with the video before it."""
    messages = []
    for number, turn in enumerate(turns):
        content = turn
        if isinstance(turn, tuple):
            video, text = turn
            part = {"type": "video_url", "video_url": {"url": video}}
            content = [part, {"type": "text", "text": text}]
        messages.append({"role": "assistant" if number % 2 else "user", "content": content})
    return {"model": "tiny", "messages": messages, "max_tokens": 8, **more}


@pytest.mark.parametrize("name", ["qwen3_vl", "llava_onevision", "internvl"])
def test_answers_are_those_of_the_model(name, models, videos, tmp_path):
    _, llm = models(name)
    backend = LLMBackend(llm, "tiny", Limits())
    server = make_server(tmp_path, backend, videos=videos)
    server.shelf.keep_in(tmp_path / "cache", backend.identity, backend.dtype)
    path = videos / "square.mp4"
    small = llm.encode(path, compressor=vc.compressor("tome"), budget="50%")
    settings = {"max_new_tokens": 8, "do_sample": False}
    expected = llm.ask(QUESTION, [small], **settings)
    with running(server) as url, httpx.Client(base_url=url, timeout=120) as client:

        def say(*turns, **more):
            answer = client.post("/v1/chat/completions", json=ask(*turns, **more))
            assert answer.status_code == 200, answer.text
            return answer.json()

        half = {"method": "tome", "budget": "50%"}
        first = say(("square.mp4", QUESTION), **half)
        assert first["choices"][0]["message"]["content"].strip() == expected.text
        assert first["usage"]["prompt_tokens"] == expected.num_prompt
        details = first["usage"]["prompt_tokens_details"]
        assert (details["video_tokens"], details["cached_tokens"]) == (expected.num_video, 0)
        again = say(("square.mp4", QUESTION), **half)
        assert again["choices"] == first["choices"]
        assert again["usage"]["prompt_tokens_details"]["cached_tokens"] > expected.num_video
        talk = [("square.mp4", QUESTION), expected.text or "no", "are you sure?"]
        more = say(*talk, **half)
        assert more["usage"]["prompt_tokens_details"]["cached_tokens"] > expected.num_video
        video = {"type": "video"}
        messages = [
            {"role": "user", "content": [video, {"type": "text", "text": QUESTION}]},
            {"role": "assistant", "content": [{"type": "text", "text": talk[1]}]},
            {"role": "user", "content": [{"type": "text", "text": talk[2]}]},
        ]
        alone = llm.ask(messages, [small], **settings).text
        assert more["choices"][0]["message"]["content"].strip() == alone
        two = say(("square.mp4", "one"), "yes", ("other.mp4", "which?"), **half)
        assert len(two["vidcomp"]["videos"]) == 2
        assert say("hello")["vidcomp"]["videos"] == []
        picture = client.get(first["vidcomp"]["videos"][0]["map"])
        assert picture.content.startswith(b"\x89PNG")
        long = client.post("/v1/chat/completions", json=ask("word " * 100_000))
        assert long.status_code == 400
        assert long.json()["error"]["code"] in ("context_length_exceeded", "invalid_value")
    fresh = make_server(tmp_path, LLMBackend(llm, "tiny", Limits()), videos=videos)
    fresh.shelf.keep_in(tmp_path / "cache", backend.identity, backend.dtype)
    with running(fresh) as url, httpx.Client(base_url=url, timeout=120) as client:
        body = ask(("square.mp4", QUESTION), method="tome", budget="50%")
        kept = client.post("/v1/chat/completions", json=body).json()
        assert kept["vidcomp"]["videos"][0]["cached"]
        assert kept["choices"] == first["choices"]


def test_several_clients_at_once_are_answered_as_if_alone(models, videos, tmp_path):
    _, llm = models("qwen2_5_vl")
    server = make_server(tmp_path, LLMBackend(llm, "tiny", Limits(prefixes=1)), videos=videos)
    with running(server) as url, httpx.Client(base_url=url, timeout=120) as client:

        def say(number):
            video = ("square.mp4", "other.mp4")[number % 2]
            body = ask((video, f"question {number}"), method="tome", budget="25%")
            return client.post("/v1/chat/completions", json=body).json()["choices"]

        alone = [say(number) for number in range(8)]
        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(say, range(8))) == alone
        assert len({json.dumps(one) for one in alone}) > 1


def test_a_client_that_goes_stops_the_model(models, videos, tmp_path):
    _, llm = models("qwen3_vl")
    llm.adapter.model.generation_config.eos_token_id = None  # an answer as long as it may be
    server = make_server(tmp_path, LLMBackend(llm, "tiny", Limits()), videos=videos)
    steps = []
    said = server.backend.talk
    server.backend.talk = lambda *asked: steps.append(said(*asked)) or steps[-1]
    with running(server) as url, httpx.Client(base_url=url, timeout=120) as client:
        body = ask(("square.mp4", "?"), stream=True) | {"max_tokens": 1000}
        with client.stream("POST", "/v1/chat/completions", json=body) as answer:
            next(answer.iter_bytes())
        until = time.monotonic() + 20
        while server.thread.is_busy and time.monotonic() < until:
            time.sleep(0.01)
        assert not server.thread.is_busy
        assert steps[0].num_new() < 900


def test_chance_follows_the_seed(models, videos, tmp_path):
    _, llm = models("qwen3_vl")
    server = make_server(tmp_path, LLMBackend(llm, "tiny", Limits()), videos=videos)
    with running(server) as url, httpx.Client(base_url=url, timeout=120) as client:

        def say(seed):
            body = ask(("square.mp4", "?"), temperature=1.5, seed=seed)
            return client.post("/v1/chat/completions", json=body).json()["choices"][0]

        assert say(1) == say(1)
        assert len({json.dumps(say(seed)) for seed in range(5)}) > 1


def test_another_model_s_tokens_are_not_read(models, tmp_path):
    _, llm = models("qwen3_vl")
    first = LLMBackend(llm, "tiny", Limits()).identity
    weight = next(iter(llm.adapter.model.parameters()))
    with torch.no_grad():
        before = weight.clone()
        weight.view(-1)[0] += 1
        other = LLMBackend(llm, "tiny", Limits()).identity
        weight.copy_(before)
    assert first != other
    assert LLMBackend(llm, "tiny", Limits()).identity == first


def test_the_command_serves_until_it_is_told_to_stop(models, videos, tmp_path):
    folder, _ = models("qwen3_vl")
    (tmp_path / "token").write_text("a-token-of-many-letters\n")
    command = ["-m", "vidcomp.pipelines.cli", "serve", "--model", str(folder), "--port", "0"]
    command += ["--videos", str(videos), "--data", str(tmp_path / "data"), "--budget", "50%"]
    command += ["--token-file", str(tmp_path / "token")]
    log = tmp_path / "log"
    with log.open("wb") as target:
        process = subprocess.Popen([sys.executable, *command], stderr=target)
    try:
        until = time.monotonic() + 120
        while "running on" not in log.read_text() and time.monotonic() < until:
            assert process.poll() is None, log.read_text()
            time.sleep(0.1)
        url = log.read_text().split("running on ")[1].split()[0]
        headers = {"authorization": "Bearer a-token-of-many-letters"}
        body = ask(("square.mp4", QUESTION))
        assert httpx.post(f"{url}/v1/chat/completions", json=body).status_code == 401
        answer = httpx.post(f"{url}/v1/chat/completions", json=body, headers=headers, timeout=120)
        (video,) = answer.json()["vidcomp"]["videos"]
        assert video["tokens"] == video["tokens_before"] // 2
        process.send_signal(signal.SIGTERM)
        process.wait(60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode in (0, -signal.SIGTERM)
    assert "Traceback" not in log.read_text()
    cache = vc.open_cache(tmp_path / "data" / "cache")
    assert cache.keys() == ["square.mp4/partition@50%"]
    assert list((tmp_path / "data" / "uploads").iterdir()) == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--host", "0.0.0.0"], "--token-file"),
        (["--token-file", "nothing"], "nothing"),
        (["--token-file", "short"], "16 letters"),
        (["--videos", "nothing"], "nothing"),
        (["--method", "nothing_like_it"], "nothing_like_it"),
        (["--budget", "many"], "many"),
        ([], "config.json"),
    ],
)
def test_what_cannot_be_served_is_refused_before_it_starts(options, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "short").write_text("short")
    (tmp_path / "empty").mkdir()
    made = CliRunner().invoke(main, ["serve", "--model", "empty", *options])
    assert made.exit_code == 2, made.output
    assert said in made.output


def test_a_missing_package_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    made = CliRunner().invoke(main, ["serve", "--model", "any"])
    assert made.exit_code == 2
    assert "vidcomp[serve]" in made.output
