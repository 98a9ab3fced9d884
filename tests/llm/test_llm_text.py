"""Prompts are written by the model's own processor, without pixels, for frames at any times."""

from dataclasses import replace

import pytest
import torch
from llm.tiny_folders import TOKENS, save_folder
from llm.tiny_llms import CONFIGS, random_pixels, tiny_llm

from vidcomp.encode.vlm.tokens import PTS
from vidcomp.errors import ConfigError
from vidcomp.llm.adapter import Adapter
from vidcomp.llm.text import TextProcessor

pytestmark = pytest.mark.filterwarnings("ignore")  # of transformers, about its own classes
every_family = pytest.mark.parametrize("name", CONFIGS)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    made = {}

    def folder(name):
        if name not in made:
            if name == "smolvlm":
                pytest.importorskip("num2words")
            made[name] = save_folder(name, tmp_path_factory.mktemp(name) / "model")
        return made[name]

    return folder


def frames_per_tubelet(name):
    return 2 if name.startswith(("qwen", "glm")) else 1


def video_of(name, start_s=0.0, seed=5):
    adapter = Adapter(tiny_llm(name))
    pixels, grid = random_pixels(name, seed)
    k = frames_per_tubelet(name)
    pts = start_s + torch.arange(grid.t * k, dtype=torch.float64).view(grid.t, k)
    spans = torch.stack([pts[:, 0], pts[:, -1] + 1], dim=1).float()
    video = adapter.encode(pixels, grid, spans)
    return replace(video, frame_extras={**video.frame_extras, PTS: pts})


@every_family
def test_a_question_is_put_behind_the_video_and_answered(name, folders):
    model = tiny_llm(name)
    adapter, text = Adapter(model), TextProcessor.load(folders(name), model.config)
    video = video_of(name)
    inputs = text.inputs("what happens?", [video])
    prompt = adapter.prompt(inputs, [video.grid])
    last = int(prompt.visuals[0].slots[-1])
    assert "what" in text.tokenizer.decode(inputs["input_ids"][0, last:])
    small = video.select(torch.arange(0, len(video), 3))
    (answer,) = adapter.generate(prompt, [small], max_new_tokens=4, do_sample=False)
    assert isinstance(text.decode(answer), str)
    with torch.no_grad():
        assert model(**adapter.inject(prompt, [small])).logits.isfinite().all()


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("qwen3_vl", ["<60.5 seconds>", "<62.5 seconds>"]),
        ("internvl", ["Frame1: ", "Frame2: "]),
        ("smolvlm", ["Frame from 01:00:", "Frame from 01:01:", "two"]),
        ("video_llama_3", ["Time 60.0s:", "Time 61.0s:"]),
        ("gemma4", ["01:00 ", "01:01 "]),
        ("molmo2", ["60.0 ", "61.0 "]),
        ("glm4v", ["60", "62"]),
        ("glm46v", ["60.0 seconds", "62.0 seconds"]),
    ],
)
def test_times_are_those_of_the_frames(name, told, folders):
    text = TextProcessor.load(folders(name), tiny_llm(name).config)
    inputs = text.inputs("when?", [video_of(name, start_s=60)])
    written = text.tokenizer.decode(inputs["input_ids"][0])
    for words in told:
        assert words in written


def test_seconds_a_tubelet_are_told_to_the_position_code(folders):
    text = TextProcessor.load(folders("qwen2_5_vl"), tiny_llm("qwen2_5_vl").config)
    assert text.inputs("?", [video_of("qwen2_5_vl")])["second_per_grid_ts"].tolist() == [2.0]


@pytest.mark.parametrize("name", ["qwen3_vl", "llava_onevision", "internvl", "gemma3", "gemma4"])
def test_several_videos_in_a_conversation(name, folders):
    adapter = Adapter(tiny_llm(name))
    text = TextProcessor.load(folders(name), adapter.model.config)
    videos = [video_of(name), video_of(name, start_s=10, seed=6)]
    messages = [
        {"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "first?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "yes"}]},
        {"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "second?"}]},
    ]
    inputs = text.inputs(messages, videos)
    prompt = adapter.prompt(inputs, [video.grid for video in videos])
    between = inputs["input_ids"][0, prompt.visuals[0].slots[-1] : prompt.visuals[1].slots[0]]
    assert "first?" in text.tokenizer.decode(between)
    (answer,) = adapter.generate(prompt, videos, max_new_tokens=3, do_sample=False)
    assert len(answer) <= 3
    with pytest.raises(ConfigError, match="videos"):
        text.inputs(messages, videos[:1])


def test_frames_are_counted_each_for_its_own_video(folders):
    name = "internvl"
    adapter = Adapter(tiny_llm(name))
    text = TextProcessor.load(folders(name), adapter.model.config)
    pixels, grid = random_pixels(name)
    one = adapter.encode(
        {"pixel_values": pixels["pixel_values"][:1]}, grid._replace(t=1), torch.tensor([[0.0, 1.0]])
    )
    one = replace(one, frame_extras={PTS: torch.zeros(1, 1, dtype=torch.float64)})
    inputs = text.inputs("?", [video_of(name), one])
    assert adapter.prompt(inputs, [grid, one.grid]).visuals[1].grid.t == 1


def test_what_is_missing_is_named(folders, tmp_path):
    config = tiny_llm("qwen3_vl").config
    text = TextProcessor.load(folders("qwen3_vl"), config)
    video = video_of("qwen3_vl")
    with pytest.raises(ConfigError, match=PTS):
        text.inputs("?", [replace(video, frame_extras={})])
    with pytest.raises(ConfigError, match="tokenizer"):
        TextProcessor.load(tmp_path, config)
    plain = save_folder("qwen3_vl", tmp_path / "plain")
    (plain / "chat_template.jinja").unlink()
    with pytest.raises(ConfigError, match="chat template"):
        TextProcessor.load(plain, config).inputs("?", [video])
    assert set(TOKENS) == set(CONFIGS)
