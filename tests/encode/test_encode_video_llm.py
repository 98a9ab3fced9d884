"""Encoders of video language models: the tokens of the whole model, and nothing else loaded."""

import json
from dataclasses import replace

import pytest
import torch
from llm.tiny_llms import CONFIGS, tiny_llm
from safetensors.torch import load_file, save_file
from tiny_models import random_frames

from vidcomp.encode.vlm.families import FAMILIES
from vidcomp.encode.vlm.pixels import Pixels
from vidcomp.encode.vlm.tokens import PTS, STRUCTURAL, encode
from vidcomp.errors import ConfigError
from vidcomp.functional.resize import Resize, target_size
from vidcomp.registry import ENCODERS

pytestmark = pytest.mark.filterwarnings("ignore")  # of transformers, about its own classes
every_family = pytest.mark.parametrize("name", CONFIGS)


def built(tiny, name, **settings):
    return ENCODERS.make("video_llm", model=tiny(f"vlm/{name}"), **settings).build()


def frames_for(encoder, num):
    return random_frames(num, *target_size(48, 64, encoder.resize(48, 64, num)), seed=4)


@every_family
def test_tokens_are_those_of_the_whole_model(name, tiny):
    encoder = built(tiny, name)
    frames = frames_for(encoder, 2 * encoder.tubelet)
    model = tiny_llm(name)
    made = Pixels.load(tiny(f"vlm/{name}"), FAMILIES[name], model.config).prepare(frames)
    whole = encode(model.base_model, FAMILIES[name], made.inputs, made.grid, made.spans)
    found = encoder(frames)
    assert torch.equal(found.tokens, whole.tokens)
    assert set(found.extras) == set(whole.extras)
    assert all(torch.equal(found.extras[key], value) for key, value in whole.extras.items())
    assert set(found.frame_extras) == {PTS, *whole.frame_extras}
    assert torch.equal(found.frame_extras[PTS].flatten(), frames.pts_s)
    if name == "video_llava":
        assert torch.equal(found.frame_extras[STRUCTURAL], whole.frame_extras[STRUCTURAL])
    if name == "qwen3_vl":
        assert set(found.extras) == {"deepstack.0", "deepstack.1"}


@every_family
def test_the_language_model_is_gone(name, tiny):
    encoder = built(tiny, name)
    left = {value.data_ptr() for value in encoder._model.parameters()}
    layers = tiny_llm(name).config.get_text_config(decoder=True).num_hidden_layers
    text = tiny_llm(name).base_model.get_decoder()
    named = {key for key, _ in encoder._model.named_parameters()}
    assert layers
    assert left
    assert not any("embed_tokens" in key or "language_model" in key for key in named)
    assert len(named) <= sum(1 for _ in tiny_llm(name).parameters()) - len(list(text.parameters()))


@pytest.mark.parametrize("name", ["qwen3_vl", "video_llava", "internvl"])
def test_kept_patches_have_their_own_tokens(name, tiny, monkeypatch):
    encoder = built(tiny, name)
    frames = frames_for(encoder, 4 * encoder.tubelet)
    whole = encoder(frames)
    keep = torch.zeros(whole.grid, dtype=torch.bool)
    keep[1, 0] = keep[3, 1, 1] = True
    seen = []
    prepare = Pixels.prepare
    monkeypatch.setattr(Pixels, "prepare", lambda *a: seen.append(a[1]) or prepare(*a))
    kept = encoder(frames, keep)
    chosen = whole.select(keep.flatten().nonzero().squeeze(1))
    torch.testing.assert_close(kept.tokens, chosen.tokens, atol=2e-5, rtol=1e-4)
    for key, value in chosen.extras.items():
        torch.testing.assert_close(kept.extras[key], value, atol=2e-5, rtol=1e-4)
    for key, value in chosen.frame_extras.items():
        torch.testing.assert_close(kept.frame_extras[key], value, atol=2e-5, rtol=1e-4)
    ran = sum(len(part) for part in seen)
    assert ran == (4 if name == "video_llava" else 2) * encoder.tubelet
    none = encoder(frames, torch.zeros_like(keep))
    assert (len(none), none.grid, set(none.extras)) == (0, whole.grid, set(whole.extras))


def test_passes_bound_what_is_run_at_once(tiny, monkeypatch):
    config = ENCODERS.make("video_llm", model=tiny("vlm/qwen3_vl"))
    sizes = []
    prepare = Pixels.prepare
    monkeypatch.setattr(Pixels, "prepare", lambda *a: sizes.append(len(a[1])) or prepare(*a))
    encoder = config.build(batch_size=5)
    encoder(frames_for(encoder, 9))
    assert sizes == [4, 4, 1]


def test_the_processors_settings_can_differ(tiny):
    plain = built(tiny, "qwen3_vl")
    small = built(
        tiny, "qwen3_vl", processor={"size": {"shortest_edge": 256, "longest_edge": 2048}}
    )
    assert small.resize(48, 64, 4).height < plain.resize(48, 64, 4).height
    fixed = built(tiny, "qwen3_vl", resize=Resize(height=16, width=24))
    assert fixed(random_frames(2, 16, 24)).grid == (1, 2, 3)
    with pytest.raises(ConfigError, match=r"has no setting 'sise'.*did you mean 'size'"):
        built(tiny, "qwen3_vl", processor={"sise": 3})
    with pytest.raises(ConfigError, match="size cannot be used"):
        built(tiny, "qwen3_vl", resize=Resize(height=15, width=24))


def test_half_precision_is_near(tiny):
    exact, low = built(tiny, "qwen3_vl"), built(tiny, "qwen3_vl", dtype="bfloat16")
    frames = frames_for(exact, 4)
    a, b = exact(frames), low(frames)
    assert b.tokens.dtype == b.extras["deepstack.0"].dtype == torch.bfloat16
    assert torch.cosine_similarity(a.tokens, b.tokens.float()).min() > 0.98


def test_what_is_no_video_language_model_is_told(tiny, own_copy, tmp_path):
    with pytest.raises(ConfigError, match="of a known family was wanted, got the type 'siglip"):
        ENCODERS.make("video_llm", model=tiny("siglip")).build()
    with pytest.raises(ConfigError, match="no folder"):
        ENCODERS.make("video_llm", model=str(tmp_path / "nothing")).build()


def test_weights_count_and_those_of_the_encoder_must_be_there(tiny, tmp_path):
    folder = tmp_path / "copy"
    folder.mkdir()
    from pathlib import Path

    for path in Path(tiny("vlm/qwen2_vl")).iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    config = ENCODERS.make("video_llm", model=str(folder))
    assert config.build().weights_hash == built(tiny, "qwen2_vl").weights_hash
    weights = load_file(folder / "model.safetensors")
    of_tower = next(key for key in weights if "visual" in key)
    save_file({k: v for k, v in weights.items() if k != of_tower}, folder / "model.safetensors")
    with pytest.raises(ConfigError, match="lack 1 tensors"):
        config.build()
    weights[of_tower] = weights[of_tower] + 1
    save_file(weights, folder / "model.safetensors")
    assert config.build().weights_hash != built(tiny, "qwen2_vl").weights_hash
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**settings, "model_type": "llama"}))
    with pytest.raises(ConfigError, match="known family"):
        config.build()


def test_padding_and_bars_have_no_tokens(tiny):
    encoder = built(tiny, "internvl")
    frames = replace(random_frames(4, 28, 28), content=(0, 0, 14, 28), num_padded=1)
    video = encoder(frames)
    assert video.grid == (4, 2, 2)
    assert len(video) == 3 * 2
    assert video.frame_extras[PTS].shape == (4, 1)
