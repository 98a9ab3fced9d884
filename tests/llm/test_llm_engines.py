"""Serving engines get fields that they know, with the numbers that the model itself would use.

Where the engines' own packages are there (installed, or as wheels in the folder that the variable
VIDCOMP_WHEELS names), their own schemas and functions read what is made here.
"""

import pytest
import torch
from llm import engine_sources
from llm.test_llm_text import video_of
from llm.tiny_folders import save_folder
from llm.tiny_llms import CONFIGS, tiny_llm
from llm.tiny_plain import clip, letters, plain_model

import vidcomp as vc
from vidcomp.encode.vlm.tokens import PTS
from vidcomp.errors import ConfigError, ShapeError
from vidcomp.llm.adapter import Adapter
from vidcomp.llm.engines import lattice_of, mixed_prompt, to_sglang, to_vllm
from vidcomp.llm.inject import deepstack_of
from vidcomp.llm.model import VideoLLM
from vidcomp.llm.plain import PlainLLM
from vidcomp.llm.text import TextProcessor
from vidcomp.types import Grid, VideoTokens

pytestmark = pytest.mark.filterwarnings("ignore")  # of transformers, about its own classes
QWEN = ["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe", "qwen3_5", "qwen3_5_moe"]


@pytest.fixture(scope="module")
def llm_of(tmp_path_factory):
    made = {}

    def llm(name):
        if name not in made:
            folder = save_folder(name, tmp_path_factory.mktemp(name) / "model")
            adapter = Adapter(tiny_llm(name))
            text = TextProcessor.load(folder, adapter.model.config)
            made[name] = VideoLLM(adapter, None, text)
        return made[name]

    return llm


@pytest.mark.parametrize("name", QWEN)
def test_all_tokens_are_the_features_of_their_grid(name, llm_of):
    llm, video = llm_of(name), video_of(name, start_s=2)
    made = to_vllm(llm, "what?", [video])
    data = made["multi_modal_data"]["video"]
    grid, merge = video.grid, llm.adapter.model.config.vision_config.spatial_merge_size
    assert data["video_grid_thw"].tolist() == [[grid.t, grid.h * merge, grid.w * merge]]
    assert len(data["video_embeds"]) == data["video_grid_thw"].prod() // merge**2
    layers = [video.tokens, *deepstack_of(video)]
    assert len(layers) == (3 if name in ("qwen3_vl", "qwen3_vl_moe") else 1)
    assert torch.equal(data["video_embeds"], torch.cat(layers, dim=1))
    assert made["prompt"].count("<|video_pad|>") == 1
    assert made["prompt"].index("<|video_pad|>") < made["prompt"].index("what?")
    if name in ("qwen2_vl", "qwen2_5_vl"):
        assert data["second_per_grid_ts"].tolist() == [2.0]
    else:
        pts = video.frame_extras[PTS]
        assert data["timestamps"] == [pts.mean(dim=1).tolist()]


def test_pooled_tokens_are_a_smaller_grid(llm_of):
    video = video_of("qwen3_vl", start_s=2)
    t, h, w = video.grid
    pooled = vc.compressor("avg_pool", t=t // 2, h=h // 2, w=w)(video, len(video) // 4)
    lattice = lattice_of(pooled)
    assert tuple(lattice.grid) == (t // 2, h // 2, w)
    data = to_vllm(llm_of("qwen3_vl"), "what?", [pooled])["multi_modal_data"]["video"]
    assert data["video_grid_thw"].tolist() == [[t // 2, h, 2 * w]]
    middles = video.frame_extras[PTS].mean(dim=1)
    assert data["timestamps"] == [middles.view(-1, 2).mean(dim=1).tolist()]


def test_pooling_in_time_makes_the_period_longer(llm_of):
    pts = 0.5 * torch.arange(8, dtype=torch.float64).view(4, 2)
    grid, spans = Grid(4, 2, 2), torch.stack([pts[:, 0], pts[:, 1] + 0.5], dim=1).float()
    video = VideoTokens.from_grid(torch.randn(16, 32), grid, spans, frame_extras={PTS: pts})

    def period(tokens):
        data = to_vllm(llm_of("qwen2_5_vl"), "?", [tokens])["multi_modal_data"]["video"]
        return data["second_per_grid_ts"].tolist()

    assert period(video) == [1.0]
    assert period(vc.compressor("avg_pool", t=2, h=2, w=2)(video, 8)) == [2.0]
    frames = torch.arange(16).view(4, 4)[[0, 1, 3]].flatten()
    with pytest.raises(ShapeError, match="even distances"):
        period(video.select(frames))


def test_tokens_on_no_grid_are_refused(llm_of):
    video = video_of("qwen2_5_vl")
    for index in ([0, 1, 5], [0, 1, 2, 3, 4], list(range(1, len(video)))):
        with pytest.raises(ShapeError, match="to_sglang"):
            to_vllm(llm_of("qwen2_5_vl"), "what?", [video.select(torch.tensor(index))])
    rows = torch.arange(len(video)).view(video.grid)
    uneven = video.select(rows[:, [0, 1, 3]].flatten())
    with pytest.raises(ShapeError, match="even grid"):
        lattice_of(uneven)


@pytest.mark.parametrize("name", [name for name in CONFIGS if name not in QWEN])
def test_models_that_engines_number_themselves_are_refused(name, llm_of):
    if name == "smolvlm":
        pytest.importorskip("num2words")
    for make in (to_vllm, to_sglang):
        with pytest.raises(ConfigError, match="vidcomp serve"):
            make(llm_of(name), "what?", [video_of(name)])


@pytest.mark.parametrize("name", QWEN)
def test_any_tokens_go_with_the_positions_of_their_places(name, llm_of):
    llm, video = llm_of(name), video_of(name)
    small = video.select(torch.tensor([0, 1, 5, 9, len(video) - 1]))
    made = to_sglang(llm, "what?", [small])
    own = llm.adapter.inject(llm.prompt("what?", [small]), [small])
    (item,) = made["video_data"]
    assert made["input_ids"] == own["input_ids"][0].tolist()
    assert torch.equal(item["mrope_positions"], own["position_ids"][1:, 0])
    rows = [row for first, last in item["offsets"] for row in range(first, last + 1)]
    token = llm.adapter.token_id("video")
    assert rows == [i for i, number in enumerate(made["input_ids"]) if number == token]
    assert torch.equal(
        item["precomputed_embeddings"], torch.cat([small.tokens, *deepstack_of(small)], dim=1)
    )
    following = own["position_ids"][1:, 0, -1] + 1
    assert (item["mrope_position_delta"] + len(made["input_ids"])).tolist() == [[following[0]]]


def test_several_videos_are_one_item(llm_of):
    llm = llm_of("qwen3_vl")
    first, second = video_of("qwen3_vl", seed=1), video_of("qwen3_vl", seed=2)
    small = second.select(torch.arange(3))
    (item,) = to_sglang(llm, "which?", [first, small])["video_data"]
    assert len(item["precomputed_embeddings"]) == len(first) + 3
    data = to_vllm(llm, "which?", [first, second])["multi_modal_data"]["video"]
    assert len(data["video_grid_thw"]) == len(data["timestamps"]) == 2
    assert "video_data" not in to_sglang(llm, "no video", [])
    assert "multi_modal_data" not in to_vllm(llm, "no video", [])


def test_ids_and_vectors_stand_where_they_belong():
    text, video = torch.tensor([5, 6]), torch.randn(3, 4)
    made = mixed_prompt([text, video, torch.tensor([7])])
    assert made["prompt_is_token_ids"] == [True, True, False, False, False, True]
    assert made["prompt_token_ids"] == [5, 6, 0, 0, 0, 7]
    assert torch.equal(made["prompt_embeds"][2:5], video)
    assert not made["prompt_embeds"][[0, 1, 5]].any()
    other = mixed_prompt([text, video + 1, torch.tensor([7])])
    assert other["prompt_token_ids"] == made["prompt_token_ids"]
    assert other["cache_salt"] != made["cache_salt"]
    for wrong in ([text], [video, torch.randn(2, 5)], [video[0], video], [text[None], video]):
        with pytest.raises(ShapeError, match="width"):
            mixed_prompt(wrong)


def test_vllm_knows_the_fields(llm_of):
    inputs = engine_sources.module("vllm", "vllm/inputs/llm.py")
    mixed = mixed_prompt([torch.tensor([5, 6]), torch.randn(3, 4)])
    known = inputs.EmbedsPrompt
    assert known.__required_keys__ <= mixed.keys()
    assert mixed.keys() <= known.__required_keys__ | known.__optional_keys__
    fields = engine_sources.embedding_fields()
    for name in QWEN:
        made = to_vllm(llm_of(name), "what?", [video_of(name)])
        known = inputs.TextPrompt
        assert known.__required_keys__ <= made.keys()
        assert made.keys() <= known.__required_keys__ | known.__optional_keys__
        data = made["multi_modal_data"]["video"]
        parser = "Qwen2VL" if name in ("qwen2_vl", "qwen2_5_vl") else "Qwen3VL"
        required = fields[f"{parser}MultiModalDataParser"]
        assert required <= data.keys()
        assert data.keys() - required <= {"second_per_grid_ts"}


def test_sglang_reads_what_is_made(llm_of):
    read = engine_sources.sglang_readers()
    for name in QWEN:
        llm, video = llm_of(name), video_of(name)
        small = video.select(torch.tensor([0, 1, 5, 9, len(video) - 1]))
        made = to_sglang(llm, "what?", [small])
        (data,) = made["video_data"]
        ids = torch.tensor(made["input_ids"])
        (item,) = read.items(data)
        assert item.modality == "VIDEO"
        assert item.offsets == read.offsets(ids, llm.adapter.token_id("video"))
        assert sum(last - first + 1 for first, last in item.offsets) == len(small)
        assert torch.equal(item.precomputed_embeddings, data["precomputed_embeddings"])
        positions, delta = read.mrope(data)
        assert positions.shape == (3, len(ids))
        assert int(delta) + len(ids) == int(positions[0, -1]) + 1


def test_a_plain_model_reads_what_vllm_would_put_together():
    bridge = vc.projector("mlp", dim_in=6, dim_out=32)
    llm = PlainLLM(plain_model("qwen3"), letters(), bridge)
    small = clip(6).select(torch.tensor([0, 3, 7]))
    made = to_vllm(llm, "why?", [small])
    words = llm.model.get_input_embeddings()(torch.tensor(made["prompt_token_ids"]))
    is_id = torch.tensor(made["prompt_is_token_ids"])[:, None]
    read = torch.where(is_id, words, made["prompt_embeds"])
    assert torch.equal(read, llm.inputs([llm.prompt("why?", [small])])["inputs_embeds"][0])
    assert (~is_id).sum() == 3
