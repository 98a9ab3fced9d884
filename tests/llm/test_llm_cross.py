"""Models that look at videos beside the text: mllama and Idefics."""

import functools

import pytest
import torch
from llm.tiny_plain import TEMPLATE, clip, letters, plain_model, widely_drawn

from vidcomp import projector
from vidcomp.errors import ConfigError, ShapeError
from vidcomp.llm.cross import CrossAttentionLLM

SIGNS = {
    "mllama": ("<|image|>",),
    "idefics": ("<image>", "<fake_token_around_image>"),
    "idefics_resampled": ("<image>", "<fake_token_around_image>"),
}
every_model = pytest.mark.parametrize("name", SIGNS)
GREEDY = {"do_sample": False, "max_new_tokens": 5}
_TEXT = {
    "vocab_size": 128,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def mllama():
    from transformers import MllamaConfig, MllamaForConditionalGeneration

    config = MllamaConfig(
        text_config={
            **_TEXT,
            "num_hidden_layers": 4,
            "num_key_value_heads": 2,
            "cross_attention_layers": [1, 3],
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        },
        vision_config={
            "hidden_size": 16,
            "attention_heads": 2,
            "intermediate_size": 24,
            "num_hidden_layers": 2,
            "num_global_layers": 1,
            "image_size": 8,
            "patch_size": 4,
            "max_num_tiles": 2,
            "supported_aspect_ratios": [[1, 1], [1, 2], [2, 1]],
            "intermediate_layers_indices": [1],
            "vision_output_dim": 32,
        },
        image_token_index=120,
    )
    return MllamaForConditionalGeneration(config)


def idefics(resampled):
    from transformers import IdeficsConfig, IdeficsForVisionText2Text

    config = IdeficsConfig(
        **_TEXT,
        num_hidden_layers=4,
        cross_layer_interval=2,
        alpha_initializer="ones",
        use_resampler=resampled,
        perceiver_config={
            "use_resampler": resampled,
            "resampler_n_latents": 3,
            "resampler_depth": 1,
            "resampler_n_heads": 2,
            "resampler_head_dim": 8,
        },
        vision_config={
            "embed_dim": 16,
            "image_size": 8,
            "patch_size": 4,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 24,
        },
    )
    return IdeficsForVisionText2Text(config)


@functools.cache
def tiny(name):
    model = widely_drawn(mllama() if name == "mllama" else idefics(name == "idefics_resampled"))
    with torch.no_grad():
        for key, value in model.named_parameters():
            if key.endswith("gate"):
                value.fill_(1.0)  # fresh gates are shut
    return model


def llm(name, **settings):
    model = tiny(name)
    dim = 32 if name == "mllama" else 16
    bridge = projector("linear", dim_in=6, dim_out=dim)
    return CrossAttentionLLM(model, letters(TEMPLATE, SIGNS[name]), bridge, **settings)


def native(name, pixels, ids_1L):
    """Logits of the model's own way from pixels, and the tokens of its encoder."""
    model = tiny(name)
    sees = (ids_1L == 120).cumsum(1) > 0
    if name == "mllama":
        ratio = {"aspect_ratio_ids": torch.tensor([[2]]), "aspect_ratio_mask": torch.ones(1, 1, 2)}
        inputs = {"pixel_values": pixels, **{k: v.long() for k, v in ratio.items()}}
        states = model.model.vision_model(**inputs).last_hidden_state
        rows = model.model.multi_modal_projector(states).flatten(0, -2)
        mask = {"cross_attention_mask": sees.long()[..., None, None].expand(-1, -1, 1, 2)}
    else:
        inputs = {"pixel_values": pixels}
        states = model.model.vision_model(pixel_values=pixels[0]).last_hidden_state
        if name == "idefics_resampled":
            states = model.model.perceiver_resampler(states)
        rows = states.flatten(0, -2)
        mask = {"image_attention_mask": sees.long()[..., None]}
    ones = torch.ones_like(ids_1L)
    return model(input_ids=ids_1L, attention_mask=ones, **inputs, **mask).logits, rows


@every_model
@torch.no_grad()
def test_tokens_say_what_pixels_say(name):
    shape = (1, 1, 2, 3, 8, 8) if name == "mllama" else (1, 1, 3, 8, 8)
    pixels = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    bare = CrossAttentionLLM(tiny(name), letters(TEMPLATE, SIGNS[name]))
    _, rows = native(name, pixels, torch.tensor([[120]]))
    video = clip(bare.dim, t=len(rows) // 4 + 1).select(torch.arange(len(rows)))
    video.tokens.copy_(rows)
    prompt = bare.prompt("why?", [video])
    assert prompt.num_video == len(rows)
    expected, _ = native(name, pixels, prompt.ids[None])
    found = bare.run(bare.inputs([prompt])).logits
    assert torch.equal(found, expected)


@every_model
@torch.no_grad()
def test_answers_are_those_of_a_loop_without_a_cache(name):
    model, videos = llm(name), [clip(6), clip(6, t=2, seed=1)]
    prompt, said = model.prompt("why?", videos), []
    for _ in range(5):
        logits = model.run(model.inputs([prompt]), use_cache=False).logits
        said.append(int(logits[0, -1].argmax()))
        prompt = type(prompt)(
            ids=torch.cat([prompt.ids, torch.tensor(said[-1:])]),
            rows=prompt.rows,
            seen=torch.cat([prompt.seen, prompt.seen[-1:]]),
        )
    answer = model.ask("why?", videos, eos_token_id=None, **GREEDY)
    assert answer.text == model.chat.decode(torch.tensor(said))
    assert (answer.num_video, answer.num_prompt) == (20, len(prompt.ids) - 5)


@every_model
def test_text_sees_the_videos_before_it_whatever_their_order_of_tokens(name):
    model, (a, b) = llm(name), (clip(6), clip(6, t=2, seed=1))
    turns = [
        {"role": "user", "content": [{"type": "text", "text": "x"}, {"type": "video"}]},
        {"role": "user", "content": [{"type": "text", "text": "y"}, {"type": "video"}]},
    ]
    prompt = model.prompt(turns, [a, b])
    places = (prompt.ids == 120).nonzero()[:, 0].tolist()
    assert prompt.seen.unique().tolist() == [0, 12, 20]
    assert [int((prompt.seen > n).nonzero()[0]) for n in (0, 12)] == places
    scores = [
        model.option_scores("A or B?", videos, "AB")
        for videos in ([a], [a.select(torch.arange(12).flip(0))], [b], [a, b])
    ]
    torch.testing.assert_close(scores[0], scores[1], atol=2e-5, rtol=1e-4)  # not causal
    assert (scores[0] - scores[2]).abs().max() > 1e-3
    assert (scores[0] - scores[3]).abs().max() > 1e-3


@every_model
def test_batches_streams_beams_and_sessions_say_the_same(name):
    model = llm(name)
    asked = [
        ("why?", [clip(6)]),
        ("what happens then?", [clip(6, seed=1)]),
        ("?", [clip(6, t=5, seed=2)]),
        ("and now?", []),
    ]
    alone = [model.ask(question, videos, **GREEDY) for question, videos in asked]
    for some in (asked[:2], asked):
        together = model.ask_all(some, **GREEDY)
        assert [one.text for one in together] == [one.text for one in alone[: len(some)]]
    assert [one.num_video for one in together] == [12, 12, 20, 0]
    assert "".join(model.stream(*asked[0], **GREEDY)).strip() == alone[0].text
    session = model.session(asked[0][1])
    assert session.ask("why?", **GREEDY).text == alone[0].text
    assert session.ask_all(["?", "why?"], **GREEDY)[1].text == alone[0].text
    assert "".join(session.stream("why?", **GREEDY)).strip() == alone[0].text
    torch.testing.assert_close(
        session.option_scores("A or B?", "AB"), model.option_scores("A or B?", asked[0][1], "AB")
    )
    beams = {"num_beams": 2, "num_return_sequences": 2, "max_new_tokens": 4, "do_sample": False}
    pairs = model.ask_all(asked[:2], **beams)
    single = [answer for one in asked[:2] for answer in model.ask_all([one], **beams)]
    assert [one.text for one in pairs] == [one.text for one in single]


def test_the_model_keeps_its_own_way_from_pixels():
    model = llm("mllama")
    own = tiny("mllama").model.vision_model.num_patches
    pieces = model.stream("why?", [clip(6)], do_sample=False, max_new_tokens=30)
    next(pieces)
    model.ask("why?", [clip(6)], **GREEDY)  # while the other is under way
    "".join(pieces)
    assert tiny("mllama").model.vision_model.num_patches == own == 5


@every_model
def test_gradients_reach_the_projector(name):
    model = llm(name)
    inputs = model.inputs([model.prompt("why?", [clip(6)])])
    model.run(inputs).logits[0, -1].logsumexp(0).backward()
    gradient = model.projector.layers.weight.grad
    assert gradient is not None
    assert float(gradient.abs().max()) > 1e-6


def test_a_folder_is_loaded(tmp_path):
    tiny("mllama").save_pretrained(tmp_path)
    letters(TEMPLATE, SIGNS["mllama"]).save_pretrained(tmp_path)
    bridge = projector("linear", dim_in=6, dim_out=32)
    loaded = CrossAttentionLLM.load(tmp_path, bridge, dtype="float32")
    torch.testing.assert_close(
        loaded.option_scores("A or B?", [clip(6)], "AB"),
        llm("mllama").option_scores("A or B?", [clip(6)], "AB"),
    )


def test_what_cannot_work_is_told():
    model = llm("idefics")
    with pytest.raises(ConfigError, match="use PlainLLM"):
        CrossAttentionLLM(plain_model("llama"), letters())
    with pytest.raises(ConfigError, match="give the model's own"):
        CrossAttentionLLM(tiny("idefics"), letters())
    with pytest.raises(ConfigError, match="dim_out=16"):
        CrossAttentionLLM(
            tiny("idefics"), model.tokenizer, projector("linear", dim_in=6, dim_out=32)
        )
    with pytest.raises(ShapeError, match="16 features"):
        CrossAttentionLLM(tiny("idefics"), model.tokenizer).ask("?", [clip(6)])
    with pytest.raises(ConfigError, match="take '<image>' out"):
        model.ask("<image>?", [clip(6)])


@every_model
def test_a_batch_is_read_as_each_alone_where_that_is_possible(name, monkeypatch):
    model = llm(name)
    asked = [("why?", [clip(6)]), ("what then?", [clip(6, t=5, seed=2)])]
    prompts = [model.prompt(*one) for one in asked]
    alone = torch.cat([model.next_logits(model.inputs([one])) for one in prompts])
    worst = (model.next_logits(model.inputs(prompts)) - alone).abs().max()
    together = []
    inputs = type(model).inputs
    monkeypatch.setattr(
        type(model), "inputs", lambda self, some: together.append(len(some)) or inputs(self, some)
    )
    model.ask_all(asked, **GREEDY)
    if name == "mllama":  # text before the video sees what fills up the shorter one
        assert worst > 1e-4
        assert together == [1, 1]
    else:
        assert worst < 2e-5
        assert together == [2]
