"""From a file to an answer, with the model's own frames, pixels, prompt and encoder."""

from dataclasses import replace

import pytest
import torch
from clips import moving_square, write_clip
from llm.tiny_folders import save_folder
from llm.tiny_llms import CONFIGS

from vidcomp import compressor
from vidcomp.errors import BudgetError, ConfigError
from vidcomp.llm.model import Clip, VideoLLM
from vidcomp.sample.uniform import Uniform
from vidcomp.types import VideoTokens

pytestmark = pytest.mark.filterwarnings("ignore")  # of transformers, about its own classes
every_family = pytest.mark.parametrize("name", CONFIGS)
GREEDY = {"do_sample": False, "max_new_tokens": 5}


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return write_clip(tmp_path_factory.mktemp("clips") / "square.mp4", moving_square(24))


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    made = {}

    def load(name):
        if name not in made:
            if name == "smolvlm":
                pytest.importorskip("num2words")
            folder = save_folder(name, tmp_path_factory.mktemp(name) / "model")
            made[name] = VideoLLM.load(folder)
        return made[name]

    return load


def clip(file, num_frames=4):
    return Clip(path=file, sampler=Uniform(num_frames=num_frames))


@every_family
def test_a_file_is_asked_about(name, models, file):
    model = models(name)
    dense = model.encode(clip(file))
    slots = dense.grid.t * 2 + 2
    small = model.encode(clip(file), compressor=compressor("partition"), budget=slots)
    answer = model.ask("what happens?", [small], **GREEDY)
    assert answer.num_video == slots
    assert answer.num_new <= 5
    assert "".join(model.stream("what happens?", [small], **GREEDY)).strip() == answer.text
    session = model.session([small])
    questions = ["why?", "what happens?"]
    assert session.ask_all(questions, **GREEDY)[1].text == answer.text
    assert "".join(session.stream("what happens?", **GREEDY)).strip() == answer.text
    scores = session.option_scores("A or B?", "AB")
    torch.testing.assert_close(
        scores, model.option_scores("A or B?", [small], "AB"), atol=2e-5, rtol=1e-4
    )
    assert bool((scores < 0).all())


@every_family
def test_tokens_say_what_pixels_say(name, models):
    assert models(name).verify() == 0


@pytest.mark.parametrize("name", ["qwen3_vl", "internvl"])
def test_a_break_is_found(name, models, monkeypatch):
    model = models(name)
    adapter = type(model.adapter)
    encode = adapter.encode

    def without_the_last_row(self, inputs, grid, spans, **other):
        video = encode(self, inputs, grid, spans, **other)
        video.tokens[-1] = 0
        return video

    monkeypatch.setattr(adapter, "encode", without_the_last_row)
    with pytest.raises(ConfigError, match="answers otherwise"):
        model.verify()


@pytest.mark.parametrize("name", ["qwen3_vl", "video_llava", "llava_onevision"])
def test_chunks_are_the_whole(name, models, file, monkeypatch):
    model = models(name)
    whole = model.encode(clip(file, 12))
    monkeypatch.setattr("vidcomp.llm.model._CHUNK_FRAMES", 4)
    parts = model.encode(clip(file, 12))
    torch.testing.assert_close(parts.tokens, whole.tokens, atol=2e-5, rtol=1e-4)
    assert parts.grid == whole.grid
    for extra, value in whole.frame_extras.items():
        torch.testing.assert_close(parts.frame_extras[extra], value, atol=2e-5, rtol=1e-4)
    streamed = model.encode(clip(file, 12), compressor=compressor("evs"), budget=20)
    at_once = compressor("evs")(whole, model.adapter.room(20, 20 - len(streamed)))
    assert torch.equal(streamed.assign, at_once.assign)
    assert set(streamed.frame_extras) == set(whole.frame_extras)


def test_structural_rows_are_part_of_the_budget(models, file):
    model = models("video_llava")
    small = model.encode(clip(file), compressor=compressor("uniform"), budget=10)
    assert (len(small), model.ask("?", [small], **GREEDY).num_video) == (6, 10)
    with pytest.raises(BudgetError, match="at least 5"):
        model.encode(clip(file), compressor=compressor("uniform"), budget=4)


def test_plans_refuse_early_with_numbers(models, file):
    model = models("qwen3_vl")
    plan = model.plan(clip(file), 64)
    assert plan.num_video == 64
    assert "64" in str(plan)
    plan.check()
    with pytest.raises(BudgetError, match=r"an answer that is shorter .* by [\d,]+ or more"):
        model.plan(clip(file), 64, max_new_tokens=5000).check()
    with pytest.raises(BudgetError, match=r"lower the budget by [\d,]+ or more"):
        model.plan(clip(file), 64, max_new_tokens=3970).check()
    both = model.plan([clip(file), clip(file)], 64)
    assert (both.num_video, both.num_tokens) == (128, 2 * plan.num_tokens)
    streams = model.plan(clip(file, 24), 64, compressor=compressor("partition"))
    holds = model.plan(clip(file, 24), 64, compressor=compressor("tome"))
    assert streams.tokens_bytes <= holds.tokens_bytes == holds.num_tokens * 32 * 3 * 4
    full = replace(holds, free_bytes=1000)
    with pytest.raises(BudgetError, match=r"need .* MB, keys and values .* are free: lower"):
        full.check()
    video = model.encode(clip(file), compressor=compressor("uniform"), budget=64)
    assert model.plan(video).num_video == 64


def test_a_prompt_that_is_too_long_is_refused(models, file):
    model = models("qwen3_vl")
    video = model.encode(clip(file), compressor=compressor("uniform"), budget=64)
    session = model.session([video])
    for ask in (session.ask, session.stream):
        with pytest.raises(BudgetError, match=r"need 5,\d+ tokens, 64 of them for the video"):
            ask("?" * 5000, **GREEDY)
    for ask in (model.ask, model.stream):
        with pytest.raises(BudgetError, match=r"the model takes 4,096: shorten the question"):
            ask("?" * 5000, [video], **GREEDY)


def test_a_stream_that_is_closed_stops(models, file):
    model = models("qwen2_vl")
    video = model.encode(clip(file), compressor=compressor("uniform"), budget=8)
    said = model.stream("?", [video], do_sample=False, max_new_tokens=2000)
    next(said)
    said.close()  # waits for the thread: 2,000 tokens would take many seconds


def test_what_cannot_be_loaded_or_asked_is_told(models, file, tmp_path):
    with pytest.raises(ConfigError, match=r"has no config.json"):
        VideoLLM.load(tmp_path)
    model = models("qwen3_vl")
    with pytest.raises(ConfigError, match="go together"):
        model.encode(clip(file), budget=8)
    video = model.encode(clip(file))
    with pytest.raises(ConfigError, match="single tokens"):
        model.option_scores("?", [video], ["yes", "no"])
    blank = VideoTokens.from_grid(
        torch.zeros(4, 32), video.grid._replace(t=1, h=2, w=2), video.spans[:1]
    )
    with pytest.raises(ConfigError, match="pts_s"):
        model.ask("?", [blank])
