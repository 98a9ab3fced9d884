"""Questions and answers over HTTP, as OpenAI's clients put and read them."""

import json

import pytest
from clips import moving_square, write_clip
from serve.serve_fakes import FakeModel, ask, httpx, make_server, running

from vidcomp.pipelines.serve.shelf import Choice


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_clip(tmp_path_factory.mktemp("clip") / "square.mp4", moving_square(8))


def upload(client, clip):
    answer = client.post("/v1/files", files={"file": ("my clip.mp4", clip.read_bytes())})
    assert answer.status_code == 200, answer.text
    return answer.json()["id"]


def events(answer):
    lines = [line[6:] for line in answer.text.split("\n") if line.startswith("data: ")]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def test_a_video_is_uploaded_and_asked_about(tmp_path, clip):
    model = FakeModel()
    server = make_server(tmp_path, model, default=Choice(method="uniform", budget="16"))
    with running(server) as url, httpx.Client(base_url=url, timeout=60) as client:
        video = upload(client, clip)
        first = client.post("/v1/chat/completions", json=ask("what is it", video)).json()
        assert first["choices"][0]["message"]["content"] == "what is it "
        assert first["choices"][0]["finish_reason"] == "stop"
        assert first["usage"]["completion_tokens"] == 3
        assert first["usage"]["prompt_tokens_details"]["video_tokens"] == 16
        (facts,) = first["vidcomp"]["videos"]
        assert (facts["tokens_before"], facts["tokens"], facts["cached"]) == (64, 16, False)
        again = client.post("/v1/chat/completions", json=ask("and then", video)).json()
        assert again["vidcomp"]["videos"][0]["cached"]
        more = ask("more", video, budget="50%", method="tome")
        other = client.post("/v1/chat/completions", json=more).json()
        assert other["vidcomp"]["videos"][0]["tokens"] == 32
        everything = ask("all", video, method="none")
        other = client.post("/v1/chat/completions", json=everything).json()
        assert other["vidcomp"]["videos"][0]["tokens"] == 64
        assert [label for _, label in model.encoded] == ["uniform@16", "tome@50%", "dense"]
        picture = client.get(facts["map"])
        assert picture.headers["content-type"] == "image/png"
        assert picture.content.startswith(b"\x89PNG")
        assert client.get("/v1/maps/chatcmpl-0/0").status_code == 404
        assert client.delete(f"/v1/files/{video}").json()["deleted"]
        gone = client.post("/v1/chat/completions", json=ask("?", video))
        assert gone.status_code == 404
        assert gone.json()["error"]["code"] == "file_not_found"


def test_an_answer_comes_in_pieces(tmp_path):
    with running(make_server(tmp_path)) as url, httpx.Client(base_url=url) as client:
        body = ask("a b c", stream=True, stream_options={"include_usage": True})
        answer = client.post("/v1/chat/completions", json=body)
        assert answer.headers["content-type"].startswith("text/event-stream")
        first, *pieces, last, usage = events(answer)
        assert first["choices"][0]["delta"]["role"] == "assistant"
        assert [one["choices"][0]["delta"]["content"] for one in pieces] == ["a ", "b ", "c "]
        assert last["choices"][0]["finish_reason"] == "stop"
        assert usage["choices"] == []
        assert usage["usage"]["completion_tokens"] == 3
        assert len({one["id"] for one in (first, *pieces, last, usage)}) == 1


@pytest.mark.parametrize("stream", [False, True])
def test_words_and_lengths_end_an_answer(tmp_path, stream):
    def said(**settings):
        answer = client.post(
            "/v1/chat/completions", json=ask("a b cd e", stream=stream, **settings)
        )
        if not stream:
            choice = answer.json()["choices"][0]
            return choice["message"]["content"], choice["finish_reason"]
        parts = [one["choices"][0] for one in events(answer)]
        text = "".join(part["delta"].get("content", "") for part in parts)
        return text, parts[-1]["finish_reason"]

    with running(make_server(tmp_path)) as url, httpx.Client(base_url=url) as client:
        assert said() == ("a b cd e ", "stop")
        assert said(stop="d") == ("a b c", "stop")
        assert said(stop=["zz", "b cd"]) == ("a ", "stop")
        assert said(stop=["b zz"]) == ("a b cd e ", "stop")
        assert said(max_tokens=2) == ("a b ", "length")
        assert said(max_completion_tokens=1, max_tokens=3) == ("a ", "length")


def test_turns_reach_the_model_in_their_order(tmp_path, clip):
    model = FakeModel()
    with running(make_server(tmp_path, model)) as url, httpx.Client(base_url=url) as client:
        video = upload(client, clip)
        messages = [
            {"role": "system", "content": "Be short."},
            *ask("one", video)["messages"],
            {"role": "assistant", "content": "One."},
            *ask("two", video)["messages"],
        ]
        body = {"model": "tiny", "messages": messages, "temperature": 0.5, "seed": 3, "user": "me"}
        assert client.post("/v1/chat/completions", json=body).status_code == 200
    assert [turn["role"] for turn in model.messages] == ["system", "user", "assistant", "user"]
    kinds = [[part["type"] for part in turn["content"]] for turn in model.messages]
    assert kinds == [["text"], ["video", "text"], ["text"], ["video", "text"]]
    assert model.asked.temperature == 0.5
    assert model.asked.seed == 3
    assert len(model.encoded) == 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model": "other"}, "other"),
        ({"messages": []}, "messages"),
        ({"messages": "hello"}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "video_url"),
        ({"messages": [{"role": "assistant", "content": "no"}]}, "user"),
        ({"n": 2}, "'n'"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"logprobs": True}, "logprobs"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"temperature": 5}, "temperature"),
        ({"presence_penalty": 1}, "presence_penalty"),
        ({"colour": "red"}, "colour"),
        ({"budget": "many", "method": "uniform"}, "many"),
        ({"budget": 0, "method": "uniform"}, "more than 0"),
        ({"budget": 16}, "method"),
        ({"method": "uniform"}, "budget"),
        ({"method": "nothing_like_it", "budget": 4}, "nothing_like_it"),
        ({"method": "all", "budget": 4}, "one method"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(tmp_path_factory, change, said, quick):
    answer = quick.post("/v1/chat/completions", json={**ask(), **change})
    assert answer.status_code in (400, 404)
    error = answer.json()["error"]
    assert said in error["message"] + str(error["param"])
    assert error["type"] == "invalid_request_error"


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    server = make_server(tmp_path_factory.mktemp("quick"))
    with running(server) as url, httpx.Client(base_url=url) as client:
        yield client


def test_bodies_that_are_no_questions_are_refused(quick):
    for body in (b"", b"{", b"[]", b"null", b"\xff\xfe", b"1" * 1000, b"[" * 100_000):
        answer = quick.post("/v1/chat/completions", content=body)
        assert answer.status_code == 400, body[:20]
        assert answer.json()["error"]["message"]
    assert quick.get("/v1/nothing").status_code == 404
    assert quick.delete("/v1/models").status_code == 405
    assert quick.get("/v1/models/tiny").json()["id"] == "tiny"
    assert quick.get("/v1/models/other").status_code == 404
    assert [one["id"] for one in quick.get("/v1/models").json()["data"]] == ["tiny"]


def test_tokens_are_kept_for_the_next_run(tmp_path, clip):
    for run, salt in enumerate(("a", "a")):
        model = FakeModel(salt=salt)
        server = make_server(tmp_path, model, videos=clip.parent)
        server.shelf.keep_in(tmp_path / "cache", model.identity, model.dtype)
        with running(server) as url, httpx.Client(base_url=url) as client:
            body = ask("?", "square.mp4", method="tome", budget=16)
            made = client.post("/v1/chat/completions", json=body).json()
            assert made["vidcomp"]["videos"][0]["cached"] == bool(run)
            assert made["vidcomp"]["videos"][0]["tokens"] == 16
            assert client.get(made["vidcomp"]["videos"][0]["map"]).status_code == 200
        assert len(model.encoded) == 1 - run


def test_openai_s_own_client_reads_it(tmp_path, clip):
    openai = pytest.importorskip("openai")
    server = make_server(tmp_path, token="a-token-of-many-letters")
    with running(server) as url:
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="a-token-of-many-letters")
        assert [one.id for one in client.models.list()] == ["tiny"]
        made = client.files.create(file=clip, purpose="vision")
        assert [one.id for one in client.files.list()] == [made.id]
        assert client.files.content(made.id).read() == clip.read_bytes()
        body = ask("a b", made.id)
        extra = {"budget": 16, "method": "uniform"}
        whole = client.chat.completions.create(**body, extra_body=extra)
        assert whole.choices[0].message.content == "a b "
        assert whole.usage.total_tokens == 28
        options = {"include_usage": True}
        said = list(client.chat.completions.create(**body, stream=True, stream_options=options))
        assert "".join(c.choices[0].delta.content or "" for c in said if c.choices) == "a b "
        assert said[-1].usage.completion_tokens == 2
        with pytest.raises(openai.NotFoundError, match="served"):
            client.chat.completions.create(**{**body, "model": "other"})
        assert client.files.delete(made.id).deleted
        stranger = openai.OpenAI(base_url=f"{url}/v1", api_key="another-token", max_retries=0)
        with pytest.raises(openai.AuthenticationError):
            stranger.models.list()
