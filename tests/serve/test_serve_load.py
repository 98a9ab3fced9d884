"""Many clients at once, and clients that go while they are answered."""

import asyncio
import contextlib
import threading
import time

import pytest
from clips import moving_square, write_clip
from serve.serve_fakes import FakeModel, ask, httpx, make_server, running

from vidcomp.errors import DecodeError
from vidcomp.pipelines.serve.jobs import Job, ModelThread
from vidcomp.pipelines.serve.limits import Limits, RefusedError
from vidcomp.pipelines.serve.shelf import Choice

CLIENTS = 200


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_clip(tmp_path_factory.mktemp("clip") / "square.mp4", moving_square(8))


def everyone(url, ask_one):
    """What each of the clients gets, all of them asking at once."""

    async def run():
        limits = httpx.Limits(max_connections=CLIENTS, max_keepalive_connections=0)
        async with httpx.AsyncClient(base_url=url, timeout=120, limits=limits) as client:
            return await asyncio.gather(*(ask_one(client, i) for i in range(CLIENTS)))

    return asyncio.run(run())


def wait_for(condition, seconds=10.0):
    until = time.monotonic() + seconds
    while not condition() and time.monotonic() < until:
        time.sleep(0.01)
    assert condition()


def test_all_of_200_clients_are_answered(tmp_path, clip):
    model = FakeModel()
    server = make_server(
        tmp_path,
        model,
        videos=clip.parent,
        default=Choice(method="uniform", budget="8"),
        limits=Limits(waiting=CLIENTS),
    )

    async def one(client, i):
        body = ask(f"number {i}", "square.mp4", stream=bool(i % 2))
        return await client.post("/v1/chat/completions", json=body)

    with running(server) as url:
        answers = everyone(url, one)
        assert httpx.get(f"{url}/health").json() | {"needs_token": None} == {
            "status": "ok",
            "waiting": 0,
            "busy": False,
            "needs_token": None,
        }
    assert {answer.status_code for answer in answers} == {200}
    for i, answer in enumerate(answers):
        assert f"{i} " in answer.text
        assert ("[DONE]" in answer.text) == bool(i % 2)
    assert model.encoded == [("square.mp4", "uniform@8")]
    assert model.closed == CLIENTS


def test_those_beyond_the_queue_are_told_to_come_again(tmp_path):
    model = FakeModel(pause_s=0.05)
    server = make_server(tmp_path, model, limits=Limits(waiting=5))

    async def one(client, i):
        return await client.post("/v1/chat/completions", json=ask("a b"))

    with running(server) as url:
        answers = everyone(url, one)
        codes = [answer.status_code for answer in answers]
        assert set(codes) == {200, 429}
        assert 6 <= codes.count(200) < CLIENTS
        refused = next(answer for answer in answers if answer.status_code == 429)
        assert refused.json()["error"]["code"] == "queue_full"
        assert refused.headers["retry-after"] == "1"
        assert httpx.post(f"{url}/v1/chat/completions", json=ask("again")).status_code == 200
    assert model.closed == codes.count(200) + 1


def test_a_mixed_crowd_leaves_the_server_well(tmp_path, clip):
    """Askers, those who go at once, those who send nonsense, uploads of nonsense: all together."""
    model = FakeModel(pause_s=0.002)
    server = make_server(tmp_path, model, limits=Limits(waiting=CLIENTS, upload_bytes=10_000))

    async def one(client, i):
        try:
            if i % 5 == 0:
                return (await client.post("/v1/chat/completions", json=ask("a b"))).status_code
            if i % 5 == 1:
                body = ask("word " * 500, stream=True)
                async with client.stream("POST", "/v1/chat/completions", json=body) as answer:
                    async for _ in answer.aiter_bytes():
                        return answer.status_code
            if i % 5 == 2:
                return (await client.post("/v1/chat/completions", content=b"{" * i)).status_code
            if i % 5 == 3:
                files = {"file": ("a.mp4", b"x" * (100 * i))}
                return (await client.post("/v1/files", files=files)).status_code
            return (await client.get("/v1/files/../../etc/passwd")).status_code
        except httpx.HTTPError as error:
            return type(error).__name__

    with running(server) as url:
        codes = everyone(url, one)
        assert {code for i, code in enumerate(codes) if i % 5 in (0, 1)} == {200}
        assert {code for i, code in enumerate(codes) if i % 5 == 2} == {400}
        assert {code for i, code in enumerate(codes) if i % 5 == 3} <= {400, 413}
        assert {code for i, code in enumerate(codes) if i % 5 == 4} == {404}
        wait_for(lambda: not server.thread.is_busy and not server.thread.num_waiting)
        assert httpx.post(f"{url}/v1/chat/completions", json=ask("again")).status_code == 200
    assert model.said < CLIENTS / 5 * 500 / 2
    assert list((tmp_path / "uploads").iterdir()) == []


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_stops_the_model(tmp_path, stream):
    model = FakeModel(pause_s=0.02)
    with running(make_server(tmp_path, model)) as url:
        with httpx.Client(base_url=url) as client:
            body = ask("word " * 1000, stream=stream, max_tokens=1000)
            if stream:
                with client.stream("POST", "/v1/chat/completions", json=body) as answer:
                    for _ in answer.iter_bytes():
                        break
            else:
                with pytest.raises(httpx.ReadTimeout):
                    client.post("/v1/chat/completions", json=body, timeout=0.3)
        wait_for(lambda: model.closed == 1, 5)
        assert model.said < 500
        assert httpx.post(f"{url}/v1/chat/completions", json=ask("next")).status_code == 200


def test_a_client_that_waits_and_goes_is_never_answered(tmp_path):
    model = FakeModel(pause_s=0.02)
    server = make_server(tmp_path, model)
    with running(server) as url:
        body = ask("word " * 60)
        first = threading.Thread(
            target=httpx.post,
            args=(f"{url}/v1/chat/completions",),
            kwargs={"json": body, "timeout": 30},
        )
        first.start()
        wait_for(lambda: server.thread.is_busy)
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{url}/v1/chat/completions", json=ask("never"), timeout=0.2)
        wait_for(lambda: server.thread.num_waiting == 0, 5)
        first.join()
    assert model.closed == 1


def test_a_server_that_stops_ends_its_answers(tmp_path):
    model = FakeModel(pause_s=0.02)
    server = make_server(tmp_path, model)
    with running(server) as url:

        def wait():
            with contextlib.suppress(httpx.HTTPError):
                httpx.post(f"{url}/v1/chat/completions", json=ask("word " * 1000), timeout=30)

        threads = [threading.Thread(target=wait) for _ in range(3)]
        for thread in threads:
            thread.start()
        wait_for(lambda: server.thread.is_busy)
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    assert model.said < 500
    assert model.closed == 1


def test_faults_of_the_model_are_told_and_survived(tmp_path, clip):
    model = FakeModel()
    with running(make_server(tmp_path, model, videos=clip.parent)) as url:
        model.encode = broken = lambda path, choice: (_ for _ in ()).throw(ValueError("secret"))
        answer = httpx.post(f"{url}/v1/chat/completions", json=ask("?", "square.mp4"))
        assert answer.status_code == 500
        assert "secret" not in answer.text
        assert broken
        model.encode = lambda path, choice: (_ for _ in ()).throw(DecodeError("no frames"))
        answer = httpx.post(f"{url}/v1/chat/completions", json=ask("?", "square.mp4", stream=True))
        assert (answer.status_code, answer.json()["error"]["message"]) == (400, "no frames")
        del model.encode
        answer = httpx.post(f"{url}/v1/chat/completions", json=ask("?", "square.mp4"))
        assert answer.status_code == 200


def test_a_fault_in_the_middle_of_a_stream_is_told(tmp_path):
    model = FakeModel()
    talk = model.talk

    def half(messages, videos, asked):
        def pieces():
            yield "half "
            raise MemoryError

        from dataclasses import replace

        return replace(talk(messages, videos, asked), pieces=pieces())

    model.talk = half
    with running(make_server(tmp_path, model)) as url:
        answer = httpx.post(f"{url}/v1/chat/completions", json=ask("?", stream=True))
        assert "half " in answer.text
        assert '"error"' in answer.text
        assert "[DONE]" not in answer.text


def test_jobs_come_in_order_and_not_after_the_end():
    async def run():
        thread = ModelThread(10)
        order = []

        def work(number):
            def do():
                order.append(number)
                yield number

            return do

        jobs = [Job(work(i)) for i in range(5)]
        for job in jobs:
            thread.submit(job)
        for number, job in enumerate(jobs):
            assert await job.next(5) == (False, number)
            assert await job.next(5) == (True, None)
        assert await jobs[0].next(0.01) == (False, None)
        thread.close()
        with pytest.raises(RefusedError, match="stopping"):
            thread.submit(Job(work(9)))
        return order

    assert asyncio.run(run()) == [0, 1, 2, 3, 4]
