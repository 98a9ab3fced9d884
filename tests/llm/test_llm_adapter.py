"""Tokens in place of pixels are what the model itself would have read, in every family."""

import functools
from typing import Any

import pytest
import torch
from llm.tiny_llms import CONFIGS, END, IMAGE, START, VIDEO, full_inputs, random_pixels, tiny_llm

from vidcomp.encode.vlm.families import FAMILIES, family_of, is_recurrent
from vidcomp.errors import ConfigError, ShapeError
from vidcomp.llm.adapter import Adapter
from vidcomp.types import Grid, VideoTokens

GREEDY = {"do_sample": False, "max_new_tokens": 6, "eos_token_id": None}
pytestmark = pytest.mark.filterwarnings("ignore")  # of transformers, about its own arguments
every_family = pytest.mark.parametrize("name", CONFIGS)


class Case:
    """A tiny model, a clip, the native inputs and our prompt."""

    def __init__(self, name: str) -> None:
        self.name, self.model = name, tiny_llm(name)
        self.adapter = Adapter(self.model)
        self.pixels, self.grid = random_pixels(name)
        spans = torch.arange(self.grid.t)[:, None] + torch.tensor([0.0, 1.0])
        self.video = self.adapter.encode(self.pixels, self.grid, spans)
        self.inputs = {**full_inputs(name, self.adapter, [self.grid]), **self.pixels}
        self.prompt = self.adapter.prompt(self.inputs, [self.grid])
        order = torch.randperm(len(self.video), generator=torch.Generator().manual_seed(1))
        self.kept = order[: len(self.video) // 2].sort().values
        self.small = self.video.select(self.kept)

    def short_prompt(self) -> Any:
        inputs = {**full_inputs(self.name, self.adapter, [self.grid], start=2), **self.pixels}
        return self.adapter.prompt(inputs, [self.grid])

    @torch.no_grad()
    def logits(self, inputs: dict[str, Any]) -> torch.Tensor:
        return self.model(**inputs).logits


@functools.cache
def case(name: str) -> Case:
    return Case(name)


def difference(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).abs().max())


@every_family
def test_all_tokens_give_what_pixels_give(name):
    one = case(name)
    native = one.logits(one.inputs)
    assert difference(native, one.logits(one.adapter.inject(one.prompt, [one.video]))) == 0
    assert native.std() > 0.3


@every_family
def test_some_tokens_give_what_a_mask_over_the_others_gives(name):
    one = case(name)
    if is_recurrent(one.model.config):
        pytest.skip("dropping is not masking where layers are recurrent")
    (visual,) = one.prompt.visuals
    seen_L = torch.ones(len(one.prompt), dtype=torch.bool)
    seen_L[visual.slots[torch.isin(visual.patch, one.kept, invert=True) & (visual.patch >= 0)]] = 0
    masked = one.adapter.inject(one.prompt, [one.video])
    masked["attention_mask"] = seen_L.long()[None]
    expected = one.logits(masked)[:, seen_L]
    assert difference(one.logits(one.adapter.inject(one.prompt, [one.small])), expected) < 1e-5
    renumbered = one.adapter.inject(one.prompt, [one.small])
    places = torch.arange(renumbered["position_ids"].shape[-1])
    renumbered["position_ids"] = places.expand_as(renumbered["position_ids"]).clone()
    assert difference(one.logits(renumbered), expected) > 0.3


@every_family
def test_a_frame_may_lose_all_its_tokens(name):
    one = case(name)
    last = one.video.select((one.video.positions[:, 0] >= 1).nonzero().squeeze(1)[:2])
    inputs = one.adapter.inject(one.prompt, [last])
    key = one.adapter.family.key
    num = int((inputs["input_ids"] == one.adapter.token_id(key)).sum())
    assert num == 2 + one.prompt.visuals[0].num_structural
    assert len(one.adapter.generate(one.prompt, [last], **GREEDY)[0]) == 6
    if is_recurrent(one.model.config):
        return
    (visual,) = one.prompt.visuals
    kept = torch.isin(visual.patch, (last.assign >= 0).nonzero().squeeze(1)) | (visual.patch < 0)
    seen_L = torch.ones(len(one.prompt), dtype=torch.bool)
    seen_L[visual.slots[~kept]] = False
    masked = one.adapter.inject(one.prompt, [one.video])
    masked["attention_mask"] = seen_L.long()[None]
    assert difference(one.logits(inputs), one.logits(masked)[:, seen_L]) < 1e-5


@every_family
def test_generation_is_that_of_a_loop_without_cache(name):
    one = case(name)
    found = one.adapter.generate(one.prompt, [one.small], **GREEDY)[0].tolist()
    said: list[int] = []
    for num in range(6):
        inputs = one.adapter.inject(one.prompt, [one.small])
        last = inputs["position_ids"][..., -1:]
        further = {
            "input_ids": torch.tensor([said], dtype=torch.int64),
            "attention_mask": torch.ones(1, num, dtype=torch.int64),
            "position_ids": last + torch.arange(1, num + 1),
        }
        for key, value in further.items():
            inputs[key] = torch.cat([inputs[key], value], dim=-1)
        for key in ("mm_token_type_ids", "token_type_ids"):
            if key in inputs:
                inputs[key] = torch.nn.functional.pad(inputs[key], (0, num))
        logits = one.logits({**inputs, "use_cache": False})[0, -1]
        logits[[IMAGE, VIDEO]] = -torch.inf
        said.append(int(logits.argmax()))
    assert found == said


@every_family
def test_ways_to_generate_agree(name):
    one = case(name)
    greedy = one.adapter.generate(one.prompt, [one.small], **GREEDY)[0].tolist()
    for settings in (
        {"prefill_chunk_size": 7},
        {"cache_implementation": "static", "disable_compile": True},
    ):
        found = one.adapter.generate(one.prompt, [one.small], **GREEDY, **settings)
        assert found[0].tolist() == greedy
    sampled = one.adapter.generate(
        one.prompt, [one.small], **{**GREEDY, "do_sample": True, "num_return_sequences": 3}
    )
    assert [len(answer) for answer in sampled] == [6, 6, 6]


@every_family
@pytest.mark.parametrize("beams", [1, 2])
def test_a_batch_is_its_prompts_one_by_one(name, beams):
    one = case(name)
    prompts = [one.prompt, one.short_prompt()]
    videos = [[one.small], [one.video.select(one.kept[:3])]]
    settings = {**GREEDY, "num_beams": beams}
    together = one.adapter.generate(prompts, videos, **settings)
    for prompt, video, found in zip(prompts, videos, together, strict=True):
        assert one.adapter.generate(prompt, video, **settings)[0].tolist() == found.tolist()


@every_family
def test_gradients_reach_the_tokens(name):
    one = case(name)
    from dataclasses import replace

    tokens = one.small.tokens.clone().requires_grad_()
    inputs = one.adapter.inject(one.prompt, [replace(one.small, tokens=tokens)])
    one.model(**inputs, labels=inputs["input_ids"]).loss.backward()
    assert tokens.grad is not None
    assert bool((tokens.grad.abs().sum(dim=1) > 0).all())


@pytest.mark.parametrize("name", ["qwen3_vl", "llava_onevision", "internvl"])
def test_a_prompt_of_several_videos(name):
    one = case(name)
    adapter = one.adapter
    other_pixels, grid = random_pixels(name, seed=6)
    other = adapter.encode(other_pixels, grid, one.video.spans[:: grid.per_frame])
    inputs = full_inputs(name, adapter, [grid, grid])
    if "video_grid_thw" in one.pixels:
        inputs["video_grid_thw"] = one.pixels["video_grid_thw"].repeat(2, 1)
    prompt = adapter.prompt(inputs, [grid, grid])
    key = "pixel_values" if "pixel_values" in one.pixels else "pixel_values_videos"
    pixels = {key: torch.cat([one.pixels[key], other_pixels[key]])}
    native = one.logits({**inputs, **pixels})
    assert difference(native, one.logits(adapter.inject(prompt, [one.video, other]))) < 1e-5
    swapped = one.logits(adapter.inject(prompt, [other, one.video]))
    assert difference(native, swapped) > 0.1


@pytest.mark.parametrize("name", ["qwen2_5_vl", "qwen3_vl"])
def test_a_prompt_of_videos_with_an_image_between(name):
    one = case(name)
    adapter, model, grid = one.adapter, one.model, one.grid
    other_pixels, _ = random_pixels(name, seed=6)
    spans = one.video.spans[:: grid.per_frame]
    other = adapter.encode(other_pixels, grid, spans)
    picture = torch.randn(16, 96, generator=torch.Generator().manual_seed(7))
    sides = torch.tensor([[1, 4, 4]])
    with torch.no_grad():
        seen = model.base_model.get_image_features(picture, sides, return_dict=True)
    image = VideoTokens.from_grid(
        torch.cat(list(seen.pooler_output)),
        Grid(1, 2, 2),
        torch.zeros(1, 2),
        extras={
            f"deepstack.{i}": torch.cat(list(layer)) if isinstance(layer, list | tuple) else layer
            for i, layer in enumerate(getattr(seen, "deepstack_features", None) or ())
        },
    )
    inputs = full_inputs(name, adapter, [grid, grid])
    place = len(one.prompt)  # behind the first video
    token = adapter.token_id("image")
    added = {"input_ids": [START, *[token] * 4, END], "mm_token_type_ids": [0, 1, 1, 1, 1, 0]}
    for key, value in inputs.items():
        new = torch.tensor([added.get(key, [1] * 6)])
        inputs[key] = torch.cat([value[:, : place - 4], new, value[:, place - 4 :]], dim=1)
    inputs["video_grid_thw"] = one.pixels["video_grid_thw"].repeat(2, 1)
    inputs["image_grid_thw"] = sides
    prompt = adapter.prompt(inputs, [grid, grid], image_grids=[image.grid])
    assert [visual.key for visual in prompt.visuals] == ["video", "image", "video"]
    pixels = torch.cat([one.pixels["pixel_values_videos"], other_pixels["pixel_values_videos"]])
    native = one.logits({**inputs, "pixel_values_videos": pixels, "pixel_values": picture})
    ours = one.logits(adapter.inject(prompt, [one.video, image, other]))
    assert difference(native, ours) < 1e-5
    few = [one.small, image.select(torch.tensor([0, 3])), other.select(one.kept)]
    assert len(adapter.generate(prompt, few, **GREEDY)[0]) == 6


def test_a_merged_token_enters_at_its_own_patch():
    from vidcomp.compress.merge.tome import Tome

    one = case("qwen3_vl")
    merged = Tome()(one.video, 5)
    inputs = one.adapter.inject(one.prompt, [merged])
    is_video = inputs["input_ids"][0] == one.adapter.token_id("video")
    assert int(is_video.sum()) == 5
    (rows,) = inputs["mm_encoder_outputs"]["video"].pooler_output
    order = [int((merged.tokens == row).all(dim=1).nonzero()) for row in rows]
    assert sorted(order) == list(range(5))
    for layer in inputs["mm_encoder_outputs"]["video"].deepstack_features:
        assert layer[0].shape == rows.shape


def test_structural_rows_stay():
    one = case("video_llava")
    inputs = one.adapter.inject(one.prompt, [one.small])
    is_video = inputs["input_ids"][0] == one.adapter.token_id("video")
    assert int(is_video.sum()) == len(one.small) + one.grid.t
    assert one.prompt.visuals[0].num_structural == one.grid.t


def test_what_does_not_fit_is_told():
    from dataclasses import replace

    one = case("video_llava")
    with pytest.raises(ShapeError, match="as many"):
        one.adapter.inject(one.prompt, [one.video, one.video])
    with pytest.raises(ShapeError, match="structural"):
        one.adapter.inject(one.prompt, [replace(one.small, frame_extras={})])
    with pytest.raises(ShapeError, match="placeholders"):
        one.adapter.prompt(one.inputs, [Grid(3, 4, 4)])
    with pytest.raises(ShapeError, match="its own merging"):
        one.adapter.encode(one.pixels, Grid(2, 2, 2), torch.zeros(2, 2))
    other = VideoTokens.from_grid(torch.zeros(4, 32), Grid(1, 2, 2), torch.tensor([[0.0, 1.0]]))
    with pytest.raises(ShapeError, match="grid"):
        one.adapter.inject(one.prompt, [other])


def test_unknown_models_are_refused():
    from transformers import BertConfig

    with pytest.raises(ConfigError, match="bert"):
        family_of(BertConfig())
    assert set(CONFIGS) | {"perception_lm", "nemotron_h_omni"} == set(FAMILIES)
