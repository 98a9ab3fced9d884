"""Plain language models read projected tokens among those of the text."""

import copy

import pytest
import torch
from llm.tiny_plain import PLAIN, TEMPLATE, clip, letters, plain_model

from vidcomp import projector
from vidcomp.encode.vlm.tokens import PTS
from vidcomp.errors import BudgetError, ConfigError, ShapeError
from vidcomp.llm.chat import USER_ASSISTANT, Chat, Template
from vidcomp.llm.engines import mixed_prompt
from vidcomp.llm.plain import PlainLLM
from vidcomp.types import QueryFeatures

every_model = pytest.mark.parametrize("name", PLAIN)
GREEDY = {"do_sample": False, "max_new_tokens": 5}


def llm(name="qwen3", **settings):
    bridge = projector("mlp", dim_in=6, dim_out=32)
    with torch.no_grad():
        for value in bridge.parameters():
            value.mul_(4)
    return PlainLLM(plain_model(name), letters(), bridge, **settings)


@every_model
def test_embeddings_say_what_ids_say(name):
    assert llm(name).verify() == 0


def by_hand(model, messages, videos, num_new):
    """Greedy answers without a cache, the prompt put together from the start."""
    text = letters().apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    words = model.model.get_input_embeddings()
    rows = []
    for piece in text.split("@") if videos else [text]:
        if rows:
            rows.append(model.projector(videos[(len(rows) - 1) // 2]).tokens)
        rows.append(words(torch.tensor(letters().encode(piece, add_special_tokens=False))))
    x, said, logits = torch.cat(rows)[None], [], []
    for _ in range(num_new):
        logits.append(model.model(inputs_embeds=x, use_cache=False).logits[0, -1])
        said.append(int(logits[-1].argmax()))
        x = torch.cat([x, words(torch.tensor([said[-1:]]))], dim=1)
    return said, logits


@every_model
@torch.no_grad()
def test_a_question_is_read_behind_its_videos(name):
    model, videos = llm(name), [clip(6), clip(6, t=2, seed=1)]
    said, logits = by_hand(model, [{"role": "user", "content": "@\n@\nwhy?"}], videos, num_new=5)
    inputs = model.inputs([model.prompt("why?", videos)])
    torch.testing.assert_close(model.next_logits(inputs)[0], logits[0], atol=2e-5, rtol=1e-4)
    answer = model.ask("why?", videos, eos_token_id=None, **GREEDY)
    assert answer.text == model.chat.decode(torch.tensor(said))
    assert answer.num_video == 20
    assert answer.num_prompt == 20 + len("<") + len("[user]\n\n\nwhy?\n[assistant]\n")


@every_model
def test_videos_are_seen_and_their_order_counts(name):
    model, (a, b) = llm(name), (clip(6), clip(6, seed=1))
    first, second, other = (
        model.option_scores("A or B?", videos, "AB") for videos in ([a, b], [b, a], [a, a])
    )
    assert (first - second).abs().max() > 1e-3
    assert (first - other).abs().max() > 1e-3


@every_model
def test_batches_streams_and_sessions_say_the_same(name):
    model, videos = llm(name), [clip(6)]
    questions = ["why?", "what happens then, and who is it?", "A or B?"]
    alone = [model.ask(question, videos, **GREEDY) for question in questions]
    others = [("?", []), ("short?", [clip(6, t=5, seed=3)])]
    together = model.ask_all([(question, videos) for question in questions] + others, **GREEDY)
    assert [one.text for one in together[:3]] == [one.text for one in alone]
    assert together[3].num_video == 0
    session = model.session(videos)
    assert len(session) == 12 + len("<[user]\n")
    again = session.ask_all(questions, **GREEDY)
    assert [one.text for one in again] == [one.text for one in alone]
    assert [one.num_prompt for one in again] == [one.num_prompt for one in alone]
    assert session.ask(questions[1], **GREEDY).text == alone[1].text
    assert "".join(model.stream(questions[0], videos, **GREEDY)).strip() == alone[0].text
    assert "".join(session.stream(questions[0], **GREEDY)).strip() == alone[0].text
    torch.testing.assert_close(
        session.option_scores("A or B?", "AB"),
        model.option_scores("A or B?", videos, "AB"),
        atol=2e-5,
        rtol=1e-4,
    )


@pytest.mark.parametrize("name", ["qwen3", "gemma2"])
def test_beams_samples_and_penalties_are_the_same_in_sessions(name):
    model, videos = llm(name), [clip(6)]
    session = model.session(videos)
    beams = {"num_beams": 3, "num_return_sequences": 2, "max_new_tokens": 4, "do_sample": False}
    asked = model.ask_all([("why?", videos), ("who is it?", videos)], **beams)
    assert len(asked) == 4
    said = session.ask_all(["why?", "who is it?"], **beams)
    assert [one.text for one in said] == [one.text for one in asked]
    penalty = {**GREEDY, "repetition_penalty": 5.0}
    assert session.ask("why?", **penalty).text == model.ask("why?", videos, **penalty).text
    with pytest.raises(ConfigError, match="use ask_all"):
        model.ask("why?", videos, **beams)
    with pytest.raises(ConfigError, match="use ask_all"):
        session.ask("why?", **beams)


def test_conversations_put_videos_where_they_are_said_to_be():
    model, videos = llm(), [clip(6), clip(6, seed=1)]
    turns = [
        {"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "this?"}]},
        {"role": "assistant", "content": "yes"},
        {"role": "user", "content": [{"type": "text", "text": "and "}, {"type": "video"}]},
    ]
    parts = model.prompt(turns, videos).parts
    texts = [model.tokenizer.decode(part) for part in parts if not part.is_floating_point()]
    assert texts == [
        "<s>[user]\n",
        "\nthis?\n[assistant]\nyes\n[user]\nand ",
        "\n\n[assistant]\n",
    ]
    with pytest.raises(ConfigError, match="places for 2 videos, got 1"):
        model.prompt(turns, videos[:1])
    with pytest.raises(ConfigError, match="'image'"):
        model.prompt([{"role": "user", "content": [{"type": "image"}]}], [])
    with pytest.raises(ConfigError, match="places for 2"):
        model.prompt("what is \ue000?", videos[:1])


def test_text_without_videos_is_what_the_tokenizer_makes():
    model = llm()
    turns = [{"role": "user", "content": "why?"}]
    expected = letters().apply_chat_template(turns, add_generation_prompt=True)["input_ids"]
    (part,) = model.prompt("why?", []).parts
    assert part.tolist() == expected


def test_times_stand_before_the_tokens_of_each_frame():
    model, video = llm(timestamps=True), clip(6)
    timed = type(video)(
        **{name: getattr(video, name) for name in ("tokens", "positions", "spans", "mass")},
        grid=video.grid,
        assign=video.assign,
        frame_extras={PTS: torch.tensor([[1.0, 1.2], [7.0, 7.2], [9.0, 9.2]]).double()},
    )
    for one, times in ((video, "0.0s: |0.5s: |1.0s: "), (timed, "1.1s: |7.1s: |9.1s: ")):
        parts = model.prompt("?", [one]).parts
        assert [len(part) for part in parts if part.is_floating_point()] == [4, 4, 4]
        texts = [model.tokenizer.decode(part) for part in parts if not part.is_floating_point()]
        assert "|".join(texts[:-1]).removeprefix("<s>[user]\n") == times
    few = video.select(torch.tensor([1, 9, 10]))
    assert [len(part) for part in model.prompt("?", [few]).parts[1::2]] == [1, 2]
    session = model.session([video])
    assert session.ask("?", **GREEDY).text == model.ask("?", [video], **GREEDY).text
    with pytest.raises(ConfigError, match="order of time"):
        model.prompt("?", [video.select(torch.tensor([8, 0]))])


def test_rows_that_are_projected_before_need_no_projector():
    model = llm()
    video = model.project([clip(6)])[0]
    bare = PlainLLM(model.model, letters())
    assert bare.ask("why?", [video], **GREEDY).text == model.ask("why?", [clip(6)], **GREEDY).text
    with pytest.raises(ShapeError, match="rows of 32 features"):
        bare.ask("why?", [clip(6)])
    with pytest.raises(ShapeError, match="dim_in=6"):
        model.ask("why?", [clip(7)])
    with pytest.raises(ConfigError, match="dim_out=32"):
        PlainLLM(model.model, letters(), projector("linear", dim_in=6, dim_out=31))


def test_projectors_that_read_the_question_get_it():
    bridge = projector("llama_vid", dim_in=6, dim_out=32, dim_text=4)
    heard = []

    def ask_by(text):
        heard.append(text)
        return QueryFeatures(embedding=torch.full((2, 4), float(len(text))))

    model = PlainLLM(plain_model("llama"), letters(), bridge, ask_by=ask_by)
    turns = [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "who?"}]}]
    rows = [model.prompt(asked, [clip(6)]).parts[1] for asked in ("why?", turns, "because?")]
    assert heard == ["why?", "who?", "because?"]
    torch.testing.assert_close(rows[0], rows[1])
    assert (rows[0] - rows[2]).abs().max() > 1e-4
    for refused in (
        lambda: model.session([clip(6)]),
        lambda: PlainLLM(plain_model("llama"), letters(), bridge).ask("?", [clip(6)]),
    ):
        with pytest.raises(ConfigError, match="ask_by"):
            refused()


def test_what_cannot_work_is_told(tmp_path):
    model = llm()
    with pytest.raises(BudgetError, match=r"lower the budget of the videos by [\d,]+ or more"):
        model.ask("why?", [clip(6, t=1020)], max_new_tokens=50)
    with pytest.raises(BudgetError, match="takes 4,096"):
        model.session([clip(6)]).ask("why?" * 1100)
    with pytest.raises(ConfigError, match="give a video"):
        model.session([])
    with pytest.raises(ConfigError, match="hub id"):
        PlainLLM.load(tmp_path)
    with pytest.raises(ConfigError, match="USER_ASSISTANT"):
        PlainLLM(model.model, letters(None)).ask("why?", [])
    with pytest.raises(ConfigError, match="refuses the conversation"):
        Chat(letters(), "{{ raise_exception('no') }}").pieces("?", 0)
    with pytest.raises(ConfigError, match="shows 0 of 1 videos"):
        Chat(letters(), "nothing").pieces("?", 1)
    late = "{{ messages[0]['content'][-1] }}" + TEMPLATE
    with pytest.raises(ConfigError, match="before the videos"):
        PlainLLM(model.model, letters(), template=late).session(model.project([clip(6)])).ask("a")


def test_models_without_a_template_take_that_of_llava():
    pieces = Chat(letters(None), USER_ASSISTANT).pieces(
        [
            {"role": "system", "content": "Hi."},
            {"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "a"}]},
            {"role": "assistant", "content": "b"},
            {"role": "user", "content": "c"},
        ],
        1,
    )
    assert pieces == ["<s>Hi. USER: ", "\na ASSISTANT: b</s>USER: c ASSISTANT:"]


def test_a_folder_is_loaded_with_a_projector_from_a_checkpoint(tmp_path):
    from safetensors.torch import save_file

    model = llm("llama")
    model.model.save_pretrained(tmp_path)
    letters().save_pretrained(tmp_path)
    state = {
        f"model.mm_projector.{n}": model.projector.state_dict()[f"layers.{n}"]
        for n in ("0.weight", "0.bias", "2.weight", "2.bias")
    }
    save_file(state, tmp_path / "bridge.safetensors")
    bridge = projector(
        "mlp",
        dim_in=6,
        dim_out=32,
        weights=str(tmp_path / "bridge.safetensors"),
        weights_prefix="model.mm_projector.",
    )
    loaded = PlainLLM.load(tmp_path, bridge, dtype="float32")
    torch.testing.assert_close(
        loaded.option_scores("A or B?", [clip(6)], "AB"),
        model.option_scores("A or B?", [clip(6)], "AB"),
    )


def test_models_that_read_ids_in_every_layer_are_refused():
    from transformers import AutoModelForCausalLM, Gemma3nTextConfig

    config = Gemma3nTextConfig(
        vocab_size=128,
        vocab_size_per_layer_input=128,
        hidden_size=32,
        hidden_size_per_layer_input=8,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        laurel_rank=4,
        num_kv_shared_layers=0,
        activation_sparsity_pattern=[0.0, 0.0],
        layer_types=["full_attention", "full_attention"],
    )
    with pytest.raises(ConfigError, match="every layer"):
        PlainLLM(AutoModelForCausalLM.from_config(config), letters())


def test_templates_get_their_arguments():
    jinja = TEMPLATE + "{% if not thinks %}<none>{% endif %}"
    for thinks, ending in ((True, "[assistant]\n"), (False, "[assistant]\n<none>")):
        (text,) = Chat(letters(), Template(jinja, {"thinks": thinks})).pieces("why?", 0)
        assert text.endswith(ending)
    with pytest.raises(ConfigError, match="does not read thinks"):
        Chat(letters(), Template(arguments={"thinks": True})).pieces("why?", 0)


def test_half_precision_keeps_its_type_and_the_projector_its_own():
    model = llm("llama")
    half = PlainLLM(copy.deepcopy(model.model).bfloat16(), letters(), model.projector)
    inputs = half.inputs([half.prompt("why?", [clip(6)])])
    assert inputs["inputs_embeds"].dtype == torch.bfloat16
    assert model.projector.dtype == torch.float32
    scores = half.session([clip(6)]).option_scores("A or B?", "AB")
    expected = model.option_scores("A or B?", [clip(6)], "AB")
    assert (scores - expected).abs().max() < 0.5
    assert half.verify() < 0.1


def test_no_questions_have_no_answers():
    model = llm("llama")
    assert model.ask_all([]) == model.session([clip(6)]).ask_all([]) == []


def test_weights_that_are_missing_are_not_drawn_at_random(tmp_path):
    from safetensors.torch import load_file, save_file

    plain_model("llama").save_pretrained(tmp_path)
    letters().save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    del state["model.layers.0.mlp.up_proj.weight"]
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConfigError, match="lack 1 tensors of LlamaForCausalLM"):
        PlainLLM.load(tmp_path)


def test_a_prompt_is_one_of_vllm():
    model = llm("gemma2")
    prompt = model.prompt("why?", [clip(6), clip(6, t=2, seed=1)])
    mixed = mixed_prompt(prompt.parts)
    is_text = torch.tensor(mixed["prompt_is_token_ids"])
    words = model.model.get_input_embeddings()(torch.tensor(mixed["prompt_token_ids"]))
    rows = torch.where(is_text[:, None], words, mixed["prompt_embeds"])
    assert torch.equal(rows, model.embedded(prompt))
    assert int((~is_text).sum()) == prompt.num_video == 20
