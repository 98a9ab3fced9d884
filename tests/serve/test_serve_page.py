"""The page, as a person uses it: a video, a question, an answer and its token map."""

import base64
import os
from pathlib import Path

import pytest
from clips import moving_square, write_clip
from serve.chromium import browser
from serve.serve_fakes import FakeModel, make_server, running

from vidcomp.pipelines.serve.shelf import Choice

pytestmark = pytest.mark.browser
TOKEN = "a-token-of-many-letters"


def said(page):
    return page.run("[...document.querySelectorAll('.assistant')].map((box) => box.textContent)")


def ready(page):
    page.wait("!document.getElementById('send').disabled")


def ask(page, question):
    page.type("#question", question)
    page.press_enter()


def picture(page, name):
    """For people who look at tests: pictures go to the folder that this variable names."""
    if folder := os.environ.get("VIDCOMP_SCREENSHOTS"):
        data = page.call("Page.captureScreenshot")["data"]
        (Path(folder) / f"{name}.png").write_bytes(base64.b64decode(data))


def test_a_person_asks_a_video(tmp_path):
    clip = write_clip(tmp_path / "square.mp4", moving_square(20, 128, 192))
    model = FakeModel(pause_s=0.01)
    server = make_server(tmp_path / "data", model, default=Choice(method="tome", budget="16"))
    with running(server) as url, browser(tmp_path / "profile") as page:
        page.open(url)
        page.wait("document.getElementById('model').value === 'tiny'")
        assert page.run("document.getElementById('budget').value") == "16"
        page.upload("#upload", clip)
        page.wait("document.getElementById('chosen').value.startsWith('file-')")
        page.wait("document.getElementById('video').videoWidth === 192")
        ask(page, "what moves <b>here</b>")
        page.wait("document.getElementById('map').naturalWidth > 100")
        ready(page)
        assert said(page) == ["what moves <b>here</b> "]
        assert page.run("document.querySelectorAll('#talk b').length") == 0
        caption = page.run("document.getElementById('caption').textContent")
        assert "64 tokens in, 16 kept" in caption
        picture(page, "answered")
        ask(page, "and then")
        page.wait("document.querySelectorAll('.assistant').length === 2")
        ready(page)
        assert said(page)[1] == "and then "
        assert [turn["role"] for turn in model.messages] == ["user", "assistant", "user"]
        assert len(model.encoded) == 1
        assert page.faults == []


def test_an_answer_can_be_stopped_and_a_wrong_method_is_told(tmp_path):
    model = FakeModel(pause_s=0.05)
    with running(make_server(tmp_path / "data", model)) as url, browser(tmp_path / "p") as page:
        page.open(url)
        page.wait("document.getElementById('model').value === 'tiny'")
        ask(page, "word " * 1000)
        page.wait("document.querySelector('.assistant')?.textContent.length > 10")
        page.run("document.getElementById('stop').click()")
        ready(page)
        page.wait("fetch('health').then((a) => a.json()).then((state) => !state.busy)")
        assert model.said < 200
        page.type("#method", "no_such_method")
        page.type("#budget", "10")
        ask(page, "again")
        page.wait("document.querySelector('.error')?.textContent.includes('no_such_method')")


def test_a_token_is_asked_for(tmp_path):
    server = make_server(tmp_path / "data", token=TOKEN)
    with running(server) as url, browser(tmp_path / "profile") as page:
        page.open(url)
        page.wait("!document.getElementById('entry').hidden")
        page.type("#token", "wrong")
        page.press_enter()
        page.wait("document.getElementById('model').value.includes('got none or another')")
        page.run("document.getElementById('token').value = ''")
        page.type("#token", TOKEN)
        page.press_enter()
        page.wait("document.getElementById('model').value === 'tiny'")
        assert page.run("document.getElementById('entry').hidden")
        ask(page, "hello there")
        page.wait("document.querySelector('.assistant')?.textContent === 'hello there '")


def test_a_video_of_the_folder_is_chosen(tmp_path):
    (tmp_path / "videos" / "day 1").mkdir(parents=True)
    write_clip(tmp_path / "videos" / "day 1" / "a#b?.mp4", moving_square(8, 64, 96))
    model = FakeModel()
    server = make_server(tmp_path / "data", model, videos=tmp_path / "videos")
    with running(server) as url, browser(tmp_path / "profile") as page:
        page.open(url)
        page.wait("document.getElementById('chosen').options.length === 2")
        page.run(
            "document.getElementById('chosen').value = 'day 1/a#b?.mp4';"
            "document.getElementById('chosen').dispatchEvent(new Event('change'))"
        )
        page.wait("document.getElementById('video').videoWidth === 96")
        ask(page, "what is it")
        page.wait("document.getElementById('map').naturalWidth > 100")
        ready(page)
        assert said(page) == ["what is it "]
        assert model.encoded == [("a#b?.mp4", "dense")]
        assert page.faults == []
