"""Projectors learn behind a frozen language model, from the answers alone."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from llm.tiny_plain import PLAIN, TEMPLATE, clip, letters, plain_model

from vidcomp import projector
from vidcomp.data import QAExample
from vidcomp.data.qa_batch import QASample, collate_qa, collate_qa_padded
from vidcomp.errors import BudgetError, ConfigError
from vidcomp.llm.plain import PlainLLM
from vidcomp.llm.plain_train import IGNORED, PlainTraining
from vidcomp.llm.scale import match_norm, word_norm
from vidcomp.types import QueryFeatures

every_model = pytest.mark.parametrize("name", PLAIN)
WITH_END = TEMPLATE.replace(
    "{{ message['content'] }}",
    "{{ message['content'] }}{{ '</s>' if message['role'] == 'assistant' else '' }}",
)


def llm(name="llama", template=WITH_END, **settings):
    bridge = projector("mlp", dim_in=6, dim_out=32)
    return PlainLLM(plain_model(name), letters(template), bridge, **settings)


def batch_of(*asked, t=3):
    return collate_qa(
        [
            QASample(QAExample(key=str(i), question=q, answers=(a,)), clip(6, t=t + i, seed=i), "k")
            for i, (q, a) in enumerate(asked)
        ]
    )


BATCH = batch_of(("why?", "no"), ("what is it?", "a cat"), ("?", "yes, indeed"))


@every_model
def test_words_are_as_long_as_the_first_layer_reads_them(name):
    model = plain_model(name)
    table = model.get_input_embeddings().weight.detach().norm(dim=-1).mean()
    factor = 32**0.5 if name.startswith("gemma") else 1.0
    assert word_norm(model) == pytest.approx(float(table) * factor, rel=1e-3)


@pytest.mark.parametrize("name", ["linear", "deco", "llama_vid", "qformer_light", "perceiver"])
@pytest.mark.parametrize("model", ["llama", "gemma"])
def test_fresh_projectors_get_the_scale_of_words(name, model):
    more = {"deco": {"tokens_per_frame": 4}, "llama_vid": {"dim_text": 4}}.get(name, {})
    bridge = projector(name, dim_in=6, dim_out=32, **more)
    call = {"query": QueryFeatures(embedding=torch.ones(2, 4))} if name == "llama_vid" else {}
    before = bridge(clip(6), **call).tokens.detach()
    factor = match_norm(bridge, plain_model(model), clip(6), **call)
    after = bridge(clip(6), **call).tokens.detach()
    assert float(after.norm(dim=-1).mean()) == pytest.approx(
        word_norm(plain_model(model)), rel=1e-3
    )
    torch.testing.assert_close(after, before * factor, atol=1e-4, rtol=1e-3)


def test_what_no_layer_scales_is_told():
    bridge = projector("linear", dim_in=6, dim_out=32)
    with torch.no_grad():
        for value in bridge.parameters():
            value.zero_()
    with pytest.raises(ConfigError, match="scale its weights yourself"):
        match_norm(bridge, plain_model("llama"), clip(6))
    assert not any(bool(value.any()) for value in bridge.parameters())


def test_only_answers_are_learned():
    model = llm()
    for one, (question, answer) in zip(
        PlainTraining(model).labelled(BATCH),
        [("why?", "no"), ("what is it?", "a cat"), ("?", "yes, indeed")],
        strict=True,
    ):
        learned = one.labels != IGNORED
        assert model.tokenizer.decode(one.labels[learned]) == f"{answer}</s>\n"
        ids = one.prompt.ids(0)
        assert torch.equal(ids[learned], one.labels[learned])
        assert len(ids) == len(one.labels)
        text = model.tokenizer.decode(ids[~learned & (ids > 0)])
        assert text == f"<s>[user]\n\n{question}\n[assistant]\n"


def test_answers_end_even_where_the_template_does_not_say_so():
    (one,) = PlainTraining(llm(template=TEMPLATE)).labelled(batch_of(("why?", "no")))
    assert one.labels[one.labels != IGNORED].tolist()[-1] == 2


def test_what_was_said_before_is_read_and_not_learned():
    example = QAExample(key="a", question="and?", answers=("b",), history=(("who?", "me"),))
    model = llm()
    (one,) = PlainTraining(model).labelled(collate_qa([QASample(example, clip(6), "k")]))
    ids = one.prompt.ids(0)
    text = model.tokenizer.decode(ids[ids > 0])
    said = "<s>[user]\n\nwho?\n[assistant]\nme</s>\n[user]\nand?\n[assistant]\nb</s>\n"
    assert text == said
    assert model.tokenizer.decode(one.labels[one.labels != IGNORED]) == "b</s>\n"


@every_model
def test_packed_padded_and_single_examples_have_one_loss(name):
    model = llm(name)
    single = [
        PlainTraining(model)(collate_qa([QASample(e, v, "k")]))
        for e, v in zip(BATCH.examples, BATCH.tokens, strict=True)
    ]
    counts = torch.tensor([len(one["labels"]) for one in single])
    mean = (torch.stack([one["loss"] for one in single]) * counts).sum() / counts.sum()
    for packed in (False, True):
        found = PlainTraining(model, packed=packed)(BATCH)
        torch.testing.assert_close(found["loss"], mean, atol=2e-5, rtol=1e-4)
        assert len(found["labels"]) == len(found["logits"]) == counts.sum()
        half = PlainTraining(model, packed=packed)(BATCH, num_items_in_batch=2 * counts.sum())
        torch.testing.assert_close(half["loss"], mean / 2, atol=2e-5, rtol=1e-4)


@settings(deadline=None, max_examples=10)
@given(sizes=st.lists(st.integers(1, 4), min_size=1, max_size=4), seed=st.integers(0, 99))
def test_packed_examples_never_see_each_other(sizes, seed):
    samples = [
        QASample(
            QAExample(key="a", question="?" * (1 + i), answers=("b",)), clip(6, t, seed + i), "k"
        )
        for i, t in enumerate(sizes)
    ]
    training = PlainTraining(llm(), packed=True)
    logits = training(collate_qa(samples))["logits"]
    alone = torch.cat([training(collate_qa([one]))["logits"] for one in samples])
    torch.testing.assert_close(logits, alone, atol=5e-5, rtol=1e-4)


def losses_of(training, batch, num_steps):
    learned = [value for value in training.parameters() if value.requires_grad]
    optimizer = torch.optim.Adam(learned, lr=1e-2)
    losses = []
    for _ in range(num_steps):
        optimizer.zero_grad()
        loss = training(batch)["loss"]
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


# One question: only the video tells what to say.
WHICH = batch_of(("?", "a"), ("?", "b"), ("?", "c"), t=2)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", ["llama", "gemma3_text"])
def test_a_projector_learns_behind_a_frozen_model(name, packed):
    model = llm(name)
    model.model = copy.deepcopy(model.model).requires_grad_(False)
    before = {key: value.clone() for key, value in model.model.state_dict().items()}
    match_norm(model.projector, model.model, clip(6))
    losses = losses_of(PlainTraining(model, packed=packed).train(), WHICH, 60)
    assert losses[-1] < 0.85 * losses[0]
    assert all(torch.equal(value, before[key]) for key, value in model.model.state_dict().items())


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", ["llama", "gemma3_text"])
def test_what_was_learned_is_said(name, packed):
    model = llm(name)
    model.model = copy.deepcopy(model.model)
    training = PlainTraining(model, packed=packed).train()
    losses = losses_of(training, WHICH, 40)
    training.eval()
    assert losses[0] > 1
    assert losses[-1] < 0.1
    said = model.ask_all([("?", [video]) for video in WHICH.tokens], max_new_tokens=3)
    assert [one.text for one in said] == ["a", "b", "c"]
    swapped = model.ask_all(
        [("?", [video]) for video in reversed(list(WHICH.tokens))]
    )  # and stops by itself
    assert [one.text for one in swapped] == ["c", "b", "a"]


def test_transformers_own_trainer_takes_it(tmp_path):
    pytest.importorskip("accelerate")
    from transformers import Trainer, TrainingArguments

    model = llm()
    model.model.requires_grad_(False)
    examples = [
        QASample(example, video, "k")
        for example, video in zip(BATCH.examples, BATCH.tokens, strict=True)
    ]
    before = model.projector.state_dict()["layers.0.weight"].clone()
    arguments = TrainingArguments(
        output_dir=str(tmp_path),
        max_steps=2,
        per_device_train_batch_size=3,
        gradient_accumulation_steps=2,
        remove_unused_columns=False,
        report_to=[],
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    trainer = Trainer(
        model=PlainTraining(model),
        args=arguments,
        train_dataset=examples,
        data_collator=lambda items: {"batch": collate_qa(items)},
    )
    trainer.train()
    assert not torch.equal(before, model.projector.state_dict()["layers.0.weight"])
    model.model.requires_grad_(True)


def test_what_cannot_be_learned_is_told():
    model = llm()
    training = PlainTraining(model)
    silent = QASample(QAExample(key="a", question="why?"), clip(6), "k")
    with pytest.raises(ConfigError, match="got none for the question 'why\\?'"):
        training(collate_qa([silent]))
    item = QASample(BATCH.examples[0], clip(6), "k")
    with pytest.raises(ConfigError, match="collate_qa"):
        training(collate_qa_padded([item]))
    with pytest.raises(BudgetError, match="takes 4,096"):
        training(collate_qa([item._replace(video=clip(6, t=1100))]))
    late = "{% if add_generation_prompt %}x{% endif %}" + TEMPLATE
    with pytest.raises(ConfigError, match="otherwise than the question alone"):
        PlainTraining(llm(template=late))(BATCH)


def test_recurrent_models_are_not_packed():
    from transformers import AutoModelForCausalLM, Qwen3NextConfig

    config = Qwen3NextConfig(
        vocab_size=128,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        linear_key_head_dim=8,
        linear_value_head_dim=8,
        linear_num_key_heads=2,
        linear_num_value_heads=4,
        num_experts=2,
        num_experts_per_tok=1,
        moe_intermediate_size=16,
        shared_expert_intermediate_size=16,
        pad_token_id=0,
    )
    model = PlainLLM(AutoModelForCausalLM.from_config(config).eval(), letters())
    with pytest.raises(ConfigError, match="recurrent"):
        PlainTraining(model, packed=True)
    assert model.verify() == 0
    rows = [clip(32), clip(32, t=5, seed=1)]
    greedy = {"do_sample": False, "max_new_tokens": 3}
    alone = [model.ask("why?" * (1 + i), [video], **greedy) for i, video in enumerate(rows)]
    both = model.ask_all([("why?" * (1 + i), [video]) for i, video in enumerate(rows)], **greedy)
    assert [one.text for one in both] == [one.text for one in alone]
    session = model.session(rows[:1])
    assert session.ask_all(["why?", "who is this?"], **greedy)[0].text == alone[0].text
    beams = {"num_beams": 2, "max_new_tokens": 3, "do_sample": False}
    assert session.ask("why?", **beams).text == model.ask("why?", rows[:1], **beams).text
